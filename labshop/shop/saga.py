"""A transaction over several stores, undone step by step in reverse.

The problem: Redis and SQL cannot commit together. The idea (H. Garcia-Molina, K. Salem,
"Sagas", 1987): each step has a *compensation* that undoes it by its effect, not by writing
back an old value; when a later step is refused, the compensations run in reverse order.

Only a definite refusal is compensated at once. After a timeout, a cancellation or a defect
nobody knows how far the step came: giving the units back could sell them twice. They stay
reserved until their order has been looked up in the ledger.

A saga does not isolate: others see its steps before it ends. That is why a reservation is a
reservation, and not yet a sale.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from labshop.shop.errors import Refused

Compensation = Callable[[], Awaitable[object]]


class Saga:
    """The length of an ``async with`` body, whose steps can be undone."""

    def __init__(self) -> None:
        self._compensations: list[Compensation] = []

    def undo_with(self, compensation: Compensation) -> None:
        """Name what undoes the next step.

        It is named *before* the step, for a step can take effect and fail to say so. Hence
        it must be harmless when the step did not happen, and when it runs twice.
        """
        self._compensations.append(compensation)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, Refused):
            return
        for compensation in reversed(self._compensations):
            try:
                await compensation()
            except Refused as failure:
                # The others must still run; this one is left to the look-up in the ledger.
                error.add_note(f"not undone: {failure}")
