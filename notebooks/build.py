"""Build the lessons' notebooks: `python notebooks/build.py [LESSON_DIR ...] [--check]`.

The problem: a notebook under version control is trusted only if anybody can build it again and
get the same bytes.

The idea: every step is in `builder`; this file is its command line. Without arguments it builds
each folder `NN_name` beside it that holds a `lesson.py`.

It does not promise to start services that a lesson needs; the lesson's own set-up cell does.
"""

import argparse
import sys
from pathlib import Path

from builder.errors import BuildError
from builder.lesson import build_lesson

NOTEBOOKS = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Build or check lessons.

    Args:
        arguments: the command line without the program's name; by default this process' own.

    Returns:
        The exit code: 0, or 1 after a message on stderr.
    """
    parser = argparse.ArgumentParser(description="Build the lessons' notebooks, with outputs.")
    parser.add_argument("lessons", nargs="*", type=Path, metavar="LESSON_DIR")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    lessons = [lesson.resolve() for lesson in options.lessons] or _all_lessons()
    try:
        for lesson in lessons:
            build_lesson(lesson, check=options.check)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _all_lessons() -> list[Path]:
    return sorted(path.parent for path in NOTEBOOKS.glob("[0-9]*/lesson.py"))


if __name__ == "__main__":
    sys.exit(main())
