"""Results of a comparison (one attack on one target under one threat each), stored on disk as soon as computed."""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn

from advgan.attacks.registry import AttackerAccess, AttackFn, AttackSpec, make_attack
from advgan.classifiers import BlackBox, fingerprint
from advgan.core.errors import one_line, warn
from advgan.core.files import atomic_write_dir
from advgan.core.fraction import eps_text
from advgan.core.inputs import predicted
from advgan.core.json_files import read_object
from advgan.core.threat_model import Threat
from advgan.core.weights import read_weights, write_weights
from advgan.defenses import Defended, Transforms, attack_view, reseed, unwrap
from advgan.evaluation.compatibility import warn_near_chance
from advgan.evaluation.environment import cache_version
from advgan.evaluation.evaluate import (
    QUERIES,
    ROW_KEYS,
    CleanOutputs,
    Result,
    clean_outputs,
    evaluate,
    predict,
    recompute_metrics,
)
from advgan.evaluation.loading import LoadedGenerator, TargetModel
from advgan.evaluation.runner import MadeBatches
from advgan.models.generator import Generator

CONFIDENCE_TOL = 0.01  # of a clean image, computed again; on another processor it differs by less
X_ADV = "x_adv"  # a tensor in a stored file that is not a column of its records, like these two
SOURCE = ("source_confidence", "source_prediction")  # the source's outputs for the first clean images


@dataclass(frozen=True)
class GridPoint:
    """One attack `spec` on the classifier `target` under `threat`.

    generator    of attack advgan
    source       another classifier, on which the adversarial examples are made (transfer)
    shared       whether points with the target as their source follow, in a row
    transferred  whether the generator was trained on another classifier; None: as recorded in its run
    label        name of the attack in the results; None: that of `spec`
    shown        name of the attack in the progress bar; None: the label
    """

    spec: AttackSpec
    target: TargetModel
    threat: Threat
    y_target: int | None = None
    seed: int = 0
    generator: LoadedGenerator | None = None
    source: TargetModel | None = None
    shared: bool = False
    transferred: bool | None = None
    label: str | None = None
    shown: str | None = None

    @property
    def text(self) -> str:
        """A line for the progress bar."""
        source = f" from {self.source.label}" if self.source else ""
        toward = "" if self.y_target is None else f", toward class {self.y_target}"
        threat = f"{self.threat.norm} eps {eps_text(self.threat.eps)}"
        return f"{self.shown or self.label or self.spec.label}{source}: {self.target.label}, {threat}{toward}"

    @property
    def widest(self) -> Threat:
        """The threat that the attack is run under: results of a minimum-norm attack hold for every eps."""
        threat = self.threat
        return Threat(threat.norm, 1.0, threat.targeted) if self.spec.attack.kind == "minimal-norm" else threat

    @property
    def maker(self) -> Generator | None:
        """The generator itself."""
        return self.generator.generator if self.generator else None

    def attack(self, model: nn.Module) -> AttackFn:
        """The attack on `model` as (x, y) -> x_adv. Raises InputError as `make_attack`."""
        rng = attack_rng(self.seed, self.spec.label)
        return make_attack(self.spec, model, self.widest, self.y_target, rng, self.maker)

    @property
    def access(self) -> AttackerAccess:
        """The attacker's access to the target."""
        transferred = self.transferred
        if transferred is None:
            transferred = self.generator is not None and not self.generator.trained_on(self.target)
        on_another_model = self.source is not None or (
            self.spec.view == "oblivious" and attack_view(self.target.model, "oblivious") is not self.target.model
        )
        return "transfer" if on_another_model or (self.spec.access == "generator" and transferred) else self.spec.access


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def is_stochastic(*victims: TargetModel | None) -> bool:
    """Whether any of them is random, in its logits or in its gradients."""
    modules = [module for victim in victims if victim for module in victim.model.modules()]
    return any(isinstance(module, Defended) and (module.random or module.random_gradients) for module in modules)


Outputs = tuple[Tensor, Tensor]  # confidence and prediction (n,) of clean images


