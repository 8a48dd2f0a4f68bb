"""Accuracy and attack success against eps, from 0 on.

python eval/sweep.py --attacks noise-sign fgsm ifgsm
python eval/sweep.py --recipe recipes/tutorial.yaml --data-dir data       the curve of PyTorch's FGSM tutorial

Every adversarial example is verified (advgan/evaluation). Results are kept in OUTPUT_DIR/cells: the same command
resumes.
"""

from dataclasses import dataclass
from pathlib import Path

from advgan.attacks.registry import ATTACKS
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm, Threat
from advgan.defenses.flags import ClassifierSettings
from advgan.evaluation import GridPoint
from advgan.evaluation.loading import parse_eps_values, resolve_target_class
from advgan.experiments.study import SeededStudySettings, Study, parse_attacks
from advgan.experiments.sweep.report import report, unattacked
from advgan.report.comparison import Comparison

BASIC = ("noise-sign", "fgsm", "ifgsm", "advgan")
SHOWN = 100  # images that a gallery's five are chosen from


@dataclass(frozen=True)
class Settings(ClassifierSettings, SeededStudySettings):
    """Classifier, attacks, images and the directory of the results."""

    generator: Path | None = None
    """Folder of a trained generator, or its run: attack advgan, at eps up to its own"""
    attacks: tuple[str, ...] = ()
    """Names, with spaces or commas between, with settings after colons (pgd:steps=100:loss=dlr), or all;
    (): noise-sign, fgsm, ifgsm, and advgan where there is a generator"""
    eps: tuple[str, ...] = ()
    """Radii, like 0.1, 8/255, or 0:0.3:0.05 for 0 to 0.3 by 0.05; 0 is always among them; (): 0:0.3:0.05 for linf and
    0:3:0.5 for l2"""
    norm: Norm | None = None
    """Norm of the balls; None: the generator's, linf without one"""
    y_target: int | str | None = None
    """Target class, a number or a name; images of that class are left out. None: the generator's, if it has one"""
    output_dir: Path = Path("checkpoints/runs/sweep")
    """Directory of sweep.md, curves.png, sweep.json and the rest; earlier ones are replaced"""


def main(settings: Settings) -> None:
    study, classifier = Study("sweep", settings), settings.classifier
    trained = study.load_generators([] if settings.generator is None else [settings.generator], [settings.target])
    generator = trained[0].generator if trained else None
    norm: Norm = settings.norm or (generator.threat.norm if generator else "linf")
    chosen = resolve_target_class(settings.y_target, generator)
    threats = [Threat(norm, eps, targeted=chosen is not None) for eps in parse_eps_values(settings.eps, norm) if eps]
    with_generator, targeted = generator is not None, chosen is not None
    specs = parse_attacks(settings.attacks, BASIC, tuple(ATTACKS), with_generator=with_generator, targeted=targeted)
    if not threats:
        raise InputError("expected an eps above 0, got none")
    study.init_run(settings.seed, classifier)
    (target,) = study.load_targets([classifier])
    y_target = study.class_number(chosen)
    study.check_attacks(specs, threats[:1], y_target)
    if any(spec.name == "advgan" for spec in specs):
        study.check_generator_threats(threats, y_target)
    study.prepare_output_dir(keep=SHOWN)
    points = [
        GridPoint(spec, target, threat, y_target, settings.seed, generator=trained[0] if trained else None)
        for spec in specs
        for threat in threats
        if spec.name != "advgan" or generator is None or generator.supports(threat, y_target)
    ]
    results = study.run(points)
    rows = []
    for result in results:
        if result.row["eps"] == threats[0].eps:
            rows.append(unattacked(result.row))
        rows.append(result.row)
    generators = [loaded.describe(target) for loaded in trained]
    summary = study.summary(target=target.describe(study.dataset), generators=generators, rows=rows)
    images = study.x[:SHOWN], study.y[:SHOWN]
    study.write_report(report(Comparison(summary, results, *images, study.data.classes)), total=len(results))
