"""Success against time of one model in memory: `advgan.frontier`."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from torch import Tensor, nn

from advgan.analysis.frontier import BUDGETS, lead_share, segments
from advgan.attacks.advgan import advgan
from advgan.attacks.common import frozen_eval
from advgan.attacks.registry import AttackFn, make_attack, parse_attack
from advgan.core.errors import InputError, note
from advgan.core.fraction import eps_text
from advgan.core.inputs import as_images, as_labels
from advgan.core.json_files import check_int
from advgan.core.threat_model import Norm, Threat
from advgan.core.weights import device_of
from advgan.data.split import attack_batch_size
from advgan.evaluation import GridPoint
from advgan.evaluation.runner import time_columns, time_ratios
from advgan.experiments.comparison.compare import (
    Attack,
    checked_target,
    compare,
    label_attacks,
    resolved,
)
from advgan.experiments.frontier.budget_report import attack_table, budget_table, report
from advgan.models.generator import Generator
from advgan.report.progress import StartResult, result_progress
from advgan.report.results import Results

REFERENCE = "fgsm"  # a budget is a time in units of this attack
BASELINE_ATTACKS = (
    *("noise-sign", REFERENCE, "ifgsm:steps=2", "ifgsm:steps=3", "ifgsm:steps=5", "ifgsm", "ifgsm:steps=20"),
    *("pgd:steps=2", "pgd:steps=3", "pgd:steps=5", "pgd:steps=10", "pgd:steps=20", "pgd:steps=40"),
    *("pgd:steps=10:stop_on_success=true", "pgd:steps=40:stop_on_success=true", "mifgsm"),
    *("apgd-ce:steps=5", "apgd-ce:steps=10", "apgd-ce:steps=20", "apgd-dlr:steps=10", "apgd-dlr:steps=20"),
    "square:queries=50",
)
WARM_STEPS = (1, 2, 3, 5, 8, 10, 20)  # gradient steps after a pass, for the images that it leaves without success
WARM_START: dict[str, Any] = {"adaptive": True, "loss": "margin", "stop_on_success": True}  # how they are taken


@dataclass(frozen=True, repr=False)
class FrontierResults(Results):
    """Success and time of each attack: a table when printed, HTML in a notebook.

    rows     one dict an attack: "attack", "ours", "asr" over the "n" attacked images, with its Wilson interval
             "asr_low", "asr_high", "time", the median of its time over FGSM's on the same batch, with the range
             "time_low", "time_high", and "status"
    parts    budgets and the best attacks there, see `advgan.analysis.frontier.segments`
    lead     the fraction of the budgets (logarithmic) on which ours is at or above the best baseline
    summary  frontier.json
    """

    summary: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.summary["rows"]

    @property
    def parts(self) -> list[dict[str, Any]]:
        return self.summary["parts"]

    @property
    def lead(self) -> float | None:
        return self.summary["lead"]

    def _tables(self) -> list[RenderableType]:
        return [table(self.summary).rich() for table in (budget_table, attack_table)]

    def _write(self, folder: Path) -> None:
        """frontier.json, .md, .csv, the plot and logs/ for TensorBoard."""
        shared = {key: self.summary[key] for key in ("environment", "targets", "generators")}
        frontier = {key: value for key, value in self.summary.items() if key not in shared}
        report({**shared, "frontiers": [frontier]}).write(folder)


def frontier(
    model: nn.Module | Callable[[Tensor], Tensor],
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray | Sequence[int],
    *,
    eps: float,
    entries: Attack | Sequence[Attack] | Mapping[str, Attack],
    norm: Norm = "linf",
    baselines: str | Sequence[str] = BASELINE_ATTACKS,
    batch_size: int | None = None,
    repeats: int = 5,
    seed: int = 0,
    name: str = "model",
    progress: bool = True,
) -> FrontierResults:
    """Success against time: at which time budgets one of the `entries` is at least as strong as every baseline.

    Args:
        model, x, y: as for `advgan.compare`
        eps, norm: the ball, in pixel units of [0, 1]
        entries: what is compared with the baselines, as the attacks of `advgan.compare`; a generator also followed by
            steps of APGD on the margin, for the images that the pass leaves without success; an unrolled one with each
            number of iterations up to its own, one with labels as an input also without them
        baselines: names of attacks with settings; FGSM is always among them, since its time is the unit; the default
            ones are without loss dlr for a model of two classes
        batch_size: images an attack gets at once, in both measurements; None: as `advgan.compare`
        repeats: rounds of timing; each runs FGSM right before each attack, on the same batch
        seed: seed of random attacks
        name: label of the model in the report
        progress: as for `advgan.compare`

    Every adversarial example is verified, as by `advgan.compare`. Time is measured on the device of the model. Raises
    InputError as `advgan.compare`.

    Example:
        >>> print(results := advgan.frontier(model, x, y, eps=8 / 255, entries={"patch": generator}))
        >>> results.save("frontier")
    """
    repeats = check_int("repeats", repeats, 1, sys.maxsize)
    threat, ours = Threat(norm, eps), expand_entries(label_attacks(entries), eps)
    x = as_images(x)
    y = as_labels(y, len(x))
    checked, classes = checked_target(model, x, y, name)
    names = baselines_for(baselines, classes)
    if both := [label for label in ours if label in names]:
        raise InputError(f"expected entries that are not baselines, got {both[0]!r}")
    attacks: dict[str, Attack] = {**{attack: attack for attack in names}, **ours}
    settings: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "name": name, "progress": progress}
    compared = compare(model, x, y, attacks, eps=eps, norm=norm, **settings)
    measured = compared.comparison.summary
    target, device = checked.model, device_of(checked.model)
    verified = [row["attack"] for row in measured["rows"] if row["status"] == "ok"]
    with frozen_eval(target), result_progress(1, silent=not progress) as start_result:
        functions: dict[str, AttackFn] = {}
        for label in verified:
            entry = resolved(label, attacks[label], checked, threat, y_target=None, seed=seed)
            functions[label] = entry.attack(target) if isinstance(entry, GridPoint) else entry
        timed = measure_frontier(
            *(measured["rows"], functions, target, x.to(device), y.to(device)),
            threat=threat,
            ours=ours,
            batch_size=attack_batch_size(batch_size, x.shape[1:]),
            repeats=repeats,
            start_result=start_result,
        )
    return FrontierResults({key: measured[key] for key in ("environment", "targets", "generators")} | timed)


def baselines_for(baselines: str | Sequence[str], classes: int) -> list[str]:
    """FGSM and the `baselines`; the default ones without those that need more than so many classes, with a note."""
    baselines = [baselines] if isinstance(baselines, str) else baselines
    names = list(dict.fromkeys([REFERENCE, *baselines]))
    if tuple(baselines) != BASELINE_ATTACKS:
        return names
    possible = [name for name in names if parse_attack(name).least_classes <= classes]
    if left_out := [name for name in names if name not in possible]:
        note(f"without the baselines {', '.join(left_out)}: their loss takes 3 classes, the classifier has {classes}")
    return possible


def measure_frontier(
    results: Sequence[Mapping[str, Any]],
    attacks: Mapping[str, AttackFn],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    threat: Threat,
    ours: Collection[str],
    batch_size: int,
    repeats: int,
    start_result: StartResult,
) -> dict[str, Any]:
    """Time the `attacks`, and rank them with their `results` (rows of results.json): a part of frontier.json.

    x, y   images (n, c, h, w) and labels (n,), on the device of the model
    ours   the names of the entries; the others are baselines
    start_result   of `result_progress`, for the measurement of all times, as one result
    """
    reference = make_attack(REFERENCE, model, threat)
    progress = start_result(f"time, eps {eps_text(threat.eps)}", (repeats + 1) * len(attacks))
    ratios = time_ratios(attacks, reference, x, y, batch_size=batch_size, repeats=repeats, progress=progress)
    keys = ("attack", "asr", "asr_low", "asr_high", "status")
    rows: list[dict[str, Any]] = [
        {**{key: row[key] for key in keys}, "n": row["n_attacked"], "ours": row["attack"] in ours}
        | time_columns(ratios.get(row["attack"]))
        for row in results
    ]
    parts = segments([row for row in rows if row["time"] is not None])
    return {
        **{"norm": threat.norm, "eps": threat.eps, "batch_size": batch_size, "repeats": repeats},
        **{"budgets": list(BUDGETS), "rows": rows, "parts": parts, "lead": lead_share(parts)},
    }


def expand_entries(entries: Mapping[str, Attack], eps: float) -> dict[str, Attack]:
    """The entries, of a generator its `variants`."""
    expanded: dict[str, Attack] = {}
    for label, entry in entries.items():
        if isinstance(entry, Generator):
            for name, settings in variants(label, entry).items():
                expanded[name] = _variant(entry, eps, settings) if settings else entry
        else:
            expanded[label] = entry
    return expanded


def variants(label: str, generator: Generator) -> dict[str, dict[str, Any]]:
    """The names with which a generator takes part -> settings of attack advgan: a pass, of an unrolled one with each
    number of iterations up to its own, and with labels as an input also without them; and the shortest pass followed
    by gradient steps where it has no success."""
    names: dict[str, dict[str, Any]] = {label: {}}
    if generator.iterations > 1:
        counts = range(1, generator.iterations + 1)
        names = {f"{label}, {k} iteration{'s' * (k > 1)}": {"iterations": k} for k in counts}
    start, settings = next(iter(names.items()))
    if generator.labels:
        names[f"{label}, labels unknown"] = {"use_labels": False}
    for k in WARM_STEPS:
        names[f"{start}, then {k} step{'s' * (k > 1)}"] = settings | {"steps": k} | WARM_START
    return names


def _variant(generator: Generator, eps: float, settings: Mapping[str, Any]) -> Callable[..., Tensor]:
    def attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return advgan(model, x, y, eps=eps, norm=generator.threat.norm, generator=generator, **settings)

    return attack
