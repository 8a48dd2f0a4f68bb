"""README.zh-CN.md has the code of README.md; only what is said about it is translated."""

from __future__ import annotations

import re

from tests.conftest import ROOT
from tests.test_docs import code


def bare(name: str) -> list[tuple[str, list[str]]]:
    """The code blocks of a document, without comments, and without the lines that were nothing else."""
    blocks = code((ROOT / name).read_text(encoding="utf-8"))
    stripped = ((language, re.sub(r"(^|\s)#.*$", "", block, flags=re.M)) for language, block in blocks)
    return [(language, [line.rstrip() for line in block.splitlines() if line.strip()]) for language, block in stripped]


def test_the_code_is_the_same() -> None:
    assert bare("README.zh-CN.md") == bare("README.md")
