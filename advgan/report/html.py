"""A comparison as one web page that needs no network: tables to sort, figures, galleries side by side."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from advgan.report.analysis_tables import cost, mcnemar, optimality, survival
from advgan.report.comparison import Comparison, Plot
from advgan.report.headlines import headlines
from advgan.report.html_gallery import MAX_PIXELATED_SIZE, data_uri, galleries, initial_pair
from advgan.report.page import Summary
from advgan.report.sections import COLUMN_HELP, NOTES, sections, unfinished_trainings
from advgan.report.table import CONCERNS, SIGNS, count_checks, describe_check

GALLERY_PREFIX = "gallery/"  # plots that the page has as galleries of its own


def html(comparison: Comparison, plots: Mapping[str, Plot]) -> str:
    """The page as text. `plots` name -> figure; those named "gallery/..." are replaced by the page's own galleries."""
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
        describe_check=describe_check,
        checks=count_checks(summary),
        concerns=[check for check in summary["sanity"] if check["verdict"] in CONCERNS],
        attacks=attacks,
        others=[*survival(summary), *optimality(summary), *cost(summary)],
        pairs=mcnemar(summary),
        columns=[head for head in COLUMN_HELP if any(head in section.headers for section in attacks)],
        meaning=COLUMN_HELP,
        notes=NOTES,
        charts=[chart(plot) for name, plot in plots.items() if not name.startswith(GALLERY_PREFIX)],
        galleries=shown,
        first=initial_pair(shown),
        pixelated=max(comparison.x.shape[2:]) <= MAX_PIXELATED_SIZE,
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


def _targets(summary: Summary) -> Iterator[dict[str, Any]]:
    """The classifiers, with their number of images and their clean accuracy."""
    for target in summary["targets"]:
        row = next((row for row in summary["rows"] if row["target"] == target["label"]), None)
        yield {**target, "n": row["n"] if row else "–", "accuracy": f"{row['clean_accuracy']:.2%}" if row else "–"}


def chart(plot: Plot) -> dict[str, Any]:
    """A plot for a page, embedded as a data URI."""
    height, width = plot.image.shape[:2]
    flat = Image.fromarray(plot.image).quantize(256, dither=Image.Dither.NONE)  # a third of the bytes
    return {
        **{"title": plot.title, "caption": plot.caption, "width": width, "height": height},
        "source": data_uri(flat),
    }
