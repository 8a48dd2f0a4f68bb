"""The benchmark's rows as tables: on the terminal and in Markdown."""

import statistics
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

BenchmarkRow = dict[str, Any]
TableText = tuple[list[str], list[list[str]]]  # heads, lines

NOTE = """\
"x NAME": time of a pass over that of NAME, round by round: median (range); each at its better batch size. ASR: \
success rate over the images that are classified correctly (and not of the target class); norms are means over them, \
of DeepFool over its successes."""


def table_text(rows: list[BenchmarkRow]) -> TableText:
    """The table of one section's rows."""
    if any("unit" in row for row in rows):
        return _measurement_table(rows)
    return _overhead_table(rows) if rows[0]["section"] == "overhead" else _attack_table(rows)


def _attack_table(rows: list[BenchmarkRow]) -> TableText:
    timed = [row for row in rows if row["status"] == "ok"]
    sizes = list(timed[0]["seconds"]) if timed else []
    references = list(timed[0]["times"]) if timed else []
    headers = ["", *(f"images/s, batch {size}" for size in sizes), *(f"x {reference}" for reference in references)]
    headers += ["rounds", "ASR %", "mean l2", "mean linf", "note"]
    text_rows = []
    for row in rows:
        if row["status"] != "ok":
            text_rows.append([row["side"], *[""] * (len(headers) - 2), row["status"]])
            continue
        text_rows.append(
            [
                row["side"],
                *(f"{row['images_per_second'][size]:,.0f}" for size in sizes),
                *(
                    "" if reference == row["side"] else spread(row["times"][reference], ".2f")
                    for reference in references
                ),
                str(row["rounds"]),
                _number(row, "asr", ".1f", 100),
                _number(row, "l2_mean", ".3f"),
                _number(row, "linf_mean", ".4f"),
                "; ".join(row.get("violations", [])),
            ]
        )
    return headers, text_rows


def _overhead_table(rows: list[BenchmarkRow]) -> TableText:
    headers = ["", "batch", "attack s", "forward s", "harness s", "overhead % of the attack", "rounds"]
    return headers, [
        [
            row["side"],
            str(row["batch_size"]),
            *(f"{statistics.median(row['seconds'][part]):.3f}" for part in ("attack", "forward", "evaluate")),
            spread([100 * fraction for fraction in row["overhead"]], ".1f"),
            str(row["rounds"]),
        ]
        for row in rows
    ]


def _measurement_table(rows: list[BenchmarkRow]) -> TableText:
    references = list(dict.fromkeys(reference for row in rows for reference in row.get("times", {})))
    headers = ["", f"seconds {rows[0]['unit']}", *(f"x {reference}" for reference in references), "rounds", "note"]
    text_rows = []
    for row in rows:
        if row["status"] != "ok":
            text_rows.append([row["side"], *[""] * (len(headers) - 2), row["status"]])
            continue
        times = [
            spread(row["times"][reference], ".2f") if reference in row["times"] else "" for reference in references
        ]
        note = f"imports {', '.join(row['heavy'])}" if row.get("heavy") else ""
        text_rows.append([row["side"], f"{row['median']:.3f}", *times, str(row["rounds"]), note])
    return headers, text_rows


def spread(values: list[float], form: str) -> str:
    """A median and its range: "1.21 (1.18 to 1.30)"."""
    median, low, high = (format(value, form) for value in values)
    return f"{median} ({low} to {high})"


def _number(row: BenchmarkRow, name: str, form: str, scale: float = 1) -> str:
    return "" if row.get(name) is None else format(row[name] * scale, form)


def table(title: str, rows: list[BenchmarkRow]) -> Table:
    """For rich's `Console.print`; skipped and failed contenders are dim."""
    headers, text_rows = table_text(rows)
    rich_table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for head in headers:
        rich_table.add_column(head, justify="left" if head in ("", "note") else "right", overflow="fold")
    for row, line in zip(rows, text_rows, strict=True):
        rich_table.add_row(*map(escape, line), style=None if row["status"] == "ok" else "dim")
    return rich_table


def markdown(title: str, rows: list[BenchmarkRow]) -> str:
    headers, text_rows = table_text(rows)
    body = [headers, ["---" if head in ("", "note") else "---:" for head in headers], *text_rows]
    return "\n".join([f"## {title}", "", *("| " + " | ".join(line) + " |" for line in body), ""])
