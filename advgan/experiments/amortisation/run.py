"""The amortisation gap: how much of what 40 steps of PGD achieve does one forward pass achieve, and do both add up?

python eval/amortisation.py --target-weights RUN --generator RUN --eps 0.1 0.2 0.3
python eval/amortisation.py --recipe recipes/amortisation-mnist.yaml --data-dir data

Three questions, on the same correctly classified test images. One pass beside FGSM, I-FGSM and the union of four
PGD-40, at each eps. A pass and a few gradient steps from there (warm start) beside PGD and APGD with as many. And of
generators that take any class, or noise: targeted success, and how different the draws for one image are.

All results are verified (advgan/evaluation). Every cell is kept in OUTPUT_DIR/cells as soon as it is done: the same
call goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import advgan.training as training
from advgan.attacks.noise import noise_sign
from advgan.attacks.registry import parse_attack
from advgan.core.config import write_settings
from advgan.core.errors import InputError
from advgan.core.shipped import CLASSIFIER
from advgan.core.threat_model import Norm, Threat, eps_text
from advgan.data.flags import load_chosen
from advgan.defenses import parse_classifier
from advgan.evaluation import Result, ResultCache, environment, evaluate
from advgan.evaluation.compatibility import require_gradients
from advgan.evaluation.loading import (
    LoadedGenerator,
    TargetModel,
    load_generators,
    load_targets,
    parse_eps_values,
    unfit,
)
from advgan.experiments.amortisation.analysis import OURS, against, finding, reach, union
from advgan.experiments.amortisation.diversity import DRAWS, diversity
from advgan.experiments.amortisation.report import report
from advgan.experiments.settings import ClassifierSettings, StudySettings
from advgan.report.progress import Begin, cell_progress

PARTS = ("table", "curves", "reach", "findings", "targeted", "diversity")  # of amortisation.json
RATE = ("n", "asr", "asr_low", "asr_high")
LOSSES = ("cross-entropy", "margin")
STOP = "stop_on_success=true"  # the logits come with each gradient: who looks at them keeps the first image that fools


@dataclass(frozen=True)
class Settings(ClassifierSettings, StudySettings):
    """Which generators against which classifier, on which images, and where the results go."""

    generator: tuple[Path, ...] = ()
    """Trained generators' folders, or the runs that hold them; each takes part at every eps up to its own"""
    eps: tuple[str, ...] = ("0.1", "0.15", "0.2", "0.3")
    """Radii, like 0.1, 8/255, or 0.1:0.3:0.05 for 0.1 to 0.3 by 0.05"""
    norm: Norm | None = None
    """Norm of the balls; None takes the first generator's"""
    steps: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 40)
    """Gradient evaluations of the curves: warm start, PGD and APGD"""
    curve_samples: int = 1000
    """The curves are over the first so many of the images; 0 leaves them out"""
    targeted: bool = False
    """Aim generators that take any class at each class in turn"""
    targeted_samples: int = 200
    """Targeted PGD-40, beside them, is over the first so many of the images"""
    diversity_samples: int = 500
    """Draws of generators that take noise are over the first so many of the images"""
    output_dir: Path = Path("checkpoints/runs/amortisation")
    """Where amortisation.md, amortisation.json, the figures and the rest go; earlier ones are replaced"""
    seed: int = 0
    """Of the random attacks"""


@dataclass
class Bench:
    """One classifier, and the verified results on it, in the order in which they came."""

    target: TargetModel
    seed: int
    begin: Begin
    results: list[Result] = field(default_factory=list)

    def run(
        self,
        cells: ResultCache,
        word: str,
        threat: Threat,
        trained: LoadedGenerator | None = None,
        y_target: int | None = None,
    ) -> Result:
        """The cell of attack `word` on the images of `cells`."""
        name = word.replace(f":{STOP}", "") + (f" of {trained.name}" if trained else "")
        aim = "" if y_target is None else f", toward {y_target}"
        result = cells.run(
            *(parse_attack(word), self.target, threat),
            y_target=y_target,
            seed=self.seed,
            generator=trained.generator if trained else None,
            foreign=trained is not None and not trained.trained_on(self.target),
            progress=self.begin(f"{name}, eps {eps_text(threat.eps)}{aim}", len(cells.x)),
        )
        self.results.append(result)
        return result


