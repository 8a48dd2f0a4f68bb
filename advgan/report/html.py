"""A comparison as one web page that needs no network: tables to sort, figures, galleries side by side."""

import base64
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image
from torch import Tensor

from advgan.core.fraction import eps_text
from advgan.core.terminal import printable_lines
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.gallery import difference, magnifications, rgb
from advgan.report.page import Summary
from advgan.report.sections import (
    COLUMN_HELP,
    NOTES,
    further_tables,
    headlines,
    mcnemar,
    sections,
    threat_text,
    unfinished_trainings,
)
from advgan.report.table import CONCERNS, SIGNS, count_checks, describe_check

MAX_CHARACTERS = 2_500_000  # of all galleries together; limits the number of images
MAX_PIXELATED_SIZE = 96  # pixels a side, up to which images are kept bit by bit and shown as pixels; others are JPEG
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
        others=further_tables(summary),
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
    """A page of this folder, to be filled in: everything is escaped, nothing may be missing, no control characters."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["eps_text"] = eps_text
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


# The galleries inside the page, aligned for comparison side by side


def galleries(comparison: Comparison) -> list[dict[str, Any]]:
    """A gallery per result with images; all show the same first images, as many as fit BUDGET."""
    entries: list[dict[str, Any]] = []
    clean = [data_uri(_pixels(rgb(image))) for image in comparison.x]
    for place, (_, results) in enumerate(comparison.groups()):
        runs = Counter(result.row["attack"] for result in results)
        for result in results:
            if len(result.x_adv):
                label = result.row["attack"] + (
                    f", seed {result.row['seed']}" if runs[result.row["attack"]] > 1 else ""
                )
                gallery = _gallery(comparison, result, clean)
                entries.append({"id": f"gallery-{len(entries)}", "place": place, "label": label, **gallery})
    remaining = MAX_CHARACTERS
    for shown, column in enumerate(zip(*(gallery["images"] for gallery in entries), strict=False)):
        remaining -= sum(len(source) for image in column for source, _ in image["sources"])
        if remaining < 0 and shown:
            for gallery in entries:
                del gallery["images"][shown:]
            break
    return entries


def initial_pair(entries: list[dict[str, Any]]) -> tuple[int, int]:
    """Indices of the first two galleries: a generator, else the strongest attack, and noise in the same ball."""
    if not entries:
        return 0, 0
    strongest = max(entries, key=lambda g: (g["access"] == "generator", g["asr"]))
    comparable = [g for g in entries if g["place"] == strongest["place"] and g is not strongest] or [strongest]
    reference = max(comparable, key=lambda g: (g["access"] == "nothing", -g["asr"]))
    return entries.index(reference), entries.index(strongest)


def _gallery(comparison: Comparison, result: Result, clean: list[str]) -> dict[str, Any]:
    """One result's; `clean` are the sources of the clean images."""
    row, delta = result.row, result.x_adv - comparison.x[: len(result.x_adv)]
    factor = magnifications(delta.abs().max().item())[0]
    rate = f"success on {row['asr']:.1%} of {row['n_attacked']} images"
    return {
        **{"group": threat_text(row), "access": row["access"], "asr": row["asr"]},
        "caption": f"{row['attack']}, {threat_text(row)}: {rate}; perturbation enlarged × {factor}",
        "images": [_image(comparison, result, i, clean[i], delta[i], factor) for i in range(len(delta))],
    }


def _image(comparison: Comparison, result: Result, i: int, clean: str, delta: Tensor, factor: float) -> dict[str, Any]:
    """The i-th image of a gallery: three images, and the predictions."""
    records = {name: column[i].item() for name, column in result.records.items()}
    names = comparison.classes
    before, after = names[int(records["clean_prediction"])], names[int(records["prediction"])]
    if records["success"]:
        outcome, style = "success", "success"
    elif records["fooled"]:
        outcome, style = "success, but beyond eps", "failure"
    else:
        outcome, style = ("no success" if records["counts"] else "not eligible"), "failure"
    return {
        "label": names[int(records["label"])],
        "before": f"{before} {records['clean_confidence']:.2f}",
        "after": f"{after} {records['confidence']:.2f}",
        "outcome": outcome,
        "style": style,
        "sources": [
            (clean, f"clean image, prediction {before}"),
            (data_uri(_pixels(difference(delta, factor))), f"perturbation, {factor:g} times enlarged"),
            (data_uri(_pixels(rgb(result.x_adv[i]))), f"adversarial image, prediction {after}"),
        ],
    }


def data_uri(image: Image.Image) -> str:
    """The image as a data URI: PNG, but JPEG for large ones in colour."""
    file = io.BytesIO()
    if image.mode == "RGB" and max(image.size) > MAX_PIXELATED_SIZE:
        image.save(file, "JPEG", quality=88, subsampling=0)
        kind = "jpeg"
    else:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _pixels(image: np.ndarray) -> Image.Image:
    """(h, w, 3) in [0, 1]."""
    return Image.fromarray((255 * image).round().astype(np.uint8))
