"""The one error that a person at a terminal must understand.

It stands below every other module, so that each room can refuse to start in plain words.
"""


class SetupError(Exception):
    """The machine or a setting does not allow this; its text is one or two plain sentences."""
