"""Time of the evaluation in addition to the attack."""

from functools import partial

from torch import Tensor

from advgan.attacks import AttackFn
from advgan.attacks.active_set import CHUNK
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.evaluation import evaluate, predict
from advgan.evaluation.evaluate import CleanOutputs
from advgan.evaluation.runner import timed
from benchmarks.sections.attacks import OURS, ours
from benchmarks.timing import WARM_UP, BenchmarkRow, BenchmarkSetup, median_and_range

LONG = {"ifgsm": 10, "pgd": 40}  # attacks of 10 gradient steps and more


def overhead(setup: BenchmarkSetup, threat: Threat) -> list[BenchmarkRow]:
    """Time of `evaluate` minus the attack's and minus one forward pass, as a fraction of the attack's."""
    attacks = {f"{name}, {steps} steps": ours(name, setup.model, threat.eps)[OURS] for name, steps in LONG.items()}
    seconds_each = setup.budget / len(attacks) / len(setup.batch_sizes)
    rows: list[BenchmarkRow] = []
    for contender, attack in attacks.items():
        for size in setup.batch_sizes:
            evaluate(attack, setup.model, setup.x[:WARM_UP], setup.y[:WARM_UP], threat)  # imports, too
            passes: list[dict[str, float]] = []
            while len(passes) < setup.rounds and sum(timed_pass["evaluate"] for timed_pass in passes) < seconds_each:
                passes.append(harness_pass(setup, threat, attack, size))
                setup.advance()
            shares = [
                (timed_pass["evaluate"] - timed_pass["attack"] - timed_pass["forward"]) / timed_pass["attack"]
                for timed_pass in passes
            ]
            seconds = {part: [timed_pass[part] for timed_pass in passes] for part in passes[0]}
            rows.append(
                {
                    **{"side": contender, "status": "ok", "batch_size": size, "rounds": len(passes)},
                    **{"seconds": seconds, "overhead": median_and_range(shares)},
                }
            )
    return rows


def harness_pass(setup: BenchmarkSetup, threat: Threat, attack: AttackFn, size: int) -> dict[str, float]:
    """Seconds of `evaluate` over all images, of the attack inside it, and of a forward of as many images."""
    model, x, device = setup.model, setup.x, setup.x.device
    calls: list[tuple[int, float]] = []  # images, seconds

    def timed_attack(x: Tensor, y: Tensor) -> Tensor:
        x_adv, seconds = timed(device, attack, x, y)
        calls.append((len(x), seconds))
        return x_adv

    evaluate_all = partial(evaluate, clean=CleanOutputs(setup.logits), batch_size=size)
    result, seconds = timed(device, evaluate_all, timed_attack, model, x, setup.y, threat)
    if result.row["status"] != "ok":
        raise InputError(f"the evaluation rejected an attack of advgan: {result.row['status']}")
    _, forward_seconds = timed(
        device, predict, model, x, CHUNK if device.type == "cpu" else size
    )  # the batch of the verification
    warm_up = calls[0][1] if sum(n for n, _ in calls) > len(x) else 0.0  # called by the evaluation, not by the user
    return {
        "evaluate": seconds,
        "attack": sum(call_seconds for _, call_seconds in calls) - warm_up,
        "forward": forward_seconds,
    }
