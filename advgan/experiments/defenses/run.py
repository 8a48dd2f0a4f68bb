"""Success of attacks on defenses: defense x attack on the same test images, and the worst case for each defense.

python eval/defenses.py --rows none bit-depth:bits=2 checkpoints/runs/fast --attacks fgsm fgsm@naive pgd:steps=40
python eval/defenses.py --recipe recipes/defenses-small.yaml        with the trainings of its rows: `make defenses`

A row of the matrix is `none` (the classifier --target without a defense, called the base), a defense around the base,
or the directory of a robust classifier. Further defenses follow a +, a label may stand before a =: mine=RUN+median.

Gradient attacks are adaptive: they use the gradient of a differentiable approximation of the defense (BPDA), and its
mean over random draws (EOT). pgd@naive uses the defense's own gradient, pgd@oblivious that of the classifier alone.

Every adversarial example is verified. Trainings of --prepare and results are kept as soon as they are done: the same
command resumes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch.nn import Flatten, Module

from advgan.analysis.masking import masking
from advgan.analysis.sanity import sanity
from advgan.analysis.worst_case import worst_case
from advgan.attacks.registry import AttackSpec, make_attack, parse_attack
from advgan.core.config import Real
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Norm, Threat
from advgan.defenses import ClassifierSpec, attack_view, is_random
from advgan.defenses.flags import TargetSettings
from advgan.evaluation import GridPoint, Result
from advgan.evaluation.loading import LoadedGenerator, TargetModel
from advgan.evaluation.runner import relative_time
from advgan.experiments.defenses.report import report
from advgan.experiments.defenses.rows import MatrixRow, load_rows, parse_rows
from advgan.experiments.study import SeededStudySettings, Study
from advgan.experiments.trainings import parse_commands

ATTACKS = ("noise-sign", "fgsm", "fgsm@naive", "pgd:steps=40", "pgd:steps=40@naive", "square:queries=300")
TRANSFER, OF_BASE, ITS_OWN = "transfer", "advgan, of the base", "advgan, trained on it"  # columns after the attacks'


@dataclass(frozen=True)
class Settings(TargetSettings, SeededStudySettings):
    """Defenses, attacks, images and the directory of the results."""

    prepare: tuple[NameOrPath, ...] = ()
    """Commands like "train/classifier.py --epochs 4 --output-dir RUN", each run once before the attacks, with this
    program's data_dir and threads"""
    target: NameOrPath = "mnist-c"
    """The base, a classifier without defenses: its name, the directory of a saved one, or
    torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO, FILE.py:FACTORY, which need no weights"""
    rows: tuple[NameOrPath, ...] = ("none", "bit-depth:bits=1")
    """Rows of the matrix: none (the base), a defense around the base, or the directory of a robust classifier; with
    +DEFENSE after it and LABEL= before it, where wanted"""
    attacks: tuple[str, ...] = ATTACKS
    """Names, with settings after colons, and @naive or @oblivious at the end; generators are --generator"""
    generator: tuple[Path, ...] = ()
    """Folders of trained generators, or their runs: one trained on the base attacks every row, one trained on
    a row that row"""
    surrogate: NameOrPath | None = None
    """Another classifier, a name or directory: MI-FGSM images made on it are tried on every row (transfer), in a column
    of their own"""
    surrogate_weights: Path | None = None
    """Its weights, if it is a name"""
    eps: Real = 0.3
    """Radius of the ball, like 0.3 or 8/255"""
    norm: Norm = "linf"
    """Norm of the ball"""
    output_dir: Path = Path("checkpoints/runs/defenses")
    """Directory of defenses.html, .md, .csv, .json, asr.png, robust.png; earlier ones are replaced"""
    seed: int = 0
    """Seed of random attacks and defenses"""


@dataclass(frozen=True, kw_only=True)
class MatrixPoint(GridPoint):
    """An attack of one line in its `column`; `same_as` is the column of the same attack on the very same model (None:
    there is none), which is not run twice."""

    column: str
    same_as: str | None = None


def main(settings: Settings) -> None:
    study, base_spec = Study("defenses", settings), settings.classifier
    commands = parse_commands(settings.prepare)
    run_dirs = [command.output_dir for command in commands]
    rows, specs = parse_rows(settings.rows, run_dirs), check(settings, base_spec, run_dirs)
    threat = Threat(settings.norm, settings.eps)
    study.init_run(settings.seed, base_spec)
    for spec in specs:
        make_attack(spec, Flatten(), threat)(study.x[:0], study.y[:0])  # wrong settings: before any training
    study.prepare_output_dir()
    study.run_trainings(commands)

    all_rows = [MatrixRow("base", None, None), *rows]
    (base, *targets), study.data = load_rows(all_rows, base_spec, study.data, study.accelerator.device)
    study.targets = targets
    surrogate = None
    if settings.surrogate:
        surrogate = study.load_surrogate(settings.surrogate, settings.surrogate_weights, "rows")
    generators = by_source(study.load_generators(settings.generator, [settings.target]), base, targets)
    study.check_generator_threats([threat])
    study.check_generators()
    grid = DefenseGrid(specs, base, generators, surrogate, threat, settings.seed)
    lines = [grid.line(target) for target in targets]
    columns = shown_columns(specs, lines)
    points = [point for line in lines for point in line if point.same_as is None]
    results = {(p.target.label, p.column): r for p, r in zip(points, study.run(points), strict=True)}
    measured = [
        {**results[p.target.label, p.same_as or p.column].row, "column": p.column, "same_as": p.same_as}
        for line in lines
        for p in line
        if p.column in columns
    ]
    defenses = [
        target.describe(study.dataset) | line_metrics(results, target, base, study) | {"row": text}
        for text, target in zip(settings.rows, targets, strict=True)
    ]
    by_sha256 = {target.sha256: target for target in (base, *targets)}
    summary = study.summary() | {
        "targets": [base.describe(study.dataset)],
        "norm": threat.norm,
        "eps": threat.eps,
        "columns": columns,
        "defenses": defenses,
        "surrogate": surrogate.describe(study.dataset) if surrogate else None,
        "generators": [trained.describe(by_sha256[sha256]) for sha256, trained in generators.items()],
        "rows": measured,
    }
    study.write_report(report(summary), total=len(points))


