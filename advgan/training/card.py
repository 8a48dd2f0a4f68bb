"""Model cards: metrics of a network and the command that trained it."""

from collections.abc import Mapping
from typing import Any

from advgan.core.errors import listing
from advgan.core.fraction import eps_text
from advgan.core.terminal import printable
from advgan.data import Data, Stream
from advgan.training.defaults import SMALL
from advgan.training.gan import DETECTOR_WEIGHT
from advgan.training.runtime.checkpoint import IGNORED_ON_RESUME
from advgan.training.validation import AFTER

CARD = """---
library_name: advgan
tags: [adversarial-examples, advgan]
---
# A one-pass attack on {target} ({dataset})

Perturbs images {goal}, within {norm} {radius} and the box [0, 1], in one forward pass{iterations}:

    from advgan import Generator
    x_adv = Generator.from_pretrained(DIR).{call}

| | |
|---|---|
| {score} (it was chosen on them) | {asr:.2%} |
{images}{each}{rejection}| mean l2 of the perturbation | {l2:.3f} |
| loss | {loss} |
{hinge}{discriminator}| trained | {step:.0f} steps of {batch_size} images, {seconds:.0f} s, seed {seed} |

Made by `{command}`.

{test_images} The success rate holds for this target and this data, not
for other classifiers.
"""
UNSEEN = "Test images were not used: `eval/compare.py` reports on them."
SEEN = "**It was trained on the test images** (`--train-on test`): no result on them is one on unseen images."


def generator_card(
    settings: dict[str, Any],
    metrics: dict[str, float],
    c: float,
    program: str | None = "train/advgan.py",
    *,
    labels: bool = False,
    batch_size: int | None = None,
    images: str = "",
    labelled: bool = True,
) -> str:
    """Markdown for a generator: `settings` of `program` (None: of `advgan.fit`), `metrics` of its chosen validation,
    hinge threshold `c`; `labels`: whether the label is an input; `batch_size`, where it is not in the settings;
    `images`: how they were resized; `labelled`: whether they have labels, or those that the target predicts."""
    with_labels = "perturb(x, y)  # y: labels, or a classifier's predictions; without y the rate is lower"
    call, size = with_labels if labels else "perturb(x)", str(batch_size or settings["batch_size"])
    n = f"{metrics['n_correct']:.0f}"
    score = (
        f"attack success rate on {n} correctly classified validation images"
        if labelled
        else f"fooling rate on {n} validation images: another class than the target predicts for the clean image"
    )
    rows = f"| images, in training too | {images} |\n" if images else ""
    return _filled(CARD, program, settings, metrics, c, call=call, batch_size=size, score=score, images=rows)


SUBSTITUTE = """---
library_name: advgan
tags: [adversarial-examples, black-box, advgan]
---
# A substitute and its generator: `{substitute}` trained on the responses of `{target}` ({dataset})

Two folders were made together: `classifier/`, a substitute that was distilled from a black box's {answers}
({distillation}), and `generator/`, which perturbs images {goal}, within {norm} {radius} and the box [0, 1], in
one forward pass{iterations}. The generator saw the gradients of the substitute alone.

    from advgan import Generator
    from advgan.classifiers import load_target
    model = load_target("{substitute}", weights=RUN)     # RUN holds both folders
    x_adv = Generator.from_pretrained(RUN).perturb(x)

| | |
|---|---|
| queries to the black box | {queries} (validation, which only measures: {validation_queries} more) |
| attack success rate on the black box, {n_black_box:.0f} validation images classified correctly | {asr_black_box:.2%} |
| on the substitute, {n_correct:.0f} validation images classified correctly | {asr_substitute} |
| agreement of both on clean images, on adversarial ones | {agreement:.2%}, {agreement_adversarial:.2%} |
| mean l2 of the perturbation | {l2:.3f} |
| loss | {loss} |
| trained | {step:.0f} steps of {batch_size} images, {seconds:.0f} s, {round} rounds, seed {seed} |

Made by `{command}`.

Nothing was chosen by these metrics: both networks are the last round's. Test images were not used: `eval/transfer.py`
reports on them. The metrics hold for this black box and this data.
"""


