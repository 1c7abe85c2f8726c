"""Histories as text, and how they are recorded."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from labshop.judge.checker import check
from labshop.judge.history import History, Operation, Sale
from labshop.judge.leases import claims_of
from labshop.judge.lines import BadHistory, read_history, write_history
from labshop.judge.recorder import Recorder
from labshop.locks import Node, SingleLock
from labshop.locks.base import LockEvent
from labshop.stack.nodes import ServerNode
from tests.conftest import need_in_ci
from tests.judge.sound import sound_history, sound_leases

DOCUMENT = Path(__file__).parents[2] / "docs" / "history.md"
BUY = '{"type": "invoke", "at_ms": 1, "process": "a", "op": 1, "action": "buy", "args": %s}'

RECORDING = """
import sys, time
from labshop.judge.history import Sale
from labshop.judge.recorder import Recorder
recorder = Recorder(Sale({1: 5}), sink=lambda line: print(line, flush=True))
with recorder.invoke("ann", "buy", {"lines": {"1": 1}}) as call:
    call.ok(order="a")
with recorder.invoke("ann", "buy", {"lines": {"1": 1}}) as call:
    time.sleep(60)
"""


def examples(language: str) -> str:
    """The example of the document in one language."""
    [found] = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(found)


def test_the_document_s_example_is_judged() -> None:
    """Each line of the document is of the format, every type is shown, and the sale is right."""
    lines = examples("json").splitlines()
    verdict = check(read_history(lines))
    assert str(verdict) == "VALID: 2 of 2 sold of product 1; 12 properties hold over 4 operations"
    types = {"sale", "invoke", "ok", "unknown", "lock", "fault", "breaker"}
    assert {json.loads(line)["type"] for line in lines} == types


def test_a_program_in_another_language_is_judged(tmp_path: Path) -> None:
    """The document's writer in JavaScript runs, and its shop is found out."""
    node = shutil.which("node")
    if node is None:
        need_in_ci("node is not installed; the example in JavaScript was not run")
    subprocess.run([str(node), "-e", examples("js")], cwd=tmp_path, check=True, timeout=60)
    verdict = check(read_history((tmp_path / "run.jsonl").read_text().splitlines()))
    said = "no-oversell: 2 units of product 1 were sold, and there were 1"
    assert str(verdict.violations[0]) == said
    assert said in DOCUMENT.read_text()


def test_a_history_is_read_as_it_was_written() -> None:
    """Writing and reading changes nothing, and the texts of two processes may be mixed."""
    history = replace(sound_history(3, 60), locks=sound_leases(3, 20))
    lines = list(write_history(history))
    assert read_history(lines) == history
    by_client = sorted(lines, key=lambda line: '"process": "c0"' in line)
    mixed = read_history(by_client)
    names = [sorted(map(str, it.operations)) for it in (mixed, history)]
    assert names[0] == names[1]
    assert mixed.faults == history.faults


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["{"], "Line 1 of the history is not readable"),
        (["[]"], "Line 1 of the history is not readable"),
        (['{"type": "sold"}'], "there is no type 'sold'"),
        (['{"type": "invoke"}'], "Line 1 of the history has no 'process'."),
        ([BUY % "{}"], "a buy needs `lines`: units by product"),
        ([BUY % '{"lines": {"1": true}}'], "`lines` of product 1 must be a whole number"),
        ([BUY % '{"lines": [1]}'], "`lines` must be units by product"),
        ([BUY % '{"lines": {"1": 1}}'] * 2, "Line 2 .* operation 1 is invoked twice"),
        (['{"type": "ok", "op": 7, "at_ms": 1}'], "operation 7 ends and is not under way"),
        (['{"type": "fault", "id": 1, "at_ms": 1, "phase": "end"}'], "fault 1 ends and has not"),
        (
            ['{"type": "sale", "stock": {"1": 1}}', '{"type": "sale", "stock": {"1": 2}}'],
            "contradicts an earlier",
        ),
    ],
)
def test_a_wrong_line_is_named(lines: list[str], sentence: str) -> None:
    """Whoever wrote it is told which line is wrong, and why."""
    with pytest.raises(BadHistory, match=sentence):
        read_history(lines)


def test_products_may_be_numbers_or_text() -> None:
    """What is recorded in Python is judged alike before and after it was written as JSON."""
    told = {"left": {1: 9}, "orders": []}
    audit = Operation("1", "eve", "audit", {}, 0.0, 1.0, "ok", told)
    history = History(Sale({1: 5}), (audit,))
    assert check(history).broken == check(read_history(write_history(history))).broken != ()


def test_a_killed_process_leaves_a_readable_history(tmp_path: Path) -> None:
    """What was under way when the recorder was killed is unknown, and nobody is accused of it."""
    with subprocess.Popen([sys.executable, "-c", RECORDING], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(4)]
        process.send_signal(signal.SIGKILL)
        lines.append(process.stdout.read().decode())
    history = read_history(lines)
    assert [operation.outcome for operation in history.operations] == ["ok", "unknown"]
    assert history.operations[1].ended_ms is None
    assert check(history).outcome == "VALID"


def test_whatever_is_not_said_is_unknown() -> None:
    """A body that raises, or ends without a word, leaves its operation unknown."""
    recorder = Recorder(Sale())
    with pytest.raises(TimeoutError), recorder.invoke("ann", "read", {"product": 1}):
        raise TimeoutError
    with recorder.invoke("ann", "read", {"product": 1}):
        pass
    assert [(o.outcome, o.error) for o in recorder.history().operations] == [
        ("unknown", "TimeoutError"),
        ("unknown", ""),
    ]


def lying(event: LockEvent) -> LockEvent:
    """An event of a lock that believes in its lease for ten minutes."""
    return replace(event, until_ms=event.at_ms + 600_000)


@pytest.mark.parametrize(
    ("tell", "expected"), [(lambda event: event, ()), (lying, ("exclusive-leases",))]
)
async def test_a_real_lock_is_recorded(
    node: Node,
    either_server: ServerNode,
    tell: Callable[[LockEvent], LockEvent],
    expected: tuple[str, ...],
) -> None:
    """Claims of a lock do not overlap, though one holder is paused; if it lies, they do."""
    recorder = Recorder(Sale())
    held = asyncio.Event()
    # Its own connection, as of another process: nobody here waits for its turn to end.
    elsewhere = Node(either_server.url, timeout_ms=2_000)

    def hook(event: LockEvent) -> None:
        # The lie is about the deadline; a release is reported as it was.
        recorder.lock_event(tell(event) if event.kind in {"acquired", "lost"} else event)

    async def hold(name: str, connection: Node, pause_ms: int) -> None:
        with recorder.invoke(name, "hold", {}) as call:
            lock = SingleLock(connection, "k", ttl_ms=80, on_event=hook)
            async with lock.hold(wait_ms=10_000):
                held.set()
                await asyncio.sleep(pause_ms / 1_000)
            call.ok()

    async with asyncio.TaskGroup() as group:
        group.create_task(hold("paused", elsewhere, 400))
        await held.wait()
        for number in range(5):
            group.create_task(hold(f"c{number}", node, 5))
    await elsewhere.close()
    history = recorder.history()
    claims = claims_of(history)
    assert [claim.process for claim in claims] == ["paused", *(f"c{n}" for n in range(5))]
    assert [record.event for record in claims[0].records] == ["acquired", "lost"]
    assert check(history).broken == expected
    assert read_history(write_history(history)) == history