def main(settings: Settings) -> None:
    trained = check(settings)
    spec = parse_classifier(settings.target, settings.target_weights, settings.defense, default=CLASSIFIER)
    norm: Norm = settings.norm or trained[0].generator.threat.norm
    balls = [Threat(norm, eps) for eps in parse_eps_values(settings.eps, norm) if eps]
    if not balls:
        raise InputError("expected an eps above 0, got none")
    for each in trained:
        if reason := unfit(each.generator, balls[0], None):
            raise InputError(f"{each.name}: {reason}")
    device = training.start_alone(settings.seed, settings.threads)
    data = load_chosen(settings)
    (target,), data = load_targets([spec], data, device)
    require_gradients(target.model)
    test = data.test if settings.max_samples is None else data.test.first(settings.max_samples)
    x, y = next(test.batches(len(test)))
    for each in trained:
        each.generator.to(device).perturb(x[:1].to(device))
    training.claim(settings.output_dir, "amortisation", resume=False, overwrite=True)
    write_settings(settings, settings.output_dir)

    where, size = settings.output_dir / "cells", settings.batch_size
    every, some, few = (
        ResultCache(where, x[:n], y[:n], batch_size=size, keep=0, fresh=settings.fresh)
        for n in (len(x), settings.curve_samples, settings.targeted_samples)
    )
    found: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    with cell_progress(sum(planned(settings, trained, threat) for threat in balls)) as begin:
        bench = Bench(target, settings.seed, begin)
        for threat in balls:
            able = [each for each in trained if not unfit(each.generator, threat, None)]
            four = [bench.run(every, word, threat) for word in strongest(threat.eps)]
            passes = {each: bench.run(every, "advgan", threat, each) for each in able}
            found["table"] += gap(bench, every, threat, four, passes)
            if settings.curve_samples:
                points = warm_start(bench, some, threat, four, passes, settings.steps)
                rows = needed(points, union(four, len(some.x)))
                found["curves"] += points
                found["reach"] += rows
                measured = [name for name in OURS if any(point["family"] == name for point in points)]
                found["findings"] += [
                    {"eps": threat.eps, "family": name, "finding": finding(rows, name)} for name in measured
                ]
            for each in able:
                if settings.targeted and each.generator.classes:
                    found["targeted"] += aimed(bench, every, few, threat, each)
                if each.generator.noise:
                    n = settings.diversity_samples
                    found["diversity"].append(drawn(bench, x[:n], y[:n], threat, each, size))

    described = target.describe(settings.dataset)
    summary = {
        **{"environment": environment(settings), "target": described, "targets": [described]},
        "generators": [
            {"name": each.name, "guided": each.generator.guide is not None, "rounds": each.generator.iterations}
            | each.describe(target)
            for each in trained
        ],
        **found,
        "rows": [result.row for result in bench.results],
    }
    study_report = report(summary)
    study_report.write(settings.output_dir)
    study_report.print(settings.output_dir, kept=every.found + some.found + few.found)


def check(settings: Settings) -> list[LoadedGenerator]:
    """The generators, if the settings can be. Raises InputError."""
    for name in ("batch_size", "targeted_samples", "diversity_samples"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(settings, name)}")
    if settings.curve_samples < 0:
        raise InputError(f"curve_samples must be 0 or more, got {settings.curve_samples}")
    if settings.curve_samples and (not settings.steps or min(settings.steps) < 1):
        raise InputError(f"steps must be numbers from 1 on, got {' '.join(map(str, settings.steps)) or 'none'}")
    if not settings.generator:
        raise InputError("expected --generator, at least one trained generator's folder, got none")
    trained = load_generators(settings.generator, len(settings.generator), [settings.target])
    names = [each.name for each in trained]
    if len(set(names)) < len(names):
        raise InputError(f"expected generators in runs of different names, got {', '.join(names)}")
    return trained


