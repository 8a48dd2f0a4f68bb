"""Classifiers, generators and threat models of an evaluation, from the strings of a command line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from advgan.classifiers import fingerprint
from advgan.classifiers.external import source_of
from advgan.classifiers.external.base import ExternalClassifier
from advgan.core.errors import InputError, warn
from advgan.core.fraction import eps_text, parse_fraction
from advgan.core.json_files import check_real, read_sealed
from advgan.core.threat_model import NORMS, Norm, Threat, check_eps
from advgan.core.training_record import checkpoint_folder, unfinished
from advgan.data import Data
from advgan.data.classes import class_mapping
from advgan.defenses import ClassifierSpec, parse_classifier
from advgan.evaluation.compatibility import ClassifierLoader, class_info, prepare_model_and_data
from advgan.models.generator import Generator

DEFAULT_EPS: dict[str, tuple[str, ...]] = {"linf": ("0:0.3:0.05",), "l2": ("0:3:0.5",)}  # of a sweep
FILES = ("python_file", "onnx")  # sources whose names are paths: labelled by the file name


@dataclass(frozen=True)
class TargetModel:
    """A classifier under attack, in eval mode on its device, under a `label` that is unique in the comparison.

    name, weights, defense   of its `ClassifierSpec`; weights None: an external classifier with its own
    """

    label: str
    model: nn.Module
    name: str = ""
    weights: Path | None = None
    defense: str | None = None

    @cached_property
    def sha256(self) -> str:
        """The fingerprint of the model."""
        return fingerprint(self.model)

    @cached_property
    def fingerprints(self) -> set[str]:
        """Its own, and for an external classifier that of the module inside: the one of a training in memory."""
        if isinstance(self.model, ExternalClassifier) and not self.model.normalises:
            return {self.sha256, fingerprint(self.model.model)}
        return {self.sha256}

    def with_label(self, label: str) -> Self:
        """The same under another label."""
        return replace(self, label=label)

    def queries_spent(self, sha256: str) -> int | None:
        """Queries of its training to the black box with that fingerprint; None if it is no substitute of it."""
        run = {} if self.weights is None else read_training_json(self.weights)
        is_substitute = run.get("substitute", {}).get("sha256") == self.sha256
        queries: int | None = run.get("queries")
        return queries if is_substitute and run.get("settings", {}).get("black_box_sha256") == sha256 else None

    @property
    def training_seconds(self) -> float | None:
        """Duration of its training; None if unknown."""
        return self._training().get("training_seconds")

    @property
    def training_data(self) -> str | None:
        """The data set of its training, as --dataset names it; None if unknown."""
        return self._training().get("settings", {}).get("dataset")

    def _training(self) -> dict[str, Any]:
        """Its training.json, or {}: one that names a target or a black box is that of a generator or a substitute."""
        if self.weights is None:
            return {}
        run = read_training_json(self.weights / "classifier") or read_training_json(self.weights)
        other = {"target_sha256", "black_box_sha256"} & run.get("settings", {}).keys()
        return {} if other else run

    def describe(self, dataset: str) -> dict[str, Any]:
        """For results.json: name, place, fingerprint, and the progress of an unfinished training."""
        progress = None if self.weights is None else unfinished(checkpoint_folder(self.weights, "classifier"))
        return {
            **{"label": self.label, "name": self.name, "weights": str(self.weights or "its own")},
            **{"sha256": self.sha256, "dataset": dataset, "defense": self.defense},
            **({"unfinished": progress} if progress else {}),
        }


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator, and the folder it came from."""

    path: Path
    generator: Generator

    @property
    def name(self) -> str:
        """Name of its run."""
        return self.path.resolve().parent.name if self.path.name == "generator" else self.path.resolve().name

    def trained_on(self, target: TargetModel) -> bool:
        """Whether its training.json names `target`, or names none; else its images are transferred."""
        ensemble = read_training_json(self.path).get("settings", {}).get("ensemble_sha256", [])
        return self.source_sha256 is None or not target.fingerprints.isdisjoint([self.source_sha256, *ensemble])

    @property
    def training_data(self) -> str | None:
        """The data set of its training, as --dataset names it; None if unknown."""
        return read_training_json(self.path).get("settings", {}).get("dataset")

    @property
    def source_sha256(self) -> str | None:
        """Fingerprint of the classifier whose gradients trained it, perhaps a substitute; None if unknown."""
        run = read_training_json(self.path)
        return run.get("substitute", {}).get("sha256") or run.get("settings", {}).get("target_sha256")

    def describe(self, target: TargetModel) -> dict[str, Any]:
        """For results.json: threat model, fingerprint and training time (None: on another target, or unknown)."""
        progress = unfinished(checkpoint_folder(self.path, "generator"))
        seconds = read_training_json(self.path).get("training_seconds") if self.trained_on(target) else None
        described = describe_generator(self.generator, str(self.path), target.label, seconds)
        return described | ({"unfinished": progress} if progress else {})


def describe_generator(generator: Generator, path: str, target: str, training_seconds: float | None) -> dict[str, Any]:
    """A generator for results.json: path, label of the attacked classifier, fingerprint, size and ball."""
    threat = generator.threat
    return {
        **{"path": path, "target": target, "sha256": fingerprint(generator)},
        **{"parameters": sum(parameter.numel() for parameter in generator.parameters())},
        **{"eps": threat.eps, "norm": threat.norm, "y_target": generator.y_target},
        "training_seconds": training_seconds,
    }


