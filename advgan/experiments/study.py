"""Common parts of all studies: settings, models, images, output directory, the grid of attacks with its result cache
and progress bar, and the report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

import advgan.training as training
from advgan.attacks.registry import AttackSpec, make_attack, parse_attack
from advgan.core.config import ByOrder, write_settings
from advgan.core.errors import InputError, note
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Threat
from advgan.data import Data
from advgan.data.classes import class_number
from advgan.data.flags import DataSettings, load_chosen
from advgan.data.split import attack_batch_size
from advgan.defenses import ClassifierSpec, Transforms, parse_classifier, unwrap
from advgan.evaluation import GridPoint, Result, ResultCache, environment
from advgan.evaluation.compatibility import ClassifierLoader, is_black_box, predicted_labels
from advgan.evaluation.loading import LoadedGenerator, TargetModel, load_generators, load_targets
from advgan.evaluation.result_cache import distribute
from advgan.experiments.trainings import TrainingCommand, run_all
from advgan.report.progress import StartResult, result_progress
from advgan.report.results import check_report_folders
from advgan.report.study import StudyReport


@dataclass(frozen=True)
class StudySettings(DataSettings):
    """Images, result cache, batches, threads and reports of a study."""

    max_samples: int | None = None
    """Maximum number of test images: always the same stratified sample of the classes (docs/data.md)"""
    fresh: bool = False
    """Run every attack again, without cached results"""
    batch_size: int | None = None
    """Images per batch of an attack; None: 100, or 20 photos"""
    threads: int | None = None
    """CPU threads; None: OMP_NUM_THREADS, else all cores"""
    output_dir: Path = Path("checkpoints/runs/study")
    """Directory of the reports; earlier ones are replaced"""


@dataclass(frozen=True)
class SeededStudySettings(StudySettings):
    """Settings of a study with one seed."""

    seed: int = 0
    """Seed of random attacks"""


@dataclass(frozen=True)
class ClassifiersSettings:
    """The classifiers of a study."""

    target: tuple[NameOrPath, ...] = ("mnist-c",)
    """Classifiers under attack: names, directories of saved ones, or torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO,
    FILE.py:FACTORY, MODEL.onnx, http://HOST/PATH, which need no weights"""
    target_weights: tuple[Path, ...] = ()
    """Their weights, one for one: runs of train/classifier.py, .safetensors or .pt files; (): their own, or the shipped
    mnist-c"""
    weights_by_order: ByOrder = False
    defense: tuple[NameOrPath, ...] = ()
    """Defenses around the targets, e.g. bit-depth:bits=3, several joined by +, or none: one for each, or one for all"""


PART_OF_MNIST = "mnist5k"


