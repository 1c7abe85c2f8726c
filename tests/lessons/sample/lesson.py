# %% [markdown] slideshow={"slide_type": "slide"}
# # A sample lesson
#
# It exists for the builder's own tests: a parameter, an exercise, a cell that differs from run
# to run. Its source is [lesson.py](lesson.py); the answers are [here](solution.ipynb).

# %% tags=["parameters"]
STOCK = 3

# %%
import time


# %%
def units_left(stock: int, sold: int) -> int:
    """Return what is left after a sale, never less than nothing."""
    # BEGIN SOLUTION
    return max(stock - sold, 0)
    # END SOLUTION
    # BEGIN STUB
    # return -1  # write your answer here
    # END STUB


print("left:", end=" ")
print(units_left(STOCK, 2))
units_left(STOCK, 5)

# %% tags=["nbval-ignore-output"]
time.time_ns()

# %%
assert STOCK == 3

# %%
print("a line from", "the end")

# %%
print("another line")
