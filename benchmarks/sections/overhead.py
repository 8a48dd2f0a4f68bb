"""What the harness takes beside the attack that it watches."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from advgan.attacks import AttackFn
from advgan.attacks.active_set import CHUNK
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.evaluation import evaluate, predict
from advgan.evaluation.runner import timed
from benchmarks.race import WARM_UP, Bench, Row, median_and_range
from benchmarks.sections.attacks import OURS, ours

LONG = {"ifgsm": 10, "pgd": 40}  # attacks of 10 gradient steps and more, that the harness is held against


def overhead(bench: Bench, threat: Threat) -> list[Row]:
    """`evaluate`'s time less the attack's own and less one forward of the answers, as a share of the attack's own."""
    attacks = {f"{name}, {steps} steps": ours(name, bench.model, threat.eps)[OURS] for name, steps in LONG.items()}
    share = bench.budget / len(attacks) / len(bench.batch_sizes)
    rows: list[Row] = []
    for side, attack in attacks.items():
        for size in bench.batch_sizes:
            evaluate(attack, bench.model, bench.x[:WARM_UP], bench.y[:WARM_UP], threat)  # imports, too
            passes: list[dict[str, float]] = []
            while len(passes) < bench.rounds and sum(each["evaluate"] for each in passes) < share:
                passes.append(harness_pass(bench, threat, attack, size))
                bench.advance()
            shares = [(each["evaluate"] - each["attack"] - each["forward"]) / each["attack"] for each in passes]
            seconds = {part: [each[part] for each in passes] for part in passes[0]}
            rows.append(
                {
                    **{"side": side, "status": "ok", "batch_size": size, "rounds": len(passes)},
                    **{"seconds": seconds, "overhead": median_and_range(shares)},
                }
            )
    return rows


def harness_pass(bench: Bench, threat: Threat, attack: AttackFn, size: int) -> dict[str, float]:
    """Seconds of `evaluate` over all images, of the attack inside it, and of a forward of as many images."""
    model, x, device = bench.model, bench.x, bench.x.device
    calls: list[tuple[int, float]] = []  # images, seconds

    def watched(x: Tensor, y: Tensor) -> Tensor:
        x_adv, seconds = timed(device, attack, x, y)
        calls.append((len(x), seconds))
        return x_adv

    whole = partial(evaluate, clean_logits=bench.logits, batch_size=size)
    result, seconds = timed(device, whole, watched, model, x, bench.y, threat)
    if result.row["status"] != "ok":
        raise InputError(f"the harness turned down an attack of our own: {result.row['status']}")
    _, once = timed(device, predict, model, x, CHUNK if device.type == "cpu" else size)  # the batch of the verification
    warm_up = calls[0][1] if sum(n for n, _ in calls) > len(x) else 0.0  # is the harness's doing
    return {"evaluate": seconds, "attack": sum(each for _, each in calls) - warm_up, "forward": once}