def attack_rng(seed: int, label: str) -> torch.Generator:
    """Random numbers of the attack `label`, different for each label."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {label}".encode()))  # it takes 32 bits


class ResultCache:
    """Runs attacks on images `x` (n, c, h, w) with labels `y` (n,); stores each result in `directory` (None: nowhere).

    A stored result is not computed again, so that an interrupted comparison resumes. The key is attack, settings, seed,
    threat, target, source, generator, images, batch size, device, threads and software; of a target or source that
    depends on more (a service, an environment variable), the predictions for the first clean images must still be the
    stored ones. `fresh` runs all of them again.
    `transforms` are those of `evaluate`; functions among them cannot be stored.
    """

    def __init__(
        self,
        directory: Path | None,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int = 100,
        keep: int = 16,
        fresh: bool = False,
        transforms: Transforms | None = None,
    ) -> None:
        self.directory, self.x, self.y, self.batch_size, self.keep = directory, x, y, batch_size, keep
        self.fresh, self.transforms = fresh, transforms
        self.cache_hits = 0
        self._made: tuple[Any, MadeBatches] = (None, {})  # the adversarial images of the last shared attack
        self._images = hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest()
        self._clean: dict[str, CleanOutputs] = {}
        self._first: dict[str, Outputs] = {}

    def clean(self, victim: TargetModel) -> CleanOutputs:
        """The victim's outputs for the clean images; computed once."""
        if victim.label not in self._clean:
            self._clean[victim.label] = clean_outputs(victim.model, self.x, self.batch_size, self.transforms)
            if isinstance(box := unwrap(victim.model), BlackBox) and box.normalises:  # not tested before
                warn_near_chance(self._clean[victim.label].logits, self.y, "the comparison")
        return self._clean[victim.label]

    def run(self, point: GridPoint, progress: Callable[[int], None] = lambda images: None) -> Result:
        """The stored or computed result of one attack. A minimum-norm attack is run once for all eps of a norm, and the
        adversarial examples of a source once for the victims of calls in a row."""
        spec, victim, source, seed = point.spec, point.target, point.source, point.seed
        origin = source or victim
        key, folder = {}, None  # without a directory no model and no code is hashed
        if self.directory is not None:
            key = self._key(point)
            folder = self.directory / _folder_name(key)
        stored = None if folder is None or self.fresh else self._read(folder, key)
        result, outputs = stored or (None, ())
        for model, first in zip((victim, source), outputs, strict=False):
            if result is not None and model is not None and not self._is_current(first, model):
                warn(
                    f"the cached result {folder} is computed again: {model.label} has other predictions for the same "
                    "images now"
                )
                result = None
        if result is None:
            for model in (victim, origin):
                reseed(model.model, seed)
            made = None
            if (point.shared or source is not None) and not is_stochastic(origin):
                attack = (spec.label, origin.model, point.widest, point.y_target, seed)
                made = self._made_batches(attack, again=source is None)
            result = evaluate(
                point.attack(attack_view(origin.model, spec.view)),
                victim.model,
                *(self.x, self.y, point.widest),
                name=spec.label if source is None else f"{spec.label} from {source.label}",
                target_name=victim.label,
                access=point.access,
                seed=seed,
                protocol=spec.attack.kind,
                attack_norm=spec.attack.norm,
                y_target=point.y_target,
                batch_size=self.batch_size,
                clean=self.clean(victim),
                keep=self.keep,
                progress=progress,
                transforms=self.transforms,
                made=made,
            )
            if result.row["status"] != "ok":  # a failure may be the machine's: not stored
                self._made = (None, {})
            elif folder is not None:
                _write(folder, key, result, None if source is None else self._first_outputs(source))
        else:
            self.cache_hits += 1
            progress(len(self.x))
        row = result.row | {"seed": seed, "access": point.access}
        return recompute_metrics(Result(row, result.records, result.x_adv), point.threat)

    def _is_current(self, stored: Outputs, model: TargetModel) -> bool:
        """Whether a model still has the `stored` outputs of a result for the first clean images."""
        confidence, prediction = self._first_outputs(model)
        n = min(len(confidence), len(stored[0]))
        same = torch.equal(prediction[:n], stored[1][:n])
        return same and torch.allclose(confidence[:n], stored[0][:n], rtol=0, atol=CONFIDENCE_TOL)

    def _first_outputs(self, model: TargetModel) -> Outputs:
        """A model's outputs for the first batch of clean images; a black box is queried for a few of them, one with a
        budget for none."""
        if model.label not in self._first:
            box, n = unwrap(model.model), self.batch_size
            if isinstance(box, BlackBox):
                n = min(n, QUERIES) if box.max_queries is None else 0
            reseed(model.model, 0)
            no_outputs = (torch.zeros(0), torch.zeros(0, dtype=torch.long))
            self._first[model.label] = predicted(predict(model.model, self.x[:n], n)) if n else no_outputs
        return self._first[model.label]

    def _made_batches(self, attack: tuple[Any, ...], *, again: bool) -> MadeBatches:
        """The adversarial images of the last shared attack, if it was this one; `again`: to be made, so that the calls
        of its own model are counted."""
        if again or self._made[0] != attack:
            self._made = (attack, {})
        return self._made[1]

    def name(self, point: GridPoint) -> str:
        """Identifier of the result of `run(point)`; several points may have the same."""
        return _digest(self._key(point))

    def _key(self, point: GridPoint) -> dict[str, Any]:
        """Everything that affects a result."""
        spec, victim, source, threat = point.spec, point.target, point.source, point.widest
        maker = point.maker if spec.name == "advgan" else None
        draws = spec.attack.random or (maker is not None and maker.noise) or is_stochastic(victim, source)
        return {
            "attack": spec.label,
            "target": {"label": victim.label, "sha256": victim.sha256},
            "source": None if source is None else {"label": source.label, "sha256": source.sha256},
            "generator": None if maker is None else fingerprint(maker),
            "threat": {"norm": threat.norm, "eps": threat.eps, "y_target": point.y_target},
            "seed": point.seed if draws else None,
            "images": {"sha256": self._images, "n": len(self.x), "batch_size": self.batch_size, "keep": self.keep},
            "software": cache_version() | {"device": next(victim.model.parameters(), self.x).device.type},
            **({"survive": self.transforms.names} if self.transforms else {}),
        }

    def _read(self, folder: Path, key: dict[str, Any]) -> tuple[Result, list[Outputs]] | None:
        """The stored result of `key`, with the outputs of victim and source; None without one, and with a warning for a
        damaged one."""
        if not folder.is_dir():
            return None
        try:
            stored = read_object(folder / "cell.json")
            tensors = read_weights(folder / "records.safetensors", config=stored, digests=True)
            records, row = {name: tensors[name] for name in stored["columns"]}, stored["row"]
            if _digest(stored["key"]) != _digest(key):
                raise ValueError("it is another result's")
            x_adv, kept = tensors[X_ADV], self.x[: self.keep]
            if row.keys() != set(ROW_KEYS) or {tuple(column.shape) for column in records.values()} != {(len(self.x),)}:
                raise ValueError("other columns or another number of images")
            if (x_adv.shape, x_adv.dtype) != (kept.shape, kept.dtype) or any(map(torch.is_complex, records.values())):
                raise ValueError("other images, or columns that are no numbers")
            outputs = [(records["clean_confidence"], records["clean_prediction"])]
            outputs += [] if key["source"] is None else [(tensors[SOURCE[0]], tensors[SOURCE[1]])]
            return Result({name: row[name] for name in ROW_KEYS}, records, x_adv), outputs
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            warn(f"the cached result {folder} is damaged and is computed again: {one_line(error)}")
            return None


