"""A terminal of its own for one test."""

import os
import subprocess
import sys
from pathlib import Path

from labshop.stack.home import State, read_state

DEADLINE_S = 20.0

HANGING = '''
"""A strategy whose import never ends, and with it the start of an API that is to sell by it."""
import threading

print("hanging", flush=True)
threading.Event().wait()
'''


class Terminal:
    """Runs labshop's commands, each in a session of its own, on one home folder."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        site = folder / "site"
        site.mkdir()
        (site / "hanging.py").write_text(HANGING)
        self.env = {name: v for name, v in os.environ.items() if not name.startswith("LABSHOP_")}
        self.env |= {"PYTHONPATH": str(site), "LABSHOP_HOME": str(self.home)}
        self.env |= {"LABSHOP_API_PORT": "0", "PYTHONUTF8": "1"}
        self._started: list[subprocess.Popen[str]] = []

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "labshop.cli", *arguments],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Start a command that goes on; the test's end ends it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "labshop.cli", *arguments],
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def state(self) -> State:
        """Return what runs; the test fails when nothing does."""
        state = read_state(self.home)
        assert state is not None
        return state

    def close(self) -> None:
        self.run("down")
        for process in self._started:
            process.kill()
            process.communicate()
