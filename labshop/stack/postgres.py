"""A PostgreSQL server as a process of its own: a ledger that several hosts share.

The problem: PostgreSQL comes as a service of the whole machine, whose accounts and data are
somebody's. The idea: the same program on a new folder, behind a random password on a free port of
the loopback address; it is killed, started again and thrown away like every other node here. It
refuses to be root, so for root it runs as an account without rights.

Its children lead sessions of their own, out of the leash's reach: each ends by itself when it sees
that the server's first process is gone, which may be a moment after the leash has ended.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from labshop.errors import SetupError
from labshop.stack.leash import Leash
from labshop.stack.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    import psutil

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 5.0
_POLL_S = 0.005
_PORT_TRIES = 5
_ROLE = "labshop"
_UNPRIVILEGED = ("postgres", "nobody")
_PROGRAMS = ("initdb", "postgres")


def find_postgres() -> Path:
    """Return the folder of `initdb` and `postgres`; of several versions, the newest.

    Raises:
        SetupError: PostgreSQL is not installed.
    """
    on_path = shutil.which("initdb")
    folders = [] if on_path is None else [Path(on_path).resolve().parent]
    # Debian keeps the versions beside each other, and none in PATH.
    packaged = Path("/").glob("usr/lib/postgresql/[0-9]*/bin")
    folders += sorted(packaged, key=lambda folder: float(folder.parent.name), reverse=True)
    for folder in folders:
        if all(os.access(folder / program, os.X_OK) for program in _PROGRAMS):
            return folder
    raise SetupError("PostgreSQL is not installed here. On Debian: apt install postgresql.")


class PostgresServer:
    """One server, with data of its own that end with it; start it, hurt it, bring it back.

    Args:
        leash: ends it when the supervisor dies.
        durable: whether a commit reaches the disk before it counts. Without, a killed server
            still loses nothing, but a machine without power does.
        options: further settings, by PostgreSQL's names for them.
    """

    def __init__(
        self, leash: Leash, *, durable: bool = True, options: Mapping[str, str] | None = None
    ) -> None:
        self._leash = leash
        self._options = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "shared_buffers": "32MB",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(options or {}),
        }
        self._password = secrets.token_hex(16)
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self.port = 0

    def start(self) -> None:
        """Make new data and start on a free port; return when it takes connections.

        Raises:
            SetupError: PostgreSQL is not installed, or did not come up; the sentence quotes it.
        """
        self._programs = find_postgres()
        self._account = _unprivileged_account()
        self._folder = Path(tempfile.mkdtemp(prefix="labshop-postgres-"))
        try:
            self._make_data(self._folder)
            self._start_somewhere()
        except BaseException:
            self.close()
            raise

    def restart(self) -> None:
        """Start again on the same port with the same data, whether it runs or was killed.

        Raises:
            SetupError: it did not come up; the sentence quotes it.
        """
        self.stop()
        printed = self._start_on(self.port)
        if printed is not None:
            raise _refusal(printed)

    def stop(self) -> None:
        """End it in order, its connections cut; a no-op when it does not run."""
        if self._process is None or not self.alive:
            return
        if self._frozen:
            self.thaw()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def close(self) -> None:
        """End it, and throw its data away."""
        self.stop()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def kill(self) -> None:
        """End all its processes at once by SIGKILL, none of which sees another's end."""
        self.freeze()
        family = self._family()
        for process in family:
            _signal(process, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        # While one of them is left, the next server refuses to start.
        for process in family:
            _wait_until(process, "zombie")
        self._frozen = False

    def freeze(self) -> None:
        """Suspend all of it by SIGSTOP: it keeps its connections and answers nothing."""
        self._frozen = True
        # The first process, stopped, starts no other; so the second look finds them all.
        _stop(self._family()[:1])
        _stop(self._family()[1:])

    def thaw(self) -> None:
        """Let a frozen server go on; it then carries out what has queued."""
        for process in self._family():
            _signal(process, signal.SIGCONT)
        self._frozen = False

    @property
    def alive(self) -> bool:
        """Whether its first process exists; a frozen one does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The id of its first process; None before the start."""
        return None if self._process is None else self._process.pid

    def url(self, database: str = "postgres") -> str:
        """The address of one of its databases, for LABSHOP_DATABASE_URL."""
        return f"postgresql://{_ROLE}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _make_data(self, folder: Path) -> None:
        secret = folder / "password"
        secret.write_text(self._password)
        if self._account is not None:
            for path in (folder, secret):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        arguments = [f"--pgdata={folder / 'data'}", f"--username={_ROLE}", f"--pwfile={secret}"]
        arguments += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        account = self._account
        made = subprocess.run(  # noqa: S603  # the program that find_postgres found
            [self._programs / "initdb", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=START_DEADLINE_S,
            check=False,
            cwd=folder,
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else (),
        )
        secret.unlink()
        if made.returncode != 0:
            raise _refusal(made.stdout)

    def _start_somewhere(self) -> None:
        for _ in range(_PORT_TRIES):
            printed = self._start_on(free_port())
            if printed is None:
                return
            if "Address already in use" not in printed:
                raise _refusal(printed)
        raise SetupError(f"PostgreSQL lost its port to other programs {_PORT_TRIES} times.")

    def _start_on(self, port: int) -> str | None:
        """Start it; return None once it takes connections, or what it printed before it ended."""
        assert self._folder is not None, "it has no data"
        self.port = port
        options = [f"--{name}={value}" for name, value in {**self._options, "port": port}.items()]
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "data"), *options]
        log = self._folder / "server.log"
        with log.open("ab") as output:
            printed_before = output.tell()
            environment = {**os.environ, "LC_ALL": "C"}
            self._process = self._leash.start(command, output, environment, self._account)
        deadline_s = time.monotonic() + START_DEADLINE_S
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                return log.read_bytes()[printed_before:].decode(errors="replace")
            if self._takes_connections(self._process.pid):
                return None
            time.sleep(_POLL_S)
        self.kill()
        raise SetupError(f"PostgreSQL was not ready within {START_DEADLINE_S:.0f} s.")

    def _takes_connections(self, pid: int) -> bool:
        """As `pg_ctl` sees it: the first line of its file is its id, and the eighth its state."""
        assert self._folder is not None
        try:
            lines = (self._folder / "data" / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and (int(lines[0]), lines[7].strip()) == (pid, "ready")  # noqa: PLR2004  # see above

    def _family(self) -> "list[psutil.Process]":
        """The first process and all its children; none when it does not run."""
        if self._process is None or not self.alive:
            return []
        import psutil  # noqa: PLC0415  # of the extra `lab`; to find a server works without

        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]


def _stop(processes: "list[psutil.Process]") -> None:
    for process in processes:
        _signal(process, signal.SIGSTOP)
    for process in processes:
        # A signal is only on its way until the system reports the process as stopped.
        _wait_until(process, "stopped", "zombie")


def _signal(process: "psutil.Process", number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


def _wait_until(process: "psutil.Process", *states: str) -> None:
    """Wait until a process is in one of some states, or is no more."""
    deadline_s = time.monotonic() + STOP_DEADLINE_S
    while process.is_running() and process.status() not in states:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"process {process.pid} is {process.status()}")
        time.sleep(_POLL_S)


def _unprivileged_account() -> pwd.struct_passwd | None:
    """For root, whom the server runs as; anybody else is good enough."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise SetupError(
        f"PostgreSQL refuses to run as root, and none of these accounts is here: {_UNPRIVILEGED}."
    )


def _refusal(printed: str) -> SetupError:
    last_line = (printed.strip().splitlines() or ["it printed nothing"])[-1].strip()
    return SetupError(f"PostgreSQL ended at its start: {last_line}")
