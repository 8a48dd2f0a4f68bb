"""The benchmark's rows as tables: on the terminal and in Markdown."""

from __future__ import annotations

import statistics
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

Row = dict[str, Any]
ResultCache = tuple[list[str], list[list[str]]]  # heads, lines

NOTE = """\
"x NAME": how many times as long as NAME's a pass takes, round by round: median (range); each side at its better batch \
size. ASR: share of the images that were classified correctly (of those that are not of the class aimed at) and that \
are turned; norms are means over them, of DeepFool's over those it turned."""


def cells(rows: list[Row]) -> ResultCache:
    """The table of one section's rows."""
    if any("unit" in row for row in rows):
        return _turns(rows)
    return _overhead(rows) if rows[0]["section"] == "overhead" else _race(rows)


def _race(rows: list[Row]) -> ResultCache:
    timed = [row for row in rows if row["status"] == "ok"]
    sizes = list(timed[0]["seconds"]) if timed else []
    heroes = list(timed[0]["times"]) if timed else []
    heads = ["", *(f"images/s, batch {size}" for size in sizes), *(f"x {hero}" for hero in heroes)]
    heads += ["rounds", "ASR %", "mean l2", "mean linf", "note"]
    lines = []
    for row in rows:
        if row["status"] != "ok":
            lines.append([row["side"], *[""] * (len(heads) - 2), row["status"]])
            continue
        lines.append(
            [
                row["side"],
                *(f"{row['images_per_second'][size]:,.0f}" for size in sizes),
                *("" if hero == row["side"] else spread(row["times"][hero], ".2f") for hero in heroes),
                str(row["rounds"]),
                _number(row, "asr", ".1f", 100),
                _number(row, "l2_mean", ".3f"),
                _number(row, "linf_mean", ".4f"),
                "; ".join(row.get("violations", [])),
            ]
        )
    return heads, lines


def _overhead(rows: list[Row]) -> ResultCache:
    heads = ["", "batch", "attack s", "forward s", "harness s", "overhead % of the attack", "rounds"]
    return heads, [
        [
            row["side"],
            str(row["batch_size"]),
            *(f"{statistics.median(row['seconds'][part]):.3f}" for part in ("attack", "forward", "evaluate")),
            spread([100 * share for share in row["overhead"]], ".1f"),
            str(row["rounds"]),
        ]
        for row in rows
    ]


def _turns(rows: list[Row]) -> ResultCache:
    heroes = list(dict.fromkeys(hero for row in rows for hero in row.get("times", {})))
    heads = ["", f"seconds {rows[0]['unit']}", *(f"x {hero}" for hero in heroes), "rounds", "note"]
    lines = []
    for row in rows:
        if row["status"] != "ok":
            lines.append([row["side"], *[""] * (len(heads) - 2), row["status"]])
            continue
        times = [spread(row["times"][hero], ".2f") if hero in row["times"] else "" for hero in heroes]
        brought = f"brings {', '.join(row['heavy'])}" if row.get("heavy") else ""
        lines.append([row["side"], f"{row['median']:.3f}", *times, str(row["rounds"]), brought])
    return heads, lines


def spread(values: list[float], form: str) -> str:
    """A median, and the range behind it: "1.21 (1.18 to 1.30)"."""
    median, low, high = (format(value, form) for value in values)
    return f"{median} ({low} to {high})"


def _number(row: Row, name: str, form: str, scale: float = 1) -> str:
    return "" if row.get(name) is None else format(row[name] * scale, form)


def table(title: str, rows: list[Row]) -> Table:
    """For rich's `Console.print`; who could not take part is dim."""
    heads, lines = cells(rows)
    drawn = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for head in heads:
        drawn.add_column(head, justify="left" if head in ("", "note") else "right", overflow="fold")
    for row, line in zip(rows, lines, strict=True):
        drawn.add_row(*map(escape, line), style=None if row["status"] == "ok" else "dim")
    return drawn


def markdown(title: str, rows: list[Row]) -> str:
    heads, lines = cells(rows)
    body = [heads, ["---" if head in ("", "note") else "---:" for head in heads], *lines]
    return "\n".join([f"## {title}", "", *("| " + " | ".join(line) + " |" for line in body), ""])
