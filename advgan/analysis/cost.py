"""Break-even of a generator: training takes time once, an attack takes time on every image."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from advgan.analysis.groups import first_seeds, groups, spec_of
from advgan.attacks.registry import AttackSpec
from advgan.evaluation.evaluate import Result

BASELINES: dict[str, int | None] = {"fgsm": None, "ifgsm": 10, "pgd": 40, "deepfool": None}  # with their usual steps


def cost(results: Sequence[Result], generators: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per generator of known training time, per group with its results, and per attack of `BASELINES`:
    the number of `images` from which training + one pass takes no more time than the attack, None if there is none. A
    generator without any success is left out.

    generators   entries of results.json: path, target, norm, y_target, training_seconds; of several, their `attack`
    """
    entries = []
    for entry in generators:
        for group, members in groups(results).items():
            target, norm, _, y_target = group
            same_threat = (target, norm, y_target) == (entry["target"], entry["norm"], entry["y_target"])
            runs = first_seeds(members)
            attacks = [(spec, result.row) for result in runs if (spec := spec_of(result))]
            one_pass = [row for spec, row in attacks if spec.name == "advgan" and not spec.settings.get("steps")]
            if "attack" in entry:  # one of several generators
                one_pass = [result.row for result in runs if result.row["attack"] == entry["attack"]]
            seconds = entry["training_seconds"]
            if seconds is None or not same_threat or not one_pass or not one_pass[0]["asr"]:
                continue
            for baseline in (row for spec, row in attacks if _is_baseline(spec)):
                images = break_even(seconds, one_pass[0]["seconds_per_image"], baseline["seconds_per_image"])
                identity = {"generator": entry["path"], "training_seconds": seconds, "attack": baseline["attack"]}
                entries.append({**group._asdict(), **identity, "images": images})
    return entries


def break_even(training: float, generator: float, attack: float) -> int | None:
    """The smallest N with training + N generator <= N attack (seconds, seconds per image); None if there is none."""
    return math.ceil(training / (attack - generator)) if attack > generator else None


def _is_baseline(spec: AttackSpec) -> bool:
    """Whether it is one of `BASELINES` with its default number of steps."""
    default_steps = BASELINES.get(spec.name)
    return spec.name in BASELINES and (
        default_steps is None or spec.settings.get("steps", default_steps) == default_steps
    )
