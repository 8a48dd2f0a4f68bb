"""Galleries inside the web page, aligned for comparison side by side."""

import base64
import io
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison
from advgan.report.gallery import difference, magnifications, rgb
from advgan.report.sections import threat_text

MAX_CHARACTERS = 2_500_000  # of all galleries together; limits the number of images
MAX_PIXELATED_SIZE = 96  # pixels a side, up to which images are kept bit by bit and shown as pixels; others are JPEG


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
