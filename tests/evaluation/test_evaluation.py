"""The harness: metrics that can be counted by hand, and attacks that violate the threat model, reported by name."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import norm as normal
from torch import Tensor, nn

from advgan.analysis.worst_case import worst_case
from advgan.attacks import AttackFn, ifgsm, make_attack
from advgan.classifiers import check_target
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.evaluation import ROW_KEYS, Result, environment, evaluate, predict, verify, wilson
from advgan.evaluation.evaluate import CleanOutputs
from advgan.evaluation.instrumentation import ModelSnapshot
from advgan.experiments.frontier.analysis import any_attack_success, compare_success


class Brightness(nn.Module):
    """Three classes by the mean of an image: dark below 0.4, medium, bright above 0.6."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(100.0))
        self.register_buffer("middle", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        return self.scale * torch.stack([0.4 - mean, torch.full_like(mean, 0.0), mean - 0.6], dim=1)


@pytest.fixture
def model() -> Brightness:
    return Brightness().eval()


def flat(*greys: float, size: int = 12) -> Tensor:
    """One constant grey image per value."""
    return torch.tensor(greys).view(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()


# Dark, dark near the boundary, medium, medium near the boundary, bright, and one bright image labelled dark.
X, Y = flat(0.1, 0.35, 0.5, 0.58, 0.9, 0.8), torch.tensor([0, 0, 1, 1, 2, 0])


def brighter(by: float) -> AttackFn:
    return lambda x, y: (x + by).clamp(0, 1)


def run(attack: AttackFn, model: nn.Module, eps: float = 0.1, **more: Any) -> Result:
    return evaluate(attack, model, X, Y, Threat("linf", eps, targeted="y_target" in more), **more)


# Figures


def test_row_metrics_counted_by_hand(model: Brightness) -> None:
    result = run(brighter(0.1), model, name="brighter")
    row = result.row
    assert tuple(row) == ROW_KEYS
    assert (row["attack"], row["protocol"], row["norm"], row["eps"]) == ("brighter", "bounded", "linf", 0.1)
    assert (row["status"], row["violations"], row["targeted"], row["y_target"]) == ("ok", [], False, None)
    assert (row["n"], row["n_correct"], row["n_attacked"]) == (6, 5, 5)
    assert row["clean_accuracy"] == pytest.approx(5 / 6)
    # 0.35 -> 0.45 and 0.58 -> 0.68 change class; the last image was wrong before and does not count.
    assert row["asr"] == row["asr_any_norm"] == pytest.approx(2 / 5)
    assert (row["asr_low"], row["asr_high"]) == wilson(2, 5)
    assert row["robust_accuracy"] == pytest.approx(3 / 6)
    assert result.records["success"].tolist() == [False, True, False, True, False, False]
    # In 8 bits the step is 25 grey levels of 25.5: 0.098.
    assert row["asr_8bit"] == pytest.approx(2 / 5)
    assert row["linf_max"] == pytest.approx(0.1)
    assert row["linf_mean"] == pytest.approx(0.1)
    assert row["l2_mean"] == pytest.approx(0.1 * 12)
    assert row["l2_median"] == pytest.approx(0.1 * 12)
    assert row["l0_mean"] == 144
    assert 0 < row["ssim_mean"] < 1
    assert (row["forwards_per_image"], row["backwards_per_image"]) == (0, 0)
    assert row["images_per_second"] == pytest.approx(1 / row["seconds_per_image"])


def test_records_per_image(model: Brightness) -> None:
    records = run(brighter(0.1), model, batch_size=4).records
    assert {name: len(column) for name, column in records.items()} == dict.fromkeys(records, 6)
    assert records["label"].tolist() == Y.tolist()
    assert records["clean_prediction"].tolist() == [0, 0, 1, 1, 2, 2]
    assert records["prediction"].tolist() == [0, 1, 1, 2, 2, 2]
    assert records["confidence"].tolist() == pytest.approx(
        model(X + 0.1).clamp(max=1e9).softmax(1).max(1).values.tolist(), abs=1e-3
    )


def test_row_names_minimized_norm(model: Brightness) -> None:
    row = run(brighter(0.1), model, protocol="minimal-norm", attack_norm="l2").row
    assert (row["attack_norm"], row["norm"]) == ("l2", "linf")
    assert run(brighter(0.1), model).row["attack_norm"] == "linf"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_evaluation_on_gpu_equals_cpu(model: Brightness) -> None:
    on_cpu = run(brighter(0.1), model)
    x, y, threat = X.cuda(), Y.cuda(), Threat("linf", 0.1)
    result = evaluate(brighter(0.1), model.cuda(), x, y, threat, clean=CleanOutputs(model(x).detach()))
    for name in ("status", "n_attacked", "clean_accuracy", "asr", "asr_8bit", "robust_accuracy"):
        assert result.row[name] == on_cpu.row[name]


def test_targeted_attack_counts_images_of_other_classes(model: Brightness) -> None:
    row = run(brighter(0.1), model, y_target=2).row
    assert (row["targeted"], row["y_target"], row["n_attacked"]) == (True, 2, 4)
    assert row["asr"] == pytest.approx(1 / 4)  # 0.58; 0.35 only becomes medium
    assert row["robust_accuracy"] == pytest.approx(3 / 6)


def test_8bit_success_excludes_fractions_of_a_grey_level(model: Brightness) -> None:
    x = flat(101 / 255)  # 0.39608; the boundary at 0.4 is 0.0039 = one grey level away, and a little
    attack = brighter(1.5 / 255)
    row = evaluate(attack, model, x, torch.tensor([0]), Threat("linf", 0.1)).row
    assert (row["asr"], row["asr_8bit"]) == (1, 0)


def test_8bit_form_of_a_minimum_norm_attack_is_the_nearest(model: Brightness) -> None:
    x, attack = flat(101 / 255), brighter(1.6 / 255)  # as above; 102.6 is 103, which the ball of 1.6 does not hold
    for protocol, expected in (("bounded", 0), ("minimal-norm", 1)):
        row = evaluate(attack, model, x, torch.tensor([0]), Threat("linf", 0.1), protocol=protocol).row
        assert (row["asr"], row["asr_8bit"]) == (1, expected)


def test_minimum_norm_success_within_eps(model: Brightness) -> None:
    # 0.1 -> 0.41, 0.35 -> 0.41 and 0.58 -> 0.61 are adversarial; 0.5 and 0.9 are given up.
    answers = {0.1: 0.41, 0.35: 0.41, 0.58: 0.61, 0.5: 0.5, 0.9: 0.9, 0.8: 0.8}

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([flat(answers[round(image.mean().item(), 2)]) for image in x])

    row = run(attack, model, protocol="minimal-norm").row
    assert row["status"] == "ok", "0.31 is more than eps, and no violation here"
    assert row["asr_any_norm"] == pytest.approx(3 / 5)
    assert row["asr"] == pytest.approx(2 / 5)
    assert row["robust_accuracy"] == pytest.approx(3 / 6)
    assert row["l2_mean"] == pytest.approx(12 * (0.31 + 0.06 + 0.03) / 3, rel=1e-4)
    assert row["l2_median"] == pytest.approx(12 * 0.31, rel=1e-4), "failures are infinitely far"
    assert row["linf_max"] == pytest.approx(0.31, rel=1e-4)


def test_norms_are_none_without_success(model: Brightness) -> None:
    row = run(lambda x, y: x, model, protocol="minimal-norm").row
    assert (row["asr"], row["l2_median"], row["l2_mean"], row["ssim_mean"]) == (0, None, None, None)
    json.dumps(row, allow_nan=False)


@pytest.mark.parametrize(("name", "calls"), [("fgsm", 1), ("ifgsm", 10), ("noise-sign", 0)])
def test_forwards_and_backwards_are_counted(name: str, calls: int, model: Brightness) -> None:
    row = run(make_attack(name, model, Threat("linf", 0.1)), model, batch_size=4).row
    assert (row["forwards_per_image"], row["backwards_per_image"]) == (calls, calls)


def test_first_batch_is_warm_up(model: Brightness) -> None:
    sizes = []

    def attack(x: Tensor, y: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    heard: list[int] = []
    assert run(attack, model, batch_size=4, progress=heard.append).row["status"] == "ok"
    assert sizes == [4, 4, 2]
    assert heard == [4, 2]


def test_keep_limits_stored_adversarial_images(model: Brightness) -> None:
    assert torch.allclose(run(brighter(0.1), model, batch_size=2, keep=3).x_adv, (X[:3] + 0.1))
    assert len(run(brighter(0.1), model, keep=100).x_adv) == 6
    assert len(run(brighter(0.1), model, keep=0).x_adv) == 0


def test_given_clean_logits_save_a_forward(model: Brightness) -> None:
    asked = []
    logits = predict(model, X)
    model.register_forward_hook(lambda *_: asked.append(1))
    run(brighter(0.1), model, clean=CleanOutputs(logits))
    assert len(asked) == 2, "the answers and their 8-bit form"


def test_ssim_equals_gaussian_window_reference() -> None:
    """Wang et al. 2004, eq. 13, with scipy's Gaussian of the same 11 pixels in double precision."""
    rng = np.random.default_rng(0)
    x = rng.random((3, 2, 9, 13))
    x_adv = (x + rng.normal(0, 0.1, x.shape)).clip(0, 1)
    mean = partial(gaussian_filter, sigma=1.5, truncate=3.5, mode="mirror", axes=(2, 3))
    a, b = mean(x), mean(x_adv)
    upper = (2 * a * b + 1e-4) * (2 * (mean(x * x_adv) - a * b) + 9e-4)
    lower = (a**2 + b**2 + 1e-4) * (mean(x**2) - a**2 + mean(x_adv**2) - b**2 + 9e-4)
    ssim = verify._ssim(*(torch.tensor(images, dtype=torch.float32) for images in (x, x_adv)))
    assert ssim.numpy() == pytest.approx((upper / lower).mean((1, 2, 3)), abs=1e-5)


def test_ssim_is_none_for_small_images(model: Brightness) -> None:
    row = evaluate(brighter(0.1), model, flat(0.35, size=4), torch.tensor([0]), Threat("linf", 0.1)).row
    assert (row["status"], row["ssim_mean"]) == ("ok", None)


# Cheats


def in_place(x: Tensor, y: Tensor) -> Tensor:
    return x.add_(0.05)


def relabel(x: Tensor, y: Tensor) -> Tensor:
    y.zero_()
    return x


def crash(x: Tensor, y: Tensor) -> Tensor:
    raise ZeroDivisionError("an attack\nthat breaks")


@pytest.mark.parametrize(
    ("cheat", "named"),
    [
        (brighter(0.11), "linf 0.11.* exceeds eps 0.1"),
        (lambda x, y: x - 0.1 - (x > 0.85) * 0.001, "exceeds eps"),
        (lambda x, y: (x + 0.1) + (x > 0.85) * 0.01, r"pixels outside \[0, 1\]"),
        (lambda x, y: x.masked_fill(x > 0.92, torch.nan), "1 images with NaN"),
        (lambda x, y: x.double(), "dtype torch.float64 instead of torch.float32"),
        (lambda x, y: x[:1], "shape .* instead of"),
        (lambda x, y: None, "returned NoneType instead of a tensor"),
        (lambda x, y: x.clone().requires_grad_(), "still attached to a graph"),
        (in_place, "the input was changed in place"),
        (relabel, "the input was changed in place"),
    ],
)
def test_violation_gives_failed_row_with_reason(cheat: AttackFn, named: str, model: Brightness) -> None:
    x = torch.cat([X[:5], flat(0.95)])  # an image whose box is nearer than eps
    result = evaluate(cheat, model, x, Y, Threat("linf", 0.1), name="cheat", batch_size=4)
    assert re.search(named, result.row["status"])
    assert_without_figures(result)
    assert len(result.row["violations"]) >= 1


def assert_without_figures(result: Result) -> None:
    assert tuple(result.row) == ROW_KEYS
    assert result.row["status"].startswith("failed: ")
    assert "\n" not in result.row["status"]
    measured = [
        key for key in ROW_KEYS if key.startswith(("asr", "robust", "l0", "l2", "linf", "ssim")) or "_per_" in key
    ]
    assert {key: result.row[key] for key in measured} == dict.fromkeys(measured)
    assert result.row["n_attacked"] > 0
    assert result.records == {}
    assert len(result.x_adv) == 0
    json.dumps(result.row, allow_nan=False)


def test_exception_gives_failed_row(model: Brightness, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = run(crash, model, name="crash")
    assert result.row["status"] == "failed: ZeroDivisionError: an attack that breaks"
    assert_without_figures(result)
    assert caplog.records[0].exc_info is not None, "the traceback is not lost"


def weights(model: Brightness) -> None:
    model.scale.data.mul_(0.5)


def buffers(model: Brightness) -> None:
    model.middle.fill_(3)


def another_parameter(model: Brightness) -> None:
    model.scale = nn.Parameter(torch.tensor(100.0))


def leave_a_hook(model: Brightness) -> None:
    model.register_forward_hook(lambda *_: None)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (weights, "the model's weights changed"),
        (buffers, "the model's weights changed"),
        (another_parameter, "the model's weights changed"),
        (lambda model: model.train(), "the model's mode changed"),
        (lambda model: model.requires_grad_(False), "the model's requires_grad changed"),
        (lambda model: model(X).sum().backward(), "the model's gradients changed"),
        (leave_a_hook, "the model's hooks changed"),
    ],
)
def test_model_changes_are_reported_and_undone(
    harm: Callable[[Brightness], object], named: str, model: Brightness
) -> None:
    before, clean = ModelSnapshot(model), predict(model, X)

    def attack(x: Tensor, y: Tensor) -> Tensor:
        harm(model)
        return x

    result = run(attack, model)
    assert result.row["violations"] == [named]
    assert_without_figures(result)
    if harm is not another_parameter:
        assert before.changes() == []
    assert torch.equal(predict(model, X), clean)


def test_valid_attack_leaves_model_unchanged(model: Brightness) -> None:
    before = ModelSnapshot(model)
    assert run(make_attack("deepfool", model, Threat()), model, protocol="minimal-norm").row["status"] == "ok"
    assert before.changes() == []


def test_keyboard_interrupt_propagates(model: Brightness) -> None:
    def interrupt(x: Tensor, y: Tensor) -> Tensor:
        model.train()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt, model)
    assert not model.training


def test_no_correctly_classified_image(model: Brightness) -> None:
    wrong = evaluate(brighter(0.1), model, X, (predict(model, X).argmax(1) + 1) % 3, Threat("linf", 0.1)).row
    assert wrong["status"] == "failed: no image to attack, the target classifies none correctly"
    assert wrong["asr"] is None
    predicted = predict(model, X).argmax(1)
    one, y_target = X[predicted == predicted[0]], int(predicted[0])
    row = evaluate(
        brighter(0.1), model, one, torch.full((len(one),), y_target), Threat("linf", 0.1, True), y_target=y_target
    ).row
    assert row["clean_accuracy"] == 1
    assert row["status"].endswith(f"all that it classifies correctly are of the target class {y_target}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X * 2}, r"images must lie in \[0, 1\]"),
        ({"y": Y[:2]}, "y must be an int64 tensor"),
        ({"x": X[:0], "y": Y[:0]}, "expected images"),
        ({"batch_size": 0}, "batch size of at least 1, got 6 and 0"),
        ({"y_target": 1}, "threat.targeted is False"),
        ({"threat": Threat("linf", 0.1, targeted=True)}, "threat.targeted is True, expected a y_target"),
        ({"threat": Threat("linf", 0.1, targeted=True), "y_target": 3}, "y_target must be a class from 0 to 2, got 3"),
    ],
)
def test_invalid_input_raises(change: dict[str, Any], message: str, model: Brightness) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(crash, model, **{"x": X, "y": Y, "threat": Threat("linf", 0.1), **change})


