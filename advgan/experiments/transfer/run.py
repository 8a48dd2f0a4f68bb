"""Transferability: attack success for every pair of a source and a victim classifier.

python eval/transfer.py --dataset mnist --target mnist-a mnist-b mnist-c --target-weights RUN RUN RUN
python eval/transfer.py --target mnist-c mnist-a --target-weights RUN RUN --pair mnist-a mnist-c --attack pgd:steps=40
python eval/transfer.py --target mnist-c mnist-b --target-weights RUN SUBSTITUTE --generator SUBSTITUTE --victim mnist-c
python eval/transfer.py --recipe recipes/imagenet-transfer.yaml      objective x source x victim, with the trainings

Adversarial examples are made on one classifier, the source, and tried on another, the victim. Two results: a matrix of
success rates, source x victim, at one eps; and curves of FGSM, I-FGSM and noise against eps.

The matrix is printed twice: over the images that the victim classifies correctly (asr in the files, and the figure),
and over those that source and victim both classify correctly (asr_both).

With --victim only that classifier is attacked: white-box, and from each other target. Where one is a substitute
(train/substitute.py), the queries of its training are reported.

Every adversarial example is verified. Trainings of --prepare and results (in OUTPUT_DIR/cells) are kept as soon as they
are done: the same command resumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

from advgan.attacks.registry import AttackSpec, parse_attack
from advgan.core.config import Real
from advgan.core.errors import InputError, note
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Norm, Threat
from advgan.defenses import parse_classifiers
from advgan.evaluation import GridPoint, Result, ResultCache
from advgan.evaluation.compatibility import require_gradients
from advgan.evaluation.loading import (
    LoadedGenerator,
    TargetModel,
    parse_eps_values,
    read_training_json,
    resolve_target_class,
)
from advgan.evaluation.metrics import clean_records, correct
from advgan.evaluation.runner import time_columns, time_ratios
from advgan.evaluation.statistics import rate
from advgan.experiments.study import ClassifiersSettings, SeededStudySettings, Study
from advgan.experiments.trainings import parse_commands
from advgan.experiments.transfer.report import report

NOISE = parse_attack("noise-sign")  # of the same size: the floor
ONE_PASS, FGSM = parse_attack("advgan"), parse_attack("fgsm")
BOTH_COLUMNS = ("n_both", "asr_both", "asr_both_low", "asr_both_high")  # columns in addition to those of results.json


@dataclass(frozen=True)
class Settings(ClassifiersSettings, SeededStudySettings):
    """Classifiers, attacks, images and the directory of the results."""

    target: tuple[NameOrPath, ...] = ()
    """At least two classifiers, each of them source and victim: names, directories of saved ones, or
    torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO, FILE.py:FACTORY, which need no weights"""
    prepare: tuple[NameOrPath, ...] = ()
    """Commands like "train/advgan.py --adversarial features --output-dir RUN", each run once before the attacks, with
    this program's data_dir and threads"""
    source: tuple[NameOrPath, ...] = ()
    """Those of the targets that are sources of the matrix; (): all of them"""
    generator: tuple[Path, ...] = ()
    """Folders of trained generators, or their runs: each is a row of the matrix and a curve. Several of one source need
    runs of different names"""
    generator_source: tuple[NameOrPath, ...] = ()
    """For each generator the target that it was trained on; (): as recorded in its run"""
    attack: str = "mifgsm"
    """Attack of the matrix, with settings after colons (pgd:steps=100:loss=dlr); one with an eps"""
    baselines: tuple[str, ...] = ()
    """Further attacks of the matrix, from each source"""
    eps: Real = 0.3
    """Radius of the matrix, like 0.3 or 8/255"""
    norm: Norm = "linf"
    """Norm of the balls"""
    curve_attacks: tuple[str, ...] = ("fgsm", "ifgsm")
    """Attacks of the curve, compared with noise of the same size; (): no curve"""
    curve_eps: tuple[str, ...] = ()
    """Radii of the curve, like 0.1, 8/255, or 0:0.3:0.05 for 0 to 0.3 by 0.05; (): that for linf and 0:3:0.5 for l2"""
    victim: NameOrPath | None = None
    """The only target under attack; None: each of them"""
    pair: tuple[NameOrPath, ...] = ()
    """Source and victim of the curve; (): the mean of all pairs"""
    repeats: int = 0
    """Rounds of timing: the time of each row of the matrix, in units of FGSM on its source; 0: no times"""
    y_target: int | str | None = None
    """Target class, a number or a name; images of that class are left out. None: the generator's, if it has one"""
    output_dir: Path = Path("checkpoints/runs/transfer")
    """Directory of transfer.md, matrix.png, curve.png, transfer.json and the rest; earlier ones are replaced"""


