"""The result of one attack as HTML: images, predictions before and after, files, time of other attacks."""

from collections.abc import Sequence

from advgan.app.attack import AttackedImage, Pair
from advgan.app.sketch import data_uri, render
from advgan.core.fraction import eps_text
from advgan.core.threat_model import to_8bit


def panel(pair: Pair, result: AttackedImage, steps: Sequence[str] = ()) -> str:
    """The HTML of `result`, with the `steps` that made the classifier's input. Everything is escaped."""
    delta = result.x_adv - result.x
    scale = result.threat.eps if result.threat.norm == "linf" else max(result.norms["linf"], 1e-6)  # shown as white
    measured, other = f"largest change of a pixel {result.norms['linf']:.3g}", f"l2 norm {result.norms['l2']:.3g}"
    if result.threat.norm == "l2":
        measured, other = other, measured
    bound = f"{measured} (at most eps = {eps_text(result.threat.eps)}); {other}"
    grey = ((0.5 + delta / (2 * scale)) * 255).round().clamp(0, 255).byte()
    signs = f"grey: 0, white: +{scale:.3g}, black: -{scale:.3g}"
    images = [
        ("", "Classifier's input", "; ".join(steps) or "the picture", to_8bit(result.x, result.x)),
        ("+", f"Perturbation × {1 / (2 * scale):.2g}", signs, grey),
        ("=", "Adversarial image", bound, to_8bit(result.x_adv, result.x, result.threat.norm)),
    ]
    return render(
        "panel.html.jinja",
        pair=pair,
        result=result,
        target=None if result.y_target is None else pair.classes[result.y_target],
        images=[(*texts, data_uri(pixels)) for *texts, pixels in images],
    )
