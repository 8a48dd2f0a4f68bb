"""When training a generator pays: it costs time once, the attacks cost time on every image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from advgan.analysis.groups import first_seeds, groups, spec_of
from advgan.attacks.registry import AttackSpec
from advgan.evaluation.evaluate import Result

RIVALS: dict[str, int | None] = {"fgsm": None, "ifgsm": 10, "pgd": 40, "deepfool": None}  # with their usual steps


def cost(results: Sequence[Result], generators: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each generator whose training time is known, in each group that it took part in, against each of `RIVALS`:
    the number of `images` from which training + one pass costs no more than the attack, None if that never comes. A
    generator that fools no image is left out: nothing was bought.

    generators   entries of results.json: path, target, norm, y_target, training_seconds; of several, their `attack`
    """
    found = []
    for entry in generators:
        for group, members in groups(results).items():
            target, norm, _, y_target = group
            own = (target, norm, y_target) == (entry["target"], entry["norm"], entry["y_target"])
            runs = first_seeds(members)
            attacks = [(spec, result.row) for result in runs if (spec := spec_of(result))]
            one_pass = [row for spec, row in attacks if spec.name == "advgan" and not spec.settings.get("steps")]
            if "attack" in entry:  # one of several generators
                one_pass = [result.row for result in runs if result.row["attack"] == entry["attack"]]
            seconds = entry["training_seconds"]
            if seconds is None or not own or not one_pass or not one_pass[0]["asr"]:
                continue
            for rival in (row for spec, row in attacks if _rival(spec)):
                images = break_even(seconds, one_pass[0]["seconds_per_image"], rival["seconds_per_image"])
                who = {"generator": entry["path"], "training_seconds": seconds, "attack": rival["attack"]}
                found.append({**group._asdict(), **who, "images": images})
    return found


def break_even(training: float, generator: float, attack: float) -> int | None:
    """The smallest N with training + N generator <= N attack (seconds, seconds per image); None if there is none."""
    return math.ceil(training / (attack - generator)) if attack > generator else None


def _rival(spec: AttackSpec) -> bool:
    """Whether it is one of `RIVALS` with its usual number of steps, which is also what it takes if nothing is said."""
    usual = RIVALS.get(spec.name)
    return spec.name in RIVALS and (usual is None or spec.settings.get("steps", usual) == usual)
