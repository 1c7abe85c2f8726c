"""A crowd of buyers, who behave as real ones do, and the history of what they were told.

Each presses *buy* under an idempotency key. Told to come again, or cut off in the middle, a buyer
sends the same request again until there is a definite answer, or no patience is left. So what the
crowd was told can be held against what the ledger says, by `labshop.judge`.

When they arrive is a pattern of its own: all at once, one after the other as people do (a Poisson
process), or with bots among them, who are there at the first moment and do not wait between two
tries. Everything is drawn from one seed; the interleaving on the servers is not, for it is real.
"""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from labshop.judge.history import History
from labshop.judge.recorder import Recorder
from labshop.shop.domain import Line

PATIENCE_S = 5.0
RETRY_S = 0.05


@dataclass(frozen=True)
class Buyer:
    """One visitor: what is wanted, under which key, and when the button is pressed.

    `arrives_s` counts from the opening of the sale; a buyer without patience asks once.
    """

    name: str
    user_id: int
    lines: tuple[Line, ...]
    key: str
    arrives_s: float = 0.0
    patience_s: float = PATIENCE_S
    is_bot: bool = False


Arrivals = Callable[[random.Random, int], Iterator[float]]
"""A pattern: seconds after the opening at which so many buyers arrive."""


def all_at_once(_chance: random.Random, count: int) -> Iterator[float]:
    """Everybody is there when the sale opens."""
    yield from [0.0] * count


def poisson(per_s: float) -> Arrivals:
    """One after the other, independently, so many a second on average."""

    def arrive(chance: random.Random, count: int) -> Iterator[float]:
        yield from accumulate(chance.expovariate(per_s) for _ in range(count))

    return arrive


def make_crowd(
    user_ids: Sequence[int],
    wish: Callable[[random.Random], tuple[Line, ...]],
    *,
    seed: int,
    arrivals: Arrivals = all_at_once,
    bots: float = 0.0,
) -> list[Buyer]:
    """Draw a crowd: one buyer for each user.

    Args:
        user_ids: who they are.
        wish: draws what one of them wants.
        seed: decides wishes, arrivals, keys, and who is a bot.
        arrivals: when people come; bots are there at once.
        bots: share of bots, from 0 to 1.
    """
    chance = random.Random(seed)  # noqa: S311  # a crowd is drawn, not hidden
    moments = list(arrivals(chance, len(user_ids)))
    crowd = []
    for number, (user_id, moment) in enumerate(zip(user_ids, moments, strict=True), start=1):
        is_bot = chance.random() < bots
        name = f"{'bot' if is_bot else 'buyer'} {number}"
        key = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        arrives_s = 0.0 if is_bot else moment
        crowd.append(Buyer(name, user_id, wish(chance), key, arrives_s, is_bot=is_bot))
    return crowd


class Door(Protocol):
    """Where buyers ask."""

    async def ask(self, buyer: Buyer, recorder: Recorder) -> bool:
        """Make one attempt and record it; True says that the buyer may come again."""


async def press_buy(
    crowd: Sequence[Buyer],
    door: Door,
    recorder: Recorder,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Let every buyer come and ask until there is an answer; all of it is recorded.

    Args:
        crowd: the buyers.
        door: where they ask.
        recorder: writes the history.
        progress: told after each buyer how many have an answer, and of how many.
    """
    answered = 0

    async def come(buyer: Buyer) -> None:
        nonlocal answered
        await asyncio.sleep(buyer.arrives_s)
        await _ask_until_answered(buyer, door, recorder)
        answered += 1
        if progress is not None:
            progress(answered, len(crowd))

    async with asyncio.TaskGroup() as visits:
        for buyer in crowd:
            visits.create_task(come(buyer))


async def _ask_until_answered(buyer: Buyer, door: Door, recorder: Recorder) -> None:
    loop = asyncio.get_running_loop()
    patient_until_s = loop.time() + buyer.patience_s
    while await door.ask(buyer, recorder) and loop.time() < patient_until_s:  # noqa: ASYNC110  # as people do
        await asyncio.sleep(0.0 if buyer.is_bot else RETRY_S)


@dataclass(frozen=True)
class Answers:
    """What a crowd was told, counted from its history.

    `outcomes` counts the last answer of each buyer, `order_ids` names the booked orders,
    `asked_again` is how many requests had to be sent once more.
    """

    outcomes: Counter[str]
    order_ids: tuple[str, ...]
    asked_again: int

    @classmethod
    def of(cls, history: History) -> "Answers":
        """Count the answers of a history."""
        last = {buy.process: buy for buy in history.of("buy")}
        outcomes = Counter("booked" if it.outcome == "ok" else it.error for it in last.values())
        booked = tuple(str(it.order_id) for it in last.values() if it.outcome == "ok")
        return cls(outcomes, booked, sum(1 for _ in history.of("buy")) - len(last))
