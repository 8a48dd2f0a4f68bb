"""A comparison from Python: attacks on one model in memory, on the caller's images."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from advgan.analysis.summary import summary
from advgan.attacks.registry import parse_attack
from advgan.classifiers import check_target, fingerprint
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm, Threat, check_class
from advgan.evaluation import Result, ResultCache, TargetModel, environment, evaluate, predict
from advgan.models.generator import Generator
from advgan.report.comparison import Comparison
from advgan.report.files import write_report
from advgan.report.table import terminal

Attack = str | Generator | Callable[[Tensor, Tensor], Tensor]
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


@dataclass(frozen=True, repr=False)
class CompareResults:
    """Results of `compare`: a table when printed, HTML in a notebook.

    rows        one dict an attack, with the keys of results.json (`asr`, `asr_low`, `robust_accuracy`, `l2_mean`, ...)
    comparison  records per image and adversarial images, as the reports take them
    """

    comparison: Comparison = field(repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.comparison.summary["rows"]
        return rows

    def __repr__(self) -> str:
        return self._render().export_text().rstrip()

    def _repr_html_(self) -> str:
        return self._render().export_html(inline_styles=True, code_format="<pre>{code}</pre>")

    def _render(self) -> Console:
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(terminal(self.comparison.summary, 120))
        return console

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`. Raises InputError where pandas is not installed."""
        try:
            pandas: Any = import_module("pandas")
        except ModuleNotFoundError:
            raise InputError("pandas is not installed, expected it here: pip install pandas") from None
        return pandas.DataFrame(self.rows)

    def save(self, directory: Path | str) -> None:
        """Write the reports of `eval/compare.py` to `directory`: report.html, .md, .tex, results.json, .csv, records/,
        figures/ and logs/ for TensorBoard; earlier ones are replaced."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        write_report(folder, self.comparison)


def compare(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    attacks: Sequence[Attack] | Mapping[str, Attack] = DEFAULT,
    *,
    eps: float,
    norm: Norm = "linf",
    y_target: int | None = None,
    batch_size: int = 100,
    seed: int = 0,
    classes: Sequence[str] | None = None,
    name: str = "model",
) -> CompareResults:
    """Attack images `x` of a classifier with each of the `attacks`, and recompute every metric from the results.

    Args:
        model: images (n, c, h, w) in [0, 1] -> logits (n, k), in eval mode, normalisation inside; left as found
        x: float32 images (n, c, h, w) in [0, 1]
        y: int64 labels (n,)
        attacks: names with settings ("pgd:steps=40", "torchattacks:AutoAttack"), generators, or functions
            (x, y) -> x_adv; a mapping gives labels
        eps: radius of the ball, in pixel units of [0, 1]
        norm: norm of the ball
        y_target: target class of all attacks; None: untargeted
        batch_size: images an attack gets at once
        seed: seed of random attacks
        classes: names of the classes for the reports; None: their numbers
        name: label of the model in the reports

    An attack that raises, or violates the threat model, is a failed row: `row["status"]`. Raises InputError for images,
    labels, a model or attack names that cannot be used.

    Example:
        >>> results = advgan.compare(model, x, y, ["fgsm", "pgd:steps=40", generator], eps=8 / 255)
        >>> print(results)
        >>> results.save("report")
    """
    x, y = (torch.from_numpy(a) if isinstance(a, np.ndarray) else a for a in (x, y))
    threat = Threat(norm, eps, y_target is not None)
    k = predict(model, x[: min(8, len(x))]).shape[-1] if isinstance(model, nn.Module) and isinstance(x, Tensor) else 0
    checked = check_target(model, x[:8], max(2, k))
    k = predict(checked, x[:1]).shape[1]
    check_class(y_target, k)
    named = {label: _resolved(attack, k) for label, attack in _labelled(attacks).items()}
    cells = ResultCache(None, x, y, batch_size=batch_size, keep=SHOWN)
    target = TargetModel(name, checked)
    run = _Runner(cells, target, threat, y_target, seed)
    results = [run(label, attack) for label, attack in named.items()]
    settings = CompareSettings(tuple(named), eps, norm, y_target, batch_size, seed)
    described = {
        **{"label": name, "name": type(model).__name__, "weights": "in memory", "sha256": target.sha256},
        **{"dataset": "in memory", "defense": None},
    }
    generators = [_describe(label, g, name) for label, g in named.items() if isinstance(g, Generator)]
    report = {
        **{"environment": environment(settings), "target": described, "targets": [described], "generators": generators},
        **summary(results, generators, k),
    }
    names = tuple(classes) if classes is not None else tuple(map(str, range(k)))
    return CompareResults(Comparison(report, results, x[:SHOWN], y[:SHOWN], names))


@dataclass(frozen=True)
class _Runner:
    """Evaluates one attack after the other on the same images."""

    cells: ResultCache
    target: TargetModel
    threat: Threat
    y_target: int | None
    seed: int

    def __call__(self, label: str, attack: Attack) -> Result:
        cells, target = self.cells, self.target
        if isinstance(attack, (str, Generator)):
            spec = parse_attack(attack if isinstance(attack, str) else "advgan")
            generator = attack if isinstance(attack, Generator) else None
            result = cells.run(spec, target, self.threat, y_target=self.y_target, seed=self.seed, generator=generator)
        else:
            result = evaluate(
                attack, target.model, cells.x, cells.y, self.threat,
                name=label, target_name=target.label, seed=self.seed, y_target=self.y_target,
                batch_size=cells.batch_size, keep=cells.keep,
                clean_logits=cells.logits(target), clean_accepted=cells.accepted(target),
            )  # fmt: skip
            result.row["access"] = _access(result.row)
        result.row["attack"] = label
        return result


def _access(row: Mapping[str, Any]) -> str:
    """The attacker's access that the counted model calls of a function show."""
    if row["status"] != "ok" or row["backwards_per_image"]:
        return "gradients"
    return "scores" if row["forwards_per_image"] else "nothing"


def _labelled(attacks: Sequence[Attack] | Mapping[str, Attack]) -> dict[str, Attack]:
    """Label -> attack. Raises InputError for none, and for labels given twice."""
    if isinstance(attacks, Mapping):
        labelled = dict(attacks)
    else:
        given = [attacks] if isinstance(attacks, (str, Generator)) else list(attacks)
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


def _resolved(attack: Attack, num_classes: int) -> Attack:
    """`attack` itself. Raises InputError for what is none."""
    if isinstance(attack, str):
        parse_attack(attack)
    elif isinstance(attack, Generator):
        if attack.classes and attack.classes != num_classes:
            raise InputError(f"the generator has {attack.classes} target classes, expected {num_classes} of the model")
    elif not callable(attack):
        raise InputError(f"expected an attack name, a Generator or a function (x, y) -> x_adv, got {attack!r:.60}")
    return attack


def _describe(label: str, generator: Generator, target: str) -> dict[str, Any]:
    return {
        **{"path": label, "target": target, "sha256": fingerprint(generator)},
        **{"parameters": sum(p.numel() for p in generator.parameters())},
        **{"eps": generator.threat.eps, "norm": generator.threat.norm, "y_target": generator.y_target},
        "training_seconds": None,
    }
