"""The other program that holds an SQLite file; `sql.py` runs this file as a child process.

It uses the standard library alone, so that it starts in milliseconds.

Source: https://www.sqlite.org/walformat.html (the WAL-index file and its locks).
"""

import fcntl
import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from urllib.parse import quote

GIVE_WAY_S = 0.15
"""For how long others may write between two locks: longer than SQLite's longest step of waiting
(100 ms), so that whoever waits finds the gap."""

_PATIENCE_S = 60.0
_POLL_S = 0.0005
# The WAL-index is `<file>-shm`. It begins with two copies of its header, and a transaction locks
# some of eight bytes: WRITE, CKPT, RECOVER, READ0 to READ4.
_HEADER_BYTES = 48
_FIRST_LOCK, _LOCKS = 120, 8
_WRITE_LOCK = _FIRST_LOCK


def hold_away(path: str) -> None:
    """Hold every lock, with an index that nobody can read without one of them."""
    connection, index = _open(path)
    with closing(connection):
        # One by one, the writers' first: new readers may come while the old ones go.
        for lock in range(_FIRST_LOCK, _FIRST_LOCK + _LOCKS):
            fcntl.lockf(index, fcntl.LOCK_EX, 1, lock)
        # A reader that finds its lock taken asks again for 10 s, whatever its timeout. One that
        # finds a header unlike its copy, as a crash leaves it, waits for the lock to recover.
        os.pwrite(index, bytes(_HEADER_BYTES), 0)
        _say_that_it_acts()
        signal.pause()


def hold_slow(path: str, delay_s: float) -> None:
    """Hold the write lock after each commit of others, and give way in between."""
    connection, index = _open(path)
    with closing(connection):
        # The system hands it over the moment that another's commit lets it go.
        fcntl.lockf(index, fcntl.LOCK_EX, 1, _WRITE_LOCK)
        _say_that_it_acts()
        while True:
            time.sleep(delay_s)
            fcntl.lockf(index, fcntl.LOCK_UN, 1, _WRITE_LOCK)
            end_s = time.monotonic() + GIVE_WAY_S
            while not _somebody_writes(index) and time.monotonic() < end_s:
                time.sleep(_POLL_S)
            fcntl.lockf(index, fcntl.LOCK_EX, 1, _WRITE_LOCK)


def _somebody_writes(index: int) -> bool:
    try:
        fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _WRITE_LOCK)
    except OSError:
        return True
    fcntl.lockf(index, fcntl.LOCK_UN, 1, _WRITE_LOCK)
    return False


def _open(path: str) -> tuple[sqlite3.Connection, int]:
    """Open a database and its WAL-index, which is there as long as a connection is open."""
    # As a URI, it is not created when it is missing.
    connection = sqlite3.connect(
        f"file:{quote(path)}?mode=rw", uri=True, timeout=_PATIENCE_S, isolation_level=None
    )
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        raise sqlite3.OperationalError("it is not in write-ahead mode")
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return connection, os.open(f"{path}-shm", os.O_RDWR)


def _say_that_it_acts() -> None:
    sys.stdout.write("acts\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        if sys.argv[1] == "away":
            hold_away(sys.argv[2])
        else:
            hold_slow(sys.argv[2], int(sys.argv[3]) / 1_000)
    except (sqlite3.Error, OSError) as error:
        sys.exit(f"{sys.argv[2]} cannot be held: {error}.")
