"""Group commit: one writer per process, many orders per transaction.

The problem: a commit waits for the disk, and SQL lets one writer in at a time; a thousand
orders that commit one by one wait for a thousand flushes. The idea: one thread takes
everything that has queued, books it in one transaction, and only when that is on disk are
all its buyers answered. A refused order is rolled back to its savepoint alone.

An order that is still queued when its time is over is withdrawn: certainly not booked.
Once its group has begun, a caller who stops waiting does not know its outcome; an outage
before the commit is a refusal, one during the commit leaves it unknown.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar, cast

from sqlmodel import Session

from labshop.resilience import Patience
from labshop.shop.errors import Refused, Unavailable
from labshop.storage.booking import Booking, book
from labshop.storage.database import OUTAGE, UNWRITABLE, Database, outage_reason

GROUP_SIZE = 500
QUEUE_LENGTH = 10_000

T = TypeVar("T")
Work = Callable[[Session], Any] | Booking


class OutcomeUnknown(Exception):
    """The commit was sent, or its group had begun, and its end was not seen."""


@dataclass(eq=False)
class _Job:
    work: Work
    outcome: "asyncio.Future[Any]"
    begun: bool = False


class GroupWriter:
    """Runs pieces of work in shared transactions, in the order in which they came.

    Args:
        database: where to write.
        timeout_ms: how long a caller waits, queue included.
    """

    def __init__(self, database: Database, *, timeout_ms: int) -> None:
        self._database = database
        self.patience = Patience(timeout_ms / 1_000)
        self._queue: asyncio.Queue[_Job] = asyncio.Queue(QUEUE_LENGTH)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-writer")

    async def submit(self, work: Callable[[Session], T] | Booking) -> T:
        """Run a piece of work in the next group, and wait until that is committed.

        Args:
            work: gets the session of the transaction; or an order, and its receipt is returned.

        Raises:
            Refused: as raised by the work; its own changes are rolled back.
            Unavailable: it was certainly not done.
            OutcomeUnknown: its transaction began, and its end was not seen.
        """
        job = _Job(work, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(job)
        except asyncio.QueueFull:
            raise Unavailable("ledger", f"{QUEUE_LENGTH} orders wait for it already") from None
        try:
            with self.patience.limit():
                outcome: T = await job.outcome
        except TimeoutError:
            # The cancelled future withdraws the job, unless the writer has begun it.
            if job.begun:
                raise OutcomeUnknown("no answer in time") from None
            raise Unavailable("ledger", "it is busy") from None
        return outcome

    async def run(self) -> None:
        """Write group after group until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                group = self._take(await self._queue.get())
                if group:
                    results = await loop.run_in_executor(self._thread, self._write, group)
                    for job, result in zip(group, results, strict=True):
                        _answer(job, result)
        finally:
            self._thread.shutdown(wait=False)

    def _take(self, first: _Job) -> list[_Job]:
        group = [first]
        with suppress(asyncio.QueueEmpty):
            while len(group) < GROUP_SIZE:
                group.append(self._queue.get_nowait())
        group = [job for job in group if not job.outcome.done()]
        for job in group:
            job.begun = True
        return group

    def _write(self, group: list[_Job]) -> list[Any]:
        """In the writer's thread: the results in order, errors among them as values."""
        committing = False
        try:
            with self._database.writing() as session:
                results = list(_results(session, group))
                committing = True
                session.commit()
        except OUTAGE as error:
            reason = outage_reason(error)
            if committing:
                return [OutcomeUnknown(reason) for _ in group]
            return [Unavailable("ledger", reason) for _ in group]
        return results


def _results(session: Session, group: Sequence[_Job]) -> Iterator[Any]:
    """Orders that stand next to each other are booked together."""
    for is_booking, jobs in groupby(group, key=lambda job: isinstance(job.work, Booking)):
        works = [job.work for job in jobs]
        if is_booking:
            yield from book(session, cast("list[Booking]", works))
        else:
            yield from (_attempt(session, cast("Callable[[Session], Any]", it)) for it in works)


def _attempt(session: Session, work: Callable[[Session], Any]) -> Any:
    try:
        with session.begin_nested():
            return work(session)
    except Refused as refusal:
        return refusal
    except UNWRITABLE as clash:
        # Another process was faster, or a row it refers to is gone: that is nobody else's fault.
        return Unavailable("ledger", outage_reason(clash))
    except OUTAGE:
        raise
    except Exception as defect:  # noqa: BLE001  # its caller gets it, and nobody else
        return defect


def _answer(job: _Job, result: Any) -> None:
    if job.outcome.done():
        return
    if isinstance(result, Exception):
        job.outcome.set_exception(result)
    else:
        job.outcome.set_result(result)
