"""docs/results.md: every number in its tables stands in the sections of the log that are linked below the table."""

import re

from tests.conftest import ROOT
from tests.test_docs import LINK, anchor

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?|\.\d+")
PAGE = (ROOT / "docs/results.md").read_text()


def sections(text: str) -> dict[str, str]:
    """Sections of level 2, by anchor."""
    parts = re.split(r"^## (.*)$", text, flags=re.M)
    return dict(zip(map(anchor, parts[1::2]), parts[2::2], strict=True))


def numbers(text: str) -> set[str]:
    """Numbers outside of links and names like ResNet-32."""
    text = re.sub(r"\]\([^)]*\)|\b[A-Za-z]+[-A-Za-z]*-\d+\b", " ", text)
    return {number.rstrip(",") for number in NUMBER.findall(text)}


def test_every_number_stands_in_the_log() -> None:
    for title, section in sections(PAGE).items():
        table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
        links = [link.partition("#") for link in LINK.findall(section.partition("\nLog: ")[2])]
        assert table, f"{title} has no table"
        assert links, f"{title} has no link to the log"
        log = set().union(*(numbers(sections((ROOT / "docs" / file).read_text())[name]) for file, _, name in links))
        missing = numbers(table) - log
        assert not missing, f"{title}: {sorted(missing)} not in {links}"


def test_numbers() -> None:
    assert numbers("PGD-40: 1,000, 99.47 ± .12 [x](y#z-5)") == {"1,000", "99.47", ".12"}
