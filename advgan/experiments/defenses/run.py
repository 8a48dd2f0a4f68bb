"""What is each defense worth? Defense x attack on the same test images, and for each the worst attack per image.

python eval/defenses.py --rows none bit-depth:bits=2 checkpoints/runs/fast --attacks fgsm fgsm@naive pgd:steps=40
python eval/defenses.py --recipe recipes/defenses-small.yaml        with the trainings of its rows: `make defenses`

A row is the base (`none`), a defense around it, or a robust classifier's directory, with or without defenses around
that: [LABEL=](none | DIRECTORY | DEFENSE)[+DEFENSE]... An attack by gradients knows the defense and goes through it;
@naive takes the defense's own gradients, @oblivious those of the classifier behind it.
All results are verified (advgan/evaluation). What --prepare trains, and every cell, is kept as soon as it is done: the
same call goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Flatten, Module

import advgan.training as training
from advgan.analysis.masking import masking
from advgan.analysis.sanity import sanity
from advgan.analysis.worst_case import worst_case
from advgan.attacks.registry import Spec, make_attack, parse_attack
from advgan.core.config import ByOrder, Real, write_settings
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.core.shipped import CLASSIFIER
from advgan.core.threat_model import Norm, Threat
from advgan.data.flags import load_chosen
from advgan.defenses import ClassifierSpec, is_random, parse_classifier, seen
from advgan.evaluation import Result, ResultCache, environment
from advgan.evaluation.loading import LoadedGenerator, TargetModel, load_generators, load_targets, unfit
from advgan.evaluation.relative_time import relative_time
from advgan.experiments.defenses.report import report
from advgan.experiments.defenses.rows import Row, load_rows, parse_rows
from advgan.experiments.settings import StudySettings
from advgan.experiments.trainings import parse_commands, prepare
from advgan.report.progress import cell_progress

ATTACKS = ("noise-sign", "fgsm", "fgsm@naive", "pgd:steps=40", "pgd:steps=40@naive", "square:queries=300")
TRANSFER, OF_BASE, ITS_OWN = "transfer", "advgan, of the base", "advgan, trained on it"  # columns beside the attacks'


@dataclass(frozen=True)
class Settings(StudySettings):
    """Which defenses, attacked how, on which images, and where the results go."""

    prepare: tuple[NameOrPath, ...] = ()
    """Commands like "train/classifier.py --epochs 4 --output-dir RUN", each run once before anything is measured. This
    program's data_dir and threads go with them"""
    target: NameOrPath = "mnist-c"
    """The base, a classifier without defenses: its name, the directory of a saved one, or
    torchvision:NAME:WEIGHTS, timm:NAME, hf:REPO, FILE.py:FACTORY, which need no weights"""
    target_weights: Path | None = None
    """Its weights: a run of train/classifier.py, a .safetensors or .pt file; None: its own, or the shipped mnist-c"""
    weights_by_order: ByOrder = False
    rows: tuple[NameOrPath, ...] = ("none", "bit-depth:bits=1")
    """What is attacked: none (the base), a defense around it, a robust classifier's directory (DIRECTORY+DEFENSE:
    with defenses around it), each with LABEL= before it or without"""
    attacks: tuple[str, ...] = ATTACKS
    """Names, with settings of their own after colons, and @naive or @oblivious at the end; not advgan"""
    generator: tuple[Path, ...] = ()
    """Trained generators' folders, or the runs that hold them: the base's, tried on every row, and any row's own"""
    surrogate: NameOrPath | None = None
    """Another classifier (name or directory), whose mifgsm images are tried on the rows, in a column of their own"""
    surrogate_weights: Path | None = None
    """Its weights, if it is a name"""
    eps: Real = 0.3
    """Radius of the ball, like 0.3 or 8/255"""
    norm: Norm = "linf"
    """Norm of the ball"""
    output_dir: Path = Path("checkpoints/runs/defenses")
    """Where defenses.html, .md, .csv, .json, asr.png, robust.png go; earlier ones are replaced"""
    seed: int = 0
    """Of the random attacks and defenses"""


@dataclass(frozen=True)
class Cell:
    """An attack of one row: the `column` it stands in; the generator it is the pass of, and whether that one was
    trained on another classifier; the classifier it is made on (None: the row's); and the column that has attacked the
    very same model with it (None: none has)."""

    column: str
    spec: Spec
    generator: LoadedGenerator | None = None
    foreign: bool = False
    source: TargetModel | None = None
    same_as: str | None = None


