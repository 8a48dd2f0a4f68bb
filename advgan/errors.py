"""The one exception that means: what the user gave cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InputError(ValueError):
    """Bad input, found before any work. The message is one line: what was wrong, what was expected, the value given.

    Programs print it and exit with code 2; nothing else is turned into a tidy line, so that a bug keeps its traceback.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown `word`: "; did you mean resnet18?", or "" where nothing known is near."""
    spelled = {each.lower(): each for each in known if each != word}
    near = [spelled[each] for each in get_close_matches(word.lower(), spelled)]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def reason(error: BaseException) -> str:
    """What another library's exception says, in one line."""
    said = " ".join(str(error).split())
    return said[:200] or type(error).__name__
