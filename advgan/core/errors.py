"""The exception for invalid input, and warnings and notes on stderr."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from typing import Any

from advgan.core.terminal import printable


class InputError(ValueError):
    """Bad input, found before any work. The message is one line: what was wrong, what was expected, the value given.

    Programs print it and exit with code 2; other exceptions are bugs and keep their traceback. Control characters
    (in texts of files and servers) are escaped; line breaks become spaces.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(" ".join(str(message).split())))


class NotFiniteError(FloatingPointError):
    """The loss of a training became NaN or infinite. `trained`: of `advgan.fit`, the best generator before, if any."""

    trained: Any = None


def did_you_mean(word: str, options: Iterable[str], form: str = "{}") -> str:
    """End of the message for an unknown `word`: "; did you mean resnet18?", or "" without a similar option.

    Similar options are spelled almost alike or have `word` as a part; else are spelled alike; else have it as their
    initials, contain it, or are its beginning (lr: learning-rate, epsilon: eps). `form` formats a name, like "--{}".
    """
    by_lower = {option.lower(): option for option in options if option != word}
    lower = word.lower()
    parts = [name for name in by_lower if lower in re.split(r"[-_ ]", name)]
    alike = get_close_matches(lower, by_lower, cutoff=0.8) or ([] if parts else get_close_matches(lower, by_lower))
    similar = list(dict.fromkeys([*alike, *parts]))[:3]
    if not similar and len(lower) > 1:
        initials = {name: "".join(part[:1] for part in re.split(r"[-_ ]", name)) for name in by_lower}
        similar = [name for name in by_lower if initials[name] == lower]
        similar = similar or [name for name in by_lower if len(lower) > 2 and lower in name][:3]
        similar = similar or [name for name in by_lower if len(name) > 2 and lower.startswith(name)][:3]
    names = [form.format(by_lower[name]) for name in similar]
    return f"; did you mean {' or '.join(names)}?" if names else ""


def listing(names: Iterable[object], limit: int = 5, separator: str = ", ") -> str:
    """The first `limit` of `names`, each shortened to 60 characters, and their number where that is not all."""
    texts = [str(name) for name in names]
    shown = separator.join(text if len(text) <= 60 else text[:57] + "..." for text in texts[:limit])
    return shown if len(texts) <= limit else f"{shown}{separator}... ({len(texts)} in all)"


def one_line(error: BaseException | str) -> str:
    """The message of an exception in one line of at most 200 characters; its type where it has none."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # of a class of the user's
        text = ""
    return text[:200] or type(error).__name__


@contextmanager
def explained(before: str, after: str = "") -> Iterator[None]:
    """A block that runs anybody's code, which may raise anything: an InputError with the reason between both texts."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{before}{one_line(error)}{after}") from error


def warn(text: object) -> None:
    """One line on stderr: "warning: ...", with control characters escaped."""
    print(f"warning: {printable(text)}", file=sys.stderr)


@cache
def note(text: str) -> None:
    """One line on stderr: "note: ...", with control characters escaped; the same text once a process, and from one of
    the processes on a machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"note: {printable(text)}", file=sys.stderr)
