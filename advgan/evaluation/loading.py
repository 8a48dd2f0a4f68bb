"""Who takes part in a comparison: classifiers, generators and threats, from the words of a command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from advgan.classifiers import fingerprint
from advgan.classifiers.external import source_of
from advgan.core.config import parse_fraction
from advgan.core.errors import InputError
from advgan.core.json_files import check_real, read_sealed
from advgan.core.threat_model import NORMS, Norm, Threat, check_eps
from advgan.core.training_record import checkpoint_folder, unfinished
from advgan.data import Data
from advgan.data.classes import class_mapping
from advgan.defenses import ClassifierSpec, load_classifier, parse_classifier
from advgan.evaluation.compatibility import class_info, prepare_model_and_data
from advgan.evaluation.result_cache import TargetModel
from advgan.models.generator import Generator

USUAL: dict[str, tuple[str, ...]] = {"linf": ("0:0.3:0.05",), "l2": ("0:3:0.5",)}  # radii of a sweep
FILES = ("python_file", "onnx")  # sources whose classifiers are called by a path: its end is enough


@dataclass(frozen=True)
class Target:
    """A classifier as it was asked for, and as it is attacked."""

    name: str
    weights: Path | None  # None: one of another source, with its own
    victim: TargetModel
    defense: str | None = None

    def with_label(self, label: str) -> Target:
        """The same under another label."""
        return replace(self, victim=TargetModel(label, self.victim.model))

    def queries_spent(self, sha256: str) -> int | None:
        """How often the black box with that fingerprint was asked for it; None if it is not distilled from it."""
        run = {} if self.weights is None else read_training_json(self.weights)
        own = run.get("substitute", {}).get("sha256") == self.victim.sha256
        found: int | None = run.get("queries")
        return found if own and run.get("settings", {}).get("black_box_sha256") == sha256 else None

    @property
    def training_seconds(self) -> float | None:
        """How long its training took; None where its run does not say. Of a classifier: what was made on one, a
        generator or a substitute, names that one in its own training.json."""
        if self.weights is None:
            return None
        run = read_training_json(self.weights / "classifier") or read_training_json(self.weights)
        made_on = {"target_sha256", "black_box_sha256"} & run.get("settings", {}).keys()
        return None if made_on else run.get("training_seconds")

    def describe(self, dataset: str) -> dict[str, Any]:
        """For results.json: what it is, where it lay, the fingerprint of its weights, and how far its training got if
        not finished."""
        progress = None if self.weights is None else unfinished(checkpoint_folder(self.weights, "classifier"))
        return {
            **{"label": self.victim.label, "name": self.name, "weights": str(self.weights or "its own")},
            **{"sha256": self.victim.sha256, "dataset": dataset, "defense": self.defense},
            **({"unfinished": progress} if progress else {}),
        }


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator, and the folder it came from."""

    path: Path
    generator: Generator

    @property
    def name(self) -> str:
        """What its run is called."""
        return self.path.resolve().parent.name if self.path.name == "generator" else self.path.resolve().name

    def trained_on(self, target: Target) -> bool:
        """Whether its run says so, or says nothing; else it is a stand-in's, and its answers are transferred."""
        return self.source_sha256 in (None, target.victim.sha256)

    @property
    def source_sha256(self) -> str | None:
        """The fingerprint of the classifier whose gradients trained it, a substitute's perhaps; None if nobody says."""
        run = read_training_json(self.path)
        found: str | None = run.get("substitute", {}).get("sha256") or run.get("settings", {}).get("target_sha256")
        return found

    def describe(self, target: Target) -> dict[str, Any]:
        """For results.json: what it is, what it was trained for, and how long (None: on another target, or unknown)."""
        progress = unfinished(checkpoint_folder(self.path, "generator"))
        seconds = read_training_json(self.path).get("training_seconds") if self.trained_on(target) else None
        described = describe_generator(self.generator, str(self.path), target.victim.label, seconds)
        return described | ({"unfinished": progress} if progress else {})


def describe_generator(generator: Generator, path: str, target: str, training_seconds: float | None) -> dict[str, Any]:
    """A generator for results.json: its place, the classifier `target` that it attacks, weights, size and ball."""
    threat = generator.threat
    return {
        **{"path": path, "target": target, "sha256": fingerprint(generator)},
        **{"parameters": sum(parameter.numel() for parameter in generator.parameters())},
        **{"eps": threat.eps, "norm": threat.norm, "y_target": generator.y_target},
        "training_seconds": training_seconds,
    }


