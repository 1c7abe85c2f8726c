"""The topology and the API on top of it, run by one process until somebody ends it.

The problem: ``labshop up`` and ``labshop lab`` start the same things, may be interrupted at any
moment, and must leave nothing behind. The idea: one supervisor starts them in order, counts the
API as started when it answers, and ends all in reverse order.

It does not bring back what dies: nodes and the API are killed on purpose here, and it only says
that they are gone.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from labshop.errors import SetupError
from labshop.settings import Settings
from labshop.stack.home import is_held, read_state
from labshop.stack.nodes import NodeSpec
from labshop.stack.ports import choose_port, http_url
from labshop.stack.probe import http_get
from labshop.stack.topology import Topology

API_COMMAND = (sys.executable, "-m", "labshop.cli", "serve")
API_DEADLINE_S = 30.0
END_DEADLINE_S = 8.0
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
            url = http_url(self._settings.api_host, port)
            log_path = self.topology.home / "api.log"
            with log_path.open("ab") as log:
                printed_before = log.tell()
                self._api = self.topology.leash.start(API_COMMAND, log, self._api_env(port))
            undo.callback(end_process, self._api)
            _wait_until_healthy(self._api, url, log_path, printed_before)
            self.topology.announce(url)
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

    def _api_env(self, port: int) -> Mapping[str, str]:
        return {
            **os.environ,
            "LABSHOP_HOME": str(self.topology.home),
            "LABSHOP_GATE_URL": self.topology["primary"].url,
            "LABSHOP_API_HOST": self._settings.api_host,
            "LABSHOP_API_PORT": str(port),
        }

    def _dead(self) -> Iterator[tuple[str, int, int]]:
        for name, node in self.topology.nodes.items():
            if node.pid is not None and node.exit_code is not None:
                yield name, node.pid, node.exit_code
        code = self._api.poll()
        if code is not None:
            yield "The API", self._api.pid, code


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a child by SIGTERM; by SIGKILL when it has not gone within `END_DEADLINE_S`."""
    process.terminate()
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(END_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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


def readiness(api_url: str) -> tuple[bool, str]:
    """Tell whether the API serves purchases, and if not, why in a few words."""
    try:
        status, body = http_get(f"{api_url}/readyz")
    except OSError as error:
        return False, f"no answer ({error})"
    if status == HTTPStatus.OK:
        return True, "ready"
    return False, _detail(body) or f"status {status}"


def _detail(body: str) -> str:
    try:
        problem = json.loads(body)
        return str(problem.get("detail") or problem.get("title") or body)
    except (ValueError, AttributeError):
        return body.strip()


def _wait_until_healthy(
    api: subprocess.Popen[bytes], url: str, log: Path, printed_before: int
) -> None:
    deadline_s = time.monotonic() + API_DEADLINE_S
    while time.monotonic() < deadline_s:
        if api.poll() is not None:
            printed = log.read_bytes()[printed_before:].decode(errors="replace").strip()
            last_line = (printed.splitlines() or ["it printed nothing"])[-1].strip()
            raise SetupError(f"The API ended at its start: {last_line} ({log})")
        try:
            if http_get(f"{url}/healthz")[0] == HTTPStatus.OK:
                return
        except OSError:
            pass
        time.sleep(_POLL_S)
    raise SetupError(f"The API was not healthy within {API_DEADLINE_S:.0f} s; see {log}.")


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
