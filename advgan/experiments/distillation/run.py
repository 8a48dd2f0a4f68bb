"""Defensive distillation against temperature: the table of Papernot et al. 2016, and the attacks that it does not stop.

python eval/distillation.py --recipe recipes/distillation-small.yaml       three temperatures, minutes
python eval/distillation.py --recipe recipes/distillation.yaml --data-dir data
python eval/distillation.py --runs A B C        finished runs of train/distill.py, one of them of temperature 1

For each temperature a student is distilled (train/distill.py, in OUTPUT_DIR/T-20), as far as that is not done. Then all
are attacked on the same test images: by JSMA toward every wrong class, with the derivative of the softmax in float32 as
in 2016, of the logits, and of the softmax without underflow; by other attacks; and, with --generator-recipe, by one
pass of a generator that train/advgan.py trains on each (OUTPUT_DIR/generator-20). "none" is the teacher of T = 1: a
plain classifier.

Every adversarial example is verified (advgan/evaluation). Results are kept in OUTPUT_DIR/cells: the same command
resumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advgan.attacks.jsma import Derivative
from advgan.attacks.registry import AttackSpec, parse_attack
from advgan.core.config import Real, load_recipe, parse
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Threat, check_eps
from advgan.data.flags import DATA_FLAGS
from advgan.defenses import ClassifierSpec
from advgan.defenses.distillation import check_temperature
from advgan.evaluation import GridPoint, Result, predict
from advgan.evaluation.loading import LoadedGenerator, TargetModel, load_generators, read_training_json
from advgan.experiments.distillation.analysis import all_targets, amplitude, amplitude_statistics
from advgan.experiments.distillation.report import report
from advgan.experiments.study import Study, StudySettings
from advgan.experiments.trainings import ensure_trained, flags_of
from advgan.training.distillation import Settings as Distilling
from advgan.training.program import Settings as Training

GAMMA = 0.143  # of the pixels JSMA may change at most: 112 of 784, the paper's 14.3 %
DERIVATIVES: tuple[Derivative, ...] = ("softmax", "logits", "probabilities")
SHARED_SETTINGS = (*DATA_FLAGS, "target", "seed", "threads")


@dataclass(frozen=True)
class Settings(StudySettings):
    """Students, attacks, images and the directory of the results."""

    target: NameOrPath = "mnist-c"
    """Architecture of teachers and students"""
    temperatures: tuple[float, ...] = (1, 2, 5, 10, 20, 30, 40, 50, 100)
    """One student for each; 1 must be among them: its teacher is the undefended classifier"""
    train_recipe: Path | None = None
    """Recipe of train/distill.py, for all other settings; None: its defaults"""
    runs: tuple[Path, ...] = ()
    """Finished runs of train/distill.py, in place of those of the temperatures"""
    generator_recipe: Path | None = None
    """Recipe of train/advgan.py for a generator on each classifier; None: no generators"""
    attacks: tuple[str, ...] = ("fgsm", "pgd:steps=40", "carlini-wagner")
    """Other attacks, with settings after colons: bounded ones at eps, minimum-norm ones at any distance"""
    eps: Real = 0.3
    """Radius of the linf ball"""
    max_samples: int = 1000
    """Number of test images, the first ones, of bounded attacks and gradients; the accuracy is of all"""
    few_samples: int = 100
    """Number of test images of minimum-norm attacks, JSMA among them, which is targeted at all wrong classes"""
    output_dir: Path = Path("checkpoints/runs/distillation")
    """Directory of distillation.md, .json, .csv, the figures, the runs and the rest; earlier reports are replaced"""
    seed: int = 0
    """Seed of trainings and random attacks"""


@dataclass(frozen=True)
class DistilledModel:
    """A line of the table: "none" or a temperature, and where the classifier is."""

    label: str
    temperature: float | None
    weights: Path


class DistillationStudy(Study):
    """Distilled classifiers and their attacks."""

    settings: Settings
    subsampled = False  # accuracies are of all test images

    def attack(
        self,
        spec: AttackSpec,
        target: TargetModel,
        *,
        y_target: int | None = None,
        trained: LoadedGenerator | None = None,
    ) -> Result:
        """The result of an attack: at eps on max_samples images, a minimum-norm one at any distance on few_samples."""
        nearest = spec.attack.kind == "minimal-norm"
        n, eps = (self.settings.few_samples, 1.0) if nearest else (self.settings.max_samples, self.settings.eps)
        threat = Threat("linf", eps, targeted=y_target is not None)
        return self.run_point(GridPoint(spec, target, threat, y_target, self.seed, generator=trained), n)

    def jsma(self, target: TargetModel, derivative: Derivative) -> dict[str, Any]:
        """JSMA with one derivative toward each class in turn, the images of that class left out."""
        spec = parse_attack(f"jsma:gamma={GAMMA}:derivative={derivative}")
        results = [self.attack(spec, target, y_target=y_target) for y_target in range(self.data.num_classes)]
        image = self.x[0]
        return all_targets(results, image[0].numel(), int(GAMMA * image.numel()))


def main(settings: Settings) -> None:
    study = DistillationStudy("distillation", settings)
    specs = check(settings)
    study.prepare_output_dir()
    lines = distilled_models(settings)
    generators = [train_generator(settings, line) for line in lines]
    classifiers = [ClassifierSpec(settings.target, line.weights) for line in lines]
    study.init_run(settings.seed, classifiers[0])
    loaded = study.load_targets(classifiers)
    labels = ["no distillation" if line.temperature is None else f"T = {line.label}" for line in lines]
    targets = [target.with_label(label) for target, label in zip(loaded, labels, strict=True)]
    study.targets = targets
    for target, trained in zip(targets, generators, strict=True):
        if trained is not None:
            trained.generator.to(study.accelerator.device)
            if not trained.trained_on(target):
                raise InputError(f"{trained.path} was trained on another classifier: choose another --output-dir")
    per_model = study.data.num_classes * len(DERIVATIVES) + len(specs) + (generators[0] is not None)
    table: list[dict[str, Any]] = []
    with study.progress(len(lines) * per_model):
        for line, target, trained in zip(lines, targets, generators, strict=True):
            table.append(table_row(study, line, target, specs, trained))
            table[-1]["change"] = table[-1]["accuracy"] - table[0]["accuracy"]
    summary = study.summary(
        target=targets[0].describe(study.dataset),
        eps=settings.eps,
        gamma=GAMMA,
        table=table,
        rows=[result.row for result in study.results],
        generators=[trained.describe(target) for trained, target in zip(generators, targets, strict=True) if trained],
    )
    study.write_report(report(summary))


def table_row(
    study: DistillationStudy,
    line: DistilledModel,
    target: TargetModel,
    specs: Sequence[AttackSpec],
    trained: LoadedGenerator | None,
) -> dict[str, Any]:
    """Accuracy on all test images, success of the attacks, and the gradients of the softmax."""
    model = target.model
    attacks = {spec.label: attack_metrics(study.attack(spec, target)) for spec in specs}
    if trained is not None:
        attacks["advgan"] = attack_metrics(study.attack(parse_attack("advgan"), target, trained=trained))
    return {
        "label": line.label,
        "temperature": line.temperature,
        "n": len(study.x),
        "accuracy": (predict(model, study.x).argmax(1) == study.y).double().mean().item(),
        "change": 0.0,
        "jsma": {derivative: study.jsma(target, derivative) for derivative in DERIVATIVES},
        "attacks": attacks,
        "gradients": amplitude_statistics(amplitude(model, study.x[: study.settings.max_samples])),
    }


def check(settings: Settings) -> list[AttackSpec]:
    """The other attacks. Raises InputError for settings that do not fit."""
    check_eps(settings.eps, "linf")
    for name in ("max_samples", "few_samples"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(settings, name)}")
    for temperature in settings.temperatures:
        check_temperature(temperature)
    if not settings.runs and 1 not in settings.temperatures:
        given = " ".join(f"{temperature:g}" for temperature in settings.temperatures)
        raise InputError(f"expected temperature 1, whose teacher is the undefended classifier, got {given}")
    if settings.generator_recipe is not None:
        load_recipe(Training, settings.generator_recipe)  # read again after the first trainings
    specs = [parse_attack(name) for name in settings.attacks]
    if any(spec.name == "advgan" for spec in specs):
        raise InputError("attack advgan comes by itself with --generator-recipe, expected others, got advgan")
    return specs


def distilled_models(settings: Settings) -> list[DistilledModel]:
    """The plain classifier, then the students by temperature, each trained as far as that is not done."""
    runs: dict[float, Path] = {}
    for directory in settings.runs or [
        distilled(settings, temperature) for temperature in sorted(set(settings.temperatures))
    ]:
        run = read_training_json(directory / "classifier")
        temperature = run.get("temperature")
        if temperature is None or run["accuracies"]["student"].get("test") is None:  # which is measured at the very end
            expected = "a finished run of train/distill.py, with classifier/training.json"
            raise InputError(f"expected {expected}, got {directory}")
        if temperature in runs:
            duplicates = f"{runs[temperature]} and {directory} of {temperature:g}"
            raise InputError(f"expected one run of each temperature, got {duplicates}")
        runs[temperature] = directory
    if 1 not in runs:
        raise InputError("expected a run of temperature 1, whose teacher is the undefended classifier, got none")
    students = [DistilledModel(f"{t:g}", t, runs[t] / "classifier") for t in sorted(runs)]
    return [DistilledModel("none", None, runs[1] / "teacher"), *students]


def distilled(settings: Settings, temperature: float) -> Path:
    """The run of one temperature, in a directory of its own."""
    directory = settings.output_dir / f"T-{temperature:g}"
    arguments = [] if settings.train_recipe is None else ["--recipe", str(settings.train_recipe)]
    arguments += ["--temperature", f"{temperature:g}", *flags_of(settings, SHARED_SETTINGS)]
    train_settings = parse(Distilling, arguments)
    ensure_trained("train/distill.py", arguments, directory, train_settings, "classifier")
    return directory


def train_generator(settings: Settings, line: DistilledModel) -> LoadedGenerator | None:
    """The generator of one classifier, trained in a directory of its own; None without a recipe."""
    if settings.generator_recipe is None:
        return None
    directory = settings.output_dir / f"generator-{line.label}"
    arguments = ["--recipe", str(settings.generator_recipe), "--target-weights", str(line.weights)]
    arguments += flags_of(settings, (*SHARED_SETTINGS, "eps"))
    train_settings = parse(Training, arguments)
    ensure_trained("train/advgan.py", arguments, directory, train_settings, "generator")
    return load_generators([directory], [settings.target])[0]


def attack_metrics(result: Result) -> dict[str, Any]:
    """Metrics of another attack for the table: of a minimum-norm one success at any distance, and the distance."""
    keys = ("protocol", "asr", "asr_low", "asr_high", "l2_median")
    return {"n": result.row["n_attacked"]} | {key: result.row[key] for key in keys}
