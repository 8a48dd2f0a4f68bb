"""Defensive distillation against temperature: the table of Papernot et al. 2016, and the attacks that it does not stop.

python eval/distillation.py --recipe recipes/distillation-small.yaml       three temperatures, minutes
python eval/distillation.py --recipe recipes/distillation.yaml --data-dir data
python eval/distillation.py --runs A B C        finished runs of train/distill.py, one of them of temperature 1

For each temperature a student is distilled (train/distill.py, in OUTPUT_DIR/T-20), as far as that is not done. Then all
are attacked on the same test images: by JSMA toward every wrong class, with the derivative of the softmax in float32 as
in 2016, of the logits, and of the softmax without underflow; by other attacks; and, with --generator-recipe, by one
pass of a generator that train/advgan.py trains on each (OUTPUT_DIR/generator-20). "none" is the teacher of T = 1: a
plain classifier.

All results are verified (advgan/evaluation). Every cell is kept in OUTPUT_DIR/cells as soon as it is done: the same
call goes on where it was stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import advgan.training as training
from advgan.attacks.jsma import Derivative
from advgan.attacks.registry import Spec, parse_attack
from advgan.core.config import Real, parse, write_settings
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Threat, check_eps
from advgan.data.flags import load_chosen
from advgan.defenses import ClassifierSpec
from advgan.defenses.distillation import check_temperature
from advgan.evaluation import Result, ResultCache, environment, predict
from advgan.evaluation.loading import LoadedGenerator, TargetModel, load_generators, load_targets, read_training_json
from advgan.experiments.distillation.analysis import aimed, amplitude, spread
from advgan.experiments.distillation.report import report
from advgan.experiments.settings import StudySettings
from advgan.experiments.trainings import complete
from advgan.report.progress import Begin, cell_progress
from advgan.training.distillation import Settings as Distilling
from advgan.training.program import Settings as Training

GAMMA = 0.143  # of the pixels JSMA may change at most: 112 of 784, the paper's 14.3 %
DERIVATIVES: tuple[Derivative, ...] = ("softmax", "logits", "probabilities")
SHARED = ("dataset", "data_dir", "image_size", "image_column", "label_column", "target", "seed", "threads")


@dataclass(frozen=True)
class Settings(StudySettings):
    """Which students are attacked how, on which images, and where the results go."""

    target: NameOrPath = "mnist-c"
    """Teachers and students"""
    temperatures: tuple[float, ...] = (1, 2, 5, 10, 20, 30, 40, 50, 100)
    """One student for each; 1 must be among them: its teacher is the classifier without a defense"""
    train_recipe: Path | None = None
    """Recipe of train/distill.py, for what is not said here; None: its defaults"""
    runs: tuple[Path, ...] = ()
    """Finished runs of train/distill.py, in place of those of the temperatures"""
    generator_recipe: Path | None = None
    """Recipe of train/advgan.py: a generator is trained on each, and its one pass measured; None: none"""
    attacks: tuple[str, ...] = ("fgsm", "pgd:steps=40", "carlini-wagner")
    """Other attacks, with settings of their own after colons: bounded ones at eps, minimal-norm ones at any distance"""
    eps: Real = 0.3
    """Radius of the linf ball"""
    max_samples: int = 1000
    """The first so many test images are for bounded attacks and for the gradients; the accuracy is of all"""
    few_samples: int = 100
    """The first so many are for minimal-norm attacks, JSMA among them, which aims each at all wrong classes"""
    output_dir: Path = Path("checkpoints/runs/distillation")
    """Where distillation.md, .json, .csv, the figures, the runs and the rest go; earlier reports are replaced"""
    seed: int = 0
    """Of the training and of the random attacks"""


@dataclass(frozen=True)
class Entrant:
    """A line of the table: "none" or a temperature, and where the classifier is."""

    label: str
    temperature: float | None
    weights: Path


@dataclass
class Bench:
    """The images, and the verified results on them, in the order in which they came."""

    eps: float
    seed: int
    many: ResultCache
    few: ResultCache
    begin: Begin
    results: list[Result] = field(default_factory=list)

    def run(
        self, spec: Spec, target: TargetModel, y_target: int | None = None, by: LoadedGenerator | None = None
    ) -> Result:
        """The cell of attack `spec`: at eps on many images, or at any distance on few if it looks for the nearest."""
        cells, eps = (self.few, 1.0) if spec.attack.kind == "minimal-norm" else (self.many, self.eps)
        aim = "" if y_target is None else f", toward {y_target}"
        result = cells.run(
            *(spec, target, Threat("linf", eps, targeted=y_target is not None)),
            y_target=y_target,
            seed=self.seed,
            generator=by.generator if by else None,
            progress=self.begin(f"{spec.label} on {target.label}{aim}", len(cells.x)),
        )
        self.results.append(result)
        return result


def main(settings: Settings) -> None:
    specs = check(settings)
    training.claim(settings.output_dir, "distillation", resume=False, overwrite=True)
    write_settings(settings, settings.output_dir)
    entrants = undistilled_first(settings)
    generators = [generator(settings, entrant) for entrant in entrants]
    device = training.start_alone(settings.seed, settings.threads)
    data = load_chosen(settings)
    found, data = load_targets([ClassifierSpec(settings.target, each.weights) for each in entrants], data, device)
    x, y = next(data.test.batches(len(data.test)))
    targets = [
        target.with_label("no distillation" if each.temperature is None else f"T = {each.label}")
        for target, each in zip(found, entrants, strict=True)
    ]
    for target, by in zip(targets, generators, strict=True):
        if by is not None:
            by.generator.to(device)
            if not by.trained_on(target):
                raise InputError(f"{by.path} was trained on another classifier: choose another --output-dir")

    many, few = (
        ResultCache(
            settings.output_dir / "cells", x[:n], y[:n], batch_size=settings.batch_size, keep=0, fresh=settings.fresh
        )
        for n in (settings.max_samples, settings.few_samples)
    )
    of_jsma, of_generators = data.num_classes * len(DERIVATIVES), len(entrants) * (generators[0] is not None)
    table: list[dict[str, Any]] = []
    with cell_progress(len(entrants) * (of_jsma + len(specs)) + of_generators) as begin:
        bench = Bench(settings.eps, settings.seed, many, few, begin)
        for entrant, target, by in zip(entrants, targets, generators, strict=True):
            accuracy = (predict(target.model, x).argmax(1) == y).double().mean().item()
            first = table[0]["accuracy"] if table else accuracy
            attacks = {spec.label: figures(bench.run(spec, target)) for spec in specs}
            if by is not None:
                attacks["advgan"] = figures(bench.run(parse_attack("advgan"), target, by=by))
            table.append(
                {"label": entrant.label, "temperature": entrant.temperature, "n": len(x), "accuracy": accuracy}
                | {"change": accuracy - first}
                | {"jsma": {d: jsma(bench, target, d, data.num_classes) for d in DERIVATIVES}}
                | {"attacks": attacks, "gradients": spread(amplitude(target.model, many.x))}
            )

    rows = [result.row for result in bench.results]
    described = [target.describe(settings.dataset) for target in targets]
    summary = {
        **{"environment": environment(settings), "target": described[0], "targets": described},
        **{"eps": settings.eps, "gamma": GAMMA, "table": table, "rows": rows},
        "generators": [by.describe(target) for by, target in zip(generators, targets, strict=True) if by],
    }
    study_report = report(summary)
    study_report.write(settings.output_dir)
    study_report.print(settings.output_dir, kept=many.found + few.found)


def check(settings: Settings) -> list[Spec]:
    """The other attacks, if the settings can be. Raises InputError."""
    check_eps(settings.eps, "linf")
    for name in ("batch_size", "max_samples", "few_samples"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(settings, name)}")
    for temperature in settings.temperatures:
        check_temperature(temperature)
    if not settings.runs and 1 not in settings.temperatures:
        said = " ".join(f"{each:g}" for each in settings.temperatures)
        raise InputError(f"expected temperature 1, whose teacher is the classifier without a defense, got {said}")
    specs = [parse_attack(word) for word in settings.attacks]
    if any(spec.name == "advgan" for spec in specs):
        raise InputError("attack advgan comes by itself with --generator-recipe, expected others, got advgan")
    return specs


def undistilled_first(settings: Settings) -> list[Entrant]:
    """The plain classifier, then the students by temperature, each trained as far as that is not done."""
    runs: dict[float, Path] = {}
    for directory in settings.runs or [distilled(settings, each) for each in sorted(set(settings.temperatures))]:
        run = read_training_json(directory / "classifier")
        told = run.get("temperature")
        if told is None or run["accuracies"]["student"].get("test") is None:  # which is measured at the very end
            wanted = "a finished run of train/distill.py, with classifier/training.json"
            raise InputError(f"expected {wanted}, got {directory}")
        if told in runs:
            raise InputError(f"expected one run of each temperature, got {runs[told]} and {directory} of {told:g}")
        runs[told] = directory
    if 1 not in runs:
        raise InputError("expected a run of temperature 1, whose teacher is the classifier without a defense, got none")
    students = [Entrant(f"{told:g}", told, runs[told] / "classifier") for told in sorted(runs)]
    return [Entrant("none", None, runs[1] / "teacher"), *students]


def distilled(settings: Settings, temperature: float) -> Path:
    """The run of one temperature, in a directory of its own."""
    directory = settings.output_dir / f"T-{temperature:g}"
    words = [] if settings.train_recipe is None else ["--recipe", str(settings.train_recipe)]
    words += ["--temperature", f"{temperature:g}", *flags(settings, *SHARED)]
    wanted = parse(Distilling, words)
    complete("train/distill.py", words, directory, wanted, "classifier", phases=2)  # teacher and student
    return directory


def generator(settings: Settings, entrant: Entrant) -> LoadedGenerator | None:
    """The generator that was trained on one classifier, in a directory of its own; None if there shall be none."""
    if settings.generator_recipe is None:
        return None
    directory = settings.output_dir / f"generator-{entrant.label}"
    words = ["--recipe", str(settings.generator_recipe), "--target-weights", str(entrant.weights)]
    words += flags(settings, *SHARED, "eps")
    wanted = parse(Training, words)
    complete("train/advgan.py", words, directory, wanted, "generator")
    return load_generators([directory], 1, [settings.target])[0]


def flags(settings: Settings, *names: str) -> list[str]:
    """These settings as another program takes them."""
    given = {name: getattr(settings, name) for name in names}
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


def jsma(bench: Bench, target: TargetModel, derivative: Derivative, classes: int) -> dict[str, Any]:
    """JSMA with one derivative toward each class in turn, the images of that class left out."""
    spec = parse_attack(f"jsma:gamma={GAMMA}:derivative={derivative}")
    results = [bench.run(spec, target, y_target) for y_target in range(classes)]
    image = bench.few.x[0]
    return aimed(results, image[0].numel(), int(GAMMA * image.numel()))


def figures(result: Result) -> dict[str, Any]:
    """What the table shows of another attack: of a minimal-norm one success at any distance, and the distance."""
    keys = ("protocol", "asr", "asr_low", "asr_high", "l2_median")
    return {"n": result.row["n_attacked"]} | {key: result.row[key] for key in keys}
