"""Notes on stderr about how data were read: one line each, once a process, from one of several processes."""

from __future__ import annotations

import os
import sys
from functools import cache


@cache
def note(text: str) -> None:
    """Print `note: text` on stderr, with control characters escaped; the same text is printed once."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print("note: " + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text), file=sys.stderr)
