"""A comparison from Python: attacks on one model in memory, on the caller's images."""

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console, RenderableType
from torch import Tensor, nn

from advgan.analysis.summary import summary
from advgan.attacks.common import kept_gradients
from advgan.attacks.registry import AttackFn, parse_attack
from advgan.classifiers import BlackBox, check_target
from advgan.classifiers.adapters import as_module
from advgan.classifiers.checks import NORMALISATION_IMAGES
from advgan.core.errors import InputError
from advgan.core.inputs import as_images, as_labels, check_whole, plain
from advgan.core.json_files import check_int
from advgan.core.threat_model import Norm, Threat, check_class
from advgan.core.weights import device_of
from advgan.data.split import attack_batch_size
from advgan.defenses import unwrap
from advgan.defenses.transforms import Transform, survive_transforms
from advgan.evaluation import GridPoint, Result, ResultCache, TargetModel, environment, evaluate, predict
from advgan.evaluation.compatibility import check_accuracy
from advgan.evaluation.loading import LoadedGenerator, describe_generator
from advgan.evaluation.result_cache import attack_rng
from advgan.models.generator import Generator, check_no_generator
from advgan.report.comparison import Comparison
from advgan.report.files import write_report
from advgan.report.progress import result_progress
from advgan.report.results import Results
from advgan.report.study import print_cache_hits
from advgan.report.table import terminal
from advgan.report.tensorboard import command as tensorboard_command

Attack = str | Generator | Callable[..., Tensor]
SHOWN = 16  # images in galleries
DEFAULT = ("noise-sign", "fgsm", "pgd:steps=40")


