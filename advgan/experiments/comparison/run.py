"""Compare a generator with noise and the classic attacks, on the same test images of the same targets.

    advgan compare --target-weights checkpoints/runs/demo --generator checkpoints/runs/demo
    advgan compare --dataset mnist --target mnist-c mnist-b --target-weights RUN RUN2 --eps 0.1 0.2 l2:2
    advgan compare --target-weights RUN --attacks fgsm pgd:steps=100:loss=dlr apgd-ce --sanity

All results are verified (advgan/evaluation): an attack that leaves the ball, or crashes, has no figures. Every cell
(attack x target x eps) is kept in OUTPUT_DIR/cells as soon as it is done: the same call goes on where it was stopped.
Several processes (`torchrun --nproc-per-node 2 -m advgan compare ...`) share the cells, with the same results.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

import advgan.training as training
from advgan.analysis import summary
from advgan.attacks import ATTACKS, Spec, make_attack, parse_attack
from advgan.core.config import ByOrder, write_settings
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.core.shipped import CLASSIFIER
from advgan.core.threat_model import Norm, Threat, check_class, eps_text
from advgan.data.flags import load_chosen
from advgan.defenses import parse_classifier, parse_classifiers
from advgan.evaluation import Result, ResultCache, environment
from advgan.evaluation.compatibility import is_black_box
from advgan.evaluation.loading import (
    LoadedGenerator,
    TargetModel,
    aim,
    load_generators,
    load_targets,
    parse_threat_models,
    unfit,
)
from advgan.evaluation.sharing import distribute
from advgan.experiments.settings import StudySettings
from advgan.report.comparison import Comparison
from advgan.report.files import write_report
from advgan.report.progress import cell_progress
from advgan.report.table import terminal
from advgan.report.tensorboard import command as tensorboard_command

BASIC = ("noise-uniform", "noise-sign", "fgsm", "ifgsm", "ifgsm-projected", "deepfool", "advgan", "advgan:steps=2")
SANITY = ("noise-sign", "fgsm", "pgd:steps=40", "pgd:steps=80", "square:queries=300")  # what the checks compare
SHOWN = 16  # images in a gallery


@dataclass(frozen=True)
class Settings(StudySettings):
    """What is compared, on which images, and where the results go."""

    target: tuple[NameOrPath, ...] = ("mnist-c",)
    """The classifiers under attack: names, directories of saved ones, or torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO,
    FILE.py:FACTORY, MODEL.onnx, http://HOST/PATH, which need no weights"""
    target_weights: tuple[Path, ...] = ()
    """Their weights, one for one: runs of train/classifier.py, .safetensors or .pt files; () takes the shipped
    mnist-c"""
    weights_by_order: ByOrder = False
    defense: tuple[NameOrPath, ...] = ()
    """What the targets stand behind, like bit-depth:bits=3, or several with +, or none: one for each, or one for all"""
    generator: tuple[Path, ...] = ()
    """Trained generators' folders, or the runs that hold them: one for each target, or one for all; () leaves advgan
    out"""
    surrogate: NameOrPath | None = None
    """Another classifier, whose mifgsm images are tried on the targets, in a row of their own"""
    surrogate_weights: Path | None = None
    """Its weights, if it needs any"""
    attacks: tuple[str, ...] = ()
    """Names, with spaces or commas between, with settings of their own after colons (pgd:steps=100:loss=dlr), or all;
    by default noise, the plain classics and advgan. Names and settings: the attacks table of the README; those of
    another library with it before them: foolbox:LinfPGD:steps=40, torchattacks:AutoAttack, art:DeepFool"""
    sanity: bool = False
    """Also run what the sanity checks need: noise, FGSM, PGD with 40 and 80 steps and at eps 0.5, Square"""
    eps: tuple[str, ...] = ()
    """Radii of the balls, like 0.3 or 8/255, in each norm asked for, or in one: l2:2; () takes the generator's, 0.3
    without one"""
    norm: tuple[Norm, ...] = ()
    """Norms of the balls; () takes the generator's, linf without one"""
    y_target: int | None = None
    """Aim at this class, whose own images are left out; None takes the generator's, if it has one"""
    output_dir: Path = Path("checkpoints/runs/compare")
    """Where report.html, report.md, results.json and the rest go; earlier ones are replaced"""
    seeds: tuple[int, ...] = (0,)
    """Of the random attacks, which are run once for each"""


