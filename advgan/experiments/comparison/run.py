"""Compare generators with noise and the baseline attacks, on the same test images of the same targets.

    advgan compare --target-weights checkpoints/runs/demo --generator checkpoints/runs/demo
    advgan compare --dataset mnist --target mnist-c mnist-b --target-weights RUN RUN2 --eps 0.1 0.2 l2:2
    advgan compare --target-weights RUN --attacks fgsm pgd:steps=100:loss=dlr apgd-ce --sanity

Every adversarial example is verified; an attack that violates the threat model or raises is reported as failed. Results
are kept in OUTPUT_DIR/cells: the same command resumes. Several processes
(`torchrun --nproc-per-node 2 -m advgan compare ...`) share the attacks, with the same results.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import advgan.training as training
from advgan.analysis import summary
from advgan.attacks import ATTACKS, AttackSpec, parse_attack
from advgan.core.errors import InputError, note
from advgan.core.recipe import NameOrPath
from advgan.core.shipped import CLASSIFIERS
from advgan.core.threat_model import Norm, Threat
from advgan.defenses import ClassifierSpec, parse_classifier, parse_classifiers
from advgan.defenses.transforms import survive_transforms
from advgan.evaluation import GridPoint
from advgan.evaluation.compatibility import is_black_box
from advgan.evaluation.loading import LoadedGenerator, TargetModel, parse_threat_models, resolve_target_class
from advgan.experiments.comparison.compare import CompareResults
from advgan.experiments.study import ClassifiersSettings, Study, StudySettings, parse_attacks
from advgan.report.comparison import Comparison

BASIC = ("noise-uniform", "noise-sign", "fgsm", "ifgsm", "ifgsm-projected", "deepfool", "advgan", "advgan:steps=2")
SANITY = ("noise-sign", "fgsm", "pgd:steps=40", "pgd:steps=80", "square:queries=300")  # what the checks compare
SHOWN = 16  # images in a gallery
PROGRAM = "compare"  # as in settings-compare.yaml


@dataclass(frozen=True)
class Settings(ClassifiersSettings, StudySettings):
    """Classifiers, attacks, images and the directory of the results."""

    defense: tuple[NameOrPath, ...] = ()
    """Defenses around the targets, e.g. bit-depth:bits=3, several joined by +, or none: one for each target, one for
    all, or several of a single target, each of them attacked"""
    generator: tuple[Path, ...] = ()
    """Folders of trained generators, or their runs: one for each target, one for all, or several for a single target;
    (): none"""
    surrogate: NameOrPath | None = None
    """Another classifier, whose MI-FGSM images are tried on the targets too (transfer), in a row of their own"""
    surrogate_weights: Path | None = None
    """Weights of the surrogate, if it needs any"""
    attacks: tuple[str, ...] = ()
    """Names with settings after colons, like fgsm pgd:steps=100:loss=dlr (see the attacks table of the README), or all;
    by default noise, the plain baselines and advgan. Of another library: foolbox:LinfPGD:steps=40,
    torchattacks:AutoAttack, art:DeepFool"""
    sanity: bool = False
    """Additional attacks for the sanity checks: noise, FGSM, PGD with 40 and 80 steps and at eps 0.5, Square"""
    eps: tuple[str, ...] = ()
    """Radii of the balls, like 0.3 or 8/255, in each of the norms, or in one: l2:2; (): the generator's, otherwise
    0.3"""
    norm: tuple[Norm, ...] = ()
    """Norms of the balls; (): the generator's, otherwise linf"""
    y_target: int | str | None = None
    """Target class, a number or a name; images of that class are left out. None: the generator's, if it has one"""
    survive: tuple[str, ...] = ()
    """Transforms of the written images, after which success is reported too: png, jpeg:75, resize-crop (256 and 224
    pixels), resize, crop, or a preprocessing defense; all: png, jpeg:90, jpeg:75 and, from 64 pixels on, resize-crop"""
    output_dir: Path = Path("checkpoints/runs/compare")
    """Directory of report.html, report.md, results.json and the rest; earlier ones are replaced"""
    seeds: tuple[int, ...] = (0,)
    """Seeds of random attacks, each of which is run once for each seed"""


# An attack of every classifier, its seed, and the classifier on which its images are made (None: that one).
PlannedAttack = tuple[AttackSpec, Threat, int, TargetModel | None]


