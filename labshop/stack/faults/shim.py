"""Our C library in front of a process' own: the way to its clock and its disk.

The problem: a clock that jumps for one node alone, or a disk that is full for one process
alone, is made by root, or not at all. The idea: `shim.c` is compiled once per machine and user,
and named in the environment of a process that shall be hurt later; what it does is told through
a page of memory that the process and the test share (see there).

It does not promise anything off Linux, nor without a C compiler: then a fault that needs it says
so, and all else goes on.
"""

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from labshop.stack.faults.errors import FaultUnavailable

PAGE_VARIABLE = "LABSHOP_FAULT_PAGE"
_COMPILE_DEADLINE_S = 60.0


class Shimmed(Protocol):
    """What can be started with the shim: a node, or the shop's API."""

    @property
    def pid(self) -> int | None:
        """The id of its newest process."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What was added to its environment."""


class Line(ctypes.Structure):
    """A clock that is wrong: `offset_ns` at `since_ns` (monotonic), and running on from there."""

    _fields_ = (
        ("offset_ns", ctypes.c_int64),
        ("drift_ppm", ctypes.c_int64),
        ("since_ns", ctypes.c_int64),
    )
    offset_ns: int
    drift_ppm: int
    since_ns: int


class Page(ctypes.Structure):
    """What a process is told, field by field as in `shim.c`; all zeros is the true world."""

    _fields_ = (
        ("pid", ctypes.c_int64),
        ("disk_full", ctypes.c_int32),
        ("current", ctypes.c_int32),
        ("lines", Line * 2),
    )
    pid: int
    disk_full: int
    current: int
    lines: "ctypes.Array[Line]"


def shimmed(folder: Path) -> dict[str, str]:
    """Return what to add to a process' environment so that it can be hurt while it runs.

    Args:
        folder: the process' own; the page that it obeys is made there, empty.

    Raises:
        FaultUnavailable: not on Linux, no C compiler, or it does not compile.
    """
    library = _library()
    folder.mkdir(parents=True, exist_ok=True)
    page = folder.absolute() / "faults.page"
    page.write_bytes(bytes(ctypes.sizeof(Page)))
    preloaded = filter(None, (str(library), os.environ.get("LD_PRELOAD")))
    return {"LD_PRELOAD": ":".join(preloaded), PAGE_VARIABLE: str(page)}


def hurtable(folder: Path) -> dict[str, str]:
    """As `shimmed`, but nothing where there can be no shim: the faults that need it will say so.

    A folder that cannot be used is left to whoever starts the process in it.
    """
    try:
        return shimmed(folder)
    except (FaultUnavailable, OSError):
        return {}


def page_of(process: Shimmed) -> Page:
    """Return the page that a process obeys; what is written there acts at once.

    Raises:
        FaultUnavailable: it was started without the shim, or did not load it.
    """
    path = process.environment.get(PAGE_VARIABLE)
    if path is None:
        _compiler()
        raise FaultUnavailable("This process was not started to be hurt; pass it env=shimmed(...).")
    with Path(path).open("r+b") as file:
        page = Page.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Page)))
    if page.pid != (process.pid or 0):
        raise FaultUnavailable("This process has not loaded the shim; its log says why.")
    return page


def _compiler() -> str:
    if sys.platform != "linux":
        raise FaultUnavailable("One process' clock and disk can be hurt on Linux only.")
    found = shutil.which("cc")
    if found is None:
        raise FaultUnavailable(
            "One process' clock and disk are hurt through a small C library; install a C compiler "
            "(`cc`, such as Debian's package gcc with libc6-dev)."
        )
    return found


def _library() -> Path:
    """Compile the shim, unless this very source has been compiled for this user before."""
    compiler = _compiler()
    source = (files("labshop.stack.faults") / "shim.c").read_bytes()
    library = _own_folder() / f"shim-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if library.exists():
        return library
    # Others may compile at the same time: each renames its own into the place.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        compiled = Path(folder, library.name)
        done = subprocess.run(  # noqa: S603  # the compiler that PATH names, on our own source
            [compiler, "-shared", "-fPIC", "-O2", "-x", "c", "-", "-o", compiled, "-ldl"],
            input=source,
            capture_output=True,
            timeout=_COMPILE_DEADLINE_S,
            check=False,
        )
        if done.returncode != 0:
            reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason"])[0]
            raise FaultUnavailable(f"The C compiler refuses shim.c: {reason}.")
        compiled.rename(library)
    return library


def _own_folder() -> Path:
    """A folder that no other user can write to: a server will load code from there."""
    folder = Path(tempfile.gettempdir()) / f"labshop-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise FaultUnavailable(f"{folder} must be yours alone; remove it, or set TMPDIR.")
    return folder
