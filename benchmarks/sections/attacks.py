"""Our attacks and the generator's pass against those of other libraries, on the same images of the same target."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from advgan.attacks import AttackFn, deepfool, fgsm, ifgsm, pgd
from advgan.core.threat_model import Threat
from advgan.models.generator import Generator
from benchmarks.libraries import Attacks, invite
from benchmarks.race import Bench, Row, compete

OURS, STOP, PASS = "ours", "ours, stop on success", "advgan, one pass"


def ours(section: str, model: nn.Module, eps: float) -> Attacks:
    """Our attacks of a section, by the names they have in its table."""
    if section == "deepfool":
        return {OURS: partial(deepfool, model)}
    if section == "fgsm":
        return {OURS: partial(fgsm, model, eps=eps)}
    attack = partial(ifgsm, model, eps=eps) if section == "ifgsm" else partial(pgd, model, eps=eps, step_size=eps / 30)
    return {OURS: attack, STOP: partial(attack, stop_on_success=True)}


def against_peers(section: str, bench: Bench, threat: Threat, peers: list[str]) -> list[Row]:
    own = ours(section, bench.model, threat.eps)
    theirs, missing = invite(peers, section, bench.model, threat)
    return compete(bench, own | theirs, list(own), threat, minimal=section == "deepfool") + skipped(missing)


def one_pass(bench: Bench, generator: Generator | None, peers: list[str]) -> list[Row]:
    """The generator against gradient attacks in its own ball, toward its own class if it aims at one."""
    if generator is None:
        return [{"side": PASS, "status": "skipped: no --generator DIR given"}]
    threat, y_target = generator.threat, generator.y_target
    theirs, missing = invite(peers, "fgsm", bench.model, threat, y_target)

    def aimed(attack: Callable[..., Tensor]) -> AttackFn:
        def run(x: Tensor, y: Tensor) -> Tensor:
            aim = None if y_target is None else torch.full_like(y, y_target)
            return attack(bench.model, x, y, eps=threat.eps, norm=threat.norm, y_target=aim)

        return run

    sides: dict[str, AttackFn] = {
        PASS: lambda x, y: generator.perturb(x),
        "fgsm": aimed(fgsm),
        "ifgsm, 10 steps": aimed(ifgsm),
        **{f"{title}, fgsm": attack for title, attack in theirs.items()},
        "target forward alone": lambda x, y: forward(bench.model, x),
    }
    return compete(bench, sides, [PASS], threat, y_target=y_target) + skipped(missing)


def skipped(missing: dict[str, str]) -> list[Row]:
    return [{"side": side, "status": f"skipped: {why}"} for side, why in missing.items()]


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)
