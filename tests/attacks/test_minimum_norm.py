"""L-BFGS, Carlini-Wagner and JSMA: nearly minimal norms on linear models, agreement with foolbox, errors."""

import sys
from collections.abc import Callable
from functools import partial

import foolbox
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from advgan.attacks.carlini_wagner import carlini_wagner, carlini_wagner_clipped
from advgan.attacks.jsma import best_pair, jsma
from advgan.attacks.lbfgs import lbfgs
from advgan.attacks.losses import get_loss
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat, delta_norms
from advgan.evaluation.instrumentation import ModelSnapshot

Attack = Callable[..., Tensor]
darker = partial(jsma, theta=-1.0, gamma=1.0)
of_logits = partial(jsma, derivative="logits", gamma=1.0)
quick_lbfgs, quick_cw = partial(lbfgs, steps=8, binary_steps=5), partial(carlini_wagner, steps=60, binary_steps=4)
EVERY = {"lbfgs": quick_lbfgs, "carlini_wagner": quick_cw, "jsma": jsma, "darker": darker, "of_logits": of_logits}
every_attack = pytest.mark.parametrize("attack", EVERY.values(), ids=EVERY.keys())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(classes: int) -> nn.Sequential:
    """Images (n, 1, 4, 4) -> logits of a linear model: its decision boundaries are planes."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(2 * torch.randn(parameter.shape, generator=seeded()))
    return model.eval()


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Dropout(0.5)
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(144, 5)).eval()
    with torch.no_grad():
        model[7].weight *= 30
    return model


def images(n: int, size: int = 12) -> Tensor:
    """Half of the images grey, half black or white, so that the box constrains the attack."""
    x = torch.rand(n, 1, size, size, generator=seeded(1))
    return torch.where(torch.rand(x.shape, generator=seeded(2)) < 0.5, x, x.round())


def predicted_labels(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)


def l2(x_adv: Tensor, x: Tensor) -> Tensor:
    return delta_norms(x_adv - x)["l2"]


# The nearest success


def least_l2_norm(model: nn.Sequential, x: Tensor, target: int) -> float:
    """Least l2 norm inside the box with which one image (1, 4, 4) is classified as `target`: a quadratic program."""
    w, b = (p.detach().double().numpy() for p in model[1].parameters())
    clean = x.double().numpy().ravel()
    leads = {"type": "ineq", "fun": lambda v: np.delete((w[target] - w) @ v + b[target] - b, target)}
    leads["jac"] = lambda v: np.delete(w[target] - w, target, 0)  # type: ignore[assignment]
    solution = minimize(
        lambda v: (((v - clean) ** 2).sum(), 2 * (v - clean)), clean, jac=True, bounds=[(0, 1)] * 16, constraints=leads
    )
    return float(np.sqrt(solution.fun)) if solution.success else float("inf")


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("attack", "slack"), [(lbfgs, 0.03), (carlini_wagner, 0.02)])
def test_l2_norm_nearly_minimal_on_linear_model(attack: Attack, slack: float, classes: int, targeted: bool) -> None:
    model, x = linear(classes), images(12, size=4)
    y = predicted_labels(model, x)
    target_class = (y + 1) % classes if targeted else None
    goals = [
        [int(target_class[i])] if target_class is not None else [k for k in range(classes) if k != y[i]]
        for i in range(12)
    ]
    best = torch.tensor([min(least_l2_norm(model, x[i], k) for k in goals[i]) for i in range(12)])
    x_adv = attack(model, x, y, y_target=target_class)
    reached = (
        predicted_labels(model, x_adv) != y if target_class is None else predicted_labels(model, x_adv) == target_class
    )
    assert torch.equal(reached, best < torch.inf)
    assert Threat("linf", 1.0).violations(x_adv, x) == []
    ratio = l2(x_adv, x)[reached] / best[reached]
    assert ratio.min() > 0.999
    assert ratio.median() < 1 + slack
    assert ratio.max() < 1.2  # a tiny distance, or a class that is not the nearest


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner_norm_matches_foolbox(targeted: bool) -> None:
    model, x = conv_net(), images(8)
    y = predicted_labels(model, x)
    target_class = (y + 1) % 5 if targeted else None
    targeted_criterion = foolbox.criteria.TargetedMisclassification(y if target_class is None else target_class)
    criterion = foolbox.criteria.Misclassification(y) if target_class is None else targeted_criterion
    foolbox_attack = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=6, steps=100, stepsize=0.02, initial_const=0.1
    )
    reference = foolbox_attack.run(foolbox.PyTorchModel(model, bounds=(0, 1)), x, criterion)
    x_adv = carlini_wagner(model, x, y, binary_steps=4, steps=100, y_target=target_class)
    for candidate in (x_adv, reference):
        assert (
            predicted_labels(model, candidate) != y
            if target_class is None
            else predicted_labels(model, candidate) == target_class
        ).all()
    assert l2(x_adv, x).median() <= 1.05 * l2(reference, x).median()


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner_reaches_confidence_kappa(targeted: bool) -> None:
    model, x = conv_net(), images(8)
    y = predicted_labels(model, x)
    target_class = (y + 1) % 5 if targeted else None
    for kappa in (0.5, 2.0):
        x_adv = quick_cw(model, x, y, kappa=kappa, y_target=target_class)
        assert (x_adv != x).flatten(1).any(1).all()
        assert (get_loss("margin")(model(x_adv), y, target_class) >= kappa - 1e-4).all()


def test_carlini_wagner_distance_grows_with_kappa_on_linear_model() -> None:
    model, x = linear(2), torch.full((1, 1, 4, 4), 0.5)
    y = predicted_labels(model, x)
    gap = model(x).max() - model(x).min()
    near, far = (l2(carlini_wagner(model, x, y, kappa=kappa), x) for kappa in (0.0, 1.0))
    assert torch.isclose(far / near, (gap + 1) / gap, rtol=0.02).all()


def test_carlini_wagner_clipped_is_projection() -> None:
    model, x = conv_net(), images(8)
    y = predicted_labels(model, x)
    free = carlini_wagner(model, x, y, kappa=0.5, binary_steps=3, steps=60)
    wide, small = (carlini_wagner_clipped(model, x, y, eps=eps, kappa=0.5, steps=60) for eps in (1.0, 0.01))
    assert torch.equal(wide, free)
    assert torch.equal(small, Threat("linf", 0.01).project(free, x))


# JSMA, step by step


@pytest.mark.parametrize("spread", [1.0, 0.01])
def test_best_pair_equals_exhaustive_search(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["advgan.attacks.jsma"], "PAIRS", 50)
    for seed in range(20):
        u = torch.randn(6, 16, generator=seeded(seed))
        v = -u + spread * torch.randn(6, 16, generator=seeded(seed + 100))  # nearly opposed: many are undominated
        free = torch.rand(6, 16, generator=seeded(seed + 200)) < torch.tensor([1, 0.7, 0.4, 0.2, 0.1, 0])[:, None]
        pair, exists = best_pair(u, v, free)
        for i in range(6):
            scores = {
                (p, q): float((u[i, p] + u[i, q]) * (v[i, p] + v[i, q]))
                for p in range(16)
                for q in range(p)
                if free[i, p] and free[i, q] and u[i, p] + u[i, q] > 0 and v[i, p] + v[i, q] > 0
            }
            assert bool(exists[i]) == bool(scores)
            if scores:
                assert tuple(sorted(pair[i].tolist(), reverse=True)) == max(scores, key=scores.__getitem__)


@pytest.mark.parametrize("derivative", ["probabilities", "logits", "softmax"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("theta", [1.0, -1.0, 0.3])
def test_jsma_matches_reference_implementation(theta: float, targeted: bool, derivative: str) -> None:
    model, x = linear(4), images(6, size=4)
    y = predicted_labels(model, x)
    target_class = (y + 1) % 4 if targeted else None
    x_adv = jsma(model, x, y, theta=theta, gamma=0.5, derivative=derivative, y_target=target_class)  # type: ignore[arg-type]
    for i in range(6):
        t = int(y[i] if target_class is None else target_class[i])
        slow = _reference_jsma(model, x[i : i + 1], t, target_class is not None, theta, 8, derivative)
        assert torch.allclose(x_adv[i : i + 1], slow, atol=1e-6)


def _reference_jsma(
    model: nn.Module, x: Tensor, t: int, targeted: bool, theta: float, limit: int, derivative: str
) -> Tensor:
    """Algorithm 2 of Papernot et al. on one image of 16 pixels, pair by pair."""
    values, changed = x.flatten().clone(), set()
    sign = 1 if targeted else -1
    while (int(model(values.view_as(x)).argmax()) == t) != targeted:
        output = (lambda v: model(v.view_as(x))[0]) if derivative == "logits" else (
            lambda v: model(v.view_as(x))[0].softmax(0)
        )  # fmt: skip
        jacobian = torch.autograd.functional.jacobian(output, values).double() * sign
        best, pair = 0.0, None
        for p in range(16):
            for q in range(p):
                alpha = jacobian[t, p] + jacobian[t, q]
                beta = sum(jacobian[j, p] + jacobian[j, q] for j in range(len(jacobian)) if j != t)
                ends = [(values[k] >= 1 if theta > 0 else values[k] <= 0) for k in (p, q)]
                full = len(changed) > limit - 2 and not {p, q} <= changed
                right = alpha > 0 > beta if theta > 0 else alpha < 0 < beta
                if right and not any(ends) and not full and -alpha * beta > best:
                    best, pair = float(-alpha * beta), [p, q]
        if pair is None:
            return x
        values[pair] = (values[pair] + theta).clamp(0, 1)
        changed |= set(pair)
    return values.view_as(x)


class Scaled(nn.Module):
    """A model with logits `times` as large: same decisions, different confidence."""

    def __init__(self, model: nn.Module, times: float) -> None:
        super().__init__()
        self.model, self.times = model, times

    def forward(self, x: Tensor) -> Tensor:
        return self.times * self.model(x)


@pytest.mark.parametrize("targeted", [False, True])
def test_only_softmax_derivative_saturates(targeted: bool) -> None:
    model, x = linear(4), images(6, size=4)
    confident, y = Scaled(model, 128), predicted_labels(model, x)
    target_class = (y + 1) % 4 if targeted else None
    assert (confident(x).sort(1).values.diff(dim=1)[:, -1] > 110).all(), "exp(-104) is 0 in float32"
    attack = partial(jsma, gamma=1.0, y_target=target_class)
    assert torch.equal(attack(confident, x, y, derivative="softmax"), x)
    of_logits = attack(confident, x, y, derivative="logits")
    assert torch.equal(of_logits, attack(model, x, y, derivative="logits")), "the scale of the logits has no effect"
    for x_adv in (
        of_logits,
        attack(confident, x, y, derivative="probabilities"),
        attack(model, x, y, derivative="softmax"),
    ):
        assert not torch.equal(x_adv, x)


@pytest.mark.parametrize("gamma", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("theta", [1.0, -1.0, 0.5])
def test_jsma_changes_pairs_of_pixels_within_gamma(theta: float, gamma: float) -> None:
    model, x = conv_net(), images(12)
    y = predicted_labels(model, x)
    x_adv = jsma(model, x, y, theta=theta, gamma=gamma, y_target=(y + 1) % 5)
    changed, delta = delta_norms(x_adv - x)["l0"], x_adv - x
    assert (changed <= gamma * 144).all()
    assert (delta * theta >= 0).all()
    if abs(theta) == 1:  # a pixel goes to the end in one step: each step is a pair of new ones
        assert (changed % 2 == 0).all()
        assert (x_adv[delta != 0] == (theta > 0)).all()
    assert ((changed > 0) == (predicted_labels(model, x_adv) == (y + 1) % 5)).all()
    assert gamma < 1 or (changed > 0).sum() >= 6


# Contract of every attack


@every_attack
@pytest.mark.parametrize("targeted", [False, True])
def test_every_attack_fulfills_contract(attack: Attack, targeted: bool) -> None:
    model, x = conv_net().train(), images(6)
    model[0].eval()  # mixed modes are kept
    model[0].weight.requires_grad_(False)
    model[7].bias.grad = torch.ones(5)
    before, predicted, kept = ModelSnapshot(model), predicted_labels(conv_net(), x), x.clone()
    y, target_class = (predicted + torch.tensor([0, 0, 0, 0, 1, 0])) % 5, None
    if targeted:
        y, target_class = predicted, (predicted + torch.tensor([1, 1, 1, 1, 0, 1])) % 5
        target_copy = target_class.clone()
    x_adv = attack(model, x, y, y_target=target_class)
    assert before.changes() == []
    assert torch.equal(x, kept)
    assert target_class is None or torch.equal(target_class, target_copy)
    assert Threat("linf", 1.0).violations(x_adv, x) == []
    assert not x_adv.requires_grad
    assert torch.equal(x_adv[4], x[4]), "misclassified already"
    reached = (
        predicted_labels(conv_net(), x_adv) != y
        if target_class is None
        else predicted_labels(conv_net(), x_adv) == target_class
    )
    assert torch.equal(reached, (x_adv != x).flatten(1).any(1) | (torch.arange(6) == 4))
    assert reached.sum() > 3


@every_attack
def test_failed_search_returns_x(attack: Attack) -> None:
    model, x = linear(3), images(5, size=4)
    with torch.no_grad():
        model[1].bias[0] = 1000.0
    y = torch.zeros(5, dtype=torch.long)
    assert torch.equal(attack(model, x, y), x)
    with torch.no_grad():
        model[1].weight.zero_()  # and where there is no way at all
    assert torch.equal(attack(model, x, y, y_target=y + 1), x)


@every_attack
def test_result_is_independent_of_batch_and_chunk_size(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = conv_net(), images(5)
    y = predicted_labels(model, x)
    y[3] = (y[3] + 1) % 5
    together = attack(model, x, y)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1]) for i in range(5)])
    monkeypatch.setattr("advgan.attacks.active_set.CHUNK", 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 0)
    in_twos = attack(model, x, y)
    for other in (alone, in_twos):
        assert torch.allclose(l2(other, x), l2(together, x), rtol=1e-2)
        assert torch.equal(predicted_labels(model, other) != y, predicted_labels(model, together) != y)


@every_attack
def test_empty_batch(attack: Attack) -> None:
    x, y = torch.empty(0, 1, 12, 12), torch.empty(0, dtype=torch.long)
    assert attack(conv_net(), x, y).shape == x.shape
    assert attack(conv_net(), x, y, y_target=y).shape == x.shape


# Bad input


class UncalledModel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was called before the input was checked")


class Remote(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1)


X, Y = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.long)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X * 3}, r"images must lie in \[0, 1\], got 1.5"),
        ({"x": X[0]}, "images must be float32 of shape"),
        ({"y": Y[:2]}, r"y must be an int64 tensor of shape \(3,\)"),
        ({"y_target": Y - 2}, "y_target must hold classes from 0 on, got -2"),
    ],
)
@every_attack
def test_invalid_input_raises_before_forward(attack: Attack, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attack(UncalledModel(), **{"x": X, "y": Y, **change})


@pytest.mark.parametrize(
    ("attack", "settings", "message"),
    [
        (lbfgs, {"steps": 0}, "steps must be at least 1, got 0"),
        (lbfgs, {"binary_steps": 0}, "binary_steps must be at least 1, got 0"),
        (lbfgs, {"initial_c": 0.0}, "initial_c must be positive, got 0.0"),
        (carlini_wagner, {"steps": 0}, "steps must be at least 1, got 0"),
        (carlini_wagner, {"binary_steps": 0}, "binary_steps must be at least 1, got 0"),
        (carlini_wagner, {"kappa": -1.0}, "kappa must be at least 0, got -1.0"),
        (carlini_wagner, {"initial_c": -1.0}, "initial_c must be positive, got -1.0"),
        (carlini_wagner, {"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        (jsma, {"theta": 0.0}, r"theta must be in \[-1, 1\] and not 0, got 0.0"),
        (jsma, {"theta": float("nan")}, "theta must be"),
        (jsma, {"gamma": 0.0}, r"gamma must be in \(0, 1\], got 0.0"),
        (jsma, {"gamma": 1.1}, "gamma must be"),
        (jsma, {"derivative": "tanh"}, "derivative must be of probabilities, logits or softmax, got 'tanh'"),
    ],
)
def test_invalid_settings_raise_before_forward(attack: Attack, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        attack(UncalledModel(), X, Y, **settings)


@every_attack
def test_incompatible_model_raises(attack: Attack) -> None:
    with pytest.raises(InputError, match="classes of the target, numbered 0 to 2, got 3"):
        attack(linear(3), X, Y + 3)
    with pytest.raises(InputError, match="passes no gradient"):
        attack(Remote(), X, Y)
