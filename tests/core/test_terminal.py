"""Untrusted text on a terminal: control characters are escaped; any text is printable in any encoding."""

import errno
import io
import os
import sys
from dataclasses import dataclass
from threading import Thread
from typing import NoReturn

import pytest
from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError

from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.core.terminal import printable, safe_streams

HOSTILE = "a\x1b]0;title\x07b\x1b[2Jc\rd\ne\x9b1mf\u202eg\x7fh\udcffi"
SHOWN = r"a\x1b]0;title\x07b\x1b[2Jc\rd\ne\x9b1mf\u202eg\x7fh\xffi"


def test_control_characters_are_escaped() -> None:
    assert printable(HOSTILE) == SHOWN
    assert printable("Übung 写真 [red] é") == "Übung 写真 [red] é"
    assert printable(12) == "12"


class Terminal(io.TextIOWrapper):
    """A stream with an encoding, terminal or not."""

    def __init__(self, encoding: str, terminal: bool) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "iso-8859-1", "utf-8"])
def test_any_text_is_printable_in_any_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal(encoding, terminal=False)
    monkeypatch.setattr(sys, "stdout", stream)
    with safe_streams():
        print("✓ holds – ○ 写", HOSTILE)
        table = Table(title="✗ title")
        table.add_row("[red]", "…")
        Console(width=40).print(table)
    assert sys.stdout is stream
    text = stream.text()
    signs = {"utf-8": "✓ holds – ○ 写", "cp1252": "+ holds – o ?"}.get(encoding, "+ holds - o ?")
    assert text.startswith(f"{signs} {SHOWN}".replace(r"\r", "\r").replace(r"\n", "\n").replace(r"\udcff", ""))
    assert not set("\x1b\x07\x9b\x7f") & {*text}


def test_terminal_keeps_colors_and_escapes_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal("utf-8", terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)
    with safe_streams():
        print("\x1b[1;31mred\x1b[0m\x1b[2K\x1b[1A\x1b[?25l \x1b]0;title\x07 \x1b[2J \x1b[6n", file=sys.stderr)
    assert stream.text() == "\x1b[1;31mred\x1b[0m\x1b[2K\x1b[1A\x1b[?25l \\x1b]0;title\\x07 \\x1b[2J \\x1b[6n\n"


def test_closed_streams_take_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with safe_streams():
        print("out", sys.stdout.isatty(), file=sys.stderr)


@dataclass(frozen=True)
class Nothing:
    """No settings."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError(HOSTILE), 2, r"a\x1b]0;title\x07b\x1b[2Jc d e\x9b1mf\u202eg\x7fh\xffi"),
        *((OSError(number, os.strerror(number), "f"), 1, f"{os.strerror(number)}: f")
          for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOLCK,
                         errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE)),
        (OSError(errno.EFBIG, "File too large", "from", None, "to"), 1, "File too large: to"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device: while reading or writing"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "f"), 2, "File name too long: f"),
        (OSError(errno.ENOENT, "No such file or directory"), 2,
         "No such file or directory: the working directory, which was removed"),
        (RuntimeError("Symlink loop from 'f'"), 2, "Symlink loop from 'f'"),
        (OSError("image file is\ntruncated"), 1, "image file is truncated"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 1,
         "I/O error: No space left on device (os error 28)"),
        (MemoryError(), 1, "out of memory: MemoryError"),
    ],
)  # fmt: skip
def test_input_and_file_system_errors_are_one_line(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(settings: Nothing) -> NoReturn:
        raise error

    with pytest.raises(SystemExit) as stop:
        run(main, Nothing, [])
    assert (stop.value.code, capsys.readouterr().err) == (code, f"error: {line}\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), SafetensorError("a bug")])
def test_other_exceptions_keep_traceback(error: Exception) -> None:
    def main(settings: Nothing) -> NoReturn:
        raise error

    with pytest.raises(type(error), match="a bug"):
        run(main, Nothing, [])


def test_error_in_background_thread_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def fill_the_disk() -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device", "events.log")

    def main(settings: Nothing) -> None:
        thread = Thread(target=fill_the_disk)
        thread.start()
        thread.join()

    with pytest.raises(SystemExit) as stop:
        run(main, Nothing, [])
    assert (stop.value.code, capsys.readouterr().err) == (1, "error: No space left on device: events.log\n")
