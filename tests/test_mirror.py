"""The mirror: at first the guide's gradient, exactly; then a network that is trained like any other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advgan import Generator, InputError
from advgan.attacks.registry import bind
from advgan.mirror import Mirror, ascent, read
from advgan.targets import build_target
from advgan.threat import Threat, bounded

SHAPES = {"mnist-a": (1, 28, 28), "mnist-b": (1, 28, 28), "mnist-c": (1, 29, 31), "mnist-small": (3, 17, 22)}
SHAPES |= {"cifar-resnet20": (3, 32, 32), "cifar-resnet32": (1, 17, 22)}


def made(name: str = "mnist-c", shape: tuple[int, int, int] = (1, 28, 28), **settings: object) -> Generator:
    """A generator whose guide is an untrained classifier, its mirror as training finds it."""
    torch.manual_seed(0)
    guide = build_target(name, shape, 10).eval()
    for norm in (module for module in guide.modules() if isinstance(module, nn.BatchNorm2d)):  # as after a training
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.data.uniform_(0.5, 1.5)
    settings = {"depth": 1, "width": 4, "guide": guide.config, "architecture": "mirror"} | settings
    generator = Generator(shape[0], **settings).eval()  # type: ignore[arg-type]
    generator.take_guide(guide)
    return generator


def soft_margin(logits: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """The likeliest others minus one class; the weights of the others are held."""
    others = logits.detach().masked_fill(one.bool(), float("-inf")).softmax(1)
    return ((others - one) * logits).sum()


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("aimed", [False, True])
def test_before_training_it_is_the_gradient_of_the_soft_margin(name, aimed):
    generator = made(name, SHAPES[name], classes=10)
    x, t = torch.rand(6, *SHAPES[name]), torch.arange(6) if aimed else torch.full((6,), -1)
    x[..., :9] = 0.2  # an even ground, as MNIST's is: where a pool finds four alike, one of them has the gradient
    leaf = x.clone().requires_grad_()
    logits = generator.guide(leaf)
    one = F.one_hot(t if aimed else logits.argmax(1), 10).float()
    gradient = torch.autograd.grad(soft_margin(logits, one) * (-1 if aimed else 1), leaf)[0]
    with torch.no_grad():
        raw = generator.raw(x, t)
    torch.testing.assert_close(raw, 2 * gradient / gradient.abs().mean((1, 2, 3), keepdim=True), rtol=1e-3, atol=1e-4)


def test_where_the_likeliest_other_class_is_alone_it_is_fgsm_of_the_margin():
    logits = torch.tensor([[50.0, 20.0, 0.0], [0.0, 90.0, 30.0]])
    away = ascent(logits, logits.argmax(1), torch.tensor([-1, -1]))
    torch.testing.assert_close(away, torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]))
    aimed = ascent(logits, logits.argmax(1), torch.tensor([2, -1]))
    torch.testing.assert_close(aimed, torch.tensor([[-1.0, 0.0, 1.0], [0.0, -1.0, 1.0]]))


def test_a_round_reads_the_image_that_the_one_before_has_made():
    two = made(depth=2)
    one = made(depth=1)
    x = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        first = one.raw(x)
        seen = bounded(first, x, "linf", 0.3)
        logits = read(two.guide, x)[1]
        inputs, there = read(two.guide, seen)
        assert isinstance(two.network, Mirror)
        told = two.wanted(torch.full((3,), -1), torch.full((3,), 0.3), torch.zeros(3, 0), logits)
        expected = two.network.round(
            x, (seen - x) / 0.3, first, inputs, there, logits.argmax(1), torch.full((3,), -1), told
        )
    torch.testing.assert_close(two.raw(x), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_answer_is_in_ball_and_box(norm):
    eps = {"linf": 0.2, "l2": 1.5}[norm]
    generator = made(norm=norm, eps=eps, depth=2, eps_min=eps / 2, classes=10)
    x = torch.rand(4, 1, 28, 28).round(decimals=1)
    for radius in (eps, eps / 2):
        for aim in (None, 3):
            x_adv = generator.perturb(x, y_target=aim, eps=radius)
            assert Threat(norm, radius).violations(x_adv, x) == []


def test_its_own_layers_learn_and_the_guide_does_not():
    generator = made(depth=2, classes=10, eps_min=0.1)
    before = {name: value.clone() for name, value in generator.guide.state_dict().items()}
    parameters = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    assert not any(name.startswith("guide.") for name, p in generator.named_parameters() if p.requires_grad)
    optimizer, x = torch.optim.Adam(parameters, 1e-2), torch.rand(8, 1, 28, 28)
    target = build_target("mnist-c", (1, 28, 28), 10).eval()
    gaps = []
    for _ in range(8):
        loss = target(generator(x, torch.full((8,), 3))).log_softmax(1)[:, 3].neg().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gaps.append(loss.item())
    assert gaps[-1] < gaps[0]
    assert all(parameter.grad is not None for parameter in parameters)
    assert all(torch.equal(value, before[name]) for name, value in generator.guide.state_dict().items())


def test_nothing_is_differentiated_when_it_answers(monkeypatch):
    generator = made(depth=2)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a gradient was asked for")

    monkeypatch.setattr(torch.autograd, "grad", refused)
    monkeypatch.setattr(torch.autograd, "backward", refused)
    with torch.inference_mode():
        assert generator.perturb(torch.rand(2, 1, 28, 28)).shape == (2, 1, 28, 28)


def test_an_answer_of_other_rounds_than_it_was_trained_with():
    generator, x = made(depth=3, classes=10), torch.rand(3, 1, 28, 28)
    assert generator.rounds == 3
    own = generator.perturb(x)
    assert torch.equal(generator.perturb(x, rounds=3), own)
    one, five = generator.perturb(x, rounds=1), generator.perturb(x, rounds=5)
    assert not torch.equal(one, own)
    assert not torch.equal(five, own)
    named = bind("advgan:rounds=1", nn.Identity(), Threat(), generator=generator)
    assert torch.equal(named(x, torch.zeros(3, dtype=torch.long)), one)
    with pytest.raises(InputError, match="at least 1 round, got 0"):
        generator.perturb(x, rounds=0)
    with pytest.raises(InputError, match="no rounds, which are for architecture mirror, got 2"):
        Generator(width=4, depth=1).perturb(x, rounds=2)


def test_checkpoint_round_trip(tmp_path):
    generator, x = made(depth=2, classes=10), torch.rand(3, 1, 28, 28)
    generator.save_pretrained(tmp_path)
    assert torch.equal(Generator.from_pretrained(tmp_path).perturb(x, y_target=2), generator.perturb(x, y_target=2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guide": None}, "architecture mirror turns its guide around: expected a guide, got none"),
        ({"depth": 0}, "at least 1 round, got depth 0"),
        ({"classes": 4}, "aims at the classes of its guide, expected one of 10, got classes 4"),
        ({"y_target": 10}, "aims at the classes of its guide, expected one of 10, got y_target 10"),
    ],
)
def test_what_it_is_not_made_of(settings, words):
    with pytest.raises(InputError, match=words):
        made(**settings)


def test_a_guide_that_is_no_chain_of_layers_is_refused():
    guide = build_target("quick", (3, 32, 32), 10)
    with pytest.raises(InputError, match=r"expected a chain .*got quick"):
        Generator(3, architecture="mirror", guide=guide.config)
    grouped = build_target("mnist-c", (1, 28, 28), 10)
    grouped.layers[2] = nn.Conv2d(32, 32, 3, groups=2)
    with pytest.raises(InputError, match="got mnist-c"):
        Mirror(grouped, 1, 4, 64, "linf")
