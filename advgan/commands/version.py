"""Print the version."""

from __future__ import annotations

from dataclasses import dataclass

from advgan import __version__


@dataclass(frozen=True)
class Settings:
    """There is nothing to set."""


def main(settings: Settings) -> None:
    print(__version__)