class Study:
    """A study `name`: its data, test images `x`, `y`, classifiers, generators and the verified `results` of its grid.

    The methods are called in this order: `load_generators`, `init_run`, `load_targets`, the checks,
    `prepare_output_dir`, `run` (or `run_point` within `progress`), `summary`, `write_report`. All raise InputError for
    bad input, before any attack is run.
    """

    subsampled = True  # `x` is the sample of max_samples test images

    def __init__(self, name: str, settings: StudySettings) -> None:
        if settings.batch_size is not None and settings.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
        self.name, self.settings = name, settings
        self.targets: list[TargetModel] = []
        self.generators: list[LoadedGenerator] = []
        self.results: list[Result] = []
        self.seed = self.cache_hits = self.keep = 0
        self.is_main = True
        self.transforms = Transforms(())  # of the written images, in `Result.records`
        self._caches: dict[int, ResultCache] = {}
        self._images: tuple[Data, Tensor, Tensor] | None = None

    def run_trainings(self, commands: Sequence[TrainingCommand]) -> None:
        """Run the trainings that are not finished, on the data and threads of the study."""
        threads = [] if self.settings.threads is None else ["--threads", self.settings.threads]
        run_all(commands, "--data-dir", self.settings.data_dir, *threads)

    def load_generators(
        self, paths: Sequence[Any], targets: Sequence[str], *, one_target: bool = False
    ) -> list[LoadedGenerator]:
        """The generators in `paths`, whose guides may be named like one of the `targets`. Raises InputError for two of
        one name that attack `one_target`."""
        self.generators = load_generators(paths, targets)
        names = [trained.name for trained in self.generators]
        if one_target and len(set(names)) < len(names):
            raise InputError(f"expected generators in runs of different names, got {', '.join(names)}")
        return self.generators

    def check_generator_threats(self, threats: Sequence[Threat], y_target: int | None = None) -> None:
        """Raise InputError for a generator that supports none of the threats."""
        for trained in self.generators:
            reasons = [
                trained.generator.incompatibility(eps=threat.eps, norm=threat.norm, y_target=y_target)
                for threat in threats
            ]
            if all(reasons):
                raise InputError(f"{trained.name}: {reasons[0]}")

    def init_run(self, seed: int, first: ClassifierSpec, *, distributed: bool = False) -> None:
        """Seed, device and data, of the `first` classifier's size where images differ in size; of several processes,
        where `distributed` allows them, the first one downloads."""
        self.seed, self._first = seed, ClassifierLoader(first)
        threads, alone = self.settings.threads, not distributed
        self.accelerator = training.init_accelerator(seed, threads, patient=distributed, one_process=alone)
        self.is_main = self.accelerator.is_main_process
        with self.accelerator.main_process_first():
            self.data = load_chosen(self.settings, ("test",), labels=False, own_input=self._first.own_input)

    def load_targets(self, specs: Sequence[ClassifierSpec]) -> list[TargetModel]:
        """The classifiers; the data get their labels and class names."""
        self.targets, self.data = load_targets(specs, self.data, self.accelerator.device, first=self._first)
        if self.settings.dataset == PART_OF_MNIST and self.is_main:
            trained = {target.label: target.training_data for target in self.targets}
            trained |= {generator.name: generator.training_data for generator in self.generators}
            if names := [name for name, dataset in trained.items() if dataset == "mnist"]:
                note(
                    f"{PART_OF_MNIST} is a part of the training images of mnist, on which {', '.join(names)} was "
                    "trained: --dataset mnist has test images that are new to it"
                )
        return self.targets

    def load_surrogate(self, name: str, weights: Path | None, targets: str) -> TargetModel:
        """A classifier that must not be one of the targets, which the error calls `targets`."""
        spec = parse_classifier(name, weights)
        (surrogate,), _ = load_targets([spec], self.data, self.accelerator.device, keep_class_order=True)
        if surrogate.sha256 in {target.sha256 for target in self.targets}:
            name = weights.name if weights else name
            raise InputError(f"the surrogate {name} is one of the {targets}, expected another classifier")
        return surrogate

    def class_number(self, y_target: int | str | None) -> int | None:
        """A target class, given as a number or by the name that the first target, or the data, has for it."""
        target = self.targets[0]
        names = getattr(unwrap(target.model), "classes", None) or self.data.classes
        return class_number(y_target, names, self.data.num_classes, target.label)

    def check_attacks(
        self, specs: Sequence[AttackSpec], threats: Sequence[Threat], y_target: int | None = None
    ) -> None:
        """Check the generators; build the attacks and call them on no images, so that wrong settings are errors."""
        self.check_generators()
        model = self.targets[0].model
        queries_only = is_black_box(model)  # then gradient attacks are failed rows, the others run
        for spec, threat in product(specs, threats):
            generators = [trained.generator for trained in self.generators]
            supported = [generator for generator in generators if generator.supports(threat, y_target)]
            if spec.name != "advgan" or supported or not self.generators:
                attack = make_attack(spec, model, threat, y_target, generator=supported[0] if supported else None)
                if not (queries_only and spec.access == "gradients"):
                    attack(self.x[:0], self.y[:0])

    def check_generators(self) -> None:
        """Move the generators to the device and call each on one image."""
        for trained in self.generators:
            trained.generator.to(self.accelerator.device).perturb(self.x[:1].to(self.accelerator.device))

    def prepare_output_dir(self, keep: int = 0) -> None:
        """Lock the output directory and write the settings there; `keep`: number of stored images of each result."""
        check_report_folders(self.settings.output_dir)
        training.prepare_output_dir(self.settings.output_dir, self.name, resume=False, overwrite=True)
        if self.is_main:
            write_settings(self.settings, self.settings.output_dir)
        self.keep = keep

    def cache(self, n: int | None = None) -> ResultCache:
        """The result cache of the first `n` images (None: all)."""
        n = len(self.x) if n is None else min(n, len(self.x))
        if n not in self._caches:
            folder, settings = self.settings.output_dir / "cells", self.settings
            images = (self.x[:n], self.y[:n])
            self._caches[n] = ResultCache(
                folder,
                *images,
                batch_size=self.batch_size,
                keep=self.keep,
                fresh=settings.fresh,
                transforms=self.transforms,
            )
        return self._caches[n]

    @contextmanager
    def progress(self, total: int) -> Iterator[StartResult]:
        """A block with a progress bar for `total` results."""
        with result_progress(total, silent=not self.is_main) as self.start_result:
            yield self.start_result

    def run(self, points: Sequence[GridPoint]) -> list[Result]:
        """The results of the grid's points, in order, computed by all processes; empty except in the main process."""
        cache = self.cache()
        with self.progress(len(points)) as start_result:

            def run(point: GridPoint) -> Result:
                return cache.run(point, start_result(point.text, len(self.x)))

            results, self.cache_hits = distribute(cache, points, run, self.accelerator)
        labelled = [self._labelled(result, point) for result, point in zip(results, points, strict=False)]
        self.results += labelled
        return labelled

    def run_point(self, point: GridPoint, n: int | None = None) -> Result:
        """The result of one point on the first `n` images, within `progress`."""
        cache = self.cache(n)
        result = self._labelled(cache.run(point, self.start_result(point.text, len(cache.x))), point)
        self.cache_hits = sum(cache.cache_hits for cache in self._caches.values())
        self.results.append(result)
        return result

    def _labelled(self, result: Result, point: GridPoint) -> Result:
        """The result under the label of its point, with the name of the target class, where it has one."""
        more = {} if point.label is None else {"attack": point.label}
        if point.y_target is not None and (name := self.data.classes[point.y_target]) != str(point.y_target):
            more["y_target_name"] = name
        return replace(result, row=result.row | more) if more else result

    def summary(self, **parts: Any) -> dict[str, Any]:
        """Environment and classifiers for the JSON file, and its other `parts`."""
        targets = [target.describe(self.dataset) for target in self.targets]
        return {"environment": environment(self.settings), "targets": targets, **parts}

    def write_report(self, report: StudyReport, total: int | None = None) -> None:
        """Write the report and print it."""
        report.write(self.settings.output_dir)
        report.print(self.settings.output_dir, cache_hits=self.cache_hits, total=total)

    @property
    def dataset(self) -> str:
        """The data set, for reports: its name, how its images were resized, and labels that are predictions."""
        return self.data.text(self.settings.dataset, self.targets[0].label)

    @property
    def batch_size(self) -> int:
        """Images per batch of an attack."""
        return attack_batch_size(self.settings.batch_size, self.data.image_shape)

    @property
    def x(self) -> Tensor:
        """Test images (n, c, h, w)."""
        return self._test_images()[0]

    @property
    def y(self) -> Tensor:
        """Their labels (n,)."""
        return self._test_images()[1]

    def _test_images(self) -> tuple[Tensor, Tensor]:
        """Read once for the current `data`: with the labels of the classifiers, once these are loaded."""
        if self._images is None or self._images[0] is not self.data:
            n = self.settings.max_samples if self.subsampled else None
            test = self.data.test if n is None else self.data.test.first(n)
            if self.targets and not test.has_labels:
                label = self.targets[0].label
                note(f"labels are the predictions of {label}: its success rate is the fooling rate")
                test = predicted_labels(test, self.targets[0].model, progress=self.is_main)
            self._images = (self.data, *next(test.batches(len(test))))
        return self._images[1:]


def parse_attacks(
    names: Sequence[str], default: Sequence[str], everything: Sequence[str], *, with_generator: bool, targeted: bool
) -> list[AttackSpec]:
    """The attacks `names`, with spaces or commas between, each once: of the `default` for no names, and of `everything`
    for "all", those that are possible. Raises InputError for one that is unknown, needs a generator, or a target class.
    """
    attack_names = list(dict.fromkeys(" ".join(names).replace(",", " ").split()))
    specs = [parse_attack(name) for name in (everything if attack_names == ["all"] else attack_names or default)]
    if attack_names in ([], ["all"]):
        specs = [spec for spec in specs if spec.name != "advgan" or with_generator]
        specs = [spec for spec in specs if spec.attack.targeted or not targeted]
    for spec in specs:
        if spec.name == "advgan" and not with_generator:
            raise InputError("attack advgan needs a trained generator, expected --generator DIR, got none")
        if targeted and not spec.attack.targeted:
            raise InputError(f"attack {spec.name} has no targeted form, expected no y_target")
    return specs
