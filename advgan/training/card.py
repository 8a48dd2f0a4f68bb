"""Model cards: metrics of a network and the command that trained it."""

from collections.abc import Mapping
from typing import Any

from advgan.core.errors import listing
from advgan.core.fraction import eps_text
from advgan.core.terminal import printable
from advgan.data import Data, Stream
from advgan.models.config_card import card
from advgan.training.defaults import SMALL
from advgan.training.gan import DETECTOR_WEIGHT
from advgan.training.runtime.checkpoint import IGNORED_ON_RESUME
from advgan.training.validation import AFTER

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
    s, n = plain(settings), f"{metrics['n_correct']:.0f}"
    rejected, accuracy = metrics.get("rejected"), metrics.get("d_accuracy")
    score = (
        f"attack success rate on {n} correctly classified validation images"
        if labelled
        else f"fooling rate on {n} validation images: another class than the target predicts for the clean image"
    )
    call = "(x, y)  # y: labels, or a classifier's predictions; without y the rate is lower" if labels else "(x)"
    goal, ball, iterations = attack_words(s)
    rows = {
        f"{score} (it was chosen on them)": f"{metrics['asr']:.2%}",
        "images, in training too": images or None,
        # Of several eval settings `asr` is the mean, with a row for each.
        **{
            f"the same {name[4:]}" if name.startswith(AFTER) else f"of this mean: {name}": f"{value:.2%}"
            for name, value in metrics.items()
            if name[:4] == "asr "
        },
        "of those images, rejected by the target when perturbed": None if rejected is None else f"{rejected:.2%}",
        "mean l2 of the perturbation": f"{metrics['l2']:.3f}",
        "loss": loss_words(s, metrics, c),
        "images with an active hinge (l2 above c)": f"{metrics['hinge_active']:.1%}" if s["beta"] > 0 else None,
        "discriminator": "none" if accuracy is None else None,
        "discriminator's accuracy": None if accuracy is None else f"{accuracy:.1%}",
        "trained": trained(metrics, batch_size or s["batch_size"], s["seed"]),
    }
    return card(
        f"A one-pass attack on {s['target']} ({s['dataset']})",
        "adversarial-examples, advgan",
        f"Perturbs images {goal}, within {ball} and the box [0, 1], in one forward pass{iterations}:",
        f"    from advgan import Generator\n    x_adv = Generator.from_pretrained(DIR).perturb{call}",
        rows,
        f"Made by `{'advgan.fit(...)' if program is None else command(program, s)}`.",
        f"{SEEN if s.get('train_on') == 'test' else UNSEEN} The success rate holds for this target and this data, not\n"
        "for other classifiers.",
    )


def substitute_card(settings: dict[str, Any], metrics: dict[str, Any], c: float, program: str | None) -> str:
    """Markdown for both: `settings` of `program` (None: of `train_substitute`), `metrics` of its last round, hinge
    threshold `c`."""
    s, m = plain(settings), metrics
    goal, ball, iterations = attack_words(s)
    rows = {
        "queries to the black box": f"{m['queries']} (validation, which only measures: {m['validation_queries']} more)",
        f"attack success rate on the black box, {m['n_black_box']:.0f} validation images classified correctly": (
            f"{m['asr_black_box']:.2%}"
        ),
        f"on the substitute, {m['n_correct']:.0f} validation images classified correctly": percent(m["asr"]),
        "agreement of both on clean images, on adversarial ones": (
            f"{m['agreement']:.2%}, {m['agreement_adversarial']:.2%}"
        ),
        "mean l2 of the perturbation": f"{m['l2']:.3f}",
        "loss": loss_words(s, m, c),
        "trained": trained(m, s["batch_size"], s["seed"], f"{m['round']} rounds, "),
    }
    return card(
        f"A substitute and its generator: `{s['substitute']}` trained on the responses of `{s['target']}` "
        f"({s['dataset']})",
        "adversarial-examples, black-box, advgan",
        "Two folders were made together: `classifier/`, a substitute that was distilled from a black box's "
        f"{s['answers']}\n({s['distillation']}), and `generator/`, which perturbs images {goal}, within {ball} and the "
        f"box [0, 1], in\none forward pass{iterations}. The generator saw the gradients of the substitute alone.",
        "    from advgan import Generator\n"
        "    from advgan.classifiers import load_target\n"
        f'    model = load_target("{s["substitute"]}", weights=RUN)     # RUN holds both folders\n'
        "    x_adv = Generator.from_pretrained(RUN).perturb(x)",
        rows,
        f"Made by `{'train_substitute(...)' if program is None else command(program, s)}`.",
        "Nothing was chosen by these metrics: both networks are the last round's. Test images were not used: "
        "`eval/transfer.py`\nreports on them. The metrics hold for this black box and this data.",
    )


