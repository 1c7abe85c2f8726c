"""Execute a notebook in a fresh kernel of this very interpreter.

The problem: "works in my notebook" depends on start-up files, on a kernel that somebody once
installed for this user, and on cells run in another order.

The idea: papermill runs all cells once, in the lesson's folder, with this environment's kernel
and an empty profile. A failing cell ends the build with its source and its error.

It does not promise isolation from services: a lesson that needs Redis meets the Redis there is.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from builder.errors import BuildError

CELL_TIMEOUT_S = 120


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run every cell and return the notebook with its outputs.

    Args:
        notebook: a notebook that has not run.
        folder: the working directory of the kernel.

    Raises:
        BuildError: a cell raised, took longer than `CELL_TIMEOUT_S` seconds, or the kernel died.
    """
    logging.getLogger("papermill").setLevel(logging.WARNING)
    with _own_kernel_environment():
        try:
            executed: NotebookNode = papermill.execute_notebook(
                notebook,
                None,
                kernel_name="python3",
                cwd=folder,
                progress_bar=False,
                execution_timeout=CELL_TIMEOUT_S,
                # A kernel warns of every unencrypted port, also of one on this machine only.
                extra_arguments=["--log-level=ERROR"],
            )
        except PapermillExecutionError as error:
            raise BuildError(
                f"Cell [{error.exec_count}] failed:\n\n{_indent(error.source)}\n\n"
                f"{error.ename}: {error.evalue}"
            ) from error
        except (CellTimeoutError, DeadKernelError) as error:
            raise BuildError(f"The kernel did not finish: {error}") from error
    return executed


def kernel_environment(profile: Path) -> dict[str, str]:
    """Return the variables that give a kernel an empty profile and this environment's packages.

    Args:
        profile: an empty folder for IPython's profile and the kernel's connection file.
    """
    return {
        "IPYTHONDIR": str(profile),
        "JUPYTER_RUNTIME_DIR": str(profile),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PATH": "",
    }


@contextmanager
def _own_kernel_environment() -> Iterator[None]:
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="labshop-kernel-") as profile:
        os.environ.update(kernel_environment(Path(profile)))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _indent(source: str) -> str:
    return "\n".join(f"    {line}" for line in source.splitlines())
