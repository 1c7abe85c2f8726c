"""Shows how far a crowd has come, to whoever sits in front of it.

In a notebook one line is rewritten in place; in a terminal, one line of standard error. Where
nobody looks (a pipe, a log), nothing is shown.
"""

import sys
import time

from IPython.core.getipython import get_ipython
from IPython.display import DisplayHandle

_EVERY_S = 0.2


class Meter:
    """Rewrites one line; hand it over as ``progress``.

    Args:
        what: is being counted, such as "buyers have an answer".
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._next_s = 0.0
        self._handle: DisplayHandle | None = None

    def __call__(self, done: int, of: int) -> None:
        """Show that so many of so many are done; the last is always shown."""
        now_s = time.monotonic()
        if now_s < self._next_s and done < of:
            return
        self._next_s = now_s + _EVERY_S
        self._show(f"{done} of {of} {self._what}", is_last=done == of)

    def _show(self, text: str, *, is_last: bool) -> None:
        if get_ipython() is not None:
            bundle = {"text/plain": text}
            if self._handle is None:
                self._handle = DisplayHandle()  # type: ignore[no-untyped-call]  # the same
                self._handle.display(bundle, raw=True)  # type: ignore[no-untyped-call]  # the same
            else:
                self._handle.update(bundle, raw=True)  # type: ignore[no-untyped-call]
        elif sys.stderr.isatty():
            sys.stderr.write(f"\r{text}" + "\n" * is_last)
            sys.stderr.flush()
