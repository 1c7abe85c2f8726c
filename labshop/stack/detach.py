"""A supervisor in the background that says when it is ready, or why it is not.

The problem: a background process that is merely started may fail a second later, unseen. The
idea: it inherits the writing end of a pipe. It writes *ready*, or the sentence of its failure,
and closes it; when it dies without a word the system closes the pipe. Either way the one in the
foreground waits for an event.

It does not promise that the supervisor still runs after it was ready: see ``labshop status``.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from labshop.errors import SetupError
from labshop.stack.home import make_home
from labshop.stack.shop_api import end_process

_READY = "ready"


def run_detached(home: Path, arguments: Sequence[str]) -> None:
    """Run a command of labshop in a session of its own; return when it is ready.

    Args:
        home: its folder, which receives ``up.log``.
        arguments: the command; the option ``--ready-fd N`` is added to it.

    Raises:
        SetupError: it failed; the sentence is its own.
    """
    log_path = make_home(home) / "up.log"
    answer, waiting = os.pipe()
    try:
        with log_path.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  # runs this very package
                [sys.executable, "-m", "labshop.cli", *arguments, "--ready-fd", str(waiting)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=(waiting,),
            )
    finally:
        os.close(waiting)
    try:
        with os.fdopen(answer) as pipe:
            said = pipe.read().strip()
    except BaseException:
        end_process(process)
        raise
    if said != _READY:
        process.wait()
        raise SetupError(said or f"The lab ended before it was ready; see {log_path}.")


@contextmanager
def answering(ready_fd: int | None) -> Iterator[Callable[[], None]]:
    """Be the background side: the body calls what it is given when it is ready.

    Args:
        ready_fd: the pipe that the one in the foreground reads; None when nobody waits.
    """
    descriptors = [] if ready_fd is None else [ready_fd]

    def say(text: str) -> None:
        while descriptors:
            descriptor = descriptors.pop()
            os.write(descriptor, text.encode())
            os.close(descriptor)

    try:
        yield lambda: say(_READY)
    except SetupError as error:
        say(str(error))
        raise