def planned(settings: Settings, trained: Sequence[LoadedGenerator], threat: Threat) -> int:
    """How many cells there are at one eps, for the progress bar."""
    able = [each for each in trained if not unfit(each.generator, threat, None)]
    cells = 2 + len(strongest(threat.eps)) + len(able)
    if settings.curve_samples:
        kinds = [families(k, threat.eps) for k in set(settings.steps)]
        cells += sum(len(words) for kind in kinds for family, words in kind.items() if able or family != "warm start")
        cells += len(kinds) if any(each.generator.iterations for each in able) else 0
    for each in able:
        cells += each.generator.classes * (1 + len(strongest(threat.eps))) if settings.targeted else 0
        cells += DRAWS[-1] if each.generator.noise else 0
    return cells


def strongest(eps: float) -> list[str]:
    """The reference, PGD-40: from x and from random, on either loss; an image counts where any of the four fools it."""
    step = f"pgd:steps=40:step_size={eps / 10:.6g}"
    return [f"{step}:start={start}:loss={loss}:{STOP}" for start in ("x", "random") for loss in LOSSES]


def families(k: int, eps: float) -> dict[str, list[str]]:
    """What is run with `k` gradient evaluations: some choices for each curve, which shows the best of them.

    Steps are of 2.5 eps / k, PGD's own size, or of the warm start's own, which PGD takes too where its own are shorter.
    """
    own, warm = f":step_size={2.5 * eps / k:.6g}", f":step_size={eps / 4:.6g}"  # the same at k = 10
    sizes = [size for size in ("", own) if size != warm]
    starts = [f"{size}:start={start}" for size in (["", warm] if k > 10 else [""]) for start in ("x", "random")]
    return {
        "warm start": [f"advgan:steps={k}{size}:loss={loss}:{STOP}" for size in sizes for loss in LOSSES],
        "PGD": [f"pgd:steps={k}{start}:loss={loss}:{STOP}" for start in starts for loss in LOSSES],
        "APGD": [f"{name}:steps={k}" for name in ("apgd-ce", "apgd-dlr")],  # it stops at success by itself
    }


def gap(
    bench: Bench, cells: ResultCache, threat: Threat, four: Sequence[Result], passes: Mapping[LoadedGenerator, Result]
) -> list[dict[str, Any]]:
    """Lines of the table: one pass of each generator and the classics, each beside the union of the `four`."""
    reference = union(four)
    measured = [
        ("FGSM", 1, [bench.run(cells, "fgsm", threat)]),
        ("I-FGSM-10", 10, [bench.run(cells, "ifgsm", threat)]),
        ("PGD-40", 40 * len(four), four),
        *((trained.name, trained.generator.iterations, [result]) for trained, result in passes.items()),
    ]
    return [
        {"eps": threat.eps, "norm": threat.norm, "attack": name, "gradients": gradients}
        | against(union(results), reference)
        for name, gradients, results in measured
    ]


def warm_start(
    bench: Bench,
    cells: ResultCache,
    threat: Threat,
    four: Sequence[Result],
    passes: Mapping[LoadedGenerator, Result],
    steps: Sequence[int],
) -> list[dict[str, Any]]:
    """Points of the curves: success against gradients, from the best generator's pass, by PGD and by APGD; and of the
    best unrolled network's pass against its iterations."""
    first = len(cells.x)
    begun = {trained: success for trained, result in passes.items() if (success := union([result], first)) is not None}
    ranked = sorted(begun, key=lambda trained: int(begun[trained].sum()), reverse=True)
    start = ranked[0] if ranked else None
    unrolled = next((trained for trained in ranked if trained.generator.iterations), None)

    def point(family: str, evaluations: int, tried: Mapping[str, Tensor | None]) -> dict[str, Any]:
        rates = {word: against(success) for word, success in tried.items()}
        best = max(rates, key=lambda word: rates[word]["asr"] or 0.0)
        row = {"eps": threat.eps, "norm": threat.norm, "family": family, "evaluations": evaluations, "choice": best}
        return row | {key: rates[best][key] for key in RATE} | {"choices": {word: rates[word]["asr"] for word in rates}}

    points = []
    if start is not None:
        points.append(point("warm start", start.generator.iterations, {start.name: begun[start]}))
    if (reference := union(four, first)) is not None:
        points += [point(family, 0, {"no attack": torch.zeros_like(reference)}) for family in ("PGD", "APGD")]
    for k in sorted(set(steps)):
        for family, words in families(k, threat.eps).items():
            if start is not None or family != "warm start":
                who = start if family == "warm start" else None
                cost = k + (who.generator.iterations if who else 0)
                tried = {word: union([bench.run(cells, word, threat, who)]) for word in words}
                points.append(point(family, cost, tried))
        if unrolled is not None:
            word = f"advgan:iterations={k}"
            points.append(point("unrolled", k, {word: union([bench.run(cells, word, threat, unrolled)])}))
    return points


