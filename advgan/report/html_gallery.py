"""Galleries inside the web page, aligned for comparison side by side."""

from __future__ import annotations

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

BUDGET = 2_500_000  # characters for all galleries together: as many images of each as fit
SMALL = 96  # images up to so many pixels a side are kept bit by bit and shown as pixels; larger ones become JPEG


def galleries(comparison: Comparison) -> list[dict[str, Any]]:
    """A gallery per result with images; all show the same first images, as many as fit BUDGET."""
    found: list[dict[str, Any]] = []
    clean = [data_uri(_pixels(rgb(image))) for image in comparison.x]
    for place, (_, results) in enumerate(comparison.groups()):
        runs = Counter(result.row["attack"] for result in results)
        for result in results:
            if len(result.x_adv):
                label = result.row["attack"] + (
                    f", seed {result.row['seed']}" if runs[result.row["attack"]] > 1 else ""
                )
                gallery = _gallery(comparison, result, clean)
                found.append({"id": f"gallery-{len(found)}", "place": place, "label": label, **gallery})
    room = BUDGET
    for shown, column in enumerate(zip(*(gallery["images"] for gallery in found), strict=False)):
        room -= sum(len(source) for image in column for source, _ in image["sources"])
        if room < 0 and shown:
            for gallery in found:
                del gallery["images"][shown:]
            break
    return found


def opening(found: list[dict[str, Any]]) -> tuple[int, int]:
    """Indices of the first two galleries: a generator, else the strongest attack, and noise in the same ball."""
    if not found:
        return 0, 0
    shown = max(found, key=lambda g: (g["access"] == "generator", g["asr"]))
    same = [g for g in found if g["place"] == shown["place"] and g is not shown] or [shown]
    other = max(same, key=lambda g: (g["access"] == "nothing", -g["asr"]))
    return found.index(other), found.index(shown)


def _gallery(comparison: Comparison, result: Result, clean: list[str]) -> dict[str, Any]:
    """One result's; `clean` are the sources of the clean images."""
    row, delta = result.row, result.x_adv - comparison.x[: len(result.x_adv)]
    factor = magnifications(delta.abs().max().item())[0]
    rate = f"{row['asr']:.1%} of {row['n_attacked']} images fooled"
    return {
        **{"group": threat_text(row), "access": row["access"], "asr": row["asr"]},
        "told": f"{row['attack']}, {threat_text(row)}: {rate}; perturbation enlarged × {factor}",
        "images": [_image(comparison, result, i, clean[i], delta[i], factor) for i in range(len(delta))],
    }


def _image(comparison: Comparison, result: Result, i: int, clean: str, delta: Tensor, factor: float) -> dict[str, Any]:
    """The i-th image of a gallery: three images, and the predictions."""
    records = {name: column[i].item() for name, column in result.records.items()}
    names = comparison.classes
    before, after = names[int(records["clean_prediction"])], names[int(records["prediction"])]
    if records["success"]:
        outcome, style = "fooled", "success"
    elif records["fooled"]:
        outcome, style = "fooled, but beyond eps", "held"
    else:
        outcome, style = ("not fooled" if records["counts"] else "not counted"), "held"
    return {
        "label": names[int(records["label"])],
        "before": f"{before} {records['clean_confidence']:.2f}",
        "after": f"{after} {records['confidence']:.2f}",
        "outcome": outcome,
        "style": style,
        "sources": [
            (clean, f"clean image, seen as {before}"),
            (data_uri(_pixels(difference(delta, factor))), f"perturbation, {factor:g} times enlarged"),
            (data_uri(_pixels(rgb(result.x_adv[i]))), f"attacked image, seen as {after}"),
        ],
    }


def data_uri(image: Image.Image) -> str:
    """The image inside its own address: PNG, but JPEG for large ones in full colour."""
    file = io.BytesIO()
    if image.mode == "RGB" and max(image.size) > SMALL:
        image.save(file, "JPEG", quality=88, subsampling=0)
        kind = "jpeg"
    else:
        image.save(file, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _pixels(image: np.ndarray) -> Image.Image:
    """(h, w, 3) in [0, 1]."""
    return Image.fromarray((255 * image).round().astype(np.uint8))