def main(settings: Settings) -> None:
    study = Study("transfer", settings)
    check(settings)
    commands = parse_commands(settings.prepare)
    classifiers = parse_classifiers(settings.target, settings.target_weights, settings.defense)
    specs = [parse_source_attack(name) for name in dict.fromkeys([settings.attack, *settings.baselines])]
    curve_specs = [parse_source_attack(name) for name in dict.fromkeys(settings.curve_attacks)]
    if commands:
        study.prepare_output_dir()
        study.run_trainings(commands)
    trained = study.load_generators(settings.generator, settings.target)
    chosen = resolve_target_class(settings.y_target, trained[0].generator if trained else None)
    threat = Threat(settings.norm, settings.eps, targeted=chosen is not None)
    eps_values = [eps for eps in parse_eps_values(settings.curve_eps, threat.norm) if eps] if curve_specs else []
    if curve_specs and not eps_values:
        raise InputError(f"expected curve_attacks and a curve_eps above 0, got {len(curve_specs)} and 0")
    study.init_run(settings.seed, classifiers[0])
    targets = study.load_targets(classifiers)
    y_target = study.class_number(chosen)
    study.check_generator_threats([threat], y_target)
    study.check_attacks([*specs, *curve_specs], [threat], y_target)
    sources = [label_of(name, targets, "source") for name in settings.source] or [target.label for target in targets]
    if any(loaded.access == "gradients" for loaded in (*specs, *curve_specs)):
        for target in targets:
            if target.label in sources and target.label != settings.victim:
                require_gradients(target.model)
    pairs = select_pairs(settings.pair, settings.victim, [target.label for target in targets])
    generators = by_source(trained, settings.generator_source, targets)
    study.prepare_output_dir()

    grid = TransferGrid(targets, generators, settings.victim, y_target, settings.seed, sources)
    matrix = grid.matrix(specs, threat)
    curve = grid.curve(curve_specs, [replace(threat, eps=eps) for eps in eps_values], pairs)
    points = {point.key: point for point in (*matrix, *curve)}  # each is run once
    ordered = by_attack(list(points.values()))
    results = dict(zip((point.key for point in ordered), study.run(ordered), strict=True))
    rows = {key: transfer_row(study, points[key], result) for key, result in results.items()}
    times = line_times(study, matrix, settings.repeats) if settings.repeats else {}
    parts = {name: [rows[point.key] for point in part] for name, part in (("matrix", matrix), ("curve", curve))}
    parts["matrix"] = [rows[point.key] | times.get(point.line, time_columns(None)) for point in matrix]
    described = [describe(generator, targets) for generator in generators]
    study.write_report(report(study.summary(generators=described, **parts)), total=len(rows))


def check(settings: Settings) -> None:
    """Raise InputError for settings that cannot work; a note for those of a curve without one."""
    if len(settings.target) < 2:
        raise InputError(f"expected at least two targets, sources and victims, got {len(settings.target)}")
    for name in ("curve_eps", "pair"):
        if (value := getattr(settings, name)) and not settings.curve_attacks:
            note(f"{name} does nothing without curve_attacks, got {' '.join(value)}")
    if settings.repeats < 0:
        raise InputError(f"repeats must be at least 0, got {settings.repeats}")
    if settings.source and (settings.curve_attacks or settings.victim or settings.pair):
        raise InputError(
            f"source is of the matrix alone, expected it without curve_attacks (--curve-attacks), victim and pair, got "
            f"source {', '.join(settings.source)}"
        )


