"""Who fools whom? Images made on one classifier, tried on the others: black-box attacks with a stand-in.

python eval/transfer.py --dataset mnist --target mnist-a mnist-b mnist-c --target-weights RUN RUN RUN
python eval/transfer.py --target mnist-c mnist-a --target-weights RUN RUN --pair mnist-a mnist-c --attack pgd:steps=40
python eval/transfer.py --target mnist-c mnist-b --target-weights RUN SUBSTITUTE --generator SUBSTITUTE --victim mnist-c

A matrix of sources and victims for one attack at one eps; and the curve of one step, many steps and noise against eps.
With --victim everything is tried on that classifier alone: made on itself (white box), and on stand-ins, for instance
those of train/substitute.py, with the queries that each has spent.
All results are verified (advgan/evaluation). Every cell is kept in OUTPUT_DIR/cells as soon as it is done: the same
call goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import advgan.training as training
from advgan.attacks.registry import Spec, make_attack, parse_attack
from advgan.core.config import ByOrder, Real, write_settings
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Norm, Threat, check_class, eps_text
from advgan.data.flags import load_chosen
from advgan.defenses import parse_classifiers
from advgan.evaluation import ResultCache, TargetModel, environment, wilson
from advgan.evaluation.compatibility import require_gradients
from advgan.evaluation.loading import (
    LoadedGenerator,
    aim,
    load_generators,
    load_targets,
    parse_eps_values,
    unfit,
)
from advgan.experiments.settings import StudySettings
from advgan.experiments.transfer.report import report
from advgan.report.progress import cell_progress

NOISE = "noise-sign"  # of the same size: the floor
SHARED = ("n_both", "asr_both", "asr_both_low", "asr_both_high")  # columns of a row beside those of results.json
Cell = tuple[str, Threat, str | None, str]  # attack, ball, source, victim


@dataclass(frozen=True)
class Settings(StudySettings):
    """Which classifiers, attacked how, on which images, and where the results go."""

    target: tuple[NameOrPath, ...] = ()
    """At least two classifiers, each of them source and victim: names, directories of saved ones, or
    torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO, FILE.py:FACTORY, which need no weights"""
    target_weights: tuple[Path, ...] = ()
    """Their weights, one for one: runs of train/classifier.py, .safetensors or .pt files"""
    weights_by_order: ByOrder = False
    defense: tuple[NameOrPath, ...] = ()
    """What they stand behind, like bit-depth:bits=3, or several with +, or none: one for each, or one for all"""
    generator: tuple[Path, ...] = ()
    """Trained generators' folders, or the runs that hold them: a line of the matrix and a curve each"""
    generator_source: tuple[NameOrPath, ...] = ()
    """Which of the targets they were trained on, one for one; () takes what their runs say"""
    attack: str = "mifgsm"
    """What the matrix is made with: a bounded attack, with settings after colons (pgd:steps=100:loss=dlr)"""
    eps: Real = 0.3
    """Radius of the matrix, like 0.3 or 8/255"""
    norm: Norm = "linf"
    """Norm of the balls"""
    curve_attacks: tuple[str, ...] = ("fgsm", "ifgsm")
    """What the curve compares, beside noise of the same size"""
    curve_eps: tuple[str, ...] = ()
    """Radii of the curve, like 0.1, 8/255, or 0:0.3:0.05 for 0 to 0.3 by 0.05; () takes that for linf and 0:3:0.5 for
    l2"""
    victim: NameOrPath | None = None
    """Try everything on this target alone; None: on each of them"""
    pair: tuple[NameOrPath, ...] = ()
    """Source and victim of the curve; () takes all pairs, and shows their mean"""
    y_target: int | None = None
    """Aim at this class, whose own images are left out; None takes the generator's, if it has one"""
    output_dir: Path = Path("checkpoints/runs/transfer")
    """Where transfer.md, matrix.png, curve.png, transfer.json and the rest go; earlier ones are replaced"""
    seed: int = 0
    """Of the random attacks"""


