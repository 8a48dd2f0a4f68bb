"""Success against time, and the amortisation gap: generators and baseline attacks at every time budget.

python eval/frontier.py --target-weights RUN --generator RUN --eps 0.1 0.2 0.3
python eval/frontier.py --recipe recipes/frontier-mnist.yaml --data-dir data

Four measurements, on the same correctly classified test images:

The frontier: success of each baseline and of one pass of each generator against its time in units of FGSM, and the
time budgets at which a generator is at or above every baseline that fits.

The amortisation gap: one pass, FGSM, I-FGSM and PGD-40 (the union of four runs), at each eps.

The warm start: a pass and a few gradient steps from there, beside PGD and APGD with as many steps.

Class-conditional generators: targeted success. Generators with noise: the diversity of the draws for one image.

Every adversarial example is verified (advgan/evaluation). Results are kept in OUTPUT_DIR/cells: the same command
resumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advgan.attacks.advgan import advgan as advgan_attack
from advgan.attacks.advgan import default_step_size
from advgan.attacks.noise import noise_sign
from advgan.attacks.registry import parse_attack
from advgan.core.errors import InputError, note
from advgan.core.fraction import eps_text
from advgan.core.threat_model import Norm, Threat
from advgan.defenses.flags import ClassifierSettings
from advgan.evaluation import GridPoint, Result, evaluate
from advgan.evaluation.compatibility import require_gradients
from advgan.evaluation.loading import LoadedGenerator, TargetModel, parse_eps_values
from advgan.experiments.frontier.analysis import (
    DRAWS,
    METHODS,
    any_attack_success,
    compare_success,
    diversity,
    evals_to_fraction,
    finding,
)
from advgan.experiments.frontier.frontier import BASELINE_ATTACKS, baselines_for, measure_frontier, variants
from advgan.experiments.frontier.report import report
from advgan.experiments.study import SeededStudySettings, Study
from advgan.experiments.trainings import parse_commands

PARTS = ("frontiers", "table", "curves", "reach", "findings", "targeted", "diversity")  # of frontier.json
RATE = ("n", "asr", "asr_low", "asr_high")
LOSSES = ("cross-entropy", "margin")
STOP = "stop_on_success=true"  # the logits come with each gradient, so the first success is kept


@dataclass(frozen=True)
class Settings(ClassifierSettings, SeededStudySettings):
    """Generators, classifier, images and the directory of the results."""

    generator: tuple[Path, ...] = ()
    """Folders of trained generators, or their runs; each takes part at every eps up to its own"""
    eps: tuple[str, ...] = ("0.1", "0.15", "0.2", "0.3")
    """Radii, like 0.1, 8/255, or 0.1:0.3:0.05 for 0.1 to 0.3 by 0.05"""
    norm: Norm | None = None
    """Norm of the balls; None: the first generator's"""
    steps: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 40)
    """Gradient evaluations of the curves: warm start, PGD and APGD"""
    curve_samples: int = 1000
    """Number of images of the curves, the first ones; 0: no curves"""
    targeted: bool = False
    """Targeted attacks by class-conditional generators, at each class in turn"""
    targeted_samples: int = 200
    """Number of images of targeted PGD-40, the first ones"""
    diversity_samples: int = 500
    """Number of images of generators with noise and several draws, the first ones"""
    baselines: tuple[str, ...] = BASELINE_ATTACKS
    """Attacks whose time and success the generators are compared with, with settings after colons; the default ones
    are without loss dlr for a classifier of two classes"""
    repeats: int = 5
    """Rounds of timing; each runs FGSM right before each attack"""
    prepare: tuple[str, ...] = ()
    """Trainings run first, unless they are finished: commands like "train/advgan.py --eps 0.1 --output-dir RUN" """
    output_dir: Path = Path("checkpoints/runs/frontier")
    """Directory of frontier.md, frontier.json, the figures and the rest; earlier ones are replaced"""


