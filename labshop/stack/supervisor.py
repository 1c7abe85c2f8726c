"""The topology and the API on top of it, run by one process until somebody ends it.

The problem: ``labshop up`` and ``labshop lab`` start the same things, may be interrupted at any
moment, and must leave nothing behind. The idea: one supervisor starts them in order, counts the
API as started when it answers, and ends all in reverse order.

It does not bring back what dies: nodes and the API are killed on purpose here, and it only says
that they are gone.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from labshop.errors import SetupError
from labshop.settings import Settings
from labshop.stack.home import is_held, read_state
from labshop.stack.nodes import NodeSpec
from labshop.stack.ports import choose_port
from labshop.stack.shop_api import ApiProcess
from labshop.stack.topology import Topology

DOWN_DEADLINE_S = 20.0
_POLL_S = 0.02
_WATCH_S = 0.2


class Supervisor:
    """One running lab: its topology and its API.

    Args:
        settings: where it runs, and which server and port it takes.
        specs: the nodes to start.
        say: receives one line for each child that ends while `watch` runs.
    """

    def __init__(
        self, settings: Settings, specs: tuple[NodeSpec, ...], say: Callable[[str], None]
    ) -> None:
        self.topology = Topology(settings.home, settings.redis_server, specs)
        self._settings = settings
        self._say = say
        self._undo = ExitStack()
        self._mourned: set[int] = set()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(self.topology)
            port = choose_port(self._settings.api_host, self._settings.api_port)
            self._api = ApiProcess(
                self.topology.leash,
                self.topology.home,
                gate_url=self.topology["primary"].url,
                lock_urls=self.topology.lock_urls(),
                host=self._settings.api_host,
                port=port,
            )
            undo.callback(self._api.end)
            self._api.start()
            self.topology.announce(self._api.url)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    def watch(self, ended: Callable[[], bool] = lambda: False) -> None:
        """Wait, and say of each child that ends; return when `ended` says so."""
        while not ended():
            for name, pid, code in self._dead():
                if pid not in self._mourned:
                    self._mourned.add(pid)
                    self._say(f"{name} (process {pid}) ended {_how(code)}.")
            time.sleep(_WATCH_S)

    def _dead(self) -> Iterator[tuple[str, int, int]]:
        for name, node in self.topology.nodes.items():
            if node.pid is not None and node.exit_code is not None:
                yield name, node.pid, node.exit_code
        if self._api.pid is not None and self._api.exit_code is not None:
            yield "The API", self._api.pid, self._api.exit_code


def end_running_lab(home: Path) -> int | None:
    """End the lab that another process runs in a folder; return that process' id.

    None says that nothing ran there.

    Raises:
        SetupError: it belongs to somebody else, or did not end within `DOWN_DEADLINE_S`.
    """
    state = read_state(home)
    if state is None:
        return None
    try:
        os.kill(state.supervisor_pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # It was killed, and its leash is ending what it had started.
    except PermissionError:
        raise SetupError(
            f"The lab here belongs to another user (process {state.supervisor_pid})."
        ) from None
    deadline_s = time.monotonic() + DOWN_DEADLINE_S
    while is_held(home):
        if time.monotonic() > deadline_s:
            raise SetupError(
                f"Process {state.supervisor_pid} did not end within {DOWN_DEADLINE_S:.0f} s."
            )
        time.sleep(_POLL_S)
    return state.supervisor_pid


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and a closed terminal end the body alike, by KeyboardInterrupt.

    A shell starts its background jobs with SIGINT ignored, so that one is set too; a SIGHUP
    that `nohup` told us to ignore stays ignored.
    """
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
