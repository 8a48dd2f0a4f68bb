"""The exception for input that cannot be used, and lines on stderr for input that can."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from typing import Any

from advgan.core.terminal import printable


class InputError(ValueError):
    """Bad input, found before any work. The message is one line: what was wrong, what was expected, the value given.

    Programs print it and exit with code 2; nothing else is turned into a tidy line, so that a bug keeps its traceback.
    Control characters, which a file's or a server's text may hold, are escaped; line breaks become spaces.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(" ".join(str(message).split())))


class NotFiniteError(FloatingPointError):
    """The loss of a training became NaN or infinite. `trained`: of `advgan.fit`, the best generator before, if any."""

    trained: Any = None


def did_you_mean(word: str, known: Iterable[str], form: str = "{}") -> str:
    """The end of a message about an unknown `word`: "; did you mean resnet18?", or "" where nothing known is near.

    Near is what is spelled nearly alike or has `word` as a part, else what is spelled alike; else what has it as its
    initials, contains it, or begins it (lr: learning-rate, epsilon: eps). `form` is how a name is shown, like "--{}".
    """
    spelled = {each.lower(): each for each in known if each != word}
    lower = word.lower()
    parts = [name for name in spelled if lower in re.split(r"[-_ ]", name)]
    alike = get_close_matches(lower, spelled, cutoff=0.8) or ([] if parts else get_close_matches(lower, spelled))
    near = list(dict.fromkeys([*alike, *parts]))[:3]
    if not near and len(lower) > 1:
        initials = {name: "".join(part[:1] for part in re.split(r"[-_ ]", name)) for name in spelled}
        near = [name for name in spelled if initials[name] == lower]
        near = near or [name for name in spelled if len(lower) > 2 and lower in name][:3]
        near = near or [name for name in spelled if len(name) > 2 and lower.startswith(name)][:3]
    names = [form.format(spelled[name]) for name in near]
    return f"; did you mean {' or '.join(names)}?" if names else ""


def listing(names: Iterable[object], most: int = 5, separator: str = ", ") -> str:
    """The first `most` of `names`, each cut to 60 characters, and how many there are where that is not all."""
    texts = [str(name) for name in names]
    shown = separator.join(text if len(text) <= 60 else text[:57] + "..." for text in texts[:most])
    return shown if len(texts) <= most else f"{shown}{separator}... ({len(texts)} in all)"


def one_line(error: BaseException | str) -> str:
    """What another library's exception says, in one line."""
    said = " ".join(str(error).split())
    return said[:200] or type(error).__name__


def warn(text: object) -> None:
    """One line on stderr: "warning: ...", with control characters escaped."""
    print(f"warning: {printable(text)}", file=sys.stderr)


@cache
def note(text: str) -> None:
    """One line on stderr: "note: ...", with control characters escaped; the same text once a process, and from one of
    the processes on a machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"note: {printable(text)}", file=sys.stderr)
