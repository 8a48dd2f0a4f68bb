"""Attacks of advgan and the pass of a generator against those of other libraries, on the same images and target."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from advgan.attacks import AttackFn, deepfool, fgsm, ifgsm, pgd
from advgan.core.threat_model import Threat
from advgan.models.generator import Generator
from benchmarks.libraries import Attacks, load_attacks
from benchmarks.timing import BenchmarkRow, BenchmarkSetup, compare_attacks

OURS, STOP, PASS = "ours", "ours, stop on success", "advgan, one pass"


def ours(section: str, model: nn.Module, eps: float) -> Attacks:
    """The attacks of advgan in a section, by their names in its table."""
    if section == "deepfool":
        return {OURS: partial(deepfool, model)}
    if section == "fgsm":
        return {OURS: partial(fgsm, model, eps=eps)}
    attack = partial(ifgsm, model, eps=eps) if section == "ifgsm" else partial(pgd, model, eps=eps, step_size=eps / 30)
    return {OURS: attack, STOP: partial(attack, stop_on_success=True)}


def against_libraries(section: str, setup: BenchmarkSetup, threat: Threat, peers: list[str]) -> list[BenchmarkRow]:
    our_attacks = ours(section, setup.model, threat.eps)
    library_attacks, missing = load_attacks(peers, section, setup.model, threat)
    return compare_attacks(
        setup, our_attacks | library_attacks, list(our_attacks), threat, minimal=section == "deepfool"
    ) + skipped(missing)


def one_pass(setup: BenchmarkSetup, generator: Generator | None, peers: list[str]) -> list[BenchmarkRow]:
    """The generator against gradient attacks in its ball, toward its target class if it has one."""
    if generator is None:
        return [{"side": PASS, "status": "skipped: no --generator DIR given"}]
    threat, y_target = generator.threat, generator.y_target
    library_attacks, missing = load_attacks(peers, "fgsm", setup.model, threat, y_target)

    def with_target(attack: Callable[..., Tensor]) -> AttackFn:
        def run(x: Tensor, y: Tensor) -> Tensor:
            y_targets = None if y_target is None else torch.full_like(y, y_target)
            return attack(setup.model, x, y, eps=threat.eps, norm=threat.norm, y_target=y_targets)

        return run

    contenders: dict[str, AttackFn] = {
        PASS: lambda x, y: generator.perturb(x, y if generator.labels else None),
        "fgsm": with_target(fgsm),
        "ifgsm, 10 steps": with_target(ifgsm),
        **{f"{title}, fgsm": attack for title, attack in library_attacks.items()},
        "target forward alone": lambda x, y: forward(setup.model, x),
    }
    return compare_attacks(setup, contenders, [PASS], threat, y_target=y_target) + skipped(missing)


def skipped(missing: dict[str, str]) -> list[BenchmarkRow]:
    return [{"side": contender, "status": f"skipped: {reason}"} for contender, reason in missing.items()]


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)