@dataclass(frozen=True)
class CompareSettings:
    """The settings of `compare`, as results.json records them."""

    attacks: tuple[str, ...]
    eps: float
    norm: Norm
    y_target: int | None
    batch_size: int
    seed: int
    survive: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class CompareResults(Results):
    """Results of `compare`: a table when printed, HTML in a notebook.

    rows        one dict an attack, with the keys of results.json (`asr`, `asr_low`, `robust_accuracy`, `l2_mean`, ...)
    comparison  records per image and adversarial images, as the reports take them
    """

    comparison: Comparison = field(repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.comparison.summary["rows"]

    def _tables(self) -> list[RenderableType]:
        return [terminal(self.comparison.summary, 120)]

    def print(self, directory: Path, *, cache_hits: int, checks: bool = False) -> None:
        """Print the number of cached results, the tables, violated or all `checks`, and the paths of the reports."""
        print_cache_hits(cache_hits, len(self.rows))
        console = Console() if sys.stdout.isatty() else Console(width=120)
        console.print(terminal(self.comparison.summary, console.width, checks=checks))
        print(f"report       {directory / 'report.html'} (also report.md, report.tex, results.csv)")
        print(f"results      {directory / 'results.json'}, every image in {directory / 'records'}")
        print(f"look at it   {tensorboard_command(directory / 'logs')}")

    def _write(self, folder: Path) -> None:
        """The reports of `eval/compare.py`: report.html, .md, .tex, results.json, .csv, records/, figures/ and logs/
        for TensorBoard."""
        write_report(folder, self.comparison)


def compare(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray | Sequence[int],
    attacks: Attack | Sequence[Attack] | Mapping[str, Attack] = DEFAULT,
    *,
    eps: float,
    norm: Norm = "linf",
    y_target: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    classes: Sequence[str] | Mapping[int, str] | None = None,
    name: str = "model",
    survive: Sequence[str | Transform] = (),
    progress: bool = True,
) -> CompareResults:
    """Attack images `x` of a classifier with each of the `attacks`, and recompute every metric from the results.

    Args:
        model: images (n, c, h, w) in [0, 1] -> logits (n, k), normalisation inside: a module in eval mode, left as
            found, or a function of images on the CPU
        x, y: images (n, c, h, w), float in [0, 1] or uint8 in 0..255, and labels (n,), whole numbers
        attacks: names with settings ("pgd:steps=40", "torchattacks:AutoAttack"; beside one generator also its warm
            start, "advgan:steps=2"), generators, or functions (x, y) -> x_adv or (model, x, y) -> x_adv, which also get
            those of eps, norm, y_target (n,) and rng that they have an argument for; one, several, or a mapping
            label -> attack
        eps, norm: the ball, in pixel units of [0, 1]
        y_target: target class of all attacks; None: untargeted
        batch_size: images an attack gets at once; None: 100, or 20 photos
        seed: seed of random attacks
        classes: names of the classes for the reports, a list or number -> name; None: their numbers
        name: label of the model in the reports
        survive: transforms of the written images, names ("png", "jpeg:75", "resize-crop", "crop") or functions, after
            which success is reported too (`advgan.defenses.Transforms`); "all": the usual ones
        progress: a progress bar on stderr, without a terminal a line every half minute

    An attack that raises, or violates the threat model, is a failed row: `row["status"]`. Raises InputError for images,
    labels, a model or attack names that cannot be used.

    Example:
        >>> print(results := advgan.compare(model, x, y, ["fgsm", "pgd:steps=40", generator], eps=8 / 255))
        >>> results.save("report")
    """
    if batch_size is not None:
        batch_size = check_int("batch_size", batch_size, 1, sys.maxsize)
    check_whole("seed", seed)
    if not isinstance(name, str):
        raise InputError(f"name must be a text, got {name!r:.60}")
    seed, y_target, threat = plain(seed), plain(y_target), Threat(norm, eps, y_target is not None)
    x = as_images(x)
    y = as_labels(y, len(x))
    batch_size = attack_batch_size(batch_size, x.shape[1:])
    target, k = checked_target(model, x, y, name)
    check_class(y_target, k)
    names = _class_names(classes, k)
    transforms = survive_transforms(survive, min(x.shape[2:]))
    cache = ResultCache(None, x, y, batch_size=batch_size, keep=SHOWN, transforms=transforms)
    named = label_attacks(attacks)
    among = [attack for attack in named.values() if isinstance(attack, Generator)]
    only = among[0] if len(among) == 1 else None
    entries = {}
    for label, attack in named.items():  # errors before any attack is run
        entries[label] = entry = resolved(label, attack, target, threat, y_target=y_target, seed=seed, only=only)
        function = entry.attack(target.model) if isinstance(entry, GridPoint) else entry
        if isinstance(attack, str):
            function(x[:0].to(device_of(target.model)), y[:0])  # wrong settings
        if isinstance(attack, Generator) and attack.classes not in (0, k):
            raise InputError(f"the generator has {attack.classes} target classes, expected {k} of the model")
        if isinstance(attack, Generator):
            reason = attack.incompatibility(eps=threat.eps, norm=norm, y_target=y_target)
            if reason is not None:
                raise InputError(f"{label}: {reason}")
    with result_progress(len(named), silent=not progress) as start_result:
        results = [
            _result(
                label,
                entry,
                cache,
                target,
                threat,
                y_target=y_target,
                seed=seed,
                progress=start_result(label, len(x)),
            )
            for label, entry in entries.items()
        ]
    settings = CompareSettings(tuple(named), threat.eps, norm, y_target, batch_size, seed, tuple(transforms.names))
    description = target.describe("images in memory") | {"name": type(model).__name__, "weights": "in memory"}
    generators = [describe_generator(g, label, name, None) for label, g in named.items() if isinstance(g, Generator)]
    report = {"environment": environment(settings), "target": description, "targets": [description]}
    report |= {"generators": generators, **summary(results, generators, k)}
    return CompareResults(Comparison(report, results, x[:SHOWN], y[:SHOWN], names))


def checked_target(model: Any, x: Tensor, y: Tensor, name: str) -> tuple[TargetModel, int]:
    """The model as `check_target` returns it, and its number of classes. Raises InputError as `check_accuracy`, too."""
    model = as_module(model)
    sample = x[:8].to(device_of(model))
    checked = check_target(model, sample)
    if not (isinstance(box := unwrap(model), BlackBox) and box.normalises):  # whose queries have a price
        some = torch.linspace(0, len(x) - 1, min(NORMALISATION_IMAGES, len(x))).round().long()
        check_accuracy(checked, x[some].to(sample.device), y[some].to(sample.device), "y")
    return TargetModel(name, checked), predict(checked, sample[:1]).shape[1]


def _result(
    label: str,
    entry: GridPoint | AttackFn,
    cache: ResultCache,
    target: TargetModel,
    threat: Threat,
    *,
    y_target: int | None,
    seed: int,
    progress: Callable[[int], None],
) -> Result:
    """The result of one attack, as `resolved`, under its label."""
    if isinstance(entry, GridPoint):
        result = cache.run(entry, progress)
    else:
        result = evaluate(
            entry, target.model, cache.x, cache.y, threat,
            name=label, target_name=target.label, seed=seed, y_target=y_target,
            batch_size=cache.batch_size, keep=cache.keep, clean=cache.clean(target), transforms=cache.transforms,
            progress=progress,
        )  # fmt: skip
        row = result.row  # the access that the counted model calls show
        by_calls = "gradients" if row["backwards_per_image"] else "scores" if row["forwards_per_image"] else "nothing"
        row["access"] = by_calls if row["status"] == "ok" else "gradients"
    result.row["attack"] = label
    return result


def resolved(
    label: str,
    attack: Attack,
    target: TargetModel,
    threat: Threat,
    *,
    y_target: int | None,
    seed: int,
    only: Generator | None = None,
) -> GridPoint | AttackFn:
    """A name or a generator as a point on `target`, where `only` is the generator of the name "advgan" with settings;
    a function as (x, y) -> x_adv. Raises InputError for what is no attack, as `own_attack` and `parse_attack`."""
    if not isinstance(attack, (str, Generator)):
        if not callable(attack):
            raise InputError(f"expected an attack name, a Generator or a function (x, y) -> x_adv, got {attack!r:.60}")
        return own_attack(label, attack, target.model, threat, y_target, seed)
    spec = parse_attack(attack if isinstance(attack, str) else "advgan")
    generator = attack if isinstance(attack, Generator) else only if spec.name == "advgan" else None
    loaded = None if generator is None else LoadedGenerator(Path(), generator)
    return GridPoint(spec, target, threat, y_target, seed, loaded, transferred=False)


def own_attack(
    label: str, attack: Callable[..., Tensor], model: nn.Module, threat: Threat, y_target: int | None, seed: int
) -> AttackFn:
    """A function as (x, y) -> x_adv, called with those of the settings eps, norm, rng and y_target that its signature
    has, at any place in it. The gradients of the weights are afterwards as before: most write loss.backward().

    Besides them it takes (x, y), or (model, x, y) where the first argument is called model, or three have no default;
    `**kwargs` of the latter are all settings. Raises InputError for other arguments, for a `y_target` that a function
    of a model has no argument for, and for a wrapper of a Generator.
    """
    check_no_generator(f"attack {label}", attack)
    try:
        function = attack.forward if isinstance(attack, nn.Module) else attack
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some compiled functions have none
        return attack
    settings: dict[str, Any] = {"eps": threat.eps, "norm": threat.norm, "rng": attack_rng(seed, label)}
    kinds, names = {p.kind for p in parameters}, {p.name for p in parameters}
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    inputs = [p for p in places if p.name not in (*settings, "y_target")]
    of_model = bool(inputs) and (inputs[0].name == "model" or sum(p.default is p.empty for p in inputs) > 2)
    n, required = 2 + of_model, sum(p.default is p.empty for p in inputs)
    others = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in (*settings, "y_target")]
    required += sum(p.default is p.empty for p in others)
    if required > n or (len(inputs) < n and inspect.Parameter.VAR_POSITIONAL not in kinds):
        raise InputError(
            f"attack {label} has the arguments ({', '.join(p.name for p in parameters)}), expected (x, y) or "
            "(model, x, y), and besides them any of eps, norm, rng, y_target"
        )
    if of_model and inspect.Parameter.VAR_KEYWORD in kinds:
        names |= {*settings, "y_target"}
    if y_target is not None and of_model and "y_target" not in names:
        raise InputError(f"attack {label} has no argument y_target, expected no y_target, got {y_target}")
    last = places.index(inputs[n - 1]) + 1 if len(inputs) >= n else len(places)
    before = [p.name for p in places[:last]]  # the inputs, and settings among them

    def run(x: Tensor, y: Tensor) -> Tensor:
        values = settings if y_target is None else settings | {"y_target": torch.full_like(y, y_target)}
        images = iter((model, x, y) if of_model else (x, y))
        arguments = [values[name] if name in values else next(images) for name in before]
        with kept_gradients(model):
            return attack(*arguments, *images, **{key: values[key] for key in values if key in names - set(before)})

    return run


