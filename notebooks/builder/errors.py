"""The errors of a build.

    BuildError                 the lesson cannot become a notebook; the message says why and where

One class is enough: nobody recovers from it, the author reads it.
"""


class BuildError(Exception):
    """A lesson cannot become a notebook; the message is one that its author can act on."""
