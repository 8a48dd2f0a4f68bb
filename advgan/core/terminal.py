"""Text on a terminal: no control characters from files and servers, no encoding errors."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Control characters (C0, DEL, C1), line separators, bidirectional overrides, lone surrogates (bytes not in UTF-8).
CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
_IN_NAMES = re.compile(f"[\t\n{CONTROL}]")
# Allowed for rich and tqdm: carriage returns; on a terminal also colours and cursor moves of progress bars.
_ON_STREAMS = re.compile(f"(?!\r)[{CONTROL}]")
_ON_TERMINALS = re.compile(rf"(\x1b\[[\d;]*m|\x1b\[[12]?[AK]|\x1b\[\?25[hl])|(?!\r)[{CONTROL}]")
PLAIN = {"✓": "+", "✗": "x", "○": "o", "–": "-", "—": "-", "…": "~", "×": "x", "’": "'", "‘": "'", "“": '"', "”": '"'}
# One column each, which keeps tables aligned.
PLAIN |= {"─": "-", "━": "-", "│": "|", "┃": "|", "•": "*", "≤": "<", "≥": ">"}


def printable(text: object) -> str:
    r"""`text` on one line, with control characters, line breaks and bidirectional overrides as escapes: \x1b, \n."""
    return _IN_NAMES.sub(_escape, str(text))


def printable_lines(text: str) -> str:
    """`text` of several lines, each as by `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def utf8(text: str) -> str:
    r"""`text` that can be written as UTF-8: of files' names, bytes that are none are escaped, \xff."""
    try:
        content = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair: of no file's name
        content = text.encode("utf-8", "backslashreplace")
    return content.decode("utf-8", "backslashreplace")


def _escape(match: re.Match[str]) -> str:
    if match.lastindex:  # a sequence that is allowed
        return match[0]
    if "\udc80" <= match[0] <= "\udcff":  # a byte of a file's name that is not UTF-8
        return f"\\x{ord(match[0]) - 0xDC00:02x}"
    return ascii(match[0])[1:-1]


def bar_console(*, stderr: bool = False) -> Console:
    """The console of progress bars. A notebook without ipywidgets, which a bar needs there, has the lines printed above
    it and its last state alone (its kernel sets FORCE_COLOR, which rich takes for a terminal)."""
    from rich import get_console
    from rich.console import Console  # not for `advgan --help`

    without_widgets = get_console().is_jupyter and find_spec("ipywidgets") is None
    if without_widgets:
        return Console(stderr=stderr, force_jupyter=False, force_terminal=False)
    return Console(stderr=True) if stderr else get_console()


class _Filtered:
    """A wrapper of a text stream that escapes control characters."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._pattern = _ON_TERMINALS if stream.isatty() else _ON_STREAMS

    def write(self, text: str) -> int:
        self._stream.write(self._pattern.sub(_escape, text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _replace(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler "advgan": a plain character for one that the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error("advgan", _replace)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Within it, standard output and error take any text: plain characters where the encoding lacks others, control
    characters escaped.
    """
    # A closed one ("advgan ... >&-") is None, and its number would be that of the next file that is opened.
    streams = sys.stdout, sys.stderr = [stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr)]  # noqa: SIM115
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="advgan")
    sys.stdout, sys.stderr = (_Filtered(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
