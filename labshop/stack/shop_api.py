"""The shop's API as a process of its own, which can be killed and started again.

It counts as started when it answers, and gets a moment more to become ready to sell; an API
whose Redis or SQL is away still starts, and says so itself.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path

from labshop.errors import SetupError
from labshop.stack.leash import Leash
from labshop.stack.ports import http_url
from labshop.stack.probe import http_get

UNMETERED = {"LABSHOP_USER_RATE_PER_S": "1000000", "LABSHOP_USER_BURST": "1000000"}
"""For its environment where a program plays a crowd: one user asks there as no person could."""
COMMAND = (sys.executable, "-m", "labshop.cli", "serve")
START_DEADLINE_S = 30.0
READY_GRACE_S = 5.0
END_DEADLINE_S = 8.0
_POLL_S = 0.02


class ApiProcess:
    """One API on one address.

    Args:
        leash: ends the process when the supervisor dies.
        home: the shop's folder; its output goes to ``api.log`` there.
        gate_url: the Redis primary.
        lock_urls: the independent masters of a quorum.
        env: added to its environment, such as what the fault of a disk needs.
    """

    def __init__(
        self,
        leash: Leash,
        home: Path,
        *,
        gate_url: str,
        host: str,
        port: int,
        lock_urls: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.environment = env or {}
        self.url = http_url(host, port)
        self._leash = leash
        self._log = home / "api.log"
        self._environment = {
            **os.environ,
            **self.environment,
            "LABSHOP_HOME": str(home),
            "LABSHOP_GATE_URL": gate_url,
            "LABSHOP_LOCK_URLS": ",".join(lock_urls),
            "LABSHOP_API_HOST": host,
            "LABSHOP_API_PORT": str(port),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def alive(self) -> bool:
        """Whether its process exists; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The id of its newest process; None before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """How it ended, as `subprocess` counts; None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it, and return when it answers and, if that comes soon, can sell.

        Raises:
            SetupError: it ended at its start, or never answered; the sentence says why.
        """
        with self._log.open("ab") as log:
            printed_before = log.tell()
            self._process = self._leash.start(COMMAND, log, self._environment)
        deadline_s = time.monotonic() + START_DEADLINE_S
        ready_by_s = None
        while time.monotonic() < (ready_by_s or deadline_s):
            if self._process.poll() is not None:
                raise SetupError(f"The API ended at its start: {self._last_words(printed_before)}")
            ready, healthy = self._status("/readyz"), self._status("/healthz")
            if ready == HTTPStatus.OK:
                return
            if healthy == HTTPStatus.OK and ready_by_s is None:
                ready_by_s = time.monotonic() + READY_GRACE_S
            time.sleep(_POLL_S)
        if ready_by_s is None:
            self.end()
            raise SetupError(
                f"The API did not answer within {START_DEADLINE_S:.0f} s; see {self._log}."
            )

    def kill(self) -> None:
        """End it at once by SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._frozen = False

    def restart(self) -> None:
        """End it in order if it runs, and start it again on the same address.

        Raises:
            SetupError: it ended at its start, or never answered; the sentence says why.
        """
        self.end()
        self.start()

    def freeze(self) -> None:
        """Suspend it by SIGSTOP: it keeps its connections and answers nothing."""
        if self._process is None or not self.alive:
            return
        self._process.send_signal(signal.SIGSTOP)
        if not self._frozen:
            # A signal is only on its way until the system reports the process as stopped,
            # which it does once.
            os.waitpid(self._process.pid, os.WUNTRACED)
        self._frozen = True

    def thaw(self) -> None:
        """Let a frozen API go on; it then answers what has queued."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self._frozen = False

    def end(self) -> None:
        """End it in order; a no-op when it does not run."""
        if self._process is not None:
            end_process(self._process)
        self._frozen = False

    def _status(self, path: str) -> int:
        try:
            return http_get(f"{self.url}{path}")[0]
        except OSError:
            return 0

    def _last_words(self, printed_before: int) -> str:
        printed = self._log.read_bytes()[printed_before:].decode(errors="replace").strip()
        last_line = (printed.splitlines() or ["it printed nothing"])[-1].strip()
        return f"{last_line} ({self._log})"


def end_process(process: subprocess.Popen[bytes]) -> None:
    """End a child by SIGTERM; by SIGKILL when it has not gone within `END_DEADLINE_S`."""
    process.terminate()
    process.send_signal(signal.SIGCONT)
    try:
        process.wait(END_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def readiness(api_url: str) -> tuple[bool, str]:
    """Tell whether an API serves purchases, and if not, why in a few words."""
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