class FrontierStudy(Study):
    """One classifier and its attacks, whose points depend on results of earlier ones."""

    def __init__(self, name: str, settings: Settings) -> None:
        super().__init__(name, settings)
        self.measured: dict[tuple[Any, ...], Result] = {}

    @property
    def target(self) -> TargetModel:
        return self.targets[0]

    def attack(
        self,
        name: str,
        threat: Threat,
        trained: LoadedGenerator | None = None,
        *,
        y_target: int | None = None,
        n: int | None = None,
    ) -> Result:
        """The result of attack `name` on the first `n` images (None: all), computed once."""
        key = (name, threat, trained, y_target, n)
        if key not in self.measured:
            self.measured[key] = self.run_point(self.point(name, threat, trained, y_target), n)
        return self.measured[key]

    def point(
        self, name: str, threat: Threat, trained: LoadedGenerator | None, y_target: int | None = None
    ) -> GridPoint:
        """Attack `name` on the target."""
        shown = name.replace(f":{STOP}", "") + (f" of {trained.name}" if trained else "")
        return GridPoint(parse_attack(name), self.target, threat, y_target, self.seed, trained, shown=shown)


def main(settings: Settings) -> None:
    study, classifier = FrontierStudy("frontier", settings), settings.classifier
    check(settings)
    study.run_trainings(parse_commands(settings.prepare))
    trained = study.load_generators(settings.generator, [settings.target], one_target=True)
    norm: Norm = settings.norm or trained[0].generator.threat.norm
    threats = [Threat(norm, eps) for eps in parse_eps_values(settings.eps, norm) if eps]
    if not threats:
        raise InputError("expected an eps above 0, got none")
    study.check_generator_threats(threats[:1])
    study.init_run(settings.seed, classifier)
    note_unused(settings, trained)
    (target,) = study.load_targets([classifier])
    require_gradients(target.model)
    study.check_generators()
    study.prepare_output_dir()
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    with study.progress(sum(count_results(settings, trained, threat, study.data.num_classes) for threat in threats)):
        for threat in threats:
            for part, rows in measure(study, settings, threat).items():
                parts[part] += rows
    described = target.describe(study.dataset)
    generators = [
        {"name": loaded.name, "guided": loaded.generator.guide is not None, "iterations": loaded.generator.iterations}
        | loaded.describe(target)
        for loaded in trained
    ]
    rows = [result.row for result in study.results]
    study.write_report(report(study.summary(target=described, generators=generators, **parts, rows=rows)))


def measure(study: FrontierStudy, settings: Settings, threat: Threat) -> dict[str, list[dict[str, Any]]]:
    """The `PARTS` of frontier.json at one eps."""
    supported = [loaded for loaded in study.generators if loaded.generator.supports(threat)]
    references = [study.attack(name, threat) for name in pgd40_references(threat.eps)]
    one_pass_results = {loaded: study.attack("advgan", threat, loaded) for loaded in supported}
    parts: dict[str, list[dict[str, Any]]] = {"table": one_pass_table(study, threat, references, one_pass_results)}
    parts["frontiers"] = [frontier_at(study, settings, threat, supported)]
    if n := settings.curve_samples:
        points = warm_start(study, threat, references, one_pass_results, n=min(n, len(study.x)), steps=settings.steps)
        rows = evaluations_needed(points, any_attack_success(references, n))
        measured = [name for name in METHODS if any(point["family"] == name for point in points)]
        findings = [{"eps": threat.eps, "family": name, "finding": finding(rows, name)} for name in measured]
        parts |= {"curves": points, "reach": rows, "findings": findings}
    targeted = [loaded for loaded in supported if settings.targeted and loaded.generator.classes]
    stochastic = [loaded for loaded in supported if loaded.generator.noise]
    parts["targeted"] = [
        row for loaded in targeted for row in targeted_table(study, threat, loaded, settings.targeted_samples)
    ]
    parts["diversity"] = [diversity_row(study, threat, loaded, settings.diversity_samples) for loaded in stochastic]
    return parts