def _folder_name(key: dict[str, Any]) -> str:
    parts = [key["target"]["label"], key["attack"], key["threat"]["norm"], f"{key['threat']['eps']:.4g}"]
    name = re.sub(r"[^\w.=-]+", "-", "_".join(parts))[:100]
    return f"{name}_{_digest(key)[:16]}"


def _write(directory: Path, key: dict[str, Any], result: Result, source: Outputs | None) -> None:
    def write(folder: Path) -> None:
        stored = {"key": key, "row": result.row, "columns": list(result.records)}
        (folder / "cell.json").write_text(json.dumps(stored, indent=2, allow_nan=False) + "\n")
        tensors = {**result.records, X_ADV: result.x_adv, **dict(zip(SOURCE, source or (), strict=False))}
        write_weights(tensors, folder / "records.safetensors", config=stored)

    atomic_write_dir(directory, write)


def distribute(
    cache: ResultCache, points: Sequence[GridPoint], run: Callable[[GridPoint], Result], accelerator: Accelerator
) -> tuple[list[Result], int]:
    """Results of all `points`, in order, in the main process, and the number of cached ones.

    `run` applies `cache.run` to a point. Whole attacks are distributed over the processes, so that a random attack has
    the same random numbers as in one process. The main process reads the others' results from a shared disk, and
    repeats those that failed elsewhere; the other processes return no results.
    """
    names = list(dict.fromkeys(map(cache.name, points)))
    own_names = set(names[accelerator.process_index :: accelerator.num_processes])
    results = {i: run(point) for i, point in enumerate(points) if cache.name(point) in own_names}
    accelerator.wait_for_everyone()
    cached = int(accelerator.reduce(torch.tensor(cache.cache_hits, device=accelerator.device), reduction="sum").item())
    if not accelerator.is_main_process:
        return [], cached
    cache.fresh = False  # the others' results are fresh
    return [results[i] if i in results else run(point) for i, point in enumerate(points)], cached
