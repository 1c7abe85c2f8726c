"""A Sentinel pair as plain processes: a master, its replica, and three Sentinels that watch them.

The problem: whoever promotes a replica by hand comes too late for a sale. The idea: three processes
watch the master; when most of them cannot reach it, they elect one of them, which makes the replica
the master, and all of them tell that to every client that asks. Here they know of each other from
the start, and they hurry: in production a master is given seconds.

It does not promise that what the old master acknowledged last is on the new one: replication is
asynchronous.

Source: Redis documentation, "High availability with Redis Sentinel".
"""

import secrets
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from labshop.errors import SetupError
from labshop.stack.leash import Leash
from labshop.stack.nodes import NodeSpec, ServerNode, find_server
from labshop.stack.ports import LOOPBACK, free_port
from labshop.stack.probe import ask_redis, redis_info

SERVICE = "gate"
SENTINELS = 3
MAJORITY = 2
DOWN_AFTER_MS = 500
READY_S = 30.0
_POLL_S = 0.02

# How often they look and tell each other, and how long an election may take; by default seconds.
# A pause of a busy machine must not make them distrust their clock, which ends their work for 30 s.
_HURRY = {
    "info-period": 200,
    "publish-period": 200,
    "election-timeout": 2_000,
    "tilt-trigger": 20_000,
}


class SentinelPair:
    """A master with a replica and its Sentinels, for the length of a ``with`` body.

    Args:
        home: a folder for their data and logs.
        server: the server to run; None takes the packaged Valkey.
    """

    def __init__(self, home: Path, server: Path | None = None) -> None:
        self._home = home.absolute()
        self._server = server
        self._undo = ExitStack()
        self.ports: tuple[int, ...] = ()
        """Of the Sentinels."""
        self.sentinels: tuple[subprocess.Popen[bytes], ...] = ()
        """Their processes, in the same order."""

    def start(self) -> None:
        """Start all; returns when the Sentinels agree, and see the replica.

        Raises:
            SetupError: no server, or they did not agree in time.
        """
        server = find_server(self._server)
        with ExitStack() as undo:
            leash = undo.enter_context(Leash())
            self.primary = ServerNode(
                NodeSpec("primary", "primary"), server, self._home / "primary", leash
            )
            self.replica = ServerNode(
                NodeSpec("replica", "replica", replica_of="primary"),
                server,
                self._home / "replica",
                leash,
                self.primary,
            )
            for node in (self.primary, self.replica):
                undo.callback(node.kill)
                node.start()
            undo.callback(self._end_sentinels)
            self._start_sentinels(server, leash)
            self._undo = undo.pop_all()

    def stop(self) -> None:
        """End all; a no-op when nothing runs."""
        self._undo.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the master is to be asked for, as `LABSHOP_GATE_URL` takes it."""
        sentinels = ",".join(f"{LOOPBACK}:{port}" for port in self.ports)
        return f"redis+sentinel://{sentinels}/{SERVICE}"

    def _start_sentinels(self, server: Path, leash: Leash) -> None:
        self.ports = tuple(free_port() for _ in range(SENTINELS))
        names = {port: secrets.token_hex(20) for port in self.ports}
        started: list[subprocess.Popen[bytes]] = []
        for port in self.ports:
            folder = self._home / f"sentinel-{port}"
            folder.mkdir(parents=True)
            # It writes down in this file what it learns, so each has one of its own.
            file = folder / "sentinel.conf"
            others = {other: name for other, name in names.items() if other != port}
            known = [f"known-sentinel {SERVICE} {LOOPBACK} {it} {others[it]}" for it in others]
            file.write_text(self._configuration(port, folder, names[port], known))
            with (folder / "server.log").open("ab") as output:
                command = [str(server), str(file), "--sentinel"]
                started.append(leash.start(command, output))
        self.sentinels = tuple(started)
        self._wait_until_they_agree()

    def _end_sentinels(self) -> None:
        for process in self.sentinels:
            process.kill()
            process.wait()

    def _configuration(self, port: int, folder: Path, name: str, known: Sequence[str]) -> str:
        about = [
            f"myid {name}",
            f"monitor {SERVICE} {LOOPBACK} {self.primary.port} {MAJORITY}",
            f"down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"failover-timeout {SERVICE} 2000",
            f"known-replica {SERVICE} {LOOPBACK} {self.replica.port}",
            *known,
        ]
        lines = [f"port {port}", f"bind {LOOPBACK}", f'dir "{folder}"']
        return "\n".join([*lines, *(f"sentinel {line}" for line in about), ""])

    def _wait_until_they_agree(self) -> None:
        deadline_s = time.monotonic() + READY_S
        hurried: set[int] = set()
        while time.monotonic() < deadline_s:
            if any(process.poll() is not None for process in self.sentinels):
                raise SetupError(f"A Sentinel ended at its start; see the logs in {self._home}.")
            for port in set(self.ports) - hurried:
                if _hurry(port):
                    hurried.add(port)
            if len(hurried) == SENTINELS and all(_is_ready(port) for port in self.ports):
                return
            time.sleep(_POLL_S)
        raise SetupError(f"The Sentinels did not agree within {READY_S:.0f} s.")


def _hurry(port: int) -> bool:
    """Make a Sentinel look often; False while it does not answer yet."""
    settings = " ".join(f"{name} {value}" for name, value in _HURRY.items())
    try:
        return ask_redis(port, f"SENTINEL DEBUG {settings}") == "+OK"
    except OSError:
        return False


def _is_ready(port: int) -> bool:
    """Whether a Sentinel sees all, and could have the replica promoted."""
    try:
        seen = redis_info(port, "sentinel").get("master0", "")
        usable = ask_redis(port, f"SENTINEL CKQUORUM {SERVICE}")
    except OSError:
        return False
    all_seen = f"status=ok,address={LOOPBACK}" in seen and f"slaves=1,sentinels={SENTINELS}" in seen
    return all_seen and usable.startswith(f"+OK {SENTINELS} usable")