def main(settings: Settings) -> None:
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    if len(settings.target) < 2:
        raise InputError(f"expected at least two targets, sources and victims, got {len(settings.target)}")
    classifiers = parse_classifiers(settings.target, settings.target_weights, settings.defense)
    trained = load_generators(settings.generator, len(settings.generator), settings.target)
    y_target = aim(settings.y_target, trained[0].generator if trained else None)
    ball = Threat(settings.norm, settings.eps, targeted=y_target is not None)
    if reason := next(filter(None, (unfit(each.generator, ball, y_target) for each in trained)), None):
        raise InputError(reason)
    balls = [Threat(ball.norm, eps, ball.targeted) for eps in parse_eps_values(settings.curve_eps, ball.norm) if eps]
    spec = made_on_a_source(settings.attack)
    curve_specs = [made_on_a_source(word) for word in dict.fromkeys(settings.curve_attacks)]
    device = training.start_alone(settings.seed, settings.threads)
    data = load_chosen(settings)
    targets, data = load_targets(classifiers, data, device)
    check_class(y_target, data.num_classes)
    test = data.test if settings.max_samples is None else data.test.first(settings.max_samples)
    x, y = next(test.batches(len(test)))
    known = {target.label: target for target in targets}
    victims = {label: target for label, target in known.items()}
    for each in (spec, *curve_specs):
        make_attack(each, targets[0].model, ball, y_target)  # what cannot be, it says now
    if any(each.access == "gradients" for each in (spec, *curve_specs)):
        for target in targets:
            if target.label != settings.victim:  # all the others are sources
                require_gradients(target.model)
    pairs = chosen_pairs(settings.pair, settings.victim, list(victims))
    if not balls or not curve_specs:
        raise InputError(f"expected curve_attacks and a curve_eps above 0, got {len(curve_specs)} and {len(balls)}")
    for each_trained in trained:
        each_trained.generator.to(device).perturb(x[:1].to(device))
    generators = by_source(trained, settings.generator_source, targets)
    training.claim(settings.output_dir, "transfer", resume=False, overwrite=True)
    write_settings(settings, settings.output_dir)
    cells = ResultCache(
        settings.output_dir / "cells", x, y, batch_size=settings.batch_size, keep=0, fresh=settings.fresh
    )

    # What is run: attack, ball, the classifier it is made on (None: it needs none), the classifier it is tried on.
    labels, tried_on = list(victims), list(victims) if settings.victim is None else [settings.victim]
    matrix: list[Cell] = [(spec.label, ball, source, victim) for source in labels for victim in tried_on]
    matrix += [("advgan", ball, source, victim) for source in generators for victim in tried_on]
    matrix += [(NOISE, ball, None, victim) for victim in tried_on]
    tried = pairs if settings.victim else [*pairs, *dict.fromkeys((source, source) for source, _ in pairs)]
    noisy = tried_on if settings.victim else list(dict.fromkeys(sum(tried, ())))
    curve: list[Cell] = [(NOISE, each, None, label) for label in noisy for each in balls]
    curve += [(each.label, threat, *pair) for each in curve_specs for pair in tried for threat in balls]
    for pair in tried:
        if trained_there := generators.get(pair[0]):
            reach = trained_there.generator.threat.eps
            curve += [("advgan", threat, *pair) for threat in balls if threat.eps <= reach]

    rows: dict[Cell, dict[str, Any]] = {}
    todo = list(dict.fromkeys([*matrix, *curve]))
    with cell_progress(len(todo)) as begin:
        for cell in todo:
            attack, threat, source, victim = cell
            one_pass = generators[source] if attack == "advgan" else None
            stand_in = source if one_pass is None and source != victim else None
            result = cells.run(
                *(parse_attack(attack), victims[victim], threat),
                y_target=y_target,
                seed=settings.seed,
                generator=None if one_pass is None else one_pass.generator,
                foreign=one_pass is not None and not one_pass.trained_on(known[victim]),
                source=victims[stand_in] if stand_in else None,
                progress=begin(f"{attack}, eps {eps_text(threat.eps)}: {source or 'any'} → {victim}", len(x)),
            )
            both = shared(cells, result.records, victims[source]) if source else dict.fromkeys(SHARED)
            spent = known[source].queries_spent(victims[victim].sha256) if source else None
            rows[cell] = result.row | {"attack": attack, "source": source, "victim": victim, "queries": spent} | both

    summary = {
        **{"environment": environment(settings), "targets": [target.describe(settings.dataset) for target in targets]},
        "generators": [
            each.describe(known[source]) if source else unknown(each.describe(targets[0]))
            for source, each in generators.items()
        ],
        **{"matrix": [rows[cell] for cell in matrix], "curve": [rows[cell] for cell in curve]},
    }
    study_report = report(summary)
    study_report.write(settings.output_dir)
    study_report.print(settings.output_dir, kept=cells.found, total=len(rows))


