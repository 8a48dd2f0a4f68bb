"""One pass of a generator, optionally followed by gradient steps from its output (warm start)."""

import torch
from torch import Tensor, nn

from advgan.attacks.apgd import adaptive_ascent
from advgan.attacks.common import AttackProblem, check_inputs, check_positive, find_adversarial
from advgan.attacks.gradient_ascent import gradient_ascent
from advgan.attacks.losses import Loss
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm
from advgan.models.generator import Generator

SMALL_EPS = 0.1  # in linf: half of it, once or twice, leaves pixels on the wrong side


def default_step_size(eps: float, norm: Norm, steps: int) -> float:
    """linf: eps for one or two steps where eps is at most 0.1, else eps / 2; l2: eps / 2 for one or two steps, eps / 4
    for more. The best of eps / 4, eps / 2, eps on two networks (docs/results-log.md, "The step of a warm start")."""
    if norm == "l2":
        return eps / (2 if steps <= 2 else 4)
    return eps if steps <= 2 and eps <= SMALL_EPS else eps / 2


@torch.no_grad()
def advgan(
    model: nn.Module | None,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    generator: Generator,
    iterations: int | None = None,
    use_labels: bool = True,
    steps: int = 0,
    step_size: float | None = None,
    adaptive: bool = False,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    stop_on_success: bool = False,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """x_0 = generator(x), x_{t+1} = project(x_t + step_size sign(grad_x L(x_t))), t < steps; for l2 grad / ||grad||_2.

    iterations  of an unrolled network, None for its own, see `Generator.perturb`
    use_labels  of a generator that has labels as an input; False: they are unknown to it
    steps       0 is the one pass, which needs no model, and labels only of a generator that has them as an input
    step_size   None: of eps, eps / 2, eps / 4 the measured best; with `adaptive` of the first step, and None is eps
    adaptive    steps of APGD from there, which halves its step size (see `apgd`); the best of its points
    loss        L, see `losses.get_loss`; this, `step_size`, `adaptive` and `stop_on_success` are of `steps`
    stop_on_success   only images that the pass leaves without success, by a forward pass of the model, take steps, each
                      up to its first success
    rng         source of the noise of a stochastic generator; None: torch's global one
    x (n, c, h, w) float32 in [0, 1]; returns x_adv like `x`. Raises InputError, also for a ball or a class that the
    generator was not trained for.
    """
    check_inputs(x, y, eps, norm, y_target)
    if norm != generator.threat.norm:
        raise InputError(f"the generator was trained for norm {generator.threat.norm}, got {norm}")
    if y_target is None and generator.y_target is not None and (reason := generator.incompatibility()):
        raise InputError(reason)  # its own class is not what the steps, and a success, would be for
    if steps < 0:
        raise InputError(f"steps must not be negative, got {steps}")
    of_steps = {"step_size": step_size is not None, "adaptive": adaptive, "stop_on_success": stop_on_success}
    of_steps["loss"] = loss != "cross-entropy"
    if not steps and (unused := [name for name, given in of_steps.items() if given]):
        raise InputError(f"{unused[0]} is of the gradient steps after the pass, expected steps of 1 or more, got none")
    if not use_labels and not generator.labels:
        raise InputError("the generator has no labels as an input, expected use_labels to be true, got false")
    labels = y if generator.labels and use_labels else None
    x_adv = generator.perturb(x, labels, y_target=y_target, eps=eps, rng=rng, iterations=iterations)
    if not steps:
        return x_adv
    if model is None:
        raise InputError(f"{steps} gradient steps need a model, got none")
    if step_size is None:
        step_size = eps if adaptive else default_step_size(eps, norm, steps)
    check_positive(step_size=step_size)
    problem = AttackProblem.checked(model, x, y, eps=eps, norm=norm, y_target=y_target, loss=loss)
    remaining = torch.arange(len(x), device=x.device)
    if stop_on_success:  # a forward pass for all costs less than a gradient for all
        remaining = remaining[~find_adversarial(model, x_adv, y, y_target)]
    problem, x_init = problem[remaining], x_adv[remaining]
    if adaptive:
        x_adv[remaining], _, _ = adaptive_ascent(
            problem, x_init, steps=steps, step_size=step_size, stop_on_success=stop_on_success
        )
    else:
        x_adv[remaining] = gradient_ascent(
            problem, x_init, steps=steps, step_size=step_size, stop_on_success=stop_on_success
        )
    return x_adv
