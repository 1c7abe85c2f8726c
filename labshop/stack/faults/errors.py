"""What a fault says when it cannot be made.

A fault that silently does nothing would make every claim look true.
"""

from labshop.errors import SetupError


class FaultUnavailable(SetupError):
    """This machine or process cannot have this fault; nothing was changed."""