def substitute_card(settings: dict[str, Any], metrics: dict[str, Any], c: float, program: str | None) -> str:
    """Markdown for both: `settings` of `program` (None: of `train_substitute`), `metrics` of its last round, hinge
    threshold `c`."""
    shown = {**metrics, "asr_substitute": percent(metrics["asr"])}
    return _filled(SUBSTITUTE, program, settings, shown, c).replace("`advgan.fit(...)`", "`train_substitute(...)`")


def percent(rate: float | None) -> str:
    """A rate in percent; without eligible images "not defined"."""
    return "not defined" if rate is None else f"{rate:.2%}"


DETECTOR = """---
library_name: advgan
tags: [adversarial-examples, detection, advgan]
---
# A detector of adversarial images ({kind}) for `{target}` on {dataset}

    python eval/compare.py --defense reject:detector=DIR        # the classifier rejects detected images

| | |
|---|---|
| clean test images rejected (n = {n_test}) | {fpr_test:.2%} |
| of validation (n = {n_validation}; the threshold was chosen on them, for {fpr:.2%}) | {fpr_validation:.2%} |
| threshold | {threshold:.6g} |
| training | {training_seconds:.1f} s, seed {seed} |

Adversarial test images, {norm} eps {eps_text}, made without knowledge of the detector; those that fool the classifier
against all clean ones, with 95 % intervals:

{attacks}

Made by `{command}`.

Adaptive attacks are stronger: see `eval/detection.py`.
"""


def detector_card(summary: dict[str, Any]) -> str:
    """Markdown for a detector: `summary` is its training.json."""
    lines = "\n".join(f"- {row['attack']}: {row['words']}" for row in summary["attacks"])
    chosen = {
        key: value for key, value in summary["settings"].items() if key not in (*IGNORED_ON_RESUME, "target_sha256")
    }
    values = {**summary, **summary["settings"], "eps_text": eps_text(summary["settings"]["eps"])}
    texts = {"attacks": lines, "command": command("train/detector.py", plain(chosen))}
    return DETECTOR.format(**plain(values) | texts)


def plain(value: Any) -> Any:
    """`value` (of JSON) with each text on one line, without tags and control characters: names are anybody's."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(plain, value)]
    return printable(value).replace("<", "&lt;") if isinstance(value, str) else value


def command(program: str, settings: dict[str, Any]) -> str:
    """A command line with the `settings` (values of JSON)."""
    arguments = [program]
    for name, value in settings.items():
        if value is None or value is False or value in ((), []):
            continue
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(arguments)


def _filled(
    card: str, program: str | None, settings: dict[str, Any], metrics: dict[str, float], c: float, **texts: str
) -> str:
    s = plain(settings)
    direction = "away from their class" if s["y_target"] is None else f"toward class {s['y_target']}"
    if s.get("any_class"):
        targets = s.get("target_classes")
        toward = f"one of the classes {listing(targets, 20)}" if targets else "any given class"
        direction = f"toward {toward}, or away from their own"
    smallest = "" if s.get("eps_min") is None else f"{eps_text(s['eps_min'])} to "
    eps_range = f"eps {smallest}{eps_text(s['eps'])}"
    iterations = ""
    if s["architecture"] == "unrolled":
        depth = SMALL.depth if s["depth"] is None else s["depth"]
        iterations = f" of {depth} iterations, each a forward and a backward pass of its guide"
    kappa = f", kappa {s['kappa']:g}" if s["adversarial"] == "margin" else ""
    loss, hinge = f"L_adv ({s['adversarial']}{kappa})", ""
    discriminator = "| discriminator | none |\n"
    if s["alpha"] > 0:
        loss += f" + {s['alpha']:g} L_GAN ({s['gan']})"
    if "d_accuracy" in metrics:
        discriminator = f"| discriminator's accuracy | {metrics['d_accuracy']:.1%} |\n"
    if s["beta"] > 0:
        loss += f" + {s['beta']:g} L_hinge (c = {c:.4g})"
        hinge = f"| images with an active hinge (l2 above c) | {metrics['hinge_active']:.1%} |\n"
    rejection = ""
    if "rejected" in metrics:
        loss += f" + {DETECTOR_WEIGHT if s['evasion'] is None else s['evasion']:g} L_detector"
        rejection = f"| of those images, rejected by the target when perturbed | {metrics['rejected']:.2%} |\n"
    # Of several eval settings `asr` is the mean, with a row for each below.
    eval_settings_rows = "".join(
        f"| {f'the same {name[4:]}' if name.startswith(AFTER) else f'of this mean: {name}'} | {value:.2%} |\n"
        for name, value in metrics.items()
        if name[:4] == "asr "
    )
    values = {
        "each": eval_settings_rows,
        "rejection": rejection,
        "hinge": hinge,
        "discriminator": discriminator,
        **s,
        **metrics,
        "goal": direction,
        "radius": eps_range,
        "iterations": iterations,
        "loss": loss,
        "test_images": SEEN if s.get("train_on") == "test" else UNSEEN,
        "command": "advgan.fit(...)" if program is None else command(program, s),
    }
    return card.format(**values | texts)


CLASSIFIER = """---
library_name: advgan
tags: [image-classification, adversarial-examples, advgan]
---
# `{target}` on {dataset}

