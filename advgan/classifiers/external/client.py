"""HTTP requests to one address, with a deadline, retries, a rate limit and a largest response."""

import contextlib
import http.client
import re
import socket
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from advgan.core.errors import InputError

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds between two attempts, doubled each time


@dataclass(frozen=True)
class RetryPolicy:
    """Timeout, retries and rate limit of requests.

    timeout   seconds for one attempt, from the connection to the last byte of the response
    retries   further attempts after a failed one, after 0.5, 1, 2, ... seconds or the time in its Retry-After header
    rate      maximum number of attempts per second; None: no limit
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


class RetryableError(Exception):
    """A failed attempt that may be repeated, after `wait` seconds (None: the default)."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Client:
    """Requests to one address, each over a new connection. Raises InputError for an invalid address."""

    def __init__(self, url: str, retry: RetryPolicy) -> None:
        self.url, self.retry, self.earliest = url, retry, 0.0
        expected = f"a target's address must look like http://HOST:PORT/PATH, got {url!r}"
        try:
            parts = urlsplit(url)
            named = "@" in parts.netloc
            self.host, self.port = parts.hostname or "", None if named else parts.port
            self.host.encode("idna")
        except ValueError as error:
            raise InputError(f"{expected} ({error})") from None
        if named:  # reports contain the address
            raise InputError(f"a target's address must hold no user or password, got one for {self.host}")
        if not self.host or not re.fullmatch(r"[!-~]+", url):
            raise InputError(expected)
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def request(self, method: str, body: bytes | None = None, content_type: str = "", *, limit: int) -> bytes:
        """The body of the response, at most `limit` bytes. A failed connection, a timeout, 5xx and 429 are retried.

        Raises InputError after the last retry, and at once for any other status than 200.
        """
        attempt = 0
        while True:
            attempt += 1
            if self.retry.rate is not None:
                time.sleep(max(0.0, self.earliest - time.monotonic()))
                self.earliest = time.monotonic() + 1 / self.retry.rate
            try:
                return self._attempt(method, body, content_type, limit)
            except RetryableError as error:
                if attempt > self.retry.retries:
                    attempts = f"{attempt} attempt{'s' * (attempt > 1)}"
                    raise InputError(f"no valid response from {self.url} in {attempts}: {error}") from error
                wait = FIRST_WAIT * 2.0 ** (attempt - 1) if error.wait is None else error.wait
            time.sleep(min(wait, LONGEST_WAIT))

    def _attempt(self, method: str, body: bytes | None, content_type: str, limit: int) -> bytes:
        connection, late = self.connect(self.host, self.port, timeout=self.retry.timeout), threading.Event()
        sockets: list[socket.socket] = []
        deadline = threading.Timer(self.retry.timeout, _close_late, (connection, sockets, late))
        deadline.daemon = True
        deadline.start()
        try:
            connection.connect()
            sockets.append(connection.sock)  # the connection drops it when the response begins
            connection.request(method, self.path, body, {"Content-Type": content_type} if content_type else {})
            response = connection.getresponse()
            data = response.read(limit + 1)
            if late.is_set():
                raise TimeoutError
            if response.length and len(data) <= limit:
                raise http.client.IncompleteRead(data, response.length)
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:  # also for a damaged response
            if late.is_set() or isinstance(error, TimeoutError):
                raise RetryableError(f"no response within {self.retry.timeout:g} s") from None
            raise RetryableError(f"{type(error).__name__}: {error}") from error
        finally:
            deadline.cancel()
            connection.close()
        return self._body(response, data, limit)

    def _body(self, response: http.client.HTTPResponse, data: bytes, limit: int) -> bytes:
        """The body of a response of status 200. Raises RetryableError for temporary failures, else InputError."""
        status = f"{response.status} {response.reason}".strip()
        if response.status == 429 or response.status >= 500:
            raise RetryableError(f"status {status}", _seconds(response.headers.get("Retry-After", "")))
        if 300 <= response.status < 400:
            place = response.headers.get("Location", "nowhere")
            raise InputError(
                f"{self.url} redirects to {place[:200]!r}, and redirects are not followed: pass the final URL"
            )
        if response.status != 200:
            text = data[:200].decode(errors="replace")
            raise InputError(f"{self.url} rejects the request with status {status}: {text!r}")
        if len(data) > limit:
            raise InputError(f"{self.url} returns more than {limit} bytes, the largest valid response")
        return data


def _seconds(retry_after: str) -> float | None:
    """The header Retry-After in seconds from now, which it may give as a date; None: it is neither."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _close_late(connection: http.client.HTTPConnection, sockets: list[socket.socket], late: threading.Event) -> None:
    """Deadline of an attempt; a socket's timeout would start anew with every byte received."""
    late.set()
    for open_socket in sockets or [connection.sock]:
        with contextlib.suppress(OSError, TypeError):  # closed already; none yet
            socket.socket.shutdown(open_socket, socket.SHUT_RDWR)