def frontier_at(
    study: FrontierStudy, settings: Settings, threat: Threat, supported: Sequence[LoadedGenerator]
) -> dict[str, Any]:
    """Success and time of baselines and generators at one eps."""
    points: dict[str, tuple[str, LoadedGenerator | None]] = {
        name: (name, None) for name in baselines_for(settings.baselines, study.data.num_classes)
    }
    ours = {name: point for loaded in supported for name, point in entries_of(loaded).items()}
    points |= ours
    results = {label: study.attack(name, threat, loaded) for label, (name, loaded) in points.items()}
    rows = [result.row | {"attack": label} for label, result in results.items()]
    model, device = study.target.model, study.accelerator.device
    attacks = {
        label: study.point(name, threat, loaded).attack(model)
        for label, (name, loaded) in points.items()
        if results[label].row["status"] == "ok"
    }
    return measure_frontier(
        *(rows, attacks, model, study.x.to(device), study.y.to(device)),
        threat=threat,
        ours=ours,
        batch_size=study.batch_size,
        repeats=settings.repeats,
        start_result=study.start_result,
    )


def entries_of(loaded: LoadedGenerator) -> dict[str, tuple[str, LoadedGenerator | None]]:
    """The names of a generator in the frontier -> attack and generator."""
    return {
        name: (":".join(["advgan", *(f"{key}={str(value).lower()}" for key, value in settings.items())]), loaded)
        for name, settings in variants(loaded.name, loaded.generator).items()
    }


def check(settings: Settings) -> None:
    """Raise InputError for settings that do not fit."""
    for name in settings.baselines:
        if parse_attack(name).attack.kind != "bounded":
            raise InputError(f"expected baselines that stay in the ball of eps, got {name}")
    for name in ("targeted_samples", "diversity_samples", "repeats"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(settings, name)}")
    if settings.curve_samples < 0:
        raise InputError(f"curve_samples must be 0 or more, got {settings.curve_samples}")
    if settings.curve_samples and (not settings.steps or min(settings.steps) < 1):
        raise InputError(f"steps must be numbers from 1 on, got {' '.join(map(str, settings.steps)) or 'none'}")
    if not settings.generator:
        raise InputError("expected --generator, at least one trained generator's folder, got none")


def note_unused(settings: Settings, trained: Sequence[LoadedGenerator]) -> None:
    """A note for each setting that was chosen and has no effect beside the others, or for these generators."""
    conditional = any(loaded.generator.classes for loaded in trained)
    for name, needed, met in (
        ("steps", "curve_samples above 0", settings.curve_samples > 0),
        ("targeted", "a generator that is conditional on the class", conditional),
        ("targeted_samples", "targeted", settings.targeted),
        ("diversity_samples", "a generator with noise", any(loaded.generator.noise for loaded in trained)),
    ):
        if not met and (value := getattr(settings, name)) != getattr(Settings, name):
            note(f"{name} does nothing without {needed}, got {value}")


def count_results(settings: Settings, trained: Sequence[LoadedGenerator], threat: Threat, classes: int) -> int:
    """Number of results at one eps, for the progress bar."""
    supported = [loaded for loaded in trained if loaded.generator.supports(threat)]
    results = 3 + len(pgd40_references(threat.eps)) + len(supported)  # with the measurement of times
    counted = {"fgsm", "ifgsm"}  # already, as is one pass
    results += len({*baselines_for(settings.baselines, classes)} - counted)
    results += sum(name != "advgan" for loaded in supported for name, _ in entries_of(loaded).values())
    if settings.curve_samples:
        grids = [attack_grid(k, threat, classes) for k in set(settings.steps)]
        results += sum(
            len(names) for grid in grids for family, names in grid.items() if supported or family != "warm start"
        )
        results += len(grids) if any(loaded.generator.iterations for loaded in supported) else 0
    for loaded in supported:
        results += (
            len(loaded.generator.target_classes) * (1 + len(pgd40_references(threat.eps))) if settings.targeted else 0
        )
        results += DRAWS[-1] if loaded.generator.noise else 0
    return results