@dataclass(frozen=True)
class SourcedGenerator:
    """A generator, the label of the target that it was trained on (None: unknown), and its name in the results."""

    loaded: LoadedGenerator
    source: str | None
    label: str


def describe(generator: SourcedGenerator, targets: Sequence[TargetModel]) -> dict[str, Any]:
    """A generator for transfer.json."""
    if generator.source is None:
        return generator.loaded.describe(targets[0]) | {"target": "unknown", "training_seconds": None}
    return generator.loaded.describe(next(target for target in targets if target.label == generator.source))


@dataclass(frozen=True)
class TransferPoint(GridPoint):
    """A point of the grid. `source_model` is the classifier whose gradients are used: the victim itself
    (white-box), another one, or that a generator was trained on; None for noise."""

    source_model: TargetModel | None = None

    @property
    def line(self) -> tuple[str | None, str | None]:
        """Attack and source, in the results."""
        return self.label, self.source_model.label if self.source_model else None

    @property
    def key(self) -> tuple[object, ...]:
        return *self.line, self.threat, self.target.label


@dataclass(frozen=True)
class TransferGrid:
    """The attacks of a matrix and of curves: from each source to each victim, or to one `victim` alone."""

    targets: Sequence[TargetModel]
    generators: Sequence[SourcedGenerator]
    victim: str | None
    y_target: int | None
    seed: int
    sources: Sequence[str] = ()

    def point(
        self,
        spec: AttackSpec,
        threat: Threat,
        source: str | None,
        victim: str,
        generator: SourcedGenerator | None = None,
    ) -> TransferPoint:
        by_label = {target.label: target for target in self.targets}
        source_model = by_label.get(source or "")
        return TransferPoint(
            *(spec, by_label[victim], threat, self.y_target, self.seed),
            generator=generator.loaded if generator else None,
            source=None if generator is not None or source == victim else source_model,
            label=spec.label if generator is None else generator.label,
            source_model=source_model,
            shared=generator is None and source == victim,
        )

    def matrix(self, specs: Sequence[AttackSpec], threat: Threat) -> list[TransferPoint]:
        """The attacks from each source, the pass of each generator, and noise."""
        labels = [target.label for target in self.targets]
        victims = labels if self.victim is None else [self.victim]
        lines: list[tuple[AttackSpec, str | None, SourcedGenerator | None]]
        lines = [(spec, source, None) for spec in specs for source in self.sources]
        lines += [(ONE_PASS, generator.source, generator) for generator in self.generators]
        return [
            self.point(spec, threat, source, victim, generator)
            for spec, source, generator in [*lines, (NOISE, None, None)]
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
            for generator in self.generators:
                largest = generator.loaded.generator.threat.eps
                if pair[0] == generator.source:
                    reached = [threat for threat in threats if threat.eps <= largest]
                    points += [self.point(ONE_PASS, threat, *pair, generator) for threat in reached]
        return points


def by_attack(points: Sequence[TransferPoint]) -> list[TransferPoint]:
    """Points of one attack and source in a row, white-box first: its adversarial images are judged by all victims."""
    attacks = {attack: i for i, attack in enumerate(dict.fromkeys((point.line, point.threat) for point in points))}
    return sorted(points, key=lambda point: (attacks[point.line, point.threat], point.source is not None))


def line_times(study: Study, points: Sequence[TransferPoint], repeats: int) -> dict[tuple[str | None, str | None], Any]:
    """The time of each line of the matrix over that of FGSM on its source (without one: on the first target)."""
    times, x, y = {}, study.x.to(study.accelerator.device), study.y.to(study.accelerator.device)
    for point in {point.line: point for point in points}.values():
        model = (point.source_model or study.targets[0]).model
        attack, reference = (timed.attack(model) for timed in (point, replace(point, spec=FGSM, generator=None)))
        ratios = time_ratios({"": attack}, reference, x, y, batch_size=study.batch_size, repeats=repeats)[""]
        times[point.line] = time_columns(ratios)
    return times


def transfer_row(study: Study, point: TransferPoint, result: Result) -> dict[str, Any]:
    """The result's row, with source, victim, queries of a substitute, and success on jointly correct images."""
    victim, source = point.target, point.source_model
    names = {"source": source.label if source else None, "victim": victim.label}
    queries = source.queries_spent(victim.sha256) if source else None
    joint = jointly_correct(study.cache(), result.records, source) if source else dict.fromkeys(BOTH_COLUMNS)
    run = read_training_json(point.generator.path) if point.generator else {}
    training = {"generator": point.generator.name if point.generator else None, "steps": run.get("steps")}
    training["trained_on_test"] = run.get("settings", {}).get("train_on") == "test"
    return {**result.row, **names, "queries": queries, **joint, **training}


def jointly_correct(cache: ResultCache, records: dict[str, Any], source: TargetModel) -> dict[str, Any]:
    """Success over the eligible images that the source classifies correctly, too; None without records."""
    if not records:
        return dict.fromkeys(BOTH_COLUMNS)
    clean = cache.clean(source)
    joint = records["counts"] & correct(clean_records(clean.logits, records["label"], None, clean.accepted))
    n, hits = int(joint.sum()), int((records["success"] & joint).sum())
    return {"n_both": n} | rate("asr_both", hits, n)


def parse_source_attack(text: str) -> AttackSpec:
    """A bounded attack that needs a source classifier. Raises InputError for another."""
    spec = parse_attack(text)
    if spec.attack.kind != "bounded" or spec.attack.access in ("nothing", "generator"):
        raise InputError(f"expected a bounded attack with a source classifier, like mifgsm, got {text}")
    return spec


def label_of(name: str, targets: Sequence[TargetModel], setting: str) -> str:
    """The label of the target with that label or name. Raises InputError for none or several."""
    matches = [target.label for target in targets if name in (target.label, target.name)]
    exact = [label for label in matches if label == name] or matches
    if len(exact) != 1:
        labels = ", ".join(target.label for target in targets)
        raise InputError(f"{setting} must be one of {labels}, got {name}")
    return exact[0]


def by_source(
    trained: Sequence[LoadedGenerator], named: Sequence[str], targets: Sequence[TargetModel]
) -> list[SourcedGenerator]:
    """Generators with the classifier they were trained on: from `named`, else from its hash in training.json. One of
    several of a source has the name of its run in the results.

    Raises InputError for a source that is not among the targets or contradicts training.json, and for two generators of
    one source and name.
    """
    if named and len(named) != len(trained):
        for name in named:
            label_of(name, targets, "generator_source")
        raise InputError(f"expected one generator_source for each generator, got {len(named)} for {len(trained)}")
    by_label = {target.label: target for target in targets}
    by_weights = {sha256: target.label for target in targets for sha256 in target.fingerprints}
    sources = [label_of(name, targets, "generator_source") for name in named]
    sources = sources or [by_weights.get(loaded.source_sha256 or "") for loaded in trained]  # type: ignore[misc]
    generators: list[SourcedGenerator] = []
    for loaded, source in zip(trained, sources, strict=True):
        if source is not None and not loaded.trained_on(by_label[source]):
            raise InputError(f"the generator was trained on another classifier than {source}")
        label = "advgan" if sources.count(source) == 1 else f"advgan {loaded.name}"
        if any((other.source, other.label) == (source, label) for other in generators):
            raise InputError(
                f"expected one generator for each source, or runs of different names, got {loaded.name} twice"
            )
        generators.append(SourcedGenerator(loaded, source, label))
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