def _class_names(classes: Sequence[str] | Mapping[int, str] | None, num_classes: int) -> tuple[str, ...]:
    """`classes`, or their numbers. Raises InputError for another number of names."""
    if isinstance(classes, (str, bytes)):
        raise InputError(f"classes must be a list of names, got the text {classes!r:.60}")
    if isinstance(classes, (set, frozenset)):
        raise InputError(
            f"classes must be a list of names in their order, got a {type(classes).__name__}, which has none"
        )
    names: Any = range(num_classes) if classes is None else classes
    if len(names) != num_classes:
        raise InputError(f"expected names of {num_classes} classes, got {len(names)}")
    if isinstance(names, Mapping):  # transformers' id2label
        try:
            names = [names[i] for i in range(num_classes)]
        except KeyError as error:
            raise InputError(f"classes must have names of 0 to {num_classes - 1}, got none of {error}") from None
    return tuple(map(str, names))


def label_attacks(attacks: Attack | Sequence[Attack] | Mapping[str, Attack]) -> dict[str, Attack]:
    """Label -> attack. Raises InputError for none, and for labels given twice."""
    if isinstance(attacks, Mapping):
        labelled = dict(attacks)
        if unnamed := [label for label in labelled if not isinstance(label, str)]:
            raise InputError(f"labels of attacks must be texts, got {unnamed[0]!r:.60}")
    else:
        given: Any = [attacks] if callable(attacks) or isinstance(attacks, str) else attacks
        labelled = {}
        for attack in given:
            label = attack if isinstance(attack, str) else "advgan"
            if not isinstance(attack, (str, Generator)):
                label = getattr(attack, "__name__", type(attack).__name__)
            copies = sum(other == label or other.startswith(f"{label} (") for other in labelled)
            labelled[f"{label} ({copies + 1})" if copies else label] = attack
    if not labelled:
        raise InputError("expected attacks: names, generators or functions (x, y) -> x_adv, got none")
    return labelled