def main(settings: Settings) -> None:
    check(settings)
    study, classifiers = Study("comparison", settings), parse_targets(settings)
    generators = load_by_target(study, settings, len(classifiers))
    first = study.generators[0].generator if study.generators else None
    chosen = resolve_target_class(settings.y_target, first)
    all_names, targeted = (*ATTACKS, "advgan:steps=2"), chosen is not None
    specs = parse_attacks(settings.attacks, BASIC, all_names, with_generator=first is not None, targeted=targeted)
    if settings.generator and all(spec.name != "advgan" for spec in specs):
        note("--attacks are without advgan: the generator's pass is not measured")
    threats = parse_threat_models(settings.eps, settings.norm, first, targeted=targeted)
    checks = [parse_attack(name) for name in SANITY] if settings.sanity else []
    survive_transforms(settings.survive, 1)  # unknown ones are errors before anything is loaded
    study.init_run(settings.seeds[0], classifiers[0], distributed=True)
    study.transforms = survive_transforms(settings.survive, min(study.data.image_shape[1:]))
    targets = study.load_targets(classifiers)
    y_target = study.class_number(chosen)
    if not settings.attacks and any(is_black_box(target.model) for target in targets):
        specs = [spec for spec in specs if spec.access != "gradients"]
    surrogate = None
    if settings.surrogate:
        surrogate = study.load_surrogate(settings.surrogate, settings.surrogate_weights, "targets")
        weights = settings.surrogate_weights
        surrogate = surrogate.with_label(f"surrogate {weights.name if weights else settings.surrogate}")
    study.check_attacks([*specs, *checks], threats, y_target)
    if any(spec.name == "advgan" for spec in specs):
        study.check_generator_threats(threats, y_target)
    study.prepare_output_dir(keep=SHOWN)
    attacks = plan(settings, specs, checks, threats, surrogate)
    points = [
        point
        for target, trained in zip(targets, generators, strict=True)
        for spec, threat, seed, source in attacks
        for point in by_generator(GridPoint(spec, target, threat, y_target, seed, source=source), trained)
    ]
    results = study.run(points)
    if study.is_main:
        several = any(len(target_generators) > 1 for target_generators in generators)
        descriptions = [
            trained.describe(target) | ({"attack": f"advgan ({trained.name})"} if several else {})
            for target, target_generators in zip(targets, generators, strict=True)
            for trained in target_generators
        ]
        parts = summary(results, descriptions, study.data.num_classes)
        comparison = study.summary(target=targets[0].describe(study.dataset), generators=descriptions, **parts)
        images = study.x[:SHOWN], study.y[:SHOWN]
        compare_results = CompareResults(Comparison(comparison, results, *images, study.data.classes))
        compare_results.save(settings.output_dir)
        compare_results.print(settings.output_dir, cache_hits=study.cache_hits, checks=settings.sanity)
    training.shutdown(study.accelerator)


def parse_targets(settings: Settings) -> list[ClassifierSpec]:
    """The classifiers: one for each target, or one for each defense of a single target."""
    names, weights = settings.target, settings.target_weights
    if len(names) == 1 and len(settings.defense) > 1:
        names, weights = names * len(settings.defense), weights * len(settings.defense)
    return parse_classifiers(names, weights, settings.defense, default=CLASSIFIERS)


def load_by_target(study: Study, settings: Settings, targets: int) -> list[list[LoadedGenerator]]:
    """The generators of each of the classifiers: all of them for a single target (and each of its defenses); otherwise
    one for each, or one for all. Raises InputError for another number, and for several with the same name."""
    paths, n = settings.generator, len(settings.target)
    if n > 1 and len(paths) not in (0, 1, n):
        raise InputError(f"expected one generator, or one for each of {n} targets, got {len(paths)}")
    loaded = study.load_generators(paths, settings.target, one_target=n == 1)
    return [[trained] for trained in loaded] if n > 1 and len(loaded) > 1 else [loaded] * targets


def by_generator(point: GridPoint, generators: Sequence[LoadedGenerator]) -> list[GridPoint]:
    """An attack on one classifier: attack advgan by each generator that was made for the threat."""
    if point.spec.name != "advgan":
        return [point]
    return [
        replace(point, generator=trained, label=f"{point.spec.label} ({trained.name})" if generators[1:] else None)
        for trained in generators
        if trained.generator.supports(point.threat, point.y_target)
    ]


def check(settings: Settings) -> None:
    """Raise InputError for settings that do not fit."""
    if not settings.seeds or not all(0 <= seed < 2**32 for seed in settings.seeds):
        raise InputError(f"seeds must be one or more from 0 to {2**32 - 1}, got {settings.seeds}")
    name = settings.surrogate
    lacks_weights = name is not None and parse_classifier(name, settings.surrogate_weights).needs_weights
    if lacks_weights or (settings.surrogate_weights and not name):
        raise InputError(
            f"a surrogate needs a name and weights, got {settings.surrogate} and {settings.surrogate_weights}"
        )


def plan(
    settings: Settings,
    specs: Sequence[AttackSpec],
    checks: Sequence[AttackSpec],
    threats: Sequence[Threat],
    surrogate: TargetModel | None,
) -> list[PlannedAttack]:
    """The attacks of each classifier.

    An attack made for one norm is run under each ball: its images count there if they happen to lie in it.
    """
    planned: list[PlannedAttack] = []
    labels = list(dict.fromkeys([spec.label for spec in (*specs, *checks)]))
    for threat in threats:
        for spec in map(parse_attack, labels):
            seeds = list(dict.fromkeys(settings.seeds)) if spec.attack.random else settings.seeds[:1]
            planned += [(spec, threat, seed, None) for seed in seeds]
        if surrogate is not None:
            planned.append((parse_attack("mifgsm"), threat, settings.seeds[0], surrogate))
    if checks and (large_ball := Threat("linf", 0.5, threats[0].targeted)) not in threats:
        planned.append((parse_attack("pgd:steps=40"), large_ball, settings.seeds[0], None))
    return planned