def needed(points: Sequence[Mapping[str, Any]], reference: Tensor | None) -> list[dict[str, Any]]:
    """Gradient evaluations to a share of the reference's success, by the curves through `points` at one eps."""
    curves: dict[str, dict[int, float]] = {}
    for each in points:
        if each["asr"] is not None:
            curves.setdefault(each["family"], {})[each["evaluations"]] = each["asr"]
    rows = reach(curves, against(reference)["asr"] or 0.0)
    return [{"eps": points[0]["eps"], "norm": points[0]["norm"], **row} for row in rows]


def aimed(
    bench: Bench, every: ResultCache, few: ResultCache, threat: Threat, trained: LoadedGenerator
) -> list[dict[str, Any]]:
    """One line per class that images of all others are turned to: one pass, and targeted PGD-40 on the first few."""
    threat, rows = Threat(threat.norm, threat.eps, targeted=True), []
    for y_target in range(trained.generator.classes):
        one_pass = bench.run(every, "advgan", threat, trained, y_target)
        reference = union([bench.run(few, word, threat, y_target=y_target) for word in strongest(threat.eps)])
        whole, beside = against(union([one_pass])), against(union([one_pass], len(few.x)), reference)
        rows.append(
            {"eps": threat.eps, "norm": threat.norm, "attack": trained.name, "y_target": y_target}
            | {key: whole[key] for key in RATE}
            | {"few_n": beside["n"], "few_asr": beside["asr"], "few_pgd": against(reference)["asr"]}
            | {key: beside[key] for key in ("ratio", "ratio_low", "ratio_high")}
        )
    return rows


def drawn(
    bench: Bench, x: Tensor, y: Tensor, threat: Threat, trained: LoadedGenerator, batch_size: int
) -> dict[str, Any]:
    """What several draws of z for one image add up to. A draw costs one pass: they are made anew at every call."""
    rng, victim = torch.Generator().manual_seed(bench.seed), bench.target

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return trained.generator.perturb(x, eps=threat.eps, rng=rng)

    results = []
    for i in range(DRAWS[-1]):
        results.append(
            evaluate(
                *(attack, victim.model, x, y, threat),
                name=f"{trained.name}, draw {i + 1}",
                target_name=victim.label,
                access="generator" if trained.trained_on(bench.target) else "transfer",
                seed=bench.seed,
                batch_size=batch_size,
                keep=len(x),
                progress=bench.begin(f"draw {i + 1} of {trained.name}, eps {eps_text(threat.eps)}", len(x)),
            )
        )
    bench.results += results
    row = {"eps": threat.eps, "norm": threat.norm, "attack": trained.name}
    if not all(result.records for result in results):
        return row
    counts = results[0].records["counts"]
    success, prediction = (
        torch.stack([result.records[name][counts] for result in results]) for name in ("success", "prediction")
    )
    shaken = torch.stack([noise_sign(None, x, y, eps=threat.eps, norm=threat.norm, rng=rng) for _ in range(2)])
    x_adv = torch.stack([result.x_adv[counts] for result in results])
    return row | diversity(x_adv, success, prediction, shaken[:, counts])