def main(settings: Settings) -> None:
    base_spec = parse_classifier(settings.target, settings.target_weights, default=CLASSIFIER)
    commands = parse_commands(settings.prepare)
    made = [command.output_dir for command in commands]
    rows, specs = parse_rows(settings.rows, made), check(settings, base_spec, made)
    ball = Threat(settings.norm, settings.eps)
    device = training.start_alone(settings.seed, settings.threads)
    data = load_chosen(settings)
    test = data.test if settings.max_samples is None else data.test.first(settings.max_samples)
    x, y = next(test.batches(len(test)))
    for spec in specs:
        make_attack(spec, Flatten(), ball)(x[:0], y[:0])  # a bad setting says so before anything is trained
    training.claim(settings.output_dir, "defenses", resume=False, overwrite=True)
    write_settings(settings, settings.output_dir)
    threads = [] if settings.threads is None else ["--threads", settings.threads]
    prepare(commands, "--data-dir", settings.data_dir, *threads)

    (base, *targets), data = load_rows([Row("base", None, None), *rows], base_spec, data, device)
    x, y = next(data.test.first(len(x)).batches(len(x)))  # labels as the base has them
    surrogate = None
    if settings.surrogate:
        surrogate_spec = parse_classifier(settings.surrogate, settings.surrogate_weights)
        (surrogate,), _ = load_targets([surrogate_spec], data, device, keep_class_order=True)
        if surrogate.sha256 in {target.sha256 for target in targets}:
            raise InputError(f"the surrogate {settings.surrogate} is one of the rows, expected another classifier")
    generators = by_source(
        load_generators(settings.generator, len(settings.generator), [settings.target]), base, targets
    )
    for trained in generators.values():
        if reason := unfit(trained.generator, ball, None):
            raise InputError(reason)
        trained.generator.to(device).perturb(x[:1].to(device))  # what it cannot take, it says now
    cells = ResultCache(
        settings.output_dir / "cells", x, y, batch_size=settings.batch_size, keep=0, fresh=settings.fresh
    )

    measured: list[dict[str, Any]] = []
    defenses: list[dict[str, Any]] = []
    plans = [plan(target, specs, base, generators, surrogate) for target in targets]
    heads = columns(specs, plans)
    total = sum(cell.same_as is None for planned in plans for cell in planned)
    with cell_progress(total) as begin:
        for text, target, planned in zip(settings.rows, targets, plans, strict=True):
            results: dict[str, Result] = {}
            for cell in (cell for cell in planned if cell.column in heads):
                if cell.same_as is None:
                    tell = begin(f"{cell.column}: {target.label}", len(x))
                    results[cell.column] = measure(cells, cell, target, ball, settings.seed, tell)
                row = results[cell.same_as or cell.column].row
                measured.append(row | {"column": cell.column, "same_as": cell.same_as})
            first = next(iter(results.values())).row
            facts = {key: first.get(key) for key in ("n", "clean_accuracy", "clean_rejected")} | {"row": text}
            facts |= {"random": is_random(target.model), "training_seconds": target.training_seconds}
            facts |= {"relative_time": pace(target, base, x[: settings.batch_size])}
            verdicts = judged(list(results.values()), data.num_classes)
            defenses.append(target.describe(settings.dataset) | facts | verdicts)

    by_sha256 = {target.sha256: target for target in (base, *targets)}
    summary = {
        **{"environment": environment(settings), "targets": [base.describe(settings.dataset)]},
        **{"norm": ball.norm, "eps": ball.eps, "columns": heads, "defenses": defenses},
        "surrogate": surrogate.describe(settings.dataset) if surrogate else None,
        "generators": [trained.describe(by_sha256[sha256]) for sha256, trained in generators.items()],
        "rows": measured,
    }
    study_report = report(summary)
    study_report.write(settings.output_dir)
    study_report.print(settings.output_dir, kept=cells.found, total=total)


