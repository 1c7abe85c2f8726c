"""JupyterLab on the lessons, as a child of the lab.

The problem: JupyterLab asks at the terminal before it ends, and its kernels must find the nodes
that run. The idea: it gets no terminal to read from and is ended by its supervisor; the home
folder goes to its kernels by the environment, and the state file in it says the rest. It does
not promise that an unsaved notebook is kept.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import labshop
from labshop.errors import SetupError
from labshop.stack.leash import Leash
from labshop.stack.shop_api import end_process


def jupyter_command(extra: Sequence[str]) -> list[str]:
    """Return the command that serves the lessons, with a person's own arguments last.

    Raises:
        SetupError: JupyterLab or the folder of lessons is missing.
    """
    if importlib.util.find_spec("jupyterlab") is None:
        raise SetupError("JupyterLab is not installed; `make setup` installs it.")
    lessons = Path(labshop.__file__).parent.parent / "notebooks"
    if not lessons.is_dir():
        raise SetupError(f"There are no lessons at {lessons}; run this from a clone of the lab.")
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={lessons}"]
    # JupyterLab would ask a newcomer whether it may fetch news.
    command.append("--LabApp.news_url=None")
    if os.geteuid() == 0:
        command.append("--allow-root")
    if not _has_display():
        command.append("--no-browser")
    return [*command, *extra]


@contextmanager
def running_jupyter(
    command: Sequence[str], leash: Leash, home: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run JupyterLab while the body runs.

    Args:
        command: as `jupyter_command` returns it.
        leash: ends it when the supervisor dies.
        home: the folder in which its kernels find the nodes.
    """
    process = leash.start(command, env={**os.environ, "LABSHOP_HOME": str(home.absolute())})
    try:
        yield process
    finally:
        end_process(process)


def _has_display() -> bool:
    return sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
