"""The files of a comparison: results.json and CSV tables, reports and TensorBoard."""

import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from advgan.core.files import atomic_write, atomic_write_dir, staged
from advgan.core.fraction import eps_text
from advgan.evaluation.evaluate import ROW_KEYS, Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.escaping import csv_text, in_markdown
from advgan.report.figures import plots as draw
from advgan.report.html import html
from advgan.report.latex import latex
from advgan.report.page import Summary, figure, heading
from advgan.report.sections import unfinished_trainings
from advgan.report.study import write_figures
from advgan.report.table import markdown
from advgan.report.tensorboard import write_comparison


def write_report(directory: Path, comparison: Comparison) -> None:
    """Write all forms of a comparison to `directory`, replacing earlier ones once all are complete.

    figures/          a PNG per figure
    records/          a CSV per result, a line per image
    logs/compare/     for TensorBoard
    report.md, report.tex, report.html, results.csv (a line per row)
    results.json

    Raises ValueError, before anything is written, if the summary holds what JSON cannot: NaN or infinity.
    """
    summary = comparison.summary
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    plots = draw(comparison)
    files = dict(zip(plots, file_names(plots), strict=True))
    page = html(comparison, plots)

    def write_records(folder: Path) -> None:
        evaluated = [result for result in comparison.results if result.records]
        for name, result in zip(file_names(map(_result_name, evaluated)), evaluated, strict=True):
            columns = [column.numpy() for column in result.records.values()]
            lines = ([i, *line] for i, line in enumerate(zip(*columns, strict=True)))  # of the images
            (folder / f"{name}.csv").write_text(csv_text(["id", *result.records], lines))

    by_file = {f"{files[name]}.png": plot for name, plot in plots.items()}
    with staged(directory) as folder:
        atomic_write(folder / "report.md", report(summary, plots, files))
        atomic_write_dir(folder / "figures", partial(write_figures, by_file))
        atomic_write_dir(folder / "records", write_records)
        write_comparison(folder / "logs" / "compare", comparison, plots)
        atomic_write(folder / "report.tex", latex(summary))
        atomic_write(folder / "report.html", page)
        atomic_write(folder / "results.csv", csv_text(ROW_KEYS, map(_row_line, summary["rows"])))
        atomic_write(folder / "results.json", text)


def report(summary: Summary, plots: Mapping[str, Plot], files: Mapping[str, str]) -> str:
    """The comparison in Markdown: classifiers, verdicts, tables, and the figures in `files`."""
    attacked = in_markdown(", ".join(target["label"] for target in summary["targets"]))
    head = heading(f"Attacks on {attacked} ({summary['target']['dataset']})", summary)
    head += [*(f"- {in_markdown(sentence)}" for sentence in unfinished_trainings(summary)), ""]
    shown = [line for name, plot in plots.items() for line in figure(plot, f"figures/{files[name]}.png")]
    return "\n".join([*head, markdown(summary), *(["## Figures", ""] if shown else []), *shown])


def file_names(labels: Iterable[str]) -> list[str]:
    """A unique name for each label, valid on every file system."""
    names: list[str] = []
    for label in labels:
        name = stem = re.sub(r"[^A-Za-z0-9.=_]+", "-", label)[:150].strip("-.") or "unnamed"
        count, taken = 1, {other.lower() for other in names}
        while name.lower() in taken:
            count += 1
            name = f"{stem}-{count}"
        names.append(name)
    return names


def _result_name(result: Result) -> str:
    row = result.row
    toward = "" if row["y_target"] is None else f"_toward-{row['y_target']}"
    return f"{row['target']}_{row['attack']}_{row['norm']}_{eps_text(row['eps'])}{toward}_seed-{row['seed']}"


def _row_line(row: Mapping[str, Any]) -> list[Any]:
    return ["; ".join(row[key]) if key == "violations" else row[key] for key in ROW_KEYS]
