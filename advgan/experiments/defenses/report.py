"""The matrix of defences on disk: what each attack does to each defence, what it costs, and what is left at worst."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from advgan.core.files import atomic_write, atomic_write_dir
from advgan.core.threat_model import eps_text
from advgan.experiments.defenses.plots import CLEAN, NOT_RUN, WORST, asr, matrix, robust, told
from advgan.report.comparison import Picture
from advgan.report.escaping import code, csv_text, in_markdown
from advgan.report.figures import with_caption
from advgan.report.files import file_names
from advgan.report.html import chart, template
from advgan.report.page import Grid, Row, failures, figure, heading
from advgan.report.sections import Section

Summary = Mapping[str, Any]  # defenses.json
Rate = Callable[[Row], str]
FIGURES = ("asr", "asr_low", "asr_high", "robust_accuracy")
HEADS = (
    *("defence", "column", "attack", "access", "norm", "eps", "n", "n_attacked", "clean_accuracy"),
    *(*FIGURES, "rejected", "seconds_per_image", "same_as", "status"),
)
SUCCESS = "Of the images that the line's classifier gets right. In brackets 95 % Wilson intervals."
LEFT = "Over all images: right before the attack, and not made wrong by it."
REJECTED = "Images that the line's classifier refuses to answer, clean and attacked: no success of the attack."
WORTH = (
    "Worst case: accuracy over all images, each under the attack that is worst for it. Strongest attack: that of most "
    "success, over the images that are right without it. Training s: of the line's classifier, where its run says it; "
    "defences around it, and who is asked beside it, are not counted. Inference: time of an answer over that of the "
    "base, timed in turn. Gradients: whether they are masked."
)


def write_defenses(directory: Path, summary: Summary) -> None:
    """Write asr.png, robust.png, logs/defenses/ (for TensorBoard), defenses.html, .md, .csv, and .json last.

    `summary` has "environment", "targets" (the base), "generators", "surrogate", "norm", "eps", "columns" (in order);
    "defenses", a dict for each line: label, row (what was asked for), n, clean_accuracy, clean_rejected, random,
    relative_time, training_seconds, worst_case, masking, violated; and "rows" as in results.json with their "column",
    and "same_as", the column that they repeat.
    """
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    pictures = {"asr": asr(summary), "robust": robust(summary)}
    for name, picture in pictures.items():
        Image.fromarray(picture.image).save(directory / f"{name}.png", optimize=True)
    atomic_write_dir(directory / "logs" / "defenses", lambda folder: _events(folder, summary, pictures))
    atomic_write(directory / "defenses.html", html(summary, pictures))
    atomic_write(directory / "defenses.md", markdown(summary, pictures))
    atomic_write(directory / "defenses.csv", csv_text(HEADS, _lines(summary)))
    atomic_write(directory / "defenses.json", text)


def grids(summary: Summary) -> list[Grid]:
    """What each defence is worth and costs; success and accuracy, defence x attack; and what is rejected, if any is."""
    cells, labels = matrix(summary), [each["label"] for each in summary["defenses"]]
    ball, columns = f"{summary['norm']} eps {eps_text(summary['eps'])}", [*summary["columns"], WORST]

    def grid(title: str, key: str, named: list[str], heads: list[str], note: str, rate: Rate | None = None) -> Grid:
        lines = [[label, *(told(cells.get((label, head)), key, rate) for head in heads)] for label in named]
        return Grid(f"{title}, {ball}", ["defence", *heads], lines, note)

    found = [worth(summary), grid("ASR %", "asr", labels, columns, SUCCESS, _interval)]
    found.append(grid("Accuracy %", "robust_accuracy", labels, [CLEAN, *columns], LEFT))
    if rejecting := [each["label"] for each in summary["defenses"] if each["clean_rejected"] is not None]:
        found.append(grid("Rejected %", "rejected", rejecting, [CLEAN, *summary["columns"]], REJECTED))
    return found


def worth(summary: Summary) -> Grid:
    """What is left of each line at worst, which attack takes most, and what the defence costs."""
    heads = ["defence", "clean %", "worst case %", "strongest attack", "training s", "inference", "gradients"]
    lines = [
        [
            *(each["label"], f"{100 * each['clean_accuracy']:.1f}"),
            *(f"{100 * _left(each):.1f}" if each["worst_case"] else "failed", _strongest(summary, each["label"])),
            NOT_RUN if each["training_seconds"] is None else f"{each['training_seconds']:.0f}",
            *(f"{each['relative_time']:.2f} x", each["masking"]["verdict"] if each["masking"] else NOT_RUN),
        ]
        for each in summary["defenses"]
    ]
    return Grid("What each defence is worth", heads, lines, WORTH)


def _strongest(summary: Summary, label: str) -> str:
    rows = [row for row in summary["rows"] if row["target"] == label and row["asr"] is not None]
    best = max(rows, key=lambda row: row["asr"], default=None)
    return NOT_RUN if best is None else f"{best['column']} {100 * best['asr']:.0f} %"


def verdicts(summary: Summary) -> list[dict[str, Any]]:
    """What is said of each line's gradients, and which checks of the measurement fail there: the verdict, what is told,
    and whether it speaks against the line."""
    found = []
    for each in summary["defenses"]:
        if masking := each["masking"]:
            words = f"{each['label']}: gradients: {masking['detail']}"
            bad = masking["verdict"] not in ("honest", "unclear", "not tested")
            found.append({"verdict": masking["verdict"], "told": words, "violated": bad})
        for rule in each["violated"]:
            words = f"{each['label']}: {rule['check']}: {rule['detail']}. It usually means: {rule['meaning']}"
            found.append({"verdict": "violated", "told": words, "violated": True})
    return found


def markdown(summary: Summary, pictures: Mapping[str, Picture]) -> str:
    lines = heading(f"What each defence is worth ({summary['targets'][0]['dataset']})", summary)
    lines += [*(f"- {in_markdown(each['label'])}: {code(each['row'])}" for each in summary["defenses"]), ""]
    for name, picture in pictures.items():
        lines += figure(picture, f"{name}.png")
    for grid in grids(summary):
        lines += grid.markdown()
    lines += ["### Verdicts", "", *map(_verdict, verdicts(summary)), ""]
    lines += [*(f"- {line}" for line in _failures(summary)), ""]
    return "\n".join(lines)


def html(summary: Summary, pictures: Mapping[str, Picture]) -> str:
    """The page, whole: it needs no network, and everything in it is escaped."""
    return template("defenses.html.jinja").render(
        title=f"What each defence is worth ({summary['targets'][0]['dataset']})",
        headlines=headlines(summary),
        base=summary["targets"][0],
        generators=summary["generators"],
        surrogate=summary["surrogate"],
        environment=summary["environment"],
        environment_text=json.dumps(summary["environment"], indent=2, ensure_ascii=False),
        charts=[chart(picture) for picture in pictures.values()],
        sections=[Section(grid.title, grid.heads, grid.lines, note=grid.note) for grid in grids(summary)],
        defenses=summary["defenses"],
        verdicts=verdicts(summary),
        failures=_failures(summary),
        meaning={},
    )


def headlines(summary: Summary) -> list[str]:
    """What a stranger should take home: the best and the worst line, by the accuracy that the worst case leaves."""
    ranked = sorted((each for each in summary["defenses"] if each["worst_case"]), key=_left)
    both = {"Most is left by": ranked[-1:], "Least by": ranked[:-1][:1]}
    return [
        f"{word} {each['label']}: {_left(each):.1%} of all images are right under every attack, "
        f"{each['clean_accuracy']:.1%} without one."
        for word, found in both.items()
        for each in found
    ]


def _verdict(each: Row) -> str:
    return f"- **{each['verdict']}**: {in_markdown(each['told'])}"


def _failures(summary: Summary) -> list[str]:
    return failures(row for row in summary["rows"] if not row["same_as"])


def _left(each: Row) -> float:
    return float(each["worst_case"]["robust_accuracy"])


def _interval(row: Row) -> str:
    return f"{100 * row['asr']:.1f} [{100 * row['asr_low']:.1f}, {100 * row['asr_high']:.1f}]"


def _lines(summary: Summary) -> list[list[Any]]:
    """Of the CSV file: one for each cell, the worst case's among them."""
    lines = [[row["target"], *(row.get(key) for key in HEADS[1:])] for row in summary["rows"]]
    for each in summary["defenses"]:
        known = {
            **each,
            **(each["worst_case"] or {}),
            "column": WORST,
            "status": "ok" if each["worst_case"] else "failed",
        }
        lines.append([each["label"], *(known.get(key) for key in HEADS[1:])])
    return lines


def _events(folder: Path, summary: Summary, pictures: Mapping[str, Picture]) -> None:
    """Pictures, tables, and a chart per column with a run for each defence."""
    cells = matrix(summary)
    with SummaryWriter(str(folder)) as log:
        for name, picture in pictures.items():
            log.add_image(name, with_caption(picture), dataformats="HWC")
        log.add_text("tables", "\n".join(line for grid in grids(summary) for line in grid.markdown()))
        log.add_text("verdicts", "\n".join(map(_verdict, verdicts(summary))))
    labels, columns = [each["label"] for each in summary["defenses"]], [CLEAN, *summary["columns"], WORST]
    for label, name in zip(labels, file_names(labels), strict=True):
        with SummaryWriter(str(folder / name)) as log:
            for column, tag in zip(columns, file_names(columns), strict=True):
                row = cells.get((label, column))
                for key in ("asr", "robust_accuracy"):
                    if row is not None and row[key] is not None:
                        log.add_scalar(f"{key}/{tag}", row[key])