def check(settings: Settings, base: ClassifierSpec, run_dirs: Sequence[Path]) -> list[AttackSpec]:
    """The attacks. Raises InputError for settings that do not fit; `run_dirs` of trainings to come may be missing."""
    for path in (base.weights, settings.surrogate_weights, *settings.generator):
        if path is not None and not path.exists() and not {path, *path.parents} & set(run_dirs):
            raise InputError(f"there is nothing at {path}, expected a trained network, or a command that makes it")
    if settings.surrogate_weights and not settings.surrogate:
        raise InputError(f"surrogate_weights are of a surrogate, expected one, got {settings.surrogate_weights} alone")
    names = list(dict.fromkeys(" ".join(settings.attacks).replace(",", " ").split()))
    specs = [parse_attack(name) for name in names]
    if not specs or any(spec.name == "advgan" for spec in specs):
        raise InputError(f"expected attacks, without advgan, whose columns come from --generator, got {names}")
    return specs


def by_source(
    trained: Sequence[LoadedGenerator], base: TargetModel, targets: Sequence[TargetModel]
) -> dict[str, LoadedGenerator]:
    """Fingerprint of a classifier -> the generator trained on it: as recorded in its run, else on the base.

    Raises InputError for a generator of none of them, and for two of one.
    """
    labels = {target.sha256: target.label for target in (base, *targets)}
    known = {sha256: target.sha256 for target in (base, *targets) for sha256 in target.fingerprints}
    generators: dict[str, LoadedGenerator] = {}
    for loaded in trained:
        sha256 = known.get(loaded.source_sha256 or base.sha256)
        if sha256 is None:
            raise InputError(f"the generator {loaded.path} was trained on neither the base nor any of the rows")
        if sha256 in generators:
            raise InputError(
                f"expected one generator for {labels[sha256]}, got {generators[sha256].path} and {loaded.path}"
            )
        generators[sha256] = loaded
    return generators


@dataclass(frozen=True)
class DefenseGrid:
    """The attacks of every line: `specs`, the surrogate's images, the passes of the base's and of its own generator."""

    specs: Sequence[AttackSpec]
    base: TargetModel
    generators: Mapping[str, LoadedGenerator]
    surrogate: TargetModel | None
    threat: Threat
    seed: int

    def line(self, target: TargetModel) -> list[MatrixPoint]:
        """The points of one line. Where two views of an attack see the same model, the second is not run."""
        point = partial(MatrixPoint, target=target, threat=self.threat, seed=self.seed)
        points: list[MatrixPoint] = []
        previous: list[tuple[str, AttackSpec, Module | None]] = []
        for spec in self.specs:
            view = attack_view(target.model, spec.view) if spec.access == "gradients" else None
            attack = (spec.name, spec.settings)
            repeated = (
                c
                for c, other, seen_view in previous
                if view and seen_view is view and (other.name, other.settings) == attack
            )
            points.append(point(spec=spec, column=spec.label, same_as=next(repeated, None)))
            previous.append((spec.label, spec, view))
        if self.surrogate is not None:
            points.append(point(spec=parse_attack("mifgsm"), column=TRANSFER, source=self.surrogate))
        one_pass = partial(point, spec=parse_attack("advgan"))
        of_base, own_generator = (self.generators.get(t.sha256) for t in (self.base, target))
        if of_base is not None:
            transferred = of_base is not own_generator
            points.append(one_pass(column=OF_BASE, label=OF_BASE, generator=of_base, transferred=transferred))
        if own_generator is not None:
            same_as = OF_BASE if own_generator is of_base else None
            points.append(one_pass(column=ITS_OWN, label=ITS_OWN, generator=own_generator, same_as=same_as))
        return points


def shown_columns(specs: Sequence[AttackSpec], lines: Sequence[Sequence[MatrixPoint]]) -> list[str]:
    """The attacks' columns and, after them, those of the others in which any line has a result of its own."""
    shown = {point.column for line in lines for point in line if point.same_as is None}
    return [*(spec.label for spec in specs), *(column for column in (TRANSFER, OF_BASE, ITS_OWN) if column in shown)]


def line_metrics(
    matrix: Mapping[tuple[str, str], Result], target: TargetModel, base: TargetModel, study: Study
) -> dict[str, Any]:
    """Metrics of all results of one line of the matrix: the worst case, whether gradients are masked, which
    checks fail; and the cost of the defense.

    The checks are of the measurement, so they are of the views that mean to do their worst.
    """
    results = [result for (label, _), result in matrix.items() if label == target.label]
    num_classes, first = study.data.num_classes, results[0].row
    worst, masked = (next(iter(entries), None) for entries in (worst_case(results), masking(results, num_classes)))
    strongest = [result for result in results if "@" not in result.row["attack"]]
    x, is_base = study.x[: study.batch_size], target.sha256 == base.sha256
    return {
        **{key: first.get(key) for key in ("n", "clean_accuracy", "clean_rejected")},
        "random": is_random(target.model),
        "training_seconds": target.training_seconds,
        "relative_time": 1.0 if is_base else relative_time(target.model, base.model, x),
        "worst_case": worst,
        "masking": masked,
        "violated": [check for check in sanity(strongest, num_classes) if check["verdict"] == "violated"],
    }
