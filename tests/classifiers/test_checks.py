"""check_target: outputs other than logits, batch dependence, no gradient, and in-place changes of the input."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import Normalize

from advgan.attacks import carlini_wagner, deepfool, fgsm, jsma, lbfgs, pgd, square
from advgan.attacks.registry import make_attack, parse_attack
from advgan.classifiers import BlackBox, check_target
from advgan.classifiers.checks import BinaryLogit, check_normalised, gradient_fault
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.defenses import defend
from advgan.evaluation import evaluate
from advgan.evaluation.compatibility import is_black_box, require_gradients

THREAT = Threat("linf", 0.1)
Y = torch.arange(20) % 2
X = 0.45 + 0.1 * Y.view(-1, 1, 1, 1) + 0.02 * torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.01


class Mean(nn.Module):
    """`outputs` of f = scale (mean - 0.5): light images are class 1."""

    image_shape = (3, 8, 8)
    name = "mean"

    def __init__(self, outputs: Any = lambda f: torch.stack([-f, f], 1), scale: float = 40.0) -> None:
        super().__init__()
        self.outputs, self.w = outputs, nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Any:
        return self.outputs(self.w * (x.mean((1, 2, 3)) - 0.5))


def row(attack: str, model: nn.Module) -> dict[str, Any]:
    rng, protocol = torch.Generator().manual_seed(0), parse_attack(attack).attack.kind
    return evaluate(make_attack(attack, model, THREAT, rng=rng), model, X, Y, THREAT, protocol=protocol).row


# --- probabilities ---

SIGMOIDS = {
    "column": lambda f: f.sigmoid()[:, None],
    "flat": lambda f: f.sigmoid(),
    "unsure": lambda f: (f / 100).sigmoid(),  # all of them near 0.5
    "beside zero": lambda f: torch.stack([torch.zeros_like(f), f.sigmoid()], 1),
    "hard": lambda f: nn.functional.hardsigmoid(f)[:, None],
}


@pytest.mark.parametrize("outputs", SIGMOIDS.values(), ids=SIGMOIDS)
def test_single_probability_is_refused(outputs: Any) -> None:
    model = Mean(outputs).eval()
    with pytest.raises(InputError, match=r"one probability per image \(a sigmoid.*torch.logit\(p, eps=1e-6\)"):
        check_target(model, X[:8], 2)
    for attack in ("noise-sign", "fgsm", "square:queries=20"):
        with pytest.raises(InputError, match=r"one value per image|one probability per image"):
            row(attack, model)
        if attack != "noise-sign":  # it does not query the model
            with pytest.raises(InputError, match=r"one value per image|gradient"):
                make_attack(attack, Mean(lambda f: f.sigmoid()[:, None]).eval(), THREAT)(X, Y)
    undone = check_target(Mean(lambda f: torch.logit(f.sigmoid(), eps=1e-6)).eval(), X[:8], 2)
    assert row("fgsm", undone)["clean_accuracy"] == 1.0


@pytest.mark.parametrize("attack", [fgsm, pgd, deepfool, jsma, lbfgs, carlini_wagner, square])
@pytest.mark.parametrize("behind", [lambda model: model, lambda model: defend(model, "bit-depth")])
def test_attacks_refuse_softmax_outputs(attack: Any, behind: Any) -> None:
    model = behind(Mean(lambda f: torch.stack([-f, f], 1).softmax(1))).eval()
    radius = {} if attack in (deepfool, jsma, lbfgs, carlini_wagner) else {"eps": 0.1}
    with pytest.raises(InputError, match="returns probabilities"):
        attack(model, X, Y, **radius)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_single_log_probability_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"never above 0 \(a log-probability\?.*leave out its logsigmoid"):
        check_target(Mean(lambda f: nn.functional.logsigmoid(f).reshape(shape)).eval(), X[:8], 2)

    def undone(f: Tensor) -> Tensor:
        p = nn.functional.logsigmoid(f).reshape(shape)
        return p - torch.log(-torch.expm1(p.clamp_max(-1e-6)))

    assert row("fgsm", check_target(Mean(undone).eval(), X[:8], 2))["clean_accuracy"] == 1.0
    dark = check_target(Mean(lambda f: f.reshape(shape)).eval(), X[Y == 0], 2)  # below 0 for these images, not for all
    assert dark(X).argmax(1).tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (lambda f: torch.stack([-f, f, f / 2], 1).sigmoid(), "3 independent probabilities per image"),
        (lambda f: torch.stack([-f, f], 1).softmax(1), r"rows sum to 1.*p.clamp_min\(1e-12\).log\(\)"),
        (lambda f: torch.stack([1 - f.sigmoid(), f.sigmoid()], 1), "rows sum to 1"),
        (lambda f: 100 * torch.stack([-f, f], 1).softmax(1), r"percentages \(rows sum to 100\)"),
    ],
)
def test_probability_vectors_are_refused(outputs: Any, message: str) -> None:
    model = Mean(outputs).eval()
    k = outputs(torch.zeros(1)).shape[1]
    with pytest.raises(InputError, match=message):
        check_target(model, X[:8], k)
    with pytest.raises(InputError, match=message):
        row("noise-sign", model)


@pytest.mark.parametrize(
    "outputs",
    [
        lambda f: 0.5 + f / 80,  # a logit between 0 and 1 on every image in [0, 1]
        lambda f: (0.3 + f / 40).relu(),
        lambda f: torch.stack([0.5 - f / 80, 0.4 + f / 100], 1),
        lambda f: torch.stack([-f, f], 1).log_softmax(1),
        lambda f: torch.stack([-f, f], 1).tanh(),
        lambda f: torch.stack([f, f + 3], 1).relu() / 100,
    ],
)
def test_logits_in_unit_interval_are_accepted(outputs: Any) -> None:
    assert check_target(Mean(outputs).eval(), X[:8], 2)(X).shape == (20, 2)


# --- one logit ---


@pytest.mark.parametrize("outputs", [lambda f: f, lambda f: f[:, None]], ids=["flat", "column"])
def test_single_logit_is_accepted_only_wrapped(outputs: Any) -> None:
    model = Mean(outputs).eval()
    wrapped = check_target(model, X[:8], 2)
    assert not any(module.training for module in wrapped.modules())
    result = row("fgsm", wrapped)
    assert (result["status"], result["clean_accuracy"], result["asr"]) == ("ok", 1.0, 1.0)
    bounded = [partial(attack, eps=0.1) for attack in (fgsm, pgd, square)]
    for attack in (*bounded, deepfool, carlini_wagner, lbfgs, jsma):
        with pytest.raises(InputError, match=r"one value per image, .*: model = check_target\(model, x, 2\)"):
            attack(model, X, Y)
    assert check_target(Mean(outputs).train(), X[:8], 2).training


def test_binary_logit_keeps_name_and_image_shape() -> None:
    wrapped: Any = BinaryLogit(Mean(lambda f: f))
    assert (wrapped.name, wrapped.image_shape, wrapped.num_classes) == ("mean", (3, 8, 8), 2)


# --- the batch ---


class BatchWide(Mean):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm2d, self.norm1d = nn.BatchNorm2d(3, track_running_stats=False), nn.BatchNorm1d(2, affine=False)
        self.norm1d.running_mean = self.norm1d.running_var = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "batchnorm2d":
            return super().forward(0.5 + 0.1 * self.norm2d(x))
        z = super().forward(x)
        if self.kind == "batchnorm1d":
            return self.norm1d(z)
        if self.kind == "softmax":
            return z.softmax(0).log()
        if self.kind == "reshape":
            return z.view(-1, 4, 2).flatten(0, 1)
        if self.kind == "saturated softmax":  # the same for all images but the darkest and the brightest
            return 10 * z.softmax(0)
        if self.kind == "range":  # the darkest image has the same output alone and in a batch
            dark, bright = X[:1].mean(), x.mean((1, 2, 3)).amax()
            f = 40 * ((x.mean((1, 2, 3)) - dark) / (bright - dark + 1e-3) - 0.5)
            return torch.stack([-f, f], 1)
        return z - z.mean(0)


@pytest.mark.parametrize(
    "kind", ["batchnorm2d", "batchnorm1d", "softmax", "mean", "reshape", "saturated softmax", "range"]
)
def test_batch_dependent_logits_are_refused(kind: str) -> None:
    model = BatchWide(kind).eval()
    message = "depends on the batch|one at a time"
    with pytest.raises(InputError, match=message):
        check_target(model, X[:8], 2)
    with pytest.raises(InputError, match=message):
        row("noise-sign", model)


def test_small_batch_dependence_warns(capsys: pytest.CaptureFixture[str]) -> None:
    class Scaled(Mean):  # as int8 activations are, by the largest value of the batch
        def forward(self, x: Tensor) -> Tensor:
            step = x.max() / 127
            return super().forward((x / step).floor() * step)

    check_target(Mean().eval(), X[:8], 2)
    assert capsys.readouterr().err == ""
    check_target(Scaled().eval(), X[:8], 2)
    assert capsys.readouterr().err.startswith("warning: the target's logits of one image differ by")


def test_batch_dependence_of_black_box_costs_five_queries() -> None:
    batch_sizes: list[int] = []

    def predict(x: Tensor) -> Tensor:
        batch_sizes.append(len(x))
        return (x.flatten(1)[:, :2] - x.flatten(1)[:, :2].mean(0)).mul(500).softmax(1)

    with pytest.raises(InputError, match="other probabilities for an image alone than inside a batch of 4"):
        check_target(BlackBox(predict, 2), X[:4], 2)
    assert batch_sizes == [4, 1]


# --- in place ---


class InPlace(Mean):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25).mul_(0.25).add_(0.5)
        x.clamp_(0.3, 0.7)
        return super().forward(x)


@pytest.mark.parametrize("attack", ["fgsm", "pgd:steps=3", "square:queries=30", "deepfool", "hopskipjump:steps=1"])
def test_in_place_model_gives_same_metrics_and_keeps_images(attack: str) -> None:
    class Copying(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    x = X.clone()
    model = check_target(InPlace().eval(), x[:8], 2)
    assert torch.equal(x, X)
    mine, theirs = row(attack, model), row(attack, Copying().eval())
    assert mine["status"] == "ok"
    for key in ("clean_accuracy", "asr", "robust_accuracy", "l2_mean"):
        assert mine[key] == theirs[key]
    rng = torch.Generator().manual_seed(0)
    make_attack(attack, model, THREAT, rng=rng)(x, Y)
    assert torch.equal(x, X)


@pytest.mark.parametrize("word", ["bit-depth", "median", "noisy-gradients"])
def test_defended_in_place_model_gives_same_metrics(word: str) -> None:
    class Copying(InPlace):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.clone())

    figures = [row("pgd:steps=3", defend(kind().eval(), word).eval()) for kind in (InPlace, Copying)]
    assert [figure["status"] for figure in figures] == ["ok", "ok"]
    assert figures[0]["asr"] == figures[1]["asr"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("attack", ["fgsm", "pgd:steps=3"])
def test_other_precisions_give_same_metrics(dtype: torch.dtype, attack: str) -> None:
    figures = row(attack, Mean(lambda f: torch.stack([-f, f], 1).to(dtype)).eval())
    exact = row(attack, Mean().eval())
    assert [figures[key] for key in ("status", "clean_accuracy", "asr")] == [
        exact[key] for key in ("status", "clean_accuracy", "asr")
    ]


# --- not finite ---


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_non_finite_clean_logits_fail_the_row(value: float) -> None:
    model = Mean(lambda f: torch.stack([-f, torch.where(f > 2.0, value, f)], 1)).eval()
    result = row("noise-sign", model)
    assert result["status"].startswith("failed: the target returns NaN or infinity for ")
    assert "of 20 images" in result["status"]
    assert result["asr"] is None


def test_non_finite_adversarial_logits_fail_the_row() -> None:
    model = Mean(lambda f: torch.stack([-f, torch.where(f.abs() > 3.5, torch.nan, f)], 1)).eval()
    brighter = evaluate(lambda x, y: x + 0.1 * y.view(-1, 1, 1, 1), model, X, Y, THREAT).row
    assert "NaN or infinity for 10 of 20 adversarial images" in brighter["status"]
    assert brighter["asr"] is None


# --- gradients ---


class Detached(Mean):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Argmax(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return 4.0 * nn.functional.one_hot(super().forward(x).argmax(1), 2) - 1


class Inference(Mean):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Rounding(Mean):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 255).round() / 255)


@pytest.mark.parametrize("kind", [Detached, Argmax, Inference])
def test_model_without_gradient_is_attacked_by_queries(kind: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = check_target(kind().eval(), X[:8], 2)
    assert "warning: the model passes no gradient to its input" in capsys.readouterr().err
    assert is_black_box(model)
    with pytest.raises(InputError, match=r"mean passes no gradient to its input .*train/substitute.py"):
        require_gradients(model)
    assert row("fgsm", model)["status"].startswith("failed: InputError: the target passes no gradient")
    for attack in ("noise-sign", "square:queries=60", "hopskipjump-linf:steps=2"):
        assert row(attack, model)["status"] == "ok"


@pytest.mark.parametrize("kind", [Mean, Rounding])
def test_zero_gradient_is_accepted(kind: Any) -> None:
    model = kind().eval()
    assert gradient_fault(model, X) is None
    require_gradients(model)
    with torch.no_grad():
        assert gradient_fault(model, X) is None


def test_quantized_model_is_attacked_by_queries() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[-40.0], [40.0]]).expand(2, 192) / 192)
        net[1].bias.copy_(torch.tensor([20.0, -20.0]))
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8).eval()
    model = check_target(quantised, X[:8], 2)
    assert row("fgsm", model)["status"].startswith("failed")
    noise = row("noise-sign", model)
    assert (noise["status"], noise["clean_accuracy"]) == ("ok", 1.0)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "deepfool", "carlini-wagner", "lbfgs", "jsma", "noise-sign"])
def test_attacks_work_under_no_grad_and_inference_mode(name: str) -> None:
    rng = torch.Generator()
    attack = make_attack(name, Mean().eval(), Threat("linf", 0.1), rng=rng)
    rng.manual_seed(0)
    expected = attack(X[:4], Y[:4])
    for off in (torch.no_grad, torch.inference_mode):
        rng.manual_seed(0)
        with off():
            x_adv = attack(X[:4].clone(), Y[:4].clone())
        assert torch.equal(x_adv, expected)


def test_training_mode_warns_and_raises(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Dropout(), Mean())
    check_target(model, X[:8], 2)
    assert "warning: the model is in training mode (Dropout) and is checked in eval mode" in capsys.readouterr().err
    assert model.training
    with pytest.raises(InputError, match=r"in training mode \(Dropout\), expected target.eval\(\)"):
        row("fgsm", model)


@pytest.mark.parametrize(
    "around",
    [
        nn.DataParallel,
        lambda model: nn.Sequential(Normalize([0.1], [2.0]), model),
        lambda model: torch.ao.quantization.quantize_dynamic(nn.Sequential(model, nn.Linear(2, 2)).eval()),
        lambda model: nn.Sequential(model, nn.Linear(2, 1).eval()),
    ],
)
def test_modules_without_a_mode_around_a_model_in_eval_mode(around: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model = around(Mean().eval())
    assert any(module.training for module in model.modules())
    model = check_target(model, X[:8], 2)
    assert "training mode" not in capsys.readouterr().err
    assert row("noise-sign", model)["n"] == len(X)


@pytest.mark.parametrize("convert", [torch.jit.script, lambda m: torch.jit.freeze(torch.jit.script(m))])
def test_torchscript_module_needs_check_target(convert: Any) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[-40.0], [40.0]]).expand(2, 192) / 192)
        net[1].bias.copy_(torch.tensor([20.0, -20.0]))
    script = convert(net)
    with pytest.raises(InputError, match=r"module of TorchScript .*: model = check_target\(model, x, classes\)"):
        fgsm(script, X, Y, eps=0.1)
    model = check_target(script, X[:8], 2)
    result = row("fgsm", model)
    assert (result["status"], result["clean_accuracy"], result["asr"]) == ("ok", 1.0, 1.0)


@pytest.mark.parametrize("use", [partial(check_target, x=X), lambda model: fgsm(model, X, Y, eps=0.1)])
def test_model_made_under_inference_mode_is_refused_and_left_as_it_is(use: Any) -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(X[0].numel(), 2)).eval()
    with pytest.raises((InputError, RuntimeError), match=r"[Ii]nference"):
        use(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_exception_of_model_is_not_taken_for_low_accuracy() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        check_normalised(Broken(), torch.rand(40, 3, 8, 8), torch.arange(40) % 4)
