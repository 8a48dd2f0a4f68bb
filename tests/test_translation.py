"""README.zh-CN.md has the same code blocks as README.md."""

import re

from tests.conftest import ROOT
from tests.test_docs import code


def bare(name: str) -> list[tuple[str, list[str]]]:
    """Code blocks of a document without comments and comment lines."""
    blocks = code((ROOT / name).read_text(encoding="utf-8"))
    stripped = ((language, re.sub(r"(^|\s)#.*$", "", block, flags=re.M)) for language, block in blocks)
    return [(language, [line.rstrip() for line in block.splitlines() if line.strip()]) for language, block in stripped]


def test_code_blocks_are_equal() -> None:
    assert bare("README.zh-CN.md") == bare("README.md")
