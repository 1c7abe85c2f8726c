"""Where a figure comes from: the machine and the commit that it was measured on."""

import os
import platform
import subprocess
import time
from typing import Any


def commit() -> str | None:
    """The commit that is checked out, with a mark if something was changed; None without git."""
    described = subprocess.run(
        ("git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"),  # noqa: S607  # git is found as the shell finds it
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def machine() -> dict[str, Any]:
    """What this machine is, and when it was asked."""
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
