"""A comparison as one web page that needs no network: tables to sort, figures, galleries side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from advgan.analysis.groups import group_of
from advgan.report.beside import cost, mcnemar, optimality
from advgan.report.comparison import Comparison, Plot
from advgan.report.html_gallery import SMALL, data_uri, galleries, opening
from advgan.report.page import Summary
from advgan.report.sections import MEANING, NOTES, sections, threat_text, unfinished_trainings
from advgan.report.table import SIGNS, told

OWN = "gallery/"  # plots that the page has as galleries of its own


def html(comparison: Comparison, plots: Mapping[str, Plot]) -> str:
    """The page, whole. `plots` name -> figure; of kind "gallery/..." it draws its own, to be seen side by side."""
    summary, attacks, shown = comparison.summary, sections(comparison.summary), galleries(comparison)
    labels = ", ".join(target["label"] for target in summary["targets"])
    return template("report.html.jinja").render(
        title=f"Attacks on {labels} ({summary['target']['dataset']})",
        summary=summary,
        headlines=[*unfinished_trainings(summary), *headlines(summary)],
        targets=list(_targets(summary)),
        environment=summary["environment"],
        environment_text=json.dumps(summary["environment"], indent=2, ensure_ascii=False),
        signs=SIGNS,
        told=told,
        attacks=attacks,
        others=[*optimality(summary), *cost(summary)],
        pairs=mcnemar(summary),
        columns=[head for head in MEANING if any(head in section.heads for section in attacks)],
        meaning=MEANING,
        notes=NOTES,
        charts=[chart(plot) for name, plot in plots.items() if not name.startswith(OWN)],
        galleries=shown,
        first=opening(shown),
        pixelated=max(comparison.x.shape[2:]) <= SMALL,
        colours="red brighter, blue darker" if comparison.x.shape[1] == 1 else "grey is no change",
    )


def template(name: str) -> Template:
    """A page of this folder, to be filled in: everything is escaped, nothing may be missing."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def headlines(summary: Summary) -> Iterator[str]:
    """One plain sentence per target and threat: what a stranger should take home."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in summary["rows"]:
        if row["status"] == "ok":
            groups.setdefault(group_of(row), []).append(row)
    worst = {group_of(each): each for each in summary["worst_case"]}
    for key, rows in groups.items():
        best = max(rows, key=lambda row: row["asr"])
        goal = "fools the classifier on" if best["y_target"] is None else "gets its class for"
        text = f"{threat_text(best)}: {best['attack']} {goal} {best['asr']:.1%} of {best['n_attacked']} images"
        if not best["asr"]:
            goal = "fools the classifier on" if best["y_target"] is None else "gets its class for"
            names = len({row["attack"] for row in rows})
            who = f"{best['attack']} {goal} none" if names == 1 else f"none of {names} attacks {goal} any"
            yield f"{threat_text(best)}: {who} of {best['n_attacked']} images."
            continue
        reached = {row["attack"]: row["asr"] == best["asr"] for row in sorted(rows, key=lambda row: row["asr"])}
        if len(reached) > 1:
            text += (
                f", {'as many as' if sum(reached.values()) > 1 else 'more than'} any other of {len(reached)} attacks"
            )
        if key in worst and len(worst[key]["attacks"]) > 1:
            together = worst[key]
            text += f"; all together {together['asr']:.1%}. What is left of the accuracy: "
            text += f"{together['robust_accuracy']:.1%} of {best['clean_accuracy']:.1%}"
        yield text + "."


def _targets(summary: Summary) -> Iterator[dict[str, Any]]:
    """The classifiers, with how many images they saw and how many they got right."""
    for target in summary["targets"]:
        row = next((row for row in summary["rows"] if row["target"] == target["label"]), None)
        yield {**target, "n": row["n"] if row else "–", "accuracy": f"{row['clean_accuracy']:.2%}" if row else "–"}


def chart(plot: Plot) -> dict[str, Any]:
    """A plot as a page takes it: its file is part of the page."""
    height, width = plot.image.shape[:2]
    flat = Image.fromarray(plot.image).quantize(256, dither=Image.Dither.NONE)  # a third of the bytes
    return {
        **{"title": plot.title, "caption": plot.caption, "width": width, "height": height},
        "source": data_uri(flat),
    }
