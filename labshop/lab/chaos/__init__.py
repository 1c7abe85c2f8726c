"""Chaos campaigns: sale after sale on real processes, while faults of every kind strike.

`Premises` are the processes, `Deck` the faults, `play_sale` one sale, and `run_campaign` as many as
it takes. The judge of `labshop.judge` has the last word on each.
"""

from labshop.lab.chaos.campaign import FIGURES, run_campaign
from labshop.lab.chaos.report import Report

__all__ = ["FIGURES", "Report", "run_campaign"]
