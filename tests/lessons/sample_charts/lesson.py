# %% [markdown]
# # Charts
#
# It exists for the tests that look at charts in a browser.

# %%
from labshop.lab.charts import (
    Band,
    Bar,
    Line,
    Point,
    Sale,
    before_after,
    curve,
    show,
    timeline,
)

# %%
show(
    timeline(
        [
            Bar("client A", 1, 4, "lease", "A's lease"),
            Bar("client A", 4, 7, "expired", "A goes on"),
            Bar("client B", 2, 4, "wait"),
            Bar("client B", 4, 8, "lease", "B's lease"),
            Point("client A", 1, "command", "SET NX"),
            Point("client B", 2, "command", "SET NX: nil"),
            Point("client B", 4, "command", "SET NX"),
            Point("client B", 5, "committed", "order 2"),
            Point("client A", 7, "refused", "order 1: fence 33 < 34"),
            Band(3, 6, "A stands still"),
        ],
        title="A pause longer than the lease",
        caption="A's lease ends at step 4 while A stands still; its late order is refused.",
    )
)

# %%
show(
    before_after(
        [Sale("read, then write", 137, 100), Sale("with a lock", 100, 100)],
        title="One hundred units",
        caption="Without a lock 37 units are sold that never existed; with it, none.",
    )
)

# %%
show(
    curve(
        [
            Line("polling", ((1, 24), (10, 30), (50, 57), (100, 40))),
            Line("hand-over", ((1, 900), (10, 880), (50, 870), (100, 861))),
        ],
        title="Purchases as the crowd grows",
        caption="Polling stays below 60 purchases a second; hand-over keeps above 860.",
        x_title="buyers at once",
        y_title="purchases / s",
    )
)