def test_training_mode_raises(model: Brightness) -> None:
    with pytest.raises(InputError, match="training mode"):
        run(crash, model.train())


class OwnCall(Brightness):
    def __call__(self, x: Tensor) -> Tensor:
        return self.forward(x)


def test_model_with_its_own_call_is_counted_or_refused() -> None:
    with pytest.raises(InputError, match=r"own __call__ are not counted: model = check_target\(model, x, classes\)"):
        run(crash, OwnCall().eval())
    checked = check_target(OwnCall().eval(), X, 3)
    assert run(partial(ifgsm, checked, eps=0.1, steps=4), checked).row["forwards_per_image"] == 4


# Statistics and environment


@pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (95, 100), (10, 10), (7, 13)])
def test_wilson_interval_solves_its_equation(k: int, n: int) -> None:
    z, share = normal.ppf(0.975), k / n
    for bound in wilson(k, n):
        assert (share - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / n, abs=1e-9)
    assert wilson(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)


def test_environment_is_json_serializable() -> None:
    @dataclass(frozen=True)
    class Settings:
        output_dir: Path = Path("somewhere")
        attacks: tuple[str, ...] = ("fgsm", "ifgsm")
        eps: float | None = None

    said = json.loads(json.dumps(environment(Settings())))
    assert said["settings"] == {"output_dir": "somewhere", "attacks": ["fgsm", "ifgsm"], "eps": None}
    assert said["packages"]["torch"]
    assert said["threads"] == torch.get_num_threads()
    assert {"date", "commit", "cpu", "cores", "python", "command"} <= said.keys()


