"""How much does each step of eps cost a classifier? Accuracy and attack success against eps, from 0 on.

python eval/sweep.py --attacks noise-sign fgsm ifgsm
python eval/sweep.py --recipe recipes/tutorial.yaml --data-dir data       the curve of PyTorch's FGSM tutorial

All results are verified (advgan/evaluation). Every cell (attack x eps) is kept in OUTPUT_DIR/cells as soon as it is
done: the same call goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import advgan.training as training
from advgan.attacks.registry import ATTACKS, Spec, make_attack, parse_attack
from advgan.core.config import write_settings
from advgan.core.errors import InputError
from advgan.core.shipped import CLASSIFIER
from advgan.core.threat_model import Norm, Threat, check_class, eps_text
from advgan.data.flags import load_chosen
from advgan.defenses import parse_classifier
from advgan.evaluation import Result, ResultCache, environment
from advgan.evaluation.loading import aim, load_generators, load_targets, parse_eps_values, unfit
from advgan.experiments.settings import ClassifierSettings, StudySettings
from advgan.experiments.sweep.report import report, unattacked
from advgan.report.comparison import Comparison
from advgan.report.progress import cell_progress

ATTACKS_SHOWN = ("noise-sign", "fgsm", "ifgsm")
SHOWN = 100  # images that a gallery's five are chosen from


@dataclass(frozen=True)
class Settings(ClassifierSettings, StudySettings):
    """What is attacked how hard, on which images, and where the results go."""

    generator: Path | None = None
    """A trained generator's folder, or the run that holds it: attack advgan, at eps up to its own"""
    attacks: tuple[str, ...] = ()
    """Names, with spaces or commas between, with settings of their own after colons (pgd:steps=100:loss=dlr), or all;
    () takes noise-sign, fgsm, ifgsm, and advgan where there is a generator"""
    eps: tuple[str, ...] = ()
    """Radii, like 0.1, 8/255, or 0:0.3:0.05 for 0 to 0.3 by 0.05; 0 is always among them; () takes 0:0.3:0.05 for
    linf and 0:3:0.5 for l2"""
    norm: Norm | None = None
    """Norm of the balls; None takes the generator's, linf without one"""
    y_target: int | None = None
    """Aim at this class, whose own images are left out; None takes the generator's, if it has one"""
    output_dir: Path = Path("checkpoints/runs/sweep")
    """Where sweep.md, curves.png, sweep.json and the rest go; earlier ones are replaced"""
    seed: int = 0
    """Of the random attacks"""


def main(settings: Settings) -> None:
    if settings.batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {settings.batch_size}")
    classifier = parse_classifier(settings.target, settings.target_weights, settings.defense, default=CLASSIFIER)
    trained = load_generators([] if settings.generator is None else [settings.generator], 1, [settings.target])
    generator = trained[0].generator if trained else None
    norm: Norm = settings.norm or (generator.threat.norm if generator else "linf")
    y_target = aim(settings.y_target, generator)
    balls = [Threat(norm, eps, targeted=y_target is not None) for eps in parse_eps_values(settings.eps, norm) if eps]
    words = settings.attacks or (*ATTACKS_SHOWN, *(["advgan"] if generator else []))
    specs = chosen(words, with_generator=generator is not None, targeted=y_target is not None)
    if not balls:
        raise InputError("expected an eps above 0, got none")
    device = training.start_alone(settings.seed, settings.threads)
    data = load_chosen(settings)
    (target,), data = load_targets([classifier], data, device)
    check_class(y_target, data.num_classes)
    test = data.test if settings.max_samples is None else data.test.first(settings.max_samples)
    x, y = next(test.batches(len(test)))
    for spec in specs:
        attack = make_attack(spec, target.model, balls[0], y_target, generator=generator)
        attack(x[:0], y[:0])  # what cannot be, it says now
    if generator is not None and any(spec.name == "advgan" for spec in specs):
        generator.to(device).perturb(x[:1].to(device))
        if reason := unfit(generator, balls[0], y_target):
            raise InputError(reason)
    training.claim(settings.output_dir, "sweep", resume=False, overwrite=True)
    write_settings(settings, settings.output_dir)
    cells = ResultCache(
        settings.output_dir / "cells", x, y, batch_size=settings.batch_size, keep=SHOWN, fresh=settings.fresh
    )

    results: list[Result] = []
    with cell_progress(len(specs) * len(balls)) as begin:
        for spec in specs:
            for threat in balls:
                if spec.name == "advgan" and generator is not None and unfit(generator, threat, y_target):
                    continue
                result = cells.run(
                    *(spec, target, threat),
                    y_target=y_target,
                    seed=settings.seed,
                    generator=generator,
                    foreign=bool(trained) and not trained[0].trained_on(target),
                    progress=begin(f"{spec.label}, {norm} eps {eps_text(threat.eps)}", len(x)),
                )
                results.append(result)

    rows = []
    for result in results:
        if result.row["eps"] == balls[0].eps:
            rows.append(unattacked(result.row))
        rows.append(result.row)
    described = target.describe(settings.dataset)
    summary = {
        **{"environment": environment(settings), "target": described, "targets": [described]},
        **{"generators": [each.describe(target) for each in trained], "rows": rows},
    }
    study_report = report(Comparison(summary, results, x[:SHOWN], y[:SHOWN], data.classes))
    study_report.write(settings.output_dir)
    study_report.print(settings.output_dir, kept=cells.found, total=len(results))


def chosen(asked: Sequence[str], with_generator: bool, targeted: bool) -> list[Spec]:
    """The attacks to run, each once, in the order asked for; all of them for "all", without what has no generator."""
    words = list(dict.fromkeys(" ".join(asked).replace(",", " ").split()))
    if words == ["all"]:
        able = [name for name, attack in ATTACKS.items() if attack.targeted or not targeted]
        words = [name for name in able if name != "advgan" or with_generator]
    return [parse_attack(word) for word in words]
