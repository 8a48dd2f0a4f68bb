"""Bridges to and from foolbox, torchattacks and ART, against the real packages."""

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advgan import Generator
from advgan.attacks import fgsm, ifgsm, make_attack
from advgan.attacks.registry import parse_attack
from advgan.bridges.base import parse_value
from advgan.classifiers import BlackBox, load_target
from advgan.core.config import run
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.data import load_data
from advgan.evaluation import GridPoint, ResultCache, TargetModel, evaluate
from tests.attacks.test_attacks import conv_net, images, predicted_labels
from tests.conftest import randomise_conditioning

fool = pytest.importorskip("foolbox")
torchattacks = pytest.importorskip("torchattacks")
art = pytest.importorskip("art.estimators.classification")

from advgan.bridges.art import AdvGAN as ForArt  # noqa: E402, they need their libraries
from advgan.bridges.foolbox import AdvGAN as ForFoolbox  # noqa: E402
from advgan.bridges.torchattacks import AdvGAN as ForTorchattacks  # noqa: E402
from advgan.experiments.comparison import run as compare  # noqa: E402

BALL = Threat("linf", 0.2)
ONE_STEP = {"foolbox": "foolbox:FGSM", "torchattacks": "torchattacks:FGSM", "art": "art:FastGradientMethod"}


@pytest.fixture(scope="module")
def model(classifier: Path) -> nn.Module:
    return load_target("mnist-small", classifier, image_shape=(1, 28, 28), num_classes=3)


@pytest.fixture(scope="module")
def bars(digits: Path) -> tuple[Tensor, Tensor]:
    return next(load_data("folder", digits).test.batches(24))


def small_generator(**kind: Any) -> Generator:
    torch.manual_seed(0)
    return Generator(**{"width": 8, "depth": 1, "eps": 0.2, **kind}).eval()


# Ours as theirs


@pytest.mark.parametrize("kind", [{}, {"norm": "l2", "eps": 2.0}, {"y_target": 1}, {"classes": 3}])
def test_generator_in_other_libraries_is_one_pass(
    kind: dict[str, Any], model: nn.Module, bars: tuple[Tensor, Tensor]
) -> None:
    generator, (x, y) = small_generator(**kind), bars
    expected = generator.perturb(x)
    assert torch.equal(ForTorchattacks(model, generator)(x, y), expected)

    attack, eps = ForFoolbox(generator), generator.threat.eps
    foolbox_model = fool.PyTorchModel(model, bounds=(0, 1), device="cpu")
    raw, clipped, success = attack(foolbox_model, x, y, epsilons=[eps / 2, eps])
    assert torch.equal(raw[1], expected)
    assert torch.allclose(clipped[1], expected, atol=1e-6)
    assert torch.equal(raw[0], generator.perturb(x, eps=eps / 2))
    assert torch.equal(success[1], model(clipped[1]).argmax(1) != y)
    assert str(attack.distance) == ("L2 distance" if "norm" in kind else "Linf distance")

    assert torch.equal(torch.from_numpy(ForArt(in_art(model), generator).generate(x.numpy(), y.numpy())), expected)


def in_art(model: nn.Module, limits: tuple[float, float] | None = (0, 1)) -> Any:
    loss = nn.CrossEntropyLoss()
    return art.PyTorchClassifier(model, loss, (1, 28, 28), 3, clip_values=limits, device_type="cpu")


