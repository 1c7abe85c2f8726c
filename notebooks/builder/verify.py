"""Run a committed notebook again and hold it to its own outputs, by nbval.

The problem: outputs that were true on the day of the commit.

The idea: strict nbval in a process of its own: every cell runs in a fresh kernel of this
interpreter, and each output that is not tagged as ignored must come out the same.

It does not promise anything about a notebook without outputs: nbval passes those. `limits` does.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from builder.execution import CELL_TIMEOUT_S, kernel_environment

_TOTAL_TIMEOUT_S = 900


def run_nbval(
    notebook: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run strict nbval over one notebook; return code 0 says that every output came out the same.

    Args:
        notebook: the .ipynb file; its folder is the kernel's working directory.
        env: variables for the kernel, on top of this process' own (a PYTHONPATH that puts a
            broken labshop first, for one).

    Returns:
        The finished process; stdout is pytest's report with the cells that differ.

    Raises:
        subprocess.TimeoutExpired: it took longer than 15 minutes.
    """
    command = [sys.executable, "-m", "pytest", "-p", "nbval.plugin", "-p", "no:cacheprovider"]
    # The suite's own options (parallel, random, strict warnings) are not meant for notebooks.
    command += ["-c", os.devnull, "--rootdir", str(notebook.parent)]
    command += ["--nbval", "--nbval-current-env", f"--nbval-cell-timeout={CELL_TIMEOUT_S}"]
    command += ["-q", "--color=no", str(notebook)]
    with tempfile.TemporaryDirectory(prefix="labshop-nbval-") as profile:
        environment = {**os.environ, **kernel_environment(Path(profile)), **(env or {})}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        environment.pop("PYTEST_ADDOPTS", None)
        return subprocess.run(  # noqa: S603 # our own interpreter, our own arguments
            command,
            cwd=notebook.parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_TOTAL_TIMEOUT_S,
        )
