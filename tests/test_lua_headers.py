"""Each Lua script says what it takes and gives, and takes and gives just that."""

import re
from pathlib import Path

import pytest

import labshop

SHARED = "hand_over"
"""Included by others: it has no arguments of its own."""

SCRIPTS = sorted(
    script for script in Path(labshop.__file__).parent.rglob("*.lua") if script.stem != SHARED
)


def parts(script: Path) -> tuple[str, str]:
    """The header's comment lines, and the body."""
    lines = script.read_text().splitlines()
    length = next(n for n, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:length]), "\n".join(lines[length:])


def disagreement(header: str, body: str) -> str | None:
    """What header and body do not agree about, if anything."""
    for table in ("KEYS", "ARGV"):
        named = {int(n) for n in re.findall(rf"{table}\[(\d+)", header)}
        used = {int(n) for n in re.findall(rf"{table}\[(\d+)\]", body)}
        if named != set(range(1, len(named) + 1)):
            return f"{table} are not numbered from 1: {sorted(named)}"
        if not used <= named:
            return f"{table}{sorted(used - named)} are used and not described"
        open_ended = f"{table}[{max(named, default=0)}…]" in header
        unused = named - used
        if unused and not (open_ended and f"#{table}" in body):
            return f"{table}{sorted(unused)} are described and not used"
    for word in ("Returns", "Atomic because"):
        if word not in header:
            return f"the header lacks {word!r}"
    return None


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_header_and_body_agree(script: Path) -> None:
    """KEYS, ARGV and the reason to be atomic are in the header, and nothing more is used."""
    assert disagreement(*parts(script)) is None


def test_there_are_scripts() -> None:
    """The rule is about something."""
    assert len(SCRIPTS) >= 9


@pytest.mark.parametrize(
    ("old", "new"),
    [("KEYS[1]  the lock", "the lock"), ("-- ARGV[1]", "-- ARGV[2]"), ("Returns", "Gives")],
)
def test_control_a_stale_header_is_seen(old: str, new: str) -> None:
    """Control: a header that was not kept up with its body is told."""
    header, body = parts(next(s for s in SCRIPTS if s.stem == "release_lock"))
    assert old in header

    assert disagreement(header.replace(old, new), body) is not None