def test_generator_in_other_libraries_with_smaller_eps(model: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    generator, (x, y) = small_generator(), bars
    assert torch.equal(ForTorchattacks(model, generator, eps=0.1)(x, y), generator.perturb(x, eps=0.1))
    attack = ForArt(in_art(model), generator)
    attack.set_params(eps=0.1)
    assert torch.equal(torch.from_numpy(attack.generate(x.numpy())), generator.perturb(x, eps=0.1))
    assert "eps=0.1" in repr(attack)


def test_targeted_modes_of_torchattacks(model: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    generator, (x, y) = small_generator(classes=3), bars
    attack, least = ForTorchattacks(model, generator), model(x).argmin(1)
    for mode, target_classes in {
        "by_label": y,
        "by_function": (y + 1) % 3,
        "least_likely": torch.where(least == y, model(x).topk(2, largest=False).indices[:, 1], least),
    }.items():
        functions = [lambda images, labels: (labels + 1) % 3] if mode == "by_function" else []
        getattr(attack, f"set_mode_targeted_{mode}")(*functions)
        assert torch.equal(attack(x, y), generator.perturb(x, y_target=target_classes)), mode
    attack.set_mode_targeted_random()
    torch.manual_seed(1)
    x_adv = attack(x, y)
    torch.manual_seed(1)
    assert torch.equal(x_adv, generator.perturb(x, y_target=attack.get_random_target_label(x, y)))
    attack.set_mode_default()
    assert torch.equal(attack(x, y), generator.perturb(x))


def test_labels_reach_generators_in_other_libraries(model: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    generator, (x, y) = small_generator(labels=3), bars
    randomise_conditioning(generator)
    expected = generator.perturb(x, y)
    assert not torch.equal(expected, generator.perturb(x))
    foolbox_model, goal = fool.PyTorchModel(model, bounds=(0, 1), device="cpu"), fool.criteria.Misclassification(y)
    assert torch.equal(ForTorchattacks(model, generator)(x, y), expected)
    assert torch.equal(ForFoolbox(generator).run(foolbox_model, x, goal, epsilon=0.2), expected)
    attack = ForArt(in_art(model), generator)
    assert torch.equal(torch.from_numpy(attack.generate(x=x.numpy(), y=y.numpy())), expected)
    predicted = torch.from_numpy(attack.generate(x=x.numpy()))  # without labels: the classifier's predictions
    assert torch.equal(predicted, generator.perturb(x, model(x).argmax(1)))


def test_targets_of_foolbox_and_art(model: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    generator, (x, y) = small_generator(classes=3), bars
    target_classes = (y + 1) % 3
    foolbox_model = fool.PyTorchModel(model, bounds=(0, 1), device="cpu")
    goal = fool.criteria.TargetedMisclassification(target_classes)
    expected = generator.perturb(x, y_target=target_classes)
    assert torch.equal(ForFoolbox(generator).run(foolbox_model, x, goal, epsilon=0.2), expected)
    attack = ForArt(in_art(model), generator, targeted=True)
    numbers = target_classes.numpy()
    for labels in (numbers, numbers[:, None], nn.functional.one_hot(target_classes).numpy()):
        assert torch.equal(torch.from_numpy(attack.generate(x=x.numpy(), y=labels)), expected)


def test_unsupported_targets_raise(model: nn.Module, bars: tuple[Tensor, Tensor]) -> None:
    plain, of_one, (x, y) = small_generator(), small_generator(y_target=1), bars
    with pytest.raises(InputError, match="trained untargeted, expected one with classes or a y_target"):
        ForTorchattacks(model, plain).set_mode_targeted_by_label()
    attack = ForTorchattacks(model, of_one)
    attack.set_mode_targeted_by_label()
    assert torch.equal(attack(x, torch.ones_like(y)), of_one.perturb(x))
    with pytest.raises(InputError, match="trained for class 1, got y_target 0"):
        attack(x, torch.zeros_like(y))

    foolbox_model, kinds = fool.PyTorchModel(model, bounds=(0, 1), device="cpu"), fool.criteria
    with pytest.raises(InputError, match="trained untargeted, got y_target 0"):
        ForFoolbox(plain)(foolbox_model, x, kinds.TargetedMisclassification(torch.zeros_like(y)), epsilons=0.1)
    with pytest.raises(InputError, match=r"trained for eps 0.2, got the larger 0.3"):
        ForFoolbox(plain)(foolbox_model, x, y, epsilons=0.3)
    wide = fool.PyTorchModel(model, bounds=(-1, 1), device="cpu")
    with pytest.raises(InputError, match=r"expected bounds \(0, 1\), got \(-1, 1\)"):
        ForFoolbox(plain)(wide, x, y, epsilons=0.1)

    with pytest.raises(InputError, match=r"expected clip_values \(0, 1\), got None"):
        ForArt(in_art(model, None), plain)
    with pytest.raises(InputError, match="trained untargeted, expected one with classes"):
        ForArt(in_art(model), plain, targeted=True)
    with pytest.raises(InputError, match="expected y, got None"):
        ForArt(in_art(model), of_one, targeted=True).generate(x.numpy())
    with pytest.raises(InputError, match="takes x and y alone, got mask"):
        ForArt(in_art(model), plain).generate(x.numpy(), mask=x.numpy())


# Theirs as ours


@pytest.mark.parametrize("word", ONE_STEP.values())
def test_one_step_equals_fgsm(word: str) -> None:
    model, x = conv_net(), images(24)  # not so sure that theirs lose the gradient
    y = predicted_labels(model, x)
    ours, theirs = fgsm(model, x, y, eps=0.2), make_attack(word, model, BALL)(x, y)
    assert torch.equal(ours, theirs)
    result = evaluate(make_attack(word, model, BALL), model, x, y, BALL, batch_size=24).row
    assert (result["status"], result["forwards_per_image"], result["backwards_per_image"]) == ("ok", 1, 1)
    assert (theirs.dtype, theirs.requires_grad) == (torch.float32, False)


@pytest.mark.parametrize(
    "word",
    [
        "foolbox:LinfPGD:steps=10:rel_stepsize=1/10:random_start=false",
        "torchattacks:PGD:steps=10:alpha=0.01:random-start=false",
        "art:ProjectedGradientDescent:max_iter=10:eps_step=0.01",
    ],
)
@pytest.mark.parametrize("targeted", [False, True])
def test_ten_steps_match_ifgsm(word: str, targeted: bool) -> None:
    model, x, ball = conv_net(), images(24), Threat("linf", 0.1, targeted)
    y_target = int(model(x).topk(2).indices[:, 1].mode().values) if targeted else None  # not far for most
    y = predicted_labels(model, x)
    target_classes = None if y_target is None else torch.full_like(y, y_target)
    ours = ifgsm(model, x, y, eps=0.1, steps=10, y_target=target_classes)
    theirs = make_attack(word, model, ball, y_target)(x, y)
    assert ball.violations(theirs, x) == []
    turned = [
        predicted_labels(model, images) == (y if target_classes is None else target_classes)
        for images in (x, ours, theirs)
    ]
    assert torch.equal(turned[1], turned[2])
    assert not torch.equal(turned[0], turned[2])
    assert (ours - theirs).abs().mean() < 1e-4  # a sign may flip where the gradient is nearly zero


def test_autoattack_succeeds_where_fgsm_does() -> None:
    model, x, ball = conv_net(), images(8), Threat("linf", 0.3)
    y = predicted_labels(model, x)
    x_adv = make_attack("torchattacks:AutoAttack", model, ball)(x, y)
    assert ball.violations(x_adv, x) == []
    turned, by_one_step = (predicted_labels(model, images) != y for images in (x_adv, fgsm(model, x, y, eps=0.3)))
    assert by_one_step.any()
    assert turned[by_one_step].all()


@pytest.mark.parametrize(
    ("word", "protocol", "norm", "targeted", "access"),
    [
        ("foolbox:PGD", "bounded", "linf", True, "gradients"),
        ("foolbox:L2PGD", "bounded", "l2", True, "gradients"),
        ("foolbox:L2DeepFoolAttack", "minimal-norm", "l2", False, "gradients"),
        ("foolbox:L0FMNAttack", "minimal-norm", "l0", True, "gradients"),
        ("foolbox:BoundaryAttack", "minimal-norm", "l2", True, "decisions"),
        ("foolbox:HopSkipJumpAttack:constraint=linf", "minimal-norm", "linf", True, "decisions"),
        ("foolbox:InversionAttack", "minimal-norm", None, True, "decisions"),
        ("foolbox:LinfAdditiveUniformNoiseAttack", "bounded", "linf", True, "nothing"),
        ("torchattacks:AutoAttack", "bounded", None, False, "gradients"),
        ("torchattacks:PGDL2", "bounded", "l2", True, "gradients"),
        ("torchattacks:Square", "bounded", None, True, "scores"),
        ("torchattacks:CW", "minimal-norm", "l2", True, "gradients"),
        ("art:BasicIterativeMethod", "bounded", "linf", True, "gradients"),
        ("art:HopSkipJump", "minimal-norm", "l2", True, "decisions"),
        ("art:SquareAttack", "bounded", None, False, "scores"),
    ],
)
def test_declared_kind_norm_and_access(word: str, protocol: str, norm: str | None, targeted: bool, access: str) -> None:
    spec = parse_attack(word)
    attack = spec.attack
    assert (attack.kind, attack.norm, attack.targeted, attack.access) == (protocol, norm, targeted, access)
    assert (spec.label, spec.access, attack.random) == (word, access, True)
    assert spec.name == ":".join(word.split(":")[:2])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("None", None), ("10", 10), ("0.5", 0.5), ("8/255", 8 / 255), ("1e-3", 1e-3), ("dlr", "dlr")],
)
def test_setting_values_are_parsed_by_type(text: str, expected: object) -> None:
    assert parse_value(text) == expected
    assert type(parse_value(text)) is type(expected)


@pytest.mark.parametrize(
    ("word", "threat", "message"),
    [
        ("torchattacks:pgd", BALL, "unknown attack 'pgd' of torchattacks, expected some of PGD"),
        ("foolbox:L2Deepfool", BALL, "unknown attack 'L2Deepfool' of foolbox, expected some of L2DeepFool"),
        ("art:", BALL, "unknown attack '' of art, expected some of AutoAttack, "),
        (
            "foolbox:PGD:alpha=1",
            BALL,
            "foolbox:PGD cannot take 'alpha=1', expected .* rel_stepsize, abs",
        ),
        ("torchattacks:PGD:eps=0.1", BALL, "cannot take 'eps=0.1', expected setting=value with settings alpha, steps"),
        ("foolbox:PGD:steps=many", BALL, "foolbox:PGD:steps must be a number, got 'many'"),
        ("foolbox:PGD:random_start=3", BALL, "foolbox:PGD:random_start must be true or false, got '3'"),
        ("foolbox:VirtualAdversarialAttack", BALL, "needs steps=..., for which foolbox has no default"),
        ("foolbox:L1PGD", BALL, "foolbox:L1PGD cannot be built: its distance is L1 distance, expected linf, l2 or l0"),
        ("torchattacks:AutoAttack:version=fast", BALL, "cannot be built: ValueError: Not valid version"),
        (
            "art:ProjectedGradientDescent:max_iter=-1",
            BALL,
            "art:ProjectedGradientDescent cannot be built: ValueError: ",
        ),
        ("foolbox:LinfPGD", Threat("l2", 1.0), "foolbox:LinfPGD is for norm linf, expected no other, got l2"),
        ("torchattacks:AutoAttack", Threat("linf", 0.2, True), "torchattacks:AutoAttack has no targeted form"),
        ("foolbox:BoundaryAttack@naive", BALL, "has no such view"),
    ],
)
def test_invalid_combinations_raise(
    word: str, threat: Threat, message: str, model: nn.Module, bars: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(InputError, match=message):
        make_attack(word, model, threat, 1 if threat.targeted else None)(bars[0][:0], bars[1][:0])


@pytest.mark.parametrize("library", ONE_STEP)
def test_missing_library_names_install_command(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"advgan.bridges.{library}")
    with pytest.raises(InputError, match=rf"^{library}.* is not installed.*pip install 'advgan\[bridges\]'"):
        parse_attack(ONE_STEP[library])


@pytest.mark.parametrize(
    "word",
    [
        "foolbox:LinfPGD:steps=2",
        "torchattacks:PGD:steps=2",
        "art:ProjectedGradientDescent:max_iter=2:num_random_init=1",
    ],
)
def test_randomness_depends_on_given_rng_and_state_is_restored(
    word: str, model: nn.Module, bars: tuple[Tensor, Tensor]
) -> None:
    x, y = bars

    def random_states() -> list[Any]:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]

    weight = next(model.parameters())
    weight.grad = torch.ones_like(weight)
    before = random_states()
    first, again, other = (
        make_attack(word, model, BALL, rng=torch.Generator().manual_seed(seed))(x, y) for seed in (1, 1, 2)
    )
    assert random_states() == before
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(weight.grad, torch.ones_like(weight))
    weight.grad = None


def test_violation_gives_failed_row(
    model: nn.Module, bars: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = torchattacks.FGSM.forward
    monkeypatch.setattr(torchattacks.FGSM, "forward", lambda self, x, y: 1 - forward(self, x, y))
    row = (
        ResultCache(None, *bars).run(GridPoint(parse_attack("torchattacks:FGSM"), TargetModel("net", model), BALL)).row
    )
    assert row["status"].startswith("failed: linf ")
    assert row["asr"] is None
    assert "exceeds eps 0.2" in row["violations"][0]


def test_black_box_model(bars: tuple[Tensor, Tensor]) -> None:
    def predict(x: Tensor) -> np.ndarray:
        return np.eye(3)[(x.numpy().mean((1, 2, 3)) > 0.25).astype(int)]

    box, (x, _) = BlackBox(predict, 3), bars
    x_adv = make_attack("foolbox:LinfRepeatedAdditiveUniformNoiseAttack:repeats=3", box, BALL)(x, box(x).argmax(1))
    assert BALL.violations(x_adv, x) == []
    with pytest.raises(InputError, match="takes the device of a model from its parameters, and this model has none"):
        make_attack("torchattacks:Square", box, BALL)(x, box(x).argmax(1))


@pytest.mark.usefixtures("undrawn")
def test_comparison_across_libraries(
    digits: Path, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attacks = ["fgsm", "foolbox:L2DeepFoolAttack:steps=5", "torchattacks:APGD:steps=3", "art:FastGradientMethod"]
    basics = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--target-weights", classifier]
    settings = [
        *basics,
        "--eps",
        0.2,
        "--max-samples",
        8,
        "--threads",
        1,
        "--output-dir",
        tmp_path,
        "--attacks",
        *attacks,
    ]
    run(compare.main, compare.Settings, [str(word) for word in settings])
    rows = {row["attack"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(attacks, "ok")
    assert rows["foolbox:L2DeepFoolAttack:steps=5"]["protocol"] == "minimal-norm"
    shown = capsys.readouterr().out
    assert all(word in shown for word in attacks)


def test_gradient_attack_on_black_box_is_failed_row(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "box.py").write_text(
        "import numpy as np\n"
        "from advgan.classifiers import BlackBox\n"
        "box = BlackBox(lambda x: np.eye(3)[(x.numpy().mean((1, 2, 3)) > 0.25).astype(int)], 3)\n"
    )
    arguments = ["--dataset", "folder", "--data-dir", digits, "--target", f"{tmp_path / 'box.py'}:box", "--eps", 0.2]
    arguments += ["--max-samples", 8, "--threads", 1, "--output-dir", tmp_path / "out"]
    arguments += ["--attacks", "noise-sign", "fgsm", "torchattacks:FGSM"]
    run(compare.main, compare.Settings, [str(word) for word in arguments])
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(row["attack"], row["status"].split(":")[0]) for row in rows] == [
        ("noise-sign", "ok"),
        ("fgsm", "failed"),
        ("torchattacks:FGSM", "failed"),
    ]