A classifier to be attacked: {shape} images in [0, 1] -> logits of {k} classes.

    from advgan.classifiers import load_target
    model = load_target("{target}", weights=DIRECTORY)  # the directory of this card

| | |
|---|---|
{metrics}| trained on | {n_train} images of {dataset}, classes {classes} |
| training | {steps} steps of {batch_size} images, {training_seconds:.0f} s, seed {seed} |
| weights | those after step {best_step} |
| made by | `{command}` |

{meaning}
"""
PLAIN = "For experiments with attacks only: it was trained on images of this data set alone, and not to be robust."
ROBUST = """\
Adversarially trained ({adversarial}, linf eps {eps_text}), and chosen by the mean of its accuracy with and without
PGD-10 on validation images. It is robust in this ball, on images of this data set. Accuracy under stronger
attacks is lower: `eval/compare.py --attacks pgd:steps=40:restarts=10`."""


def classifier_card(settings: dict[str, Any], data: Data, run: dict[str, Any]) -> str:
    """Markdown for a classifier: `settings` of train/classifier.py, and the `run` of its training.json."""
    s, tested, robust = plain(settings), run["test"], settings["adversarial"] is not None
    best = next(h for h in run["history"] if h["step"] == run["best_step"])
    n, chosen = len(data.validation), "chosen on them"
    rows = [(f"accuracy, validation ({n} images, {chosen})", best["accuracy"])]
    if robust:
        subset = f"the first {min(n, s['robust_images'])} validation images"
        rows += [(f"under FGSM, {subset}", best["accuracy_fgsm"])]
        rows += [(f"under PGD-10, {subset}, {chosen}", best["accuracy_pgd"])]
    rows = [(f"accuracy, test ({len(data.test)} images, seen once)", tested and tested["accuracy"]), *rows]
    if robust:
        n_pgd = min(len(data.test), s["robust_images"])
        rows.insert(1, (f"under PGD-40, the first {n_pgd} test images", tested and tested["accuracy_pgd40"]))
    metrics = "".join(
        f"| {name} | {'not measured (the run did not end)' if value is None else f'{value:.2%}'} |\n"
        for name, value in rows
    )
    return CLASSIFIER.format(
        **{name: value for name, value in {**s, **run}.items() if name != "classes"},  # a number, in settings
        metrics=metrics,
        shape="x".join(map(str, data.image_shape)),
        k=data.num_classes,
        n_train="streamed" if isinstance(data.train, Stream) else len(data.train),
        classes=listing(plain(data.classes), 20),
        command=command("train/classifier.py", s),
        meaning=ROBUST.format(**s, eps_text=eps_text(s["eps"])) if robust else PLAIN,
    )