def pgd40_references(eps: float) -> list[str]:
    """The reference, PGD-40: from x and from random, on either loss; an image counts where any of the four fools it."""
    step = f"pgd:steps=40:step_size={eps / 10:.6g}"
    return [f"{step}:start={start}:loss={loss}:{STOP}" for start in ("x", "random") for loss in LOSSES]


def attack_grid(k: int, threat: Threat, classes: int) -> dict[str, list[str]]:
    """Attacks of so many classes with `k` gradient evaluations: some choices for each curve, which shows the best.

    The step size is PGD's, 2.5 eps / k, or that of the warm start, which PGD takes too where its own is smaller.
    """
    step_sizes = 2.5 * threat.eps / k, default_step_size(threat.eps, threat.norm, k)
    pgd_size, warm_size = (f":step_size={size:.6g}" for size in step_sizes)  # may be the same
    sizes = [size for size in ("", pgd_size) if size != warm_size]
    starts = [f"{size}:start={start}" for size in (["", warm_size] if k > 10 else [""]) for start in ("x", "random")]
    return {
        "warm start": [f"advgan:steps={k}{size}:loss={loss}:{STOP}" for size in sizes for loss in LOSSES],
        "PGD": [f"pgd:steps={k}{start}:loss={loss}:{STOP}" for start in starts for loss in LOSSES],
        "APGD": [  # it stops at success by itself
            f"{name}:steps={k}" for name in ("apgd-ce", "apgd-dlr") if parse_attack(name).least_classes <= classes
        ],
    }


def one_pass_table(
    study: FrontierStudy, threat: Threat, references: Sequence[Result], passes: Mapping[LoadedGenerator, Result]
) -> list[dict[str, Any]]:
    """Lines of the table: one pass of each generator and the baselines, compared with the union of the references."""
    reference = any_attack_success(references)
    measured = [
        ("FGSM", 1, [study.attack("fgsm", threat)]),
        ("I-FGSM-10", 10, [study.attack("ifgsm", threat)]),
        ("PGD-40", 40 * len(references), references),
        *((trained.name, trained.generator.iterations, [result]) for trained, result in passes.items()),
    ]
    return [
        {"eps": threat.eps, "norm": threat.norm, "attack": name, "gradients": gradients}
        | compare_success(any_attack_success(results), reference)
        for name, gradients, results in measured
    ]


def curve_point(threat: Threat, family: str, evaluations: int, choices: Mapping[str, Tensor | None]) -> dict[str, Any]:
    """A point of a curve: the best of the `choices`, name -> success per image."""
    rates = {name: compare_success(success) for name, success in choices.items()}
    best = max(rates, key=lambda name: rates[name]["asr"] or 0.0)
    row = {"eps": threat.eps, "norm": threat.norm, "family": family, "evaluations": evaluations, "choice": best}
    return row | {key: rates[best][key] for key in RATE} | {"choices": {name: rates[name]["asr"] for name in rates}}


def warm_start(
    study: FrontierStudy,
    threat: Threat,
    references: Sequence[Result],
    passes: Mapping[LoadedGenerator, Result],
    *,
    n: int,
    steps: Sequence[int],
) -> list[dict[str, Any]]:
    """Points of the curves: success against gradients, from the best generator's pass, by PGD and by APGD; and of the
    best unrolled network's pass against its iterations."""
    measured = {
        trained: success
        for trained, result in passes.items()
        if (success := any_attack_success([result], n)) is not None
    }
    ranked = sorted(measured, key=lambda trained: int(measured[trained].sum()), reverse=True)
    start = ranked[0] if ranked else None
    unrolled = next((trained for trained in ranked if trained.generator.iterations), None)
    points = []
    if start is not None:
        points.append(curve_point(threat, "warm start", start.generator.iterations, {start.name: measured[start]}))
    if (reference := any_attack_success(references, n)) is not None:
        clean = {"no attack": torch.zeros_like(reference)}
        points += [curve_point(threat, family, 0, clean) for family in ("PGD", "APGD")]
    for k in sorted(set(steps)):
        for family, names in attack_grid(k, threat, study.data.num_classes).items():
            trained = start if family == "warm start" else None
            if trained is not None or family != "warm start":
                cost = k + (trained.generator.iterations if trained else 0)
                choices = {name: any_attack_success([study.attack(name, threat, trained, n=n)]) for name in names}
                points.append(curve_point(threat, family, cost, choices))
        if unrolled is not None:
            name = f"advgan:iterations={k}"
            success = any_attack_success([study.attack(name, threat, unrolled, n=n)])
            points.append(curve_point(threat, "unrolled", k, {name: success}))
    return points


