"""A PostgreSQL server as a process of its own: started, killed, brought back, never left behind."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import psycopg
import pytest

from labshop.errors import SetupError
from labshop.stack import postgres
from labshop.stack.leash import Leash
from labshop.stack.postgres import PostgresServer
from tests.conftest import need_postgres

CRASHED = "database system was not properly shut down"

SUPERVISOR = """
import sys
from labshop.stack.leash import Leash
from labshop.stack.postgres import PostgresServer
server = PostgresServer(Leash())
server.start()
print(server.pid, server.url(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server(leash: Leash) -> Iterator[PostgresServer]:
    """A server of this test's own, whose commits reach the disk."""
    need_postgres()
    with PostgresServer(leash) as server:
        yield server


def ask(server: PostgresServer, query: str) -> object:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def processes(server: PostgresServer) -> list[psutil.Process]:
    assert server.pid is not None
    first = psutil.Process(server.pid)
    return [first, *first.children(recursive=True)]


def lives(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


def folder_of(pid: int) -> Path:
    """Where a server's data and log are, by its own command line."""
    command = psutil.Process(pid).cmdline()
    return Path(command[command.index("-D") + 1]).parent


def test_it_runs_without_rights_and_flushes_what_it_commits(server: PostgresServer) -> None:
    """No process of the server is root's, and a commit waits for the disk."""
    assert 0 not in {process.uids().effective for process in processes(server)}
    assert [ask(server, f"SHOW {name}") for name in ("fsync", "synchronous_commit")] == ["on", "on"]


def test_nobody_comes_in_without_its_password(server: PostgresServer) -> None:
    """Another user of this machine who knows the port is turned away."""
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url().replace(":labshop", "").replace(server._password, "wrong"))


def test_what_was_committed_outlives_a_kill(server: PostgresServer) -> None:
    """Killed by SIGKILL, all its processes at once, it comes back on its port with its data."""
    with psycopg.connect(server.url()) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    before, url = processes(server), server.url()
    assert server.pid is not None
    log = folder_of(server.pid) / "server.log"

    server.kill()
    assert not any(map(lives, before))
    server.restart()

    assert CRASHED in log.read_text()
    assert server.url() == url
    assert ask(server, "SELECT answer FROM kept") == 42


def test_frozen_it_keeps_its_connections_and_answers_later(server: PostgresServer) -> None:
    """While it is frozen nobody is answered; thawed, it answers what was asked meanwhile."""
    with psycopg.connect(server.url()) as connection:
        connection.autocommit = True
        server.freeze()
        connection.pgconn.send_query(b"SELECT 7")
        states = {process.status() for process in processes(server)}
        assert states == {psutil.STATUS_STOPPED}
        assert connection.pgconn.is_busy()
        server.thaw()

        result = connection.pgconn.get_result()
        assert result is not None
        assert result.get_value(0, 0) == b"7"
        assert connection.pgconn.get_result() is None


def test_closed_it_leaves_nothing(leash: Leash) -> None:
    """Its processes are gone, and so is the folder with its data."""
    need_postgres()
    with PostgresServer(leash, durable=False) as server:
        assert server.pid is not None
        left, folder = processes(server), folder_of(server.pid)
        assert ask(server, "SHOW fsync") == "off"

    assert not any(map(lives, left))
    assert not folder.exists()


def test_it_ends_with_a_supervisor_that_is_killed(
    wait_until: Callable[[Callable[[], bool]], None],
) -> None:
    """A supervisor got kill -9: the server and all its children end, a busy one too."""
    need_postgres()
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert supervisor.stdout is not None
    pid, url = supervisor.stdout.readline().decode().split()
    folder = folder_of(int(pid))
    try:
        with closing(psycopg.connect(url)) as connection:
            connection.pgconn.send_query(b"SELECT pg_sleep(60)")
            server = psutil.Process(int(pid))
            left = [server, *server.children(recursive=True)]

            os.kill(supervisor.pid, signal.SIGKILL)
            supervisor.communicate()

            wait_until(lambda: not any(map(lives, left)))
    finally:
        supervisor.kill()
        supervisor.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_machine_without_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no PostgreSQL, the error says so, and what to install."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(postgres, "_PROGRAMS", ("no-such-program",))

    with pytest.raises(SetupError, match="apt install postgresql"):
        postgres.find_postgres()


def test_a_setting_that_it_does_not_know_is_quoted(leash: Leash) -> None:
    """A server that does not come up says why, and leaves no data."""
    need_postgres()
    server = PostgresServer(leash, options={"no_such_setting": "1"})

    with pytest.raises(SetupError, match="no_such_setting"):
        server.start()

    assert server._folder is None