def attack_words(s: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a generator with the settings `s` does: its direction, its ball, and the iterations of its pass."""
    direction = "away from their class" if s["y_target"] is None else f"toward class {s['y_target']}"
    if s.get("any_class"):
        targets = s.get("target_classes")
        toward = f"one of the classes {listing(targets, 20)}" if targets else "any given class"
        direction = f"toward {toward}, or away from their own"
    smallest = "" if s.get("eps_min") is None else f"{eps_text(s['eps_min'])} to "
    iterations = ""
    if s["architecture"] == "unrolled":
        depth = SMALL.depth if s["depth"] is None else s["depth"]
        iterations = f" of {depth} iterations, each a forward and a backward pass of its guide"
    return direction, f"{s['norm']} eps {smallest}{eps_text(s['eps'])}", iterations


def loss_words(s: Mapping[str, Any], metrics: Mapping[str, Any], c: float) -> str:
    """The loss of a generator with the settings `s` and hinge threshold `c`, as a sum."""
    kappa = f", kappa {s['kappa']:g}" if s["adversarial"] == "margin" else ""
    terms = [f"L_adv ({s['adversarial']}{kappa})"]
    terms += [f"{s['alpha']:g} L_GAN ({s['gan']})"] if s["alpha"] > 0 else []
    terms += [f"{s['beta']:g} L_hinge (c = {c:.4g})"] if s["beta"] > 0 else []
    if "rejected" in metrics:
        terms.append(f"{DETECTOR_WEIGHT if s['evasion'] is None else s['evasion']:g} L_detector")
    return " + ".join(terms)


def trained(metrics: Mapping[str, Any], batch_size: Any, seed: int, rounds: str = "") -> str:
    """The length of a training."""
    return f"{metrics['step']:.0f} steps of {batch_size} images, {metrics['seconds']:.0f} s, {rounds}seed {seed}"


def percent(rate: float | None, without: str = "not defined") -> str:
    """A rate in percent; `without` one, like a success rate without eligible images."""
    return without if rate is None else f"{rate:.2%}"


def detector_card(summary: dict[str, Any]) -> str:
    """Markdown for a detector: `summary` is its training.json."""
    s, r = plain(summary["settings"]), plain(summary)
    chosen = {key: value for key, value in s.items() if key not in IGNORED_ON_RESUME}
    rows = {
        f"clean test images rejected (n = {r['n_test']})": f"{r['fpr_test']:.2%}",
        f"of validation (n = {r['n_validation']}; the threshold was chosen on them, for {s['fpr']:.2%})": (
            f"{r['fpr_validation']:.2%}"
        ),
        "threshold": f"{r['threshold']:.6g}",
        "training": f"{r['training_seconds']:.1f} s, seed {s['seed']}",
    }
    return card(
        f"A detector of adversarial images ({s['kind']}) for `{s['target']}` on {s['dataset']}",
        "adversarial-examples, detection, advgan",
        "    python eval/compare.py --defense reject:detector=DIR        # the classifier rejects detected images",
        rows,
        f"Adversarial test images, {s['norm']} eps {eps_text(s['eps'])}, made without knowledge of the detector; those "
        "that fool the classifier\nagainst all clean ones, with 95 % intervals:",
        "\n".join(f"- {row['attack']}: {row['words']}" for row in summary["attacks"]),
        f"Made by `{command('train/detector.py', chosen)}`.",
        "Adaptive attacks are stronger: see `eval/detection.py`.",
    )


def plain(value: Any) -> Any:
    """`value` (of JSON) with each text on one line, without tags and control characters: names are anybody's."""
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(plain, value)]
    return printable(value).replace("<", "&lt;") if isinstance(value, str) else value