def main(settings: Settings) -> None:
    check(settings)
    classifiers = parse_classifiers(settings.target, settings.target_weights, settings.defense, default=CLASSIFIER)
    generators = load_generators(settings.generator, len(settings.target), settings.target)
    first = generators[0].generator if generators else None
    accelerator = training.start(settings.seeds[0], settings.threads, patient=True)
    device = accelerator.device
    y_target = aim(settings.y_target, first)
    specs = chosen(settings.attacks, with_generator=bool(generators), targeted=y_target is not None)
    balls = parse_threat_models(settings.eps, settings.norm, first, targeted=y_target is not None)
    checks = [parse_attack(word) for word in SANITY] if settings.sanity else []
    with accelerator.main_process_first():  # one downloads, the others find it
        data = load_chosen(settings)
    targets, data = load_targets(classifiers, data, device)
    check_class(y_target, data.num_classes)
    test = data.test if settings.max_samples is None else data.test.first(settings.max_samples)
    x, y = next(test.batches(len(test)))
    queried = [is_black_box(each.model) for each in targets]
    if not settings.attacks and any(queried):
        specs = [spec for spec in specs if spec.access != "gradients"]  # there are none
    surrogate = None
    if settings.surrogate:
        surrogate_spec = parse_classifier(settings.surrogate, settings.surrogate_weights)
        (surrogate,), _ = load_targets([surrogate_spec], data, device, keep_class_order=True)
        called = settings.surrogate_weights.name if settings.surrogate_weights else settings.surrogate
        if surrogate.sha256 in {target.sha256 for target in targets}:
            raise InputError(f"the surrogate {called} is one of the targets, expected another one")
        surrogate = surrogate.with_label(f"surrogate {called}")
    for trained in generators:
        fitting(trained, specs, balls, y_target)
        trained.generator.to(device).perturb(x[:1])  # what it cannot take, it says now
    for spec, threat in product((*specs, *checks), balls):
        if not (spec.name == "advgan" and (first is None or unfit(first, threat, y_target))):
            attack = make_attack(spec, targets[0].model, threat, y_target, generator=first)
            if not (queried[0] and spec.access == "gradients"):  # there are none: a failed row each, and the rest runs
                attack(x[:0], y[:0])  # and a bad setting
    training.claim(settings.output_dir, "comparison", resume=False, overwrite=True)
    if accelerator.is_main_process:
        write_settings(settings, settings.output_dir)
    cells = ResultCache(
        settings.output_dir / "cells", x, y, batch_size=settings.batch_size, keep=SHOWN, fresh=settings.fresh
    )

    todo: list[dict[str, Any]] = []  # what ResultCache.run takes
    for i, target in enumerate(targets):
        trained_here = generators[i] if generators else None
        for spec, threat, seed, source in plan(settings, specs, checks, balls, surrogate):
            generator = trained_here.generator if trained_here else None
            if spec.name == "advgan" and (generator is None or unfit(generator, threat, y_target)):
                continue
            todo.append(
                {
                    **{"spec": spec, "victim": target, "threat": threat, "y_target": y_target, "seed": seed},
                    **{"generator": generator, "source": source if source else None},
                    "foreign": trained_here is not None and not trained_here.trained_on(target),
                }
            )
    with cell_progress(len(todo), silent=not accelerator.is_main_process) as begin:

        def run_cell(cell: Mapping[str, Any]) -> Result:
            words = (
                f"{cell['spec'].label}, {cell['threat'].norm} {eps_text(cell['threat'].eps)}, {cell['victim'].label}"
            )
            return cells.run(**cell, progress=begin(words, len(x)))

        results, found = distribute(cells, todo, run_cell, accelerator)
    if not accelerator.is_main_process:
        return training.finish(accelerator)

    described = [target.describe(settings.dataset) for target in targets]
    owned = [trained.describe(target) for trained, target in zip(generators, targets, strict=False)]
    results_json: dict[str, Any] = {
        **{"environment": environment(settings), "target": described[0], "targets": described, "generators": owned},
        **summary(results, owned, data.num_classes),
    }
    write_report(settings.output_dir, Comparison(results_json, results, x[:SHOWN], y[:SHOWN], data.classes))
    if found:
        print(f"{found} of {len(results)} cells were kept from an earlier call (--fresh runs them again)")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(terminal(results_json, console.width))
    print(f"report       {settings.output_dir / 'report.html'} (also report.md, report.tex, results.csv)")
    print(f"results      {settings.output_dir / 'results.json'}, every image in {settings.output_dir / 'records'}")
    print(f"look at it   {tensorboard_command(settings.output_dir / 'logs')}")
    training.finish(accelerator)