def read_training_json(path: Path) -> dict[str, Any]:
    """The training.json that the run left which made a generator or a classifier; {} where there is none. Raises
    InputError for a damaged one.
    """
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
    specs: Sequence[ClassifierSpec], data: Data, device: torch.device, *, keep_class_order: bool = False
) -> tuple[list[Target], Data]:
    """The classifiers `specs` on `device`, each tried on a few validation images; and `data` with labels and class
    names as they have them (see `advgan.data.relabel`), with `keep_class_order` as they are.

    Raises InputError unless each can be attacked, and all have the classes in one order.
    """
    models = [load_classifier(spec, image_shape=data.image_shape, num_classes=data.num_classes) for spec in specs]
    names, targets, same = [model.name for model in models], list[Target](), list(range(data.num_classes))
    order = same if keep_class_order else class_mapping(data, *class_info(models[0])) or same
    for spec, model in zip(specs, models, strict=True):
        if (class_mapping(data, *class_info(model)) or same) != order:
            raise InputError(f"{model.name} has the classes in another order than the other targets, expected the same")
        checked, relabelled = prepare_model_and_data(model, data)
        short = Path(model.name).name if source_of(model.name) in FILES else model.name
        label = f"{short} {spec.path.name}" if spec.path and names.count(model.name) > 1 else short
        label = f"{label} + {spec.defense}" if spec.defense else label
        if label in {other.victim.label for other in targets}:
            label = f"{label} ({spec.path or model.name})"
        targets.append(Target(model.name, spec.path, TargetModel(label, checked.to(device).eval()), spec.defense))
    return targets, data if keep_class_order else relabelled


def load_generators(paths: Sequence[Path], targets: int, names: Sequence[str] = ()) -> list[LoadedGenerator]:
    """A generator for each target: one for one, or one for all; [] for no paths. Raises InputError otherwise.

    `names` are those of the targets (`parse_classifier`): a guide may be loaded from such a Python file.
    """
    names = [parse_classifier(name).name for name in names]
    if len(paths) not in (0, 1, targets):
        raise InputError(f"expected one generator, or one for each of {targets} targets, got {len(paths)}")
    loaded = [LoadedGenerator(Path(path), Generator.from_pretrained(path, allowed_guides=names)) for path in paths]
    return loaded * targets if len(paths) == 1 else loaded


def parse_threat_models(
    eps: Sequence[str], norms: Sequence[Norm], generator: Generator | None, targeted: bool
) -> list[Threat]:
    """The balls that "0.3" (in each of the `norms`) or "l2:2" (in that one) name.

    What is not said is the generator's; without one linf and 0.3. Raises InputError for what is no ball.
    """
    own = Threat() if generator is None else generator.threat
    found = []
    for word in eps or [str(own.eps)]:
        norm, colon, radius = str(word).rpartition(":")
        if colon and norm not in NORMS:
            raise InputError(f"eps must look like 0.3, 8/255, linf:0.3 or l2:2, got {word!r}")
        for each in [norm] if colon else norms or [own.norm]:
            found.append(Threat(each, parse_fraction(radius), targeted))  # type: ignore[arg-type]
    return list(dict.fromkeys(found))


def parse_eps_values(words: Sequence[str], norm: Norm) -> list[float]:
    """The radii that "0.1", "8/255" or "0:0.3:0.05" (from, to, by) name, ascending, with 0 among them.

    Raises InputError for what is no radius of the norm. No words are the norm's usual ones.
    """
    found = {0.0}
    for word in " ".join(words or USUAL[norm]).replace(",", " ").split():
        if ":" not in word:
            found.add(parse_fraction(word))
            continue
        try:
            first, last, step = map(Fraction, word.split(":"))  # exact: 3 steps of 0.05 are 0.15
        except (ValueError, ZeroDivisionError):
            raise InputError(f"a range of eps must look like 0:0.3:0.05 or 0:8/255:1/255, got {word!r}") from None
        if not step > 0 or not 0 <= (last - first) / step <= 1000:
            raise InputError(f"a range of eps must go up in at most 1000 steps, got {word!r}")
        found |= {float(first + i * step) for i in range(math.floor((last - first) / step) + 1)}
    return sorted(eps and check_eps(eps, norm) for eps in found)


def aim(y_target: int | None, generator: Generator | None) -> int | None:
    """The class that is aimed at: as asked, else the generator's, else None."""
    return generator.y_target if y_target is None and generator is not None else y_target


def unfit(generator: Generator, threat: Threat, y_target: int | None) -> str | None:
    """Why a generator has no answer under a threat; None if it has."""
    return generator.incompatibility(eps=threat.eps, norm=threat.norm, y_target=y_target)
