"""The cells of columns of tables: functions of a row that give a text (`advgan.report.page.Table.of`)."""

from functools import partial
from typing import Any

from advgan.report.page import Cell, with_interval


def field(key: str) -> Cell:
    """A field of each row as it is."""
    return lambda row: str(row[key])


def number(key: str, form: str = "", scale: float = 1, missing: str = "–") -> Cell:
    """`scale` times a number of each row in a format; `missing` where it was not measured."""
    return lambda row: missing if row[key] is None else format(scale * row[key], form)


def percent(key: str, missing: str = "–", digits: int = 1) -> Cell:
    """A rate of each row in percent; `missing` where it was not measured."""
    return number(key, f".{digits}f", 100, missing)


def interval(key: str, **settings: Any) -> Cell:
    """A number of each row with its interval, see `with_interval`."""
    return partial(with_interval, key=key, **settings)
