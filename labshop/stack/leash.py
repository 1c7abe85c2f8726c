"""Children that never outlive their supervisor, even when it dies by ``kill -9``.

The problem: a killed supervisor runs no ``finally``, and a list of process ids is no help, for
the system gives an id to a stranger once its process is gone.

The idea: a tiny process, the leash, leads a process group and reads a pipe whose only writer is
the supervisor. Every server is started into that group. However the supervisor ends, the system
closes the pipe; the leash reads the end of it and signals its own group. Each member also holds
the writing end of a second pipe, so the leash knows, by an event, when the last one has gone.
As the group is not the terminal's, a Ctrl-C reaches the supervisor alone, which ends its
servers in order.

It does not promise anything once the leash itself is killed with -9, nor for a child that
leaves the group (a daemon that calls ``setsid``), nor while a fork of the supervisor that never
calls ``exec`` holds the pipe open.
"""

import os
import pwd
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

GRACE_S = 2.0
"""How long the members may take to end by themselves after SIGTERM."""


class Leash:
    """The supervisor's end of a leash; it holds from construction until `end`."""

    def __init__(self, keep: Sequence[int] = ()) -> None:
        """Start the leash.

        Args:
            keep: file descriptors that the leash holds open until the last member has gone,
                such as a lock that must outlast a killed supervisor.
        """
        members_gone, self._membership = os.pipe()
        try:
            self._process = _start_leash(members_gone, keep)
        except BaseException:
            os.close(self._membership)
            raise
        finally:
            os.close(members_gone)

    @property
    def group(self) -> int:
        """The id of the process group, which is also the leash's process id."""
        return self._process.pid

    def start(
        self,
        command: Sequence[str],
        output: IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
        account: pwd.struct_passwd | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a process that ends when the supervisor does.

        Args:
            command: the program and its arguments.
            output: receives what it prints; None leaves it on the supervisor's own output.
            env: its whole environment; None is the supervisor's.
            account: whom it runs as, in the root folder; None is the supervisor's own.

        Raises:
            OSError: the program cannot be run, or the leash is gone.
        """
        return subprocess.Popen(  # noqa: S603  # no shell; the caller names the program
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            env=env,
            process_group=self.group,
            pass_fds=(self._membership,),
            # The supervisor's working folder may be closed to another account.
            cwd=None if account is None else "/",
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else (),
        )

    def end(self) -> None:
        """End every member that is left, and return when all have gone."""
        if self._process.stdin is None or self._process.stdin.closed:
            return
        self._process.stdin.close()
        os.close(self._membership)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()


def _start_leash(members_gone: int, keep: Sequence[int]) -> subprocess.Popen[bytes]:
    """Start the leash's process; return when signals to its group no longer end it."""
    # By path and without site-packages: it starts in milliseconds, and nothing in the working
    # directory or the environment can stand in for what it imports.
    command = [sys.executable, "-I", "-S", str(Path(__file__)), str(members_gone)]
    process = subprocess.Popen(  # noqa: S603  # runs this very file
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,
        pass_fds=(members_gone, *keep),
    )
    if process.stdout is not None:
        with process.stdout as said:
            said.read(1)
    return process


def hold(members_gone: int) -> None:
    """Be the leash: wait for the supervisor's end, then end the whole process group.

    Args:
        members_gone: descriptor that reaches its end when no member is left.
    """
    # Its own SIGTERM reaches the leash too. SIGHUP comes from the system, when the supervisor
    # dies while a member is stopped (POSIX: a newly orphaned process group).
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with suppress(BrokenPipeError):  # A supervisor that is gone already shows below.
        os.write(sys.stdout.fileno(), b"!")
    while os.read(sys.stdin.fileno(), 1):
        pass
    group = os.getpgrp()
    os.killpg(group, signal.SIGTERM)
    # A frozen server acts on its SIGTERM only when it is woken.
    os.killpg(group, signal.SIGCONT)
    gone, _, _ = select.select([members_gone], [], [], GRACE_S)
    if not gone:
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    hold(int(sys.argv[1]))
