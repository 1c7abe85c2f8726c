"""Staying alive while others are not: a library of its own, which knows neither shop nor Redis."""

from labshop.resilience.breaker import BREAKER_STATES, BreakerState, CircuitBreaker
from labshop.resilience.bucket import TokenBuckets
from labshop.resilience.bulkhead import Bulkhead
from labshop.resilience.cache import Cache
from labshop.resilience.deadline import (
    check_deadline,
    deadline_in_ms,
    remaining_ms,
    until_deadline,
)
from labshop.resilience.errors import BreakerOpen, BulkheadFull, DeadlineExceeded, NotTried
from labshop.resilience.patience import Patience
from labshop.resilience.retry import Backoff, retry

__all__ = [
    "BREAKER_STATES",
    "Backoff",
    "BreakerOpen",
    "BreakerState",
    "Bulkhead",
    "BulkheadFull",
    "Cache",
    "CircuitBreaker",
    "DeadlineExceeded",
    "NotTried",
    "Patience",
    "TokenBuckets",
    "check_deadline",
    "deadline_in_ms",
    "remaining_ms",
    "retry",
    "until_deadline",
]