def check(settings: Settings) -> None:
    """Raise InputError for settings that cannot be meant."""
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    if not settings.seeds or not all(0 <= seed < 2**32 for seed in settings.seeds):
        raise InputError(f"seeds must be one or more from 0 to {2**32 - 1}, got {settings.seeds}")
    name = settings.surrogate
    bare = name is not None and parse_classifier(name, settings.surrogate_weights).needs_weights
    if bare or (settings.surrogate_weights and not name):
        raise InputError(
            f"a surrogate needs a name and weights, got {settings.surrogate} and {settings.surrogate_weights}"
        )


def chosen(asked: Sequence[str], *, with_generator: bool, targeted: bool) -> list[Spec]:
    """The attacks to run, in the order asked for. Raises InputError for one that is unknown, or needs a generator."""
    words = list(dict.fromkeys(" ".join(asked).replace(",", " ").split()))
    everything = [*ATTACKS, "advgan:steps=2"]
    specs = [parse_attack(word) for word in (everything if words == ["all"] else words or BASIC)]
    if words in ([], ["all"]):
        specs = [spec for spec in specs if (spec.name != "advgan" or with_generator)]
        specs = [spec for spec in specs if spec.attack.targeted or not targeted]
    for spec in specs:
        if spec.name == "advgan" and not with_generator:
            raise InputError("attack advgan needs a trained generator, expected --generator DIR, got none")
        if targeted and not spec.attack.targeted:
            raise InputError(f"attack {spec.name} cannot aim at a class, expected no y_target")
    return specs


def fitting(trained: LoadedGenerator, specs: Sequence[Spec], balls: Sequence[Threat], y_target: int | None) -> None:
    """Raise InputError if the generator is to take part, and has no answer under any of the threats."""
    reasons = [unfit(trained.generator, threat, y_target) for threat in balls]
    if any(spec.name == "advgan" for spec in specs) and all(reasons):
        raise InputError(reasons[0] or "")


def plan(
    settings: Settings,
    specs: Sequence[Spec],
    checks: Sequence[Spec],
    balls: Sequence[Threat],
    surrogate: TargetModel | None,
) -> list[tuple[Spec, Threat, int, TargetModel | None]]:
    """What is run on each target: attack, ball, seed, and the classifier that is attacked in its place (None: itself).

    An attack made for one norm is run under each ball: its answers count there if they happen to lie in it.
    """
    found: list[tuple[Spec, Threat, int, TargetModel | None]] = []
    asked = list(dict.fromkeys([spec.label for spec in (*specs, *checks)]))
    for threat in balls:
        for spec in map(parse_attack, asked):
            seeds = list(dict.fromkeys(settings.seeds)) if spec.attack.random else settings.seeds[:1]
            found += [(spec, threat, seed, None) for seed in seeds]
        if surrogate is not None:
            found.append((parse_attack("mifgsm"), threat, settings.seeds[0], surrogate))
    if checks and (loud := Threat("linf", 0.5, balls[0].targeted)) not in balls:
        found.append((parse_attack("pgd:steps=40"), loud, settings.seeds[0], None))
    return found
