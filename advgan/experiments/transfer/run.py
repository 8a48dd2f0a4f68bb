"""Transferability: attack success for every pair of a source and a victim classifier.

python eval/transfer.py --dataset mnist --target mnist-a mnist-b mnist-c --target-weights RUN RUN RUN
python eval/transfer.py --target mnist-c mnist-a --target-weights RUN RUN --pair mnist-a mnist-c --attack pgd:steps=40
python eval/transfer.py --target mnist-c mnist-b --target-weights RUN SUBSTITUTE --generator SUBSTITUTE --victim mnist-c

Two results: a matrix of success rates, source x victim, for one attack at one eps; and curves of the success rate of
FGSM, I-FGSM and noise against eps. With --victim only that classifier is attacked: white-box, and by transfer from each
other target; of substitutes (train/substitute.py) the number of queries is reported.
Every adversarial example is verified (advgan/evaluation). Results are kept in OUTPUT_DIR/cells: the same command
resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

from advgan.attacks.registry import AttackSpec, parse_attack
from advgan.core.config import Real
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Norm, Threat, check_class
from advgan.defenses import parse_classifiers
from advgan.evaluation import Result, ResultCache, wilson
from advgan.evaluation.compatibility import require_gradients
from advgan.evaluation.loading import LoadedGenerator, TargetModel, parse_eps_values, resolve_target_class
from advgan.experiments.settings import ClassifiersSettings, SeededStudySettings
from advgan.experiments.study import GridPoint, Study
from advgan.experiments.transfer.report import report

NOISE = parse_attack("noise-sign")  # of the same size: the floor
ONE_PASS = parse_attack("advgan")
BOTH_COLUMNS = ("n_both", "asr_both", "asr_both_low", "asr_both_high")  # columns in addition to those of results.json


@dataclass(frozen=True)
class Settings(ClassifiersSettings, SeededStudySettings):
    """Classifiers, attacks, images and the directory of the results."""

    target: tuple[NameOrPath, ...] = ()
    """At least two classifiers, each of them source and victim: names, directories of saved ones, or
    torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO, FILE.py:FACTORY, which need no weights"""
    generator: tuple[Path, ...] = ()
    """Folders of trained generators, or their runs: a line of the matrix and a curve for each"""
    generator_source: tuple[NameOrPath, ...] = ()
    """The targets that they were trained on, one for one; (): those recorded in their runs"""
    attack: str = "mifgsm"
    """Attack of the matrix, a bounded one, with settings after colons (pgd:steps=100:loss=dlr)"""
    eps: Real = 0.3
    """Radius of the matrix, like 0.3 or 8/255"""
    norm: Norm = "linf"
    """Norm of the balls"""
    curve_attacks: tuple[str, ...] = ("fgsm", "ifgsm")
    """Attacks of the curve, compared with noise of the same size"""
    curve_eps: tuple[str, ...] = ()
    """Radii of the curve, like 0.1, 8/255, or 0:0.3:0.05 for 0 to 0.3 by 0.05; (): that for linf and 0:3:0.5 for l2"""
    victim: NameOrPath | None = None
    """The only target under attack; None: each of them"""
    pair: tuple[NameOrPath, ...] = ()
    """Source and victim of the curve; (): the mean of all pairs"""
    y_target: int | None = None
    """Target class; images of that class are left out. None: the generator's target class, if it has one"""
    output_dir: Path = Path("checkpoints/runs/transfer")
    """Directory of transfer.md, matrix.png, curve.png, transfer.json and the rest; earlier ones are replaced"""