def read_training_json(path: Path) -> dict[str, Any]:
    """training.json of the run of a generator or a classifier; {} without one. Raises InputError for a damaged one."""
    for folder in (path, path.parent):
        file = folder / "training.json"
        if not file.is_file():
            continue
        run = read_sealed(file)
        for key in ("settings", "substitute"):
            if not isinstance(run.get(key, {}), dict):
                raise InputError(f"{file}: {key} must be an object, got {run[key]!r:.60}")
        for key in ("training_seconds", "queries"):
            if run.get(key) is not None:
                check_real(f"{file}: {key}", run[key])
        return run
    return {}


def load_targets(
    specs: Sequence[ClassifierSpec],
    data: Data,
    device: torch.device,
    *,
    keep_class_order: bool = False,
    first: ClassifierLoader | None = None,
) -> tuple[list[TargetModel], Data]:
    """The classifiers `specs` on `device`, each checked on a few validation images; and `data` with labels and class
    names as they have them (see `advgan.data.relabel`), with `keep_class_order` as they are. `first` loads its own.

    Raises InputError unless each can be attacked, and all have the classes in one order.
    """
    models = [(first if first and first.spec == spec else ClassifierLoader(spec)).load(data) for spec in specs]
    names, targets, same = [model.name for model in models], list[TargetModel](), list(range(data.num_classes))
    order = same if keep_class_order else class_mapping(data, *class_info(models[0])) or same
    for spec, model in zip(specs, models, strict=True):
        if (class_mapping(data, *class_info(model)) or same) != order or not _same_classes(model, models[0], data):
            raise InputError(f"{model.name} has the classes in another order than the other targets, expected the same")
        checked, relabelled = prepare_model_and_data(model, data)
        short = Path(model.name).name if source_of(model.name) in FILES else model.name
        label = f"{short} {spec.path.name}" if spec.path and names.count(model.name) > 1 else short
        label = f"{label} + {spec.defense}" if spec.defense else label
        if label in {other.label for other in targets}:
            label = f"{label} ({spec.path or model.name})"
        targets.append(TargetModel(label, checked.to(device).eval(), model.name, spec.path, spec.defense))
    return targets, data if keep_class_order else relabelled


def _same_classes(model: Any, first: Any, data: Data) -> bool:
    """Whether two classifiers have the same classes, by their names if both have some, where `data` have none."""
    (names, count, _), (first_names, first_count, _) = class_info(model), class_info(first)
    return bool(data.classes) or (
        count == first_count and (None in (names, first_names) or [*names] == [*first_names])  # type: ignore[misc]
    )


def load_generators(paths: Sequence[Path], names: Sequence[str] = ()) -> list[LoadedGenerator]:
    """The generators in `paths`. `names` are those of the targets (`parse_classifier`): a guide may be loaded from such
    a Python file."""
    names = [parse_classifier(name).name for name in names]
    loaded = [LoadedGenerator(Path(path), Generator.from_pretrained(path, allowed_guides=names)) for path in paths]
    for generator in loaded:
        if read_training_json(generator.path).get("settings", {}).get("train_on") == "test":
            warn(f"{generator.name} was trained on the test images: its results on them are not of unseen images")
    return loaded


def parse_threat_models(
    eps: Sequence[str], norms: Sequence[Norm], generator: Generator | None, targeted: bool
) -> list[Threat]:
    """The balls of "0.3" (in each of the `norms`) or "l2:2" (in that one); without any, the generator's or linf 0.3.

    Raises InputError for an invalid one.
    """
    default = Threat() if generator is None else generator.threat
    if norms and eps and all(":" in str(text) for text in eps):
        raise InputError(
            f"each eps has its norm, expected no norm, got {' '.join(norms)} and eps {' '.join(map(str, eps))}"
        )
    threats = []
    for text in eps or [str(default.eps)]:
        norm, colon, value = str(text).rpartition(":")
        if colon and norm not in NORMS:
            raise InputError(f"eps must look like 0.3, 8/255, linf:0.3 or l2:2, got {text!r}")
        for name in [norm] if colon else norms or [default.norm]:
            threats.append(Threat(name, parse_fraction(value), targeted))  # type: ignore[arg-type]
    return list(dict.fromkeys(threats))


def parse_eps_values(texts: Sequence[str], norm: Norm) -> list[float]:
    """Values of eps from "0.1", "8/255" or "0:0.3:0.05" (from, to, by), ascending, with 0; none: DEFAULT_EPS.

    Raises InputError for an invalid one, and for two that reports cannot distinguish.
    """
    values = {0.0}
    for text in " ".join(texts or DEFAULT_EPS[norm]).replace(",", " ").split():
        if ":" not in text:
            values.add(parse_fraction(text))
            continue
        try:
            first, last, step = map(Fraction, text.split(":"))  # exact: 3 steps of 0.05 are 0.15
        except (ValueError, ZeroDivisionError):
            raise InputError(f"a range of eps must look like 0:0.3:0.05 or 0:8/255:1/255, got {text!r}") from None
        if not step > 0 or not 0 <= (last - first) / step <= 1000:
            raise InputError(f"a range of eps must go up in at most 1000 steps, got {text!r}")
        values |= {float(first + i * step) for i in range(math.floor((last - first) / step) + 1)}
    eps_values = sorted(eps and check_eps(eps, norm) for eps in values)
    for low, high in pairwise(eps_values):
        if eps_text(low) == eps_text(high):
            raise InputError(f"values of eps must differ in the digits of reports, got {low!r} and {high!r}")
    return eps_values


def resolve_target_class(y_target: int | str | None, generator: Generator | None) -> int | str | None:
    """The target class: as given, else the generator's, else None."""
    return generator.y_target if y_target is None and generator is not None else y_target
