"""The zoo's inhabitants, found by looking into their room, and put to the trial."""

import pkgutil
from dataclasses import dataclass
from importlib import import_module

import labshop.zoo
from labshop.lab.trial.arena import Arena
from labshop.lab.trial.run import MakeLock, MakeStrategy, Trial, try_out
from labshop.lab.trial.scenarios import SCENARIOS
from labshop.stages.v1_setnx import Purchase


@dataclass(frozen=True)
class Specimen:
    """One bug: what it is, by which property it is caught, and in which scenario."""

    name: str
    bug: str
    caught_by: str
    scenario: str
    strategy: MakeStrategy
    lock: MakeLock | None = None

    async def try_out(self, arena: Arena, seed: int) -> Trial:
        """Let it sell where it has to fail."""
        scenario = SCENARIOS[self.scenario]
        return await try_out(self.strategy, scenario, arena=arena, seed=seed, lock=self.lock)


def specimens() -> list[Specimen]:
    """All inhabitants of `labshop.zoo`, by name."""
    found = []
    for module in pkgutil.iter_modules(labshop.zoo.__path__):
        room = import_module(f"labshop.zoo.{module.name}")
        if hasattr(room, "CAUGHT_BY"):
            found.append(
                Specimen(
                    module.name,
                    (room.__doc__ or "").strip().splitlines()[0],
                    room.CAUGHT_BY,
                    room.SCENARIO,
                    getattr(room, "Purchase", Purchase),
                    getattr(room, "Lock", None),
                )
            )
    return sorted(found, key=lambda specimen: specimen.name)