def main(settings: Settings) -> None:
    study = Study("transfer", settings)
    if len(settings.target) < 2:
        raise InputError(f"expected at least two targets, sources and victims, got {len(settings.target)}")
    classifiers = parse_classifiers(settings.target, settings.target_weights, settings.defense)
    trained = study.load_generators(settings.generator, settings.target)
    y_target = resolve_target_class(settings.y_target, trained[0].generator if trained else None)
    threat = Threat(settings.norm, settings.eps, targeted=y_target is not None)
    study.check_generator_threats([threat], y_target)
    eps_values = [eps for eps in parse_eps_values(settings.curve_eps, threat.norm) if eps]
    spec = parse_source_attack(settings.attack)
    curve_specs = [parse_source_attack(name) for name in dict.fromkeys(settings.curve_attacks)]
    study.init_run(settings.seed)
    targets = study.load_targets(classifiers)
    check_class(y_target, study.data.num_classes)
    study.check_attacks([spec, *curve_specs], [threat], y_target)
    if any(loaded.access == "gradients" for loaded in (spec, *curve_specs)):
        for target in targets:
            if target.label != settings.victim:  # all the others are sources
                require_gradients(target.model)
    pairs = select_pairs(settings.pair, settings.victim, [target.label for target in targets])
    if not eps_values or not curve_specs:
        raise InputError(
            f"expected curve_attacks and a curve_eps above 0, got {len(curve_specs)} and {len(eps_values)}"
        )
    generators = by_source(trained, settings.generator_source, targets)
    study.prepare_output_dir()

    grid = TransferGrid(targets, generators, settings.victim, y_target, settings.seed)
    matrix = grid.matrix(spec, threat)
    curve = grid.curve(curve_specs, [replace(threat, eps=eps) for eps in eps_values], pairs)
    points = {point.key: point for point in (*matrix, *curve)}  # each is run once
    results = dict(zip(points, study.run(list(points.values())), strict=True))
    rows = {key: transfer_row(study, points[key], result) for key, result in results.items()}
    described = [
        loaded.describe(next(target for target in targets if target.label == source))
        if source
        else loaded.describe(targets[0]) | {"target": "unknown", "training_seconds": None}
        for source, loaded in generators.items()
    ]
    parts = {name: [rows[point.key] for point in part] for name, part in (("matrix", matrix), ("curve", curve))}
    study.write_report(report(study.summary(generators=described, **parts)), total=len(rows))


@dataclass(frozen=True)
class TransferPoint(GridPoint):
    """A point of the grid. `source_model` is the classifier whose gradients are used: the victim itself
    (white-box), another one, or that a generator was trained on; None for noise."""

    source_model: TargetModel | None = None

    @property
    def key(self) -> tuple[object, ...]:
        source = self.source_model.label if self.source_model else None
        return self.spec.label, self.threat, source, self.target.label


@dataclass(frozen=True)
class TransferGrid:
    """The attacks of a matrix and of curves: from each source to each victim, or to one `victim` alone."""

    targets: Sequence[TargetModel]
    generators: Mapping[str | None, LoadedGenerator]
    victim: str | None
    y_target: int | None
    seed: int

    def point(self, spec: AttackSpec, threat: Threat, source: str | None, victim: str) -> TransferPoint:
        by_label = {target.label: target for target in self.targets}
        source_model, one_pass = by_label.get(source or ""), spec.name == "advgan"
        return TransferPoint(
            spec=spec,
            target=by_label[victim],
            threat=threat,
            y_target=self.y_target,
            seed=self.seed,
            generator=self.generators[source] if one_pass else None,
            source=None if one_pass or source == victim else source_model,
            label=spec.label,
            source_model=source_model,
        )

    def matrix(self, spec: AttackSpec, threat: Threat) -> list[TransferPoint]:
        """The attack from each source, the pass of each generator, and noise."""
        labels = [target.label for target in self.targets]
        victims = labels if self.victim is None else [self.victim]
        sourced = [(spec, source) for source in labels] + [(ONE_PASS, source) for source in self.generators]
        return [
            self.point(attack, threat, source, victim)
            for attack, source in [*sourced, (NOISE, None)]
            for victim in victims
        ]

    def curve(
        self, specs: Sequence[AttackSpec], threats: Sequence[Threat], pairs: Sequence[tuple[str, str]]
    ) -> list[TransferPoint]:
        """The points of the curves, for every eps: noise on each attacked classifier; each attack for each pair, and
        white-box on its source where no single victim is given; each generator up to its eps."""
        attacked = list(pairs) if self.victim else [*pairs, *dict.fromkeys((source, source) for source, _ in pairs)]
        noisy = [self.victim] if self.victim else list(dict.fromkeys(label for pair in attacked for label in pair))
        points = [self.point(NOISE, threat, None, label) for label in noisy for threat in threats]
        points += [self.point(spec, threat, *pair) for spec in specs for pair in attacked for threat in threats]
        for pair in attacked:
            if pair[0] in self.generators:
                largest = self.generators[pair[0]].generator.threat.eps
                points += [self.point(ONE_PASS, threat, *pair) for threat in threats if threat.eps <= largest]
        return points


