"""The result of one attack as HTML: images, predictions before and after, files, time of other attacks."""

from collections.abc import Sequence
from html import escape

from torch import Tensor

from advgan.app.attack import AttackedImage, Outcome, Pair, Prediction
from advgan.app.sketch import data_uri
from advgan.core.fraction import eps_text
from advgan.core.threat_model import to_8bit


def panel(pair: Pair, result: AttackedImage, steps: Sequence[str] = ()) -> str:
    """The HTML of `result`, with the `steps` that made the classifier's input. Names of classes are escaped."""
    delta, scale = result.x_adv - result.x, perturbation_scale(result)
    measured, other = f"largest change of a pixel {result.norms['linf']:.3g}", f"l2 norm {result.norms['l2']:.3g}"
    if result.threat.norm == "l2":
        measured, other = other, measured
    images = [
        ("Classifier's input", "; ".join(steps) or "the picture", to_8bit(result.x, result.x)),
        (
            f"Perturbation &times; {1 / (2 * scale):.2g}",
            f"grey: 0, white: +{scale:.3g}, black: -{scale:.3g}",
            ((0.5 + delta / (2 * scale)) * 255).round().clamp(0, 255).byte(),
        ),
        (
            "Adversarial image",
            f"{measured} (at most eps = {eps_text(result.threat.eps)}); {other}",
            to_8bit(result.x_adv, result.x, result.threat.norm),
        ),
    ]
    figures = "".join(_figure(*image) for image in images)
    signs = figures.replace("</figure><figure>", "</figure><b>+</b><figure>", 1)
    signs = "<b>=</b><figure>".join(signs.rsplit("<figure>", 1))
    note = f'<p class="note">{escape(pair.note)}</p>' if pair.note else ""
    return (
        f'<div class="advgan">{_verdict(pair, result)}<div class="images">{signs}</div>'
        f'<div class="columns">{_bars("Before", result.before)}{_bars("After", result.after)}</div>'
        f"{_files(result.files)}{_attacks(pair, result.attacks)}{note}</div>"
    )


def perturbation_scale(result: AttackedImage) -> float:
    """The change of a pixel that is shown as white: eps for linf, the largest one for l2."""
    if result.threat.norm == "linf":
        return result.threat.eps
    return max(result.norms["linf"], 1e-6)


def _verdict(pair: Pair, result: AttackedImage) -> str:
    before, after = (escape(top[0].name) for top in (result.before, result.after))
    target = None if result.y_target is None else escape(pair.classes[result.y_target])
    if result.success is None:
        return f'<p class="verdict">The image is of the target class <b>{target}</b> already: choose another</p>'
    aim = "" if target is None else f", target class {target}"
    if result.success:
        text = f"The classifier is fooled: <b>{before} &rarr; {after}</b>{aim}"
    else:
        text = f"The classifier is not fooled: <b>{before} &rarr; {after}</b>{aim}"
    return f'<p class="verdict {"success" if result.success else "failure"}">{text}</p>'


def _figure(title: str, caption: str, pixels: Tensor) -> str:
    return (
        f'<figure><figcaption><b>{title}</b></figcaption><img alt="" src="{data_uri(pixels)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _bars(title: str, predictions: Sequence[Prediction]) -> str:
    rows = "".join(
        f"<tr><td>{escape(prediction.name)}</td>{_bar(prediction.probability)}"
        f"<td>{100 * prediction.probability:.1f} %</td></tr>"
        for prediction in predictions
    )
    return f"<table><caption>{title}: probability of a class</caption>{rows}</table>"


def _bar(share: float) -> str:
    return f'<td class="bar"><i style="width:{100 * share:.1f}%"></i></td>'


def _files(files: Sequence[Outcome]) -> str:
    chips = "".join(
        f'<span class="{_kind(file.success)}">{file.name}: {escape(file.prediction.name)}, {_word(file.success)}</span>'
        for file in files
    )
    return f'<p class="files">Saved as a file and loaded again: {chips}</p>'


def _attacks(pair: Pair, attacks: Sequence[Outcome]) -> str:
    slowest = max(attack.seconds or 0 for attack in attacks) or 1
    rows = "".join(
        f"<tr><td>{attack.name}</td>{_bar((attack.seconds or 0) / slowest)}"
        f"<td>{1000 * (attack.seconds or 0):.2f} ms</td><td>{escape(attack.prediction.name)}</td>"
        f'<td class="{_kind(attack.success)}">{_word(attack.success)}</td></tr>'
        for attack in attacks
    )
    reason = "" if pair.gradient_fault is None else f"<br>Without FGSM and PGD: {escape(pair.gradient_fault)}"
    return (
        "<table><caption>Time for this image, measured now (median)"
        f"{reason}</caption><tr><th>attack</th><th></th><th>time</th><th>prediction</th><th></th></tr>{rows}</table>"
    )


def _kind(success: bool | None) -> str:
    return "success" if success else "failure"


def _word(success: bool | None) -> str:
    return "fooled" if success else "not fooled"
