"""Questions over HTTP that end: one address, a deadline, a few attempts, a limit on the answer."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from advgan.core.errors import InputError

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between two attempts: doubled each time


@dataclass(frozen=True)
class RetryPolicy:
    """How a service is asked.

    timeout   seconds for one attempt, from the connection to the last byte of the answer
    retries   further attempts after one that failed, 0.5, 1, 2, ... seconds later, or when it says (Retry-After)
    rate      the most attempts a second; None: as many as there are
    """

    timeout: float = 30.0
    retries: int = 4
    rate: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 3600 or not 0 <= self.retries <= 100 or not (self.rate is None or self.rate >= 1e-3):
            raise InputError(
                "timeout must be in (0, 3600] seconds, retries from 0 to 100 and rate at least 0.001, got "
                f"{self.timeout:g}, {self.retries} and {self.rate}"
            )


class Failed(Exception):
    """An attempt that may be made again, `wait` seconds later (None: as usual)."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Client:
    """Asks one address, each question over a connection of its own."""

    def __init__(self, url: str, patience: RetryPolicy) -> None:
        self.url, self.patience, self.earliest = url, patience, 0.0
        parts = urlsplit(url)
        try:
            self.host, self.port = parts.hostname or "", parts.port
        except ValueError as error:
            raise InputError(
                f"a target's address must look like http://HOST:PORT/PATH, got {url!r} ({error})"
            ) from None
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def ask(self, method: str, body: bytes | None = None, kind: str = "", *, most: int) -> bytes:
        """The answer to one question, of at most `most` bytes. No connection, no answer in time, 5xx and 429 are tried
        again. Raises InputError when that does not help, and at once for any other answer than 200."""
        tries = 1 + self.patience.retries
        for attempt in range(tries):
            self._keep_rate()
            try:
                return self._attempt(method, body, kind, most)
            except Failed as failed:
                if attempt + 1 == tries:
                    times = f"{tries} times" if tries > 1 else "once"
                    raise InputError(f"{self.url} was asked {times} and did not answer: {failed}") from failed
                wait = FIRST_WAIT * 2.0**attempt if failed.wait is None else failed.wait
            time.sleep(min(wait, LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _keep_rate(self) -> None:
        if self.patience.rate is not None:
            time.sleep(max(0.0, self.earliest - time.monotonic()))
            self.earliest = time.monotonic() + 1 / self.patience.rate

    def _attempt(self, method: str, body: bytes | None, kind: str, most: int) -> bytes:
        connection, late = self.connect(self.host, self.port, timeout=self.patience.timeout), threading.Event()
        sockets: list[socket.socket] = []
        deadline = threading.Timer(self.patience.timeout, _hang_up, (connection, sockets, late))
        deadline.daemon = True
        deadline.start()
        try:
            connection.connect()
            sockets.append(connection.sock)  # which the connection forgets as soon as the answer begins
            connection.request(method, self.path, body, {"Content-Type": kind} if kind else {})
            response = connection.getresponse()
            data = response.read(most + 1)
            if late.is_set():
                raise TimeoutError
            if response.length and len(data) <= most:
                raise http.client.IncompleteRead(data, response.length)
        except UnicodeError as error:  # a host's name that no resolver takes
            raise InputError(
                f"a target's address must look like http://HOST:PORT/PATH, got {self.url!r} ({error})"
            ) from None
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:  # also of a damaged answer
            if late.is_set() or isinstance(error, TimeoutError):
                raise Failed(f"no answer within {self.patience.timeout:g} s") from None
            raise Failed(f"{type(error).__name__}: {error}") from error
        finally:
            deadline.cancel()
            connection.close()
        return self._judged(response, data, most)

    def _judged(self, response: http.client.HTTPResponse, data: bytes, most: int) -> bytes:
        """The body of an answer of status 200. Raises Failed for what may pass, InputError for the rest."""
        status = f"{response.status} {response.reason}".strip()
        if response.status == 429 or response.status >= 500:
            after = response.headers.get("Retry-After", "")
            raise Failed(f"status {status}", float(after) if after.isdecimal() else None)
        if 300 <= response.status < 400:
            place = response.headers.get("Location", "nowhere")
            raise InputError(
                f"{self.url} sends us to {place[:200]!r}, which is not followed: give the address that answers"
            )
        if response.status != 200:
            said = data[:200].decode(errors="replace")
            raise InputError(f"{self.url} refuses the question with status {status}: {said!r}")
        if len(data) > most:
            raise InputError(f"{self.url} returns more than the {most} bytes that its answer can need")
        return data


def _hang_up(connection: http.client.HTTPConnection, sockets: list[socket.socket], late: threading.Event) -> None:
    """The deadline of an attempt: a socket's own timeout begins anew with every byte that trickles in."""
    late.set()
    for each in sockets or [connection.sock]:
        with contextlib.suppress(OSError, TypeError):  # closed already; none yet
            socket.socket.shutdown(each, socket.SHUT_RDWR)