def transfer_row(study: Study, point: TransferPoint, result: Result) -> dict[str, Any]:
    """The result's row, with source, victim, queries of a substitute, and success on jointly correct images."""
    victim, source = point.target, point.source_model
    names = {"source": source.label if source else None, "victim": victim.label}
    queries = source.queries_spent(victim.sha256) if source else None
    joint = jointly_correct(study.cache(), result.records, source) if source else dict.fromkeys(BOTH_COLUMNS)
    return {**result.row, **names, "queries": queries, **joint}


def jointly_correct(cache: ResultCache, records: dict[str, Any], source: TargetModel) -> dict[str, Any]:
    """Success over the eligible images that the source classifies correctly, too; None without records."""
    if not records:
        return dict.fromkeys(BOTH_COLUMNS)
    joint = records["counts"] & (cache.logits(source).argmax(1) == records["label"])
    n, hits = int(joint.sum()), int((records["success"] & joint).sum())
    return dict(zip(BOTH_COLUMNS, (n, hits / n, *wilson(hits, n)) if n else (0, None, None, None), strict=True))


def parse_source_attack(text: str) -> AttackSpec:
    """A bounded attack that needs a source classifier. Raises InputError for another."""
    spec = parse_attack(text)
    if spec.attack.kind != "bounded" or spec.attack.access in ("nothing", "generator"):
        raise InputError(f"expected a bounded attack with a source classifier, like mifgsm, got {text}")
    return spec


def by_source(
    trained: Sequence[LoadedGenerator], named: Sequence[str], targets: Sequence[TargetModel]
) -> dict[str | None, LoadedGenerator]:
    """Generators by the label of the classifier they were trained on: from `named`, else from its hash in
    training.json; None where unknown.

    Raises InputError for a source that is not among the targets or contradicts training.json, and for two generators of
    one source.
    """
    by_label = {target.label: target for target in targets}
    if unknown := [label for label in named if label not in by_label or not trained]:
        raise InputError(f"generator_source must be one of {', '.join(by_label)}, got {unknown[0]}")
    if named and len(named) != len(trained):
        raise InputError(f"expected one generator_source for each generator, got {len(named)} for {len(trained)}")
    by_weights = {target.sha256: label for label, target in by_label.items()}
    generators: dict[str | None, LoadedGenerator] = {}
    for i, loaded in enumerate(trained):
        source = named[i] if named else by_weights.get(loaded.source_sha256 or "")
        if source is not None and not loaded.trained_on(by_label[source]):
            raise InputError(f"the generator was trained on another classifier than {source}")
        if source in generators:
            raise InputError(f"expected one generator for each source, got {generators[source].path} and {loaded.path}")
        generators[source] = loaded
    return generators


def select_pairs(pair: Sequence[str], victim: str | None, labels: list[str]) -> list[tuple[str, str]]:
    """The (source, victim) of the curve. Raises InputError unless they are two of the labels.

    With a `victim` alone: from each of the labels, itself the first, to that one.
    """
    if victim is not None and (pair or victim not in labels):
        raise InputError(f"victim must be one of {', '.join(labels)}, without a pair, got {victim}")
    if victim is not None:
        return [(source, victim) for source in sorted(labels, key=lambda label: label != victim)]
    all_pairs = list(permutations(labels, 2))
    if pair and tuple(pair) not in all_pairs:
        raise InputError(f"pair must be a source and a victim of {', '.join(labels)}, got {' '.join(pair)}")
    return [candidate for candidate in all_pairs if not pair or candidate == tuple(pair)]
