"""What this machine has for the lab and what it lacks, in plain words.

The problem: a missing program shows up late, as an error of something else. The idea: one table
of what the lab can use, what for, and how to get it; only a few of them are required. It does
not promise that a program that is there also works.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from labshop.errors import SetupError
from labshop.settings import Settings
from labshop.stack.nodes import find_server
from labshop.stack.ports import choose_port
from labshop.stack.postgres import find_postgres

API_PORT = 8000
_OLDEST_PYTHON = (3, 11)
_VERSION_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked for, and what was found."""

    name: str
    purpose: str
    remedy: str
    required: bool
    found: str | None
    lack: str = "missing"

    def line(self) -> str:
        """Return it for a person: ✓ is there, ✗ is required, and a dash is optional."""
        if self.found is not None:
            return f"✓ {self.name}: {self.found}; {self.purpose}."
        mark = "✗" if self.required else "\N{EN DASH}"
        return f"{mark} {self.name}: {self.lack}; {self.purpose}. {self.remedy}."


def examine(settings: Settings) -> list[Finding]:
    """Look at everything that the lab can use on this machine."""
    return [
        Finding(
            "Python", "runs the lab", "Install Python 3.11 or newer", required=True, found=_python()
        ),
        Finding(
            "Redis server",
            "holds the stock and the locks",
            "Install redis-server or valkey-server and name it by LABSHOP_REDIS_SERVER",
            required=True,
            found=_server(settings),
        ),
        Finding(
            f"folder {settings.home}",
            "keeps the ledger, the nodes' data and the logs",
            "Make it writable, or name another folder by LABSHOP_HOME",
            required=True,
            found=_writable(settings.home),
            lack="not writable",
        ),
        Finding(
            f"port {API_PORT}",
            "the API's address by default",
            "The API will take another port; `labshop status` shows it",
            required=False,
            found=_port(settings.api_host),
            lack="taken",
        ),
        *(tool.find() for tool in _TOOLS),
        Finding(
            "PostgreSQL",
            "can hold the ledger in place of SQLite",
            "On Debian: apt install postgresql",
            required=False,
            found=_postgres(),
        ),
    ]


@dataclass(frozen=True)
class _Tool:
    """An optional program: its names in PATH, and where else it may be."""

    name: str
    purpose: str
    remedy: str
    commands: tuple[str, ...]
    elsewhere: str | None = None

    def find(self) -> Finding:
        """Look for it."""
        paths = (shutil.which(command) for command in self.commands)
        found = next((path for path in paths if path), None) or self._elsewhere()
        return Finding(self.name, self.purpose, self.remedy, required=False, found=found)

    def _elsewhere(self) -> str | None:
        if self.elsewhere is None:
            return None
        matches = sorted(Path("/").glob(self.elsewhere))
        return str(matches[-1]) if matches else None


_TOOLS = (
    _Tool(
        "Chromium",
        "tests the pages in a browser",
        "On Debian: apt install chromium",
        ("chromium", "chromium-browser", "google-chrome"),
        "Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    ),
    _Tool(
        "redis-server",
        "is the second kind of server that the tests run on",
        "On Debian: apt install redis-server",
        ("redis-server",),
    ),
    _Tool(
        "Docker",
        "runs the same topology in containers",
        "See https://docs.docker.com/get-docker/",
        ("docker",),
    ),
)


def _python() -> str | None:
    version = ".".join(map(str, sys.version_info[:3]))
    return version if sys.version_info >= _OLDEST_PYTHON else None


def _server(settings: Settings) -> str | None:
    try:
        path = find_server(settings.redis_server)
        answer = subprocess.run(  # noqa: S603  # asks the chosen server for its version
            [path, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_DEADLINE_S,
            check=True,
        )
    except (SetupError, OSError, subprocess.SubprocessError):
        return None
    version = next((word[2:] for word in answer.stdout.split() if word.startswith("v=")), None)
    if version is None:
        return None
    origin = "packaged" if settings.redis_server is None else str(path)
    return f"{answer.stdout.split()[0]} {version} ({origin})"


def _postgres() -> str | None:
    try:
        return str(find_postgres())
    except SetupError:
        return None


def _writable(folder: Path) -> str | None:
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    usable = os.access(nearest / ".", os.W_OK | os.X_OK)
    return "writable" if usable else None


def _port(host: str) -> str | None:
    try:
        choose_port(host, API_PORT)
    except SetupError:
        return None
    return "free"