def evaluations_needed(points: Sequence[Mapping[str, Any]], reference: Tensor | None) -> list[dict[str, Any]]:
    """Gradient evaluations to a fraction of the reference's success, by the curves through `points` at one eps."""
    curves: dict[str, dict[int, float]] = {}
    for point in points:
        if point["asr"] is not None:
            curves.setdefault(point["family"], {})[point["evaluations"]] = point["asr"]
    rows = evals_to_fraction(curves, compare_success(reference)["asr"] or 0.0)
    return [{"eps": points[0]["eps"], "norm": points[0]["norm"], **row} for row in rows]


def targeted_table(study: FrontierStudy, threat: Threat, trained: LoadedGenerator, n: int) -> list[dict[str, Any]]:
    """One line per target class: one pass on all images of other classes, and targeted PGD-40 on the first `n`."""
    threat, rows = Threat(threat.norm, threat.eps, targeted=True), []
    for y_target in trained.generator.target_classes:
        one_pass = study.attack("advgan", threat, trained, y_target=y_target)
        names = pgd40_references(threat.eps)
        reference = any_attack_success([study.attack(name, threat, y_target=y_target, n=n) for name in names])
        all_images, first_images = (
            compare_success(any_attack_success([one_pass])),
            compare_success(any_attack_success([one_pass], n), reference),
        )
        rows.append(
            {"eps": threat.eps, "norm": threat.norm, "attack": trained.name, "y_target": y_target}
            | {key: all_images[key] for key in RATE}
            | {"few_n": first_images["n"], "few_asr": first_images["asr"], "few_pgd": compare_success(reference)["asr"]}
            | {key: first_images[key] for key in ("ratio", "ratio_low", "ratio_high")}
        )
    return rows


def diversity_row(study: FrontierStudy, threat: Threat, trained: LoadedGenerator, n: int) -> dict[str, Any]:
    """The success of several draws of z for each of the first `n` images, together. A draw costs one pass: it is not
    cached."""
    rng, target = torch.Generator().manual_seed(study.seed), study.target
    x, y = study.x[:n], study.y[:n]

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return advgan_attack(None, x, y, eps=threat.eps, norm=threat.norm, generator=trained.generator, rng=rng)

    results = []
    for i in range(DRAWS[-1]):
        text = f"draw {i + 1} of {trained.name}, eps {eps_text(threat.eps)}"
        results.append(
            evaluate(
                *(attack, target.model, x, y, threat),
                name=f"{trained.name}, draw {i + 1}",
                target_name=target.label,
                access="generator" if trained.trained_on(target) else "transfer",
                seed=study.seed,
                batch_size=study.batch_size,
                keep=len(x),
                progress=study.start_result(text, len(x)),
            )
        )
    study.results += results
    row = {"eps": threat.eps, "norm": threat.norm, "attack": trained.name}
    if not all(result.records for result in results):
        return row
    eligible = results[0].records["counts"]
    success, prediction = (
        torch.stack([result.records[name][eligible] for result in results]) for name in ("success", "prediction")
    )
    noise = torch.stack([noise_sign(None, x, y, eps=threat.eps, norm=threat.norm, rng=rng) for _ in range(2)])
    x_adv = torch.stack([result.x_adv[eligible] for result in results])
    return row | diversity(x_adv, success, prediction, noise[:, eligible])
