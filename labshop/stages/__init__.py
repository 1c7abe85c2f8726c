"""The stages of the course: each one page, each a strategy to buy."""

STAGES = {
    "v1": "labshop.stages.v1_setnx:Purchase",
    "v2": "labshop.stages.v2_multilock:Purchase",
    "v3": "labshop.stages.v3_redlock:Purchase",
    "v4": "labshop.stages.v4_production:Purchase",
}
"""Where each stage's page is."""

LOCKLESS = frozenset({"v4"})
"""Those that serve the buyers of one product side by side."""
