"""Trials: a strategy on real servers, under a crowd and faults, and the judge's verdict."""

from labshop.lab.trial.arena import Arena
from labshop.lab.trial.run import Trial, try_out
from labshop.lab.trial.scenario import Scenario

__all__ = ["Arena", "Scenario", "Trial", "try_out"]