def shared(cells: ResultCache, records: dict[str, Any], source: TargetModel) -> dict[str, Any]:
    """Success over the images that count and that the source classifies correctly, too; None without figures."""
    if not records:
        return dict.fromkeys(SHARED)
    both = records["counts"] & (cells.logits(source).argmax(1) == records["label"])
    n, hits = int(both.sum()), int((records["success"] & both).sum())
    return dict(zip(SHARED, (n, hits / n, *wilson(hits, n)) if n else (0, None, None, None), strict=True))


def unknown(generator: dict[str, Any]) -> dict[str, Any]:
    """A generator's description where nobody says which classifier it was trained on."""
    return {**generator, "target": "unknown", "training_seconds": None}


def made_on_a_source(word: str) -> Spec:
    """An attack that sees a classifier and stays in a ball. Raises InputError for another."""
    spec = parse_attack(word)
    if spec.attack.kind != "bounded" or spec.attack.access in ("nothing", "generator"):
        raise InputError(f"expected a bounded attack that is made on a classifier, like mifgsm, got {word}")
    return spec


def by_source(
    trained: Sequence[LoadedGenerator], said: Sequence[str], targets: Sequence[TargetModel]
) -> dict[str | None, LoadedGenerator]:
    """The generators by the label of the target they were trained on: as `said`, else as their runs say; else None.

    Raises InputError for a source that is none of the targets or is not the one, and for two generators of one source.
    """
    known = {target.label: target for target in targets}
    if wrong := [label for label in said if label not in known or not trained]:
        raise InputError(f"generator_source must be one of {', '.join(known)}, got {wrong[0]}")
    if said and len(said) != len(trained):
        raise InputError(f"expected one generator_source for each generator, got {len(said)} for {len(trained)}")
    by_weights = {target.sha256: label for label, target in known.items()}
    found: dict[str | None, LoadedGenerator] = {}
    for i, each in enumerate(trained):
        source = said[i] if said else by_weights.get(each.source_sha256 or "")
        if source is not None and not each.trained_on(known[source]):
            raise InputError(f"the generator was trained on another classifier than {source}")
        if source in found:
            raise InputError(f"expected one generator for each source, got {found[source].path} and {each.path}")
        found[source] = each
    return found


def chosen_pairs(asked: Sequence[str], victim: str | None, labels: list[str]) -> list[tuple[str, str]]:
    """The (source, victim) of the curve. Raises InputError unless they are two of the labels.

    With a `victim` alone: from each of the labels, itself the first, to that one.
    """
    if victim is not None and (asked or victim not in labels):
        raise InputError(f"victim must be one of {', '.join(labels)}, without a pair, got {victim}")
    if victim is not None:
        return [(source, victim) for source in sorted(labels, key=lambda label: label != victim)]
    everything = list(permutations(labels, 2))
    if asked and tuple(asked) not in everything:
        raise InputError(f"pair must be a source and a victim of {', '.join(labels)}, got {' '.join(asked)}")
    return [pair for pair in everything if not asked or pair == tuple(asked)]