def test_predict_is_independent_of_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(400, 3))
    assert torch.allclose(predict(model, X, batch_size=4), predict(model, X), atol=1e-6)
    assert model.training
    assert ifgsm(model, X, Y, eps=0.1).shape == X.shape


class TwoPredictions(nn.Module):
    """Logits from the first two pixels: the clean class, and the class once the third pixel is not 0."""

    def forward(self, x: Tensor) -> Tensor:
        before, after, changed = (x.flatten(1)[:, i] for i in range(3))
        label = torch.where(changed > 0, after, before) * 3
        return -((label[:, None] - torch.arange(4.0)) ** 2)


def test_images_already_in_target_class_do_not_count() -> None:
    # label, clean prediction, adversarial prediction; the target is class 3.
    cases = [(0, 0, 3), (3, 3, 3), (1, 3, 3), (2, 2, 1), (3, 0, 3), (2, 1, 3)]
    x = torch.zeros(len(cases), 1, 1, 3)
    x[:, 0, 0, :2] = torch.tensor([case[1:] for case in cases]) / 3
    y = torch.tensor([case[0] for case in cases])

    def attack(x: Tensor, y: Tensor) -> Tensor:
        return x + torch.tensor([0.0, 0.0, 0.2]).view(1, 1, 1, 3)

    result = evaluate(attack, TwoPredictions().eval(), x, y, Threat("linf", 0.2, targeted=True), y_target=3)
    assert result.records["counts"].tolist() == [True, False, False, True, False, False]
    assert result.records["success"].tolist() == [True, False, False, False, False, False]
    row = result.row
    assert (row["n_attacked"], row["asr"], row["asr_any_norm"], row["asr_8bit"]) == (2, 0.5, 0.5, 0.5)
    assert compare_success(any_attack_success([result]))["n"] == 2
    assert worst_case([result])[0]["asr"] == 0.5


class DoubleOffset(nn.Module):
    """Logits in float64 with a large offset, of which float32 keeps no difference."""

    def __init__(self, net: nn.Module, offset: float) -> None:
        super().__init__()
        self.net, self.offset = net, offset

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).double() + self.offset


def test_float64_logits_decide_as_they_are() -> None:
    rows = [
        evaluate(brighter(0.1), DoubleOffset(Brightness(), offset).eval(), X, Y, Threat("linf", 0.1)).row
        for offset in (0.0, 1e9)
    ]
    assert rows[0]["asr"] > 0
    for name in ("clean_accuracy", "asr", "asr_8bit", "robust_accuracy"):
        assert rows[0][name] == rows[1][name]
