"""Lua scripts as values: a source and the SHA-1 by which Redis knows it.

Each script is a `.lua` file beside the module that runs it, with a header that names its
KEYS, its ARGV and its reply. What several scripts share stands in a file of its own, and a line
``-- @include name`` takes its place. A script is read when it is first used, once per process.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable


@dataclass(frozen=True)
class Script:
    """One Lua script."""

    name: str
    source: str
    sha: str


@cache
def load_script(package: str, name: str) -> Script:
    """Read `lua/<name>.lua` of a package.

    Args:
        package: the dotted name, such as ``labshop.locks``.
        name: the file's name without its ending, such as ``acquire_locks``.
    """
    source = _read(files(package) / "lua", name)
    # SHA-1 is what EVALSHA asks for; nothing here depends on its strength.
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


def _read(folder: Traversable, name: str) -> str:
    source = (folder / f"{name}.lua").read_text(encoding="utf-8")
    return re.sub(
        r"^-- @include (\w+)$", lambda it: _read(folder, it[1]), source, flags=re.MULTILINE
    )
