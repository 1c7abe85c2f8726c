"""Build both notebooks of one lesson, and put them where they belong.

The problem: a build that fails half-way leaves a learner's notebook that does not fit the
solution beside it.

The idea: all of a lesson is built and held to its limits before any of it is written; a failing
cell leaves the folder as it was.

It does not promise that two builds at once of the same lesson agree; the last one stays.
"""

import time
from pathlib import Path

from nbformat import NotebookNode

from builder.difference import first_difference
from builder.errors import BuildError
from builder.execution import execute
from builder.limits import problems
from builder.normal import from_text, normalise, to_text
from builder.pictures import add_pictures, committed_pictures
from builder.source import Variant, read


def build_lesson(lesson: Path, *, check: bool) -> None:
    """Build both notebooks of a lesson, then write or compare them.

    Args:
        lesson: the lesson's folder.
        check: compare with what is committed, write nothing.

    Raises:
        BuildError: what `build` and `settle` raise, with the notebook's name before it.
    """
    paths = {variant: lesson / variant.value for variant in Variant}
    committed = {
        variant: from_text(path.read_text("utf-8"))
        for variant, path in paths.items()
        if path.is_file()
    }
    pictures: dict[str, str] = {}
    for notebook in committed.values():
        pictures |= committed_pictures(notebook)
    built = {
        variant: build(lesson, variant, committed.get(variant), pictures) for variant in Variant
    }
    for variant, text in built.items():
        settle(paths[variant], text, check=check)


def build(
    lesson: Path, variant: Variant, committed: NotebookNode | None, pictures: dict[str, str]
) -> str:
    """Return the text of one notebook, executed and within all limits.

    Args:
        lesson: the lesson's folder.
        variant: the learner's notebook or the solution.
        committed: that notebook in the repository, or None.
        pictures: known pictures by figure; those that are drawn here are added.

    Raises:
        BuildError: the source is malformed, a cell fails, or a limit is broken.
    """
    name = f"{lesson.name}/{variant.value}"
    began_s = time.monotonic()
    try:
        notebook = execute(read(lesson, variant), lesson)
        normalise(notebook, committed)
        add_pictures(notebook, pictures)
    except BuildError as error:
        raise BuildError(f"{name}: {error}") from error
    if found := problems(notebook, lesson):
        raise BuildError("\n".join([f"{name} breaks its limits:", *found]))
    text = to_text(notebook)
    took_s = time.monotonic() - began_s
    print(f"{name}: {len(text) // 1000} kB, built in {took_s:.1f} s", flush=True)
    return text


def settle(path: Path, text: str, *, check: bool) -> None:
    """Write a notebook where it belongs, or compare it with what is there.

    Args:
        path: the committed notebook's file.
        text: what was built.
        check: compare only.

    Raises:
        BuildError: `check` is set and the files differ.
    """
    if check:
        name = f"{path.parent.name}/{path.name}"
        if not path.is_file():
            raise BuildError(f"{name} is not there; run make notebooks.")
        committed = path.read_text("utf-8")
        if committed != text:
            reason = first_difference(from_text(committed), from_text(text))
            raise BuildError(
                f"{path.parent.name}/{path.name}: {reason or 'only its layout as JSON differs'}"
            )
        return
    # A reader never meets half a file.
    fresh = path.with_suffix(".tmp")
    fresh.write_text(text, "utf-8")
    fresh.replace(path)