def command(program: str, settings: dict[str, Any]) -> str:
    """A command line with the `settings` (values of JSON) that are flags, not digests or what was found by a flag."""
    arguments = [program]
    for name, value in settings.items():
        if name == "feature_layers" or name.endswith("_sha256") or value is None or value is False or value in ((), []):
            continue
        values = [] if value is True else value if isinstance(value, (list, tuple)) else [value]
        arguments += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(arguments)


UNFINISHED = "not measured (the run did not end)"
PLAIN = "For experiments with attacks only: it was trained on images of this data set alone, and not to be robust."
ROBUST = """\
Adversarially trained ({adversarial}, linf eps {eps_text}), and chosen by the mean of its accuracy with and without
PGD-10 on validation images. It is robust in this ball, on images of this data set. Accuracy under stronger
attacks is lower: `eval/compare.py --attacks pgd:steps=40:restarts=10`."""


def target_card(
    s: Mapping[str, Any],
    data: Data,
    rows: Mapping[str, Any],
    end: str,
    *,
    trained_as: str = "",
    tag: str = "",
    learned: str | None = None,
) -> str:
    """Markdown for a classifier that was trained on `data`, with the settings `s`: a table of `rows`, and an `end`.

    trained_as   end of the title
    tag          a further tag for the Hub
    learned      a paragraph on what it learned
    """
    return card(
        f"`{s['target']}` on {s['dataset']}{trained_as}",
        ", ".join(filter(None, ("image-classification", "adversarial-examples", tag, "advgan"))),
        f"A classifier to be attacked: {'x'.join(map(str, data.image_shape))} images in [0, 1] -> logits of "
        f"{data.num_classes} classes.",
        "    from advgan.classifiers import load_target\n"
        f'    model = load_target("{s["target"]}", weights=DIRECTORY)  # the directory of this card',
        *([] if learned is None else [learned]),
        rows,
        end,
    )


def trained_on(s: Mapping[str, Any], data: Data) -> str:
    """The training images of a classifier, and their classes."""
    n = "streamed" if isinstance(data.train, Stream) else len(data.train)
    return f"{n} images of {s['dataset']}, classes {listing(plain(data.classes), 20)}"


def classifier_card(settings: dict[str, Any], data: Data, run: dict[str, Any]) -> str:
    """Markdown for a classifier: `settings` of train/classifier.py, and the `run` of its training.json."""
    s, tested, robust = plain(settings), run["test"] or {}, settings["adversarial"] is not None
    best = next(h for h in run["history"] if h["step"] == run["best_step"])
    n, chosen = len(data.validation), "chosen on them"
    rows = {f"accuracy, test ({len(data.test)} images, seen once)": percent(tested.get("accuracy"), UNFINISHED)}
    if robust:
        n_pgd = min(len(data.test), s["robust_images"])
        rows[f"under PGD-40, the first {n_pgd} test images"] = percent(tested.get("accuracy_pgd40"), UNFINISHED)
    rows[f"accuracy, validation ({n} images, {chosen})"] = percent(best["accuracy"])
    if robust:
        subset = f"the first {min(n, s['robust_images'])} validation images"
        rows[f"under FGSM, {subset}"] = percent(best["accuracy_fgsm"])
        rows[f"under PGD-10, {subset}, {chosen}"] = percent(best["accuracy_pgd"])
    rows |= {
        "trained on": trained_on(s, data),
        "training": trained({"step": run["steps"], "seconds": run["training_seconds"]}, s["batch_size"], s["seed"]),
        "weights": f"those after step {run['best_step']}",
        "made by": f"`{command('train/classifier.py', s)}`",
    }
    end = ROBUST.format(**s, eps_text=eps_text(s["eps"])) if robust else PLAIN
    return target_card(s, data, rows, end)
