"""SIGINT, SIGTERM and SIGHUP end a program with exit code 130, 143 or 129, from its first import to its last line."""

import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

HANGUP = getattr(signal, "SIGHUP", None)  # the terminal was closed; Windows has no such signal
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([HANGUP] if HANGUP else []))
SAME_REQUEST = 1.0  # seconds: a terminal and a launcher both forward one Ctrl-C
GRACE = 10.0  # seconds for the clean-up after a signal; launchers kill after 30
_first: tuple[int, float] | None = None  # number and time of the signal that ends the program
_watchdog: threading.Timer | None = None


def exit_code(number: int) -> int:
    """The exit code of a program that signal `number` stopped, as a shell computes it."""
    return 128 + number


def stopped_by_signal(returncode: int) -> int | None:
    """The exit code of a child process that one of `SIGNALS` ended, also before it could handle it; None for any other
    return code."""
    code = exit_code(-returncode) if returncode < 0 else returncode
    return code if code in map(exit_code, SIGNALS) else None


def exit_on_signals() -> None:
    """Exit at once on a signal, from a program's first line, before there is anything to clean up.

    An exception instead would be caught by some imports, or break them.
    """
    handle_signals(lambda number, frame: os._exit(exit_code(number)))


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Install `handler` for `SIGNALS`; returns the handlers before. A SIGHUP that is ignored, as under nohup, stays
    ignored; after another one, text for a closed terminal is discarded."""

    def receive(number: int, frame: FrameType | None) -> None:
        if number == HANGUP:
            _discard_text_for_closed_terminals()
        handler(number, frame)

    ignored = {HANGUP} if HANGUP and signal.getsignal(HANGUP) == signal.SIG_IGN else set()
    return {number: signal.signal(number, receive) for number in SIGNALS if number not in ignored}


def _discard_text_for_closed_terminals() -> None:
    for descriptor in (1, 2):
        with suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextmanager
def exiting_on_signals() -> Iterator[None]:
    """A block that a signal leaves by SystemExit with its exit code, so that temporary files are removed on the way.

    The block ends with that code also where other code has caught the SystemExit or failed because of it; after `GRACE`
    seconds, or at a second signal, the process exits as it is.
    """
    global _first, _watchdog
    if threading.current_thread() is not threading.main_thread():  # which has no signals
        yield
        return
    before = handle_signals(_raise_exit)
    _first = None
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if _watchdog is not None:
            _watchdog.cancel()
            _watchdog = None
        if _first is not None:
            raise SystemExit(exit_code(_first[0])) from None


def _raise_exit(number: int, frame: FrameType | None) -> None:
    global _first, _watchdog
    if _first is None:
        _first = (number, time.monotonic())
        _watchdog = threading.Timer(GRACE, os._exit, [exit_code(number)])
        _watchdog.daemon = True
        _watchdog.start()
        raise SystemExit(exit_code(number))
    if time.monotonic() - _first[1] >= SAME_REQUEST:
        os._exit(exit_code(_first[0]))
