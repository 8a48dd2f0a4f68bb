"""The one exception that means: what the user gave cannot be used."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, found before any work. The message is one line: what was wrong, what was expected, the value given.

    Programs print it and exit with code 2; nothing else is turned into a tidy line, so that a bug keeps its traceback.
    """
