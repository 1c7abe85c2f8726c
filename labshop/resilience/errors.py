"""Why a call was not made, as a tree.

    NotTried              definite: the call was not begun
    ├── BreakerOpen         what it would ask has failed too often of late
    ├── BulkheadFull        as many are inside, and as many wait, as may
    └── DeadlineExceeded    its time was over before it began

They are refusals at once, instead of failures after a long wait; each says when it may be worth
coming again.
"""


class NotTried(Exception):
    """The call was not begun: nothing happened, for certain."""

    retry_after_ms: float = 0.0
    """In how many milliseconds to try again; 0 where nobody can say."""


class BreakerOpen(NotTried):
    """The breaker is open, or half open while another call tries whether the other side is back."""

    def __init__(self, name: str, retry_after_ms: float) -> None:
        super().__init__(f"the breaker of the {name} is open for {retry_after_ms:.0f} ms more")
        self.name = name
        self.retry_after_ms = retry_after_ms


class BulkheadFull(NotTried):
    """All places are taken, those of the queue too."""

    def __init__(self, name: str, retry_after_ms: float) -> None:
        super().__init__(f"all places of the {name} are taken")
        self.name = name
        self.retry_after_ms = retry_after_ms


class DeadlineExceeded(NotTried):
    """The deadline had passed before the call was begun."""

    def __init__(self, late_ms: float) -> None:
        super().__init__(f"its time was over {late_ms:.0f} ms ago")
        self.late_ms = late_ms