def check(settings: Settings, base: ClassifierSpec, made: Sequence[Path]) -> list[Spec]:
    """The attacks. Raises InputError for settings that cannot be meant; what will be `made` there need not be there."""
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    for path in (base.weights, settings.surrogate_weights, *settings.generator):
        if path is not None and not path.exists() and not {path, *path.parents} & set(made):
            raise InputError(f"there is nothing at {path}, expected a trained network, or a command that makes it")
    if settings.surrogate_weights and not settings.surrogate:
        raise InputError(f"surrogate_weights are of a surrogate, expected one, got {settings.surrogate_weights} alone")
    words = list(dict.fromkeys(" ".join(settings.attacks).replace(",", " ").split()))
    specs = [parse_attack(word) for word in words]
    if not specs or any(spec.name == "advgan" for spec in specs):
        raise InputError(f"expected attacks, without advgan, whose columns come from --generator, got {words}")
    return specs


def by_source(
    trained: Sequence[LoadedGenerator], base: TargetModel, targets: Sequence[TargetModel]
) -> dict[str, LoadedGenerator]:
    """Fingerprint of a classifier -> the generator trained on it: as its run says, else on the base.

    Raises InputError for a generator of none of them, and for two of one.
    """
    known = {target.sha256: target.label for target in (base, *targets)}
    found: dict[str, LoadedGenerator] = {}
    for each in trained:
        sha256 = each.source_sha256 or base.sha256
        if sha256 not in known:
            raise InputError(f"the generator {each.path} was trained on neither the base nor any of the rows")
        if sha256 in found:
            raise InputError(f"expected one generator for {known[sha256]}, got {found[sha256].path} and {each.path}")
        found[sha256] = each
    return found


def plan(
    target: TargetModel,
    specs: Sequence[Spec],
    base: TargetModel,
    generators: Mapping[str, LoadedGenerator],
    surrogate: TargetModel | None,
) -> list[Cell]:
    """The cells of a row. Where two views of an attack see the same model, the second is not run."""
    cells: list[Cell] = []
    ran: list[tuple[str, Spec, Module | None]] = []
    for spec in specs:
        sees = seen(target.model, spec.view) if spec.access == "gradients" else None
        call = (spec.name, spec.settings)
        same = (column for column, other, saw in ran if sees and saw is sees and (other.name, other.settings) == call)
        cells.append(Cell(spec.label, spec, same_as=next(same, None)))
        ran.append((spec.label, spec, sees))
    if surrogate is not None:
        cells.append(Cell(TRANSFER, parse_attack("mifgsm"), source=surrogate))
    one_pass, of_base, own = parse_attack("advgan"), *(generators.get(t.sha256) for t in (base, target))
    if of_base is not None:
        cells.append(Cell(OF_BASE, one_pass, of_base, foreign=of_base is not own))
    if own is not None:
        cells.append(Cell(ITS_OWN, one_pass, own, same_as=OF_BASE if own is of_base else None))
    return cells


def columns(specs: Sequence[Spec], plans: Sequence[Sequence[Cell]]) -> list[str]:
    """The attacks' and, after them, those beside them that any row has something of its own to show in."""
    shown = {cell.column for planned in plans for cell in planned if cell.same_as is None}
    return [*(spec.label for spec in specs), *(column for column in (TRANSFER, OF_BASE, ITS_OWN) if column in shown)]


def measure(
    cells: ResultCache, cell: Cell, target: TargetModel, ball: Threat, seed: int, tell: Callable[[int], None]
) -> Result:
    """The result of a cell; the passes of two generators go by their columns' names."""
    trained = cell.generator
    result = cells.run(
        *(cell.spec, target, ball),
        seed=seed,
        generator=trained.generator if trained else None,
        foreign=cell.foreign,
        source=cell.source if cell.source else None,
        progress=tell,
    )
    return replace(result, row=result.row | {"attack": cell.column}) if trained else result


def judged(results: Sequence[Result], num_classes: int) -> dict[str, Any]:
    """What the results on one row say together: the worst case, whether gradients are masked, which checks fail.

    The checks ask whether the measurement is sound, so they look at the views that mean to do their worst.
    """
    worst, masked = (next(iter(found), None) for found in (worst_case(results), masking(results, num_classes)))
    meant = [result for result in results if "@" not in result.row["attack"]]
    broken = [each for each in sanity(meant, num_classes) if each["verdict"] == "violated"]
    return {"worst_case": worst, "masking": masked, "violated": broken}


def pace(target: TargetModel, base: TargetModel, x: Tensor) -> float:
    """Seconds an answer takes, over those of the base."""
    if target.sha256 == base.sha256:
        return 1.0
    return relative_time(target.model, base.model, x)
