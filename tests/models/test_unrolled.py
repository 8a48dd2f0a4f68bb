"""The unrolled network: untrained the input gradient of its guide, whatever that is; then trained like any other."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from advgan import Generator, InputError
from advgan.attacks.registry import make_attack
from advgan.classifiers import build_target
from advgan.core.threat_model import Threat, squash_to_ball
from advgan.models.unrolled import Feedback, differentiable, feedback_paths, margin_gradient, twice_differentiable

SHAPES = {"mnist-a": (1, 28, 28), "mnist-b": (1, 28, 28), "mnist-c": (1, 29, 31), "mnist-small": (3, 17, 22)}
SHAPES |= {"cifar-resnet20": (3, 32, 32), "cifar-resnet32": (1, 17, 22), "quick": (3, 16, 16)}
SMALL = {"depth": 1, "width": 4, "architecture": "unrolled"}

# timm's names, the size of images, and settings that make them small and fast.
TIMM: dict[str, tuple[int, dict[str, Any]]] = {
    "resnet18": (32, {}),
    "resnetv2_50": (32, {"layers": (1, 1, 1, 1), "channels": (32, 64, 64, 64)}),
    "seresnet18": (32, {}),
    "vgg11_bn": (32, {"mlp_ratio": 0.02}),
    "densenet121": (32, {"block_config": (2, 2, 2, 2)}),
    "mobilenetv2_050": (32, {}),
    "mobilenetv3_small_050": (32, {}),
    "efficientnet_lite0": (32, {}),
    "mnasnet_small": (32, {}),
    "convnext_atto": (32, {}),
    "vit_tiny_patch16_224": (32, {"img_size": 32, "depth": 3}),
    "deit_tiny_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "swin_tiny_patch4_window7_224": (64, {"img_size": 64, "window_size": 4, "depths": (2, 2), "embed_dim": 24}),
    "mixer_s32_224": (32, {"img_size": 32}),
    "resmlp_12_224": (32, {"img_size": 32}),
    "regnetx_002": (32, {}),
    "ghostnet_050": (32, {}),
    "repvgg_a0": (32, {}),
    "lcnet_035": (32, {}),
    "edgenext_xx_small": (64, {}),
    "poolformer_s12": (64, {}),
}


class Peculiar(nn.Module):
    """Grouped, dilated, reused, unused, functional and in-place layers, and a block that is computed twice."""

    image_shape = (3, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding="same")
        self.again = nn.Conv2d(8, 8, 2, padding="same", dilation=2)
        self.grouped = nn.Conv2d(8, 8, 3, 2, padding=1, groups=4, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.register_buffer("kernel", torch.randn(8, 8, 3, 3))
        self.unused = nn.Linear(8, 8)
        self.tokens = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.first(x))
        x = self.relu(checkpoint(lambda x: self.again(self.again(x)), x, use_reentrant=False))
        x = F.silu(F.conv2d(self.grouped(x), self.kernel))
        x = self.tokens(x.flatten(2).mT.flatten(0, 1)).unflatten(0, (len(x), -1)).mT
        return self.head(x.mean(2))


@pytest.mark.parametrize("width", [0, 4])
def test_width_0_is_the_learned_backward_pass_alone(width: int) -> None:
    generator = made(width=width, depth=2, eps_min=0.1)
    names = {name.split(".")[1] for name, _ in generator.named_parameters() if name.startswith("network.")}
    more = {"films", "refine"} if width else set()
    assert names == {"feedback", "cond_proj", "logit_direction", "step_gains"} | more
    x = torch.rand(3, 1, 28, 28)
    full = made(width=4, depth=2, eps_min=0.1)
    assert torch.equal(generator.perturb(x), full.perturb(x)), "scales and corrections are zero before the training"
    generator(x).square().sum().backward()
    trained = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in trained)


def made(name: str = "mnist-c", shape: tuple[int, int, int] = (1, 28, 28), **settings: object) -> Generator:
    """A generator whose guide is an untrained classifier, as it is before its training."""
    torch.manual_seed(0)
    guide = build_target(name, shape, 10).eval()
    randomise(guide)
    return Generator(shape[0], **(SMALL | {"guide": guide} | settings)).eval()  # type: ignore[arg-type]


def randomise(model: nn.Module) -> None:
    """Statistics as after a training, and no weights of zero."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            values.data.uniform_(0.5, 1.5)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def untrained_gradient(
    model: nn.Module, shape: tuple[int, ...], direction: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """direction . logits, differentiated in x with V = W."""
    model.image_shape = shape  # type: ignore[assignment]
    layers = {path.name: model.get_submodule(path.name) for path in feedback_paths(model)}
    feedbacks = {name: Feedback(layer, layer.weight.detach()) for name, layer in layers.items()}
    assert feedbacks
    with differentiable(model, x, feedbacks, create_graph=False) as gradient:
        return gradient(direction, {})


def soft_margin(logits: torch.Tensor, one: torch.Tensor) -> torch.Tensor:
    """The likeliest others minus one class; the weights of the others are constants."""
    others = logits.detach().masked_fill(one.bool(), float("-inf")).softmax(1)
    return ((others - one) * logits).sum()


@pytest.mark.parametrize("name", list(SHAPES))
@pytest.mark.parametrize("targeted", [False, True])
def test_untrained_output_is_gradient_of_soft_margin(name, targeted):
    generator = made(name, SHAPES[name], classes=10)
    x, t = torch.rand(6, *SHAPES[name]), torch.arange(6) if targeted else torch.full((6,), -1)
    x[..., :9] = 0.2  # an even ground, as MNIST's is: ties within a pool
    leaf = x.clone().requires_grad_()
    logits = generator.guide(leaf)
    one = F.one_hot(t if targeted else logits.argmax(1), 10).float()
    gradient = torch.autograd.grad(soft_margin(logits, one) * (-1 if targeted else 1), leaf)[0]
    with torch.no_grad():
        raw = generator.raw_perturbation(x, y_target=t)
    torch.testing.assert_close(raw, 2 * gradient / gradient.abs().mean((1, 2, 3), keepdim=True), rtol=1e-3, atol=1e-4)


def test_with_labels_the_class_to_leave_is_the_label_or_where_unknown_the_prediction():
    generator = made("quick", SHAPES["quick"], labels=10)
    x, y = torch.rand(6, *SHAPES["quick"]), torch.tensor([9, 8, 2, 3, -1, -1])
    leaf = x.clone().requires_grad_()
    logits = generator.guide(leaf)
    assert (logits.argmax(1) != y).all()
    one = F.one_hot(y.where(y >= 0, logits.argmax(1)), 10).float()
    gradient = torch.autograd.grad(soft_margin(logits, one), leaf)[0]
    with torch.no_grad():
        raw = generator.raw_perturbation(x, y)
    torch.testing.assert_close(raw, 2 * gradient / gradient.abs().mean((1, 2, 3), keepdim=True), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(TIMM))
def test_untrained_gradient_equals_autograd_of_timm_models(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    size, settings = TIMM[name]
    model = timm.create_model(name, **({"num_classes": 10} | settings)).eval().requires_grad_(False)
    randomise(model)
    x, direction = torch.rand(2, 3, size, size), torch.randn(2, 10)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad((model(leaf) * direction).sum(), leaf)[0]
    gradient = untrained_gradient(model, (3, size, size), direction, x)
    assert expected.abs().max() > 0
    assert (gradient - expected).norm() <= 1e-4 * expected.norm()


def test_untrained_gradient_of_grouped_dilated_reused_functional_and_recomputed_layers():
    torch.manual_seed(0)
    model = Peculiar().eval().requires_grad_(False)
    x, direction = torch.rand(4, 3, 16, 16), torch.randn(4, 5)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad((model(leaf) * direction).sum(), leaf)[0]
    torch.testing.assert_close(untrained_gradient(model, (3, 16, 16), direction, x), expected)
    paths = {path.name: path.per_image for path in feedback_paths(model)}
    assert paths == {"first": True, "again": True, "grouped": True, "tokens": False, "head": True}


def test_untrained_gradient_equals_autograd_where_the_guide_has_hooks_of_its_own():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    model.requires_grad_(False)
    model[0].register_forward_hook(lambda module, inputs, y: y * y)  # an adapter, a quantiser
    model[3].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    x, direction = torch.rand(4, 3, 8, 8), torch.randn(4, 5)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad((model(leaf) * direction).sum(), leaf)[0]
    torch.testing.assert_close(untrained_gradient(model, (3, 8, 8), direction, x), expected)


@pytest.mark.parametrize("padding", [0, 1, (2, 0), "same", "valid"])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups"), [(3, 1, 1, 1), ((2, 3), (2, 3), 2, 2), (4, 3, 1, 1)]
)
def test_feedback_through_a_convolution_is_its_transpose(kernel, stride, dilation, groups, padding):
    stride = 1 if padding == "same" else stride
    layer = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups).requires_grad_(False)
    x = torch.rand(2, 4, 13, 11, requires_grad=True)
    grad = torch.randn_like(layer(x))
    expected = torch.autograd.grad(layer(x), x, grad)[0]
    torch.testing.assert_close(Feedback(layer, layer.weight)(grad, x.shape), expected)


@pytest.mark.parametrize("shape", [(2, 3, 13, 11), (3, 13, 11), (0, 3, 13, 11)])
@pytest.mark.parametrize(
    ("out_channels", "kernel", "stride", "dilation", "padding"),
    [(24, 4, 2, 1, 1), (12, (2, 3), (3, 2), 2, (2, 0)), (24, 3, 1, 1, "same"), (5, 1, 1, 1, 0), (24, 1, 2, 1, 0)],
)
def test_feedback_to_an_image_and_through_kernels_of_one_pixel_is_its_transpose(
    shape, out_channels, kernel, stride, dilation, padding
):
    layer = nn.Conv2d(3, out_channels, kernel, stride, padding, dilation).requires_grad_(False)
    x = torch.rand(shape, requires_grad=True)
    grad = torch.randn_like(layer(x))
    expected = torch.autograd.grad(layer(x), x, grad)[0]
    torch.testing.assert_close(Feedback(layer, layer.weight)(grad, x.shape), expected)


def test_parameter_gradients_equal_those_of_the_explicit_backward_pass():
    """One hidden layer, written out: V and its scales in the backward pass, W in the gate."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4)).requires_grad_(False)
    x, direction = torch.rand(3, 1, 3, 3), torch.randn(3, 4, requires_grad=True)
    v1, v2 = (torch.randn(*shape, requires_grad=True) for shape in ((7, 9), (4, 7)))
    s1, s2 = (torch.randn(3, width, requires_grad=True) for width in (9, 7))
    with differentiable(model, x, {"1": Feedback(model[1], v1), "3": Feedback(model[3], v2)}, True) as gradient:
        automatic = gradient(direction, {"1": s1, "3": s2})
    explicit = ((direction @ v2 * s2 * (model[1](x.flatten(1)) > 0)) @ v1 * s1).view_as(x)
    torch.testing.assert_close(automatic, explicit)
    weights, inputs = torch.randn_like(x), (v1, v2, s1, s2, direction)
    for one, other in zip(
        *(torch.autograd.grad((each * weights).sum(), inputs) for each in (automatic, explicit)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_margin_gradient_equals_fgsm_with_one_rival():
    logits = torch.tensor([[50.0, 20.0, 0.0], [0.0, 90.0, 30.0]])
    untargeted = margin_gradient(logits, logits.argmax(1), torch.tensor([-1, -1]))
    torch.testing.assert_close(untargeted, torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]))
    targeted = margin_gradient(logits, logits.argmax(1), torch.tensor([2, -1]))
    torch.testing.assert_close(targeted, torch.tensor([[-1.0, 0.0, 1.0], [0.0, -1.0, 1.0]]))


def test_iteration_uses_previous_iterate():
    """The second of two iterations equals the first of a gradient at the image that one iteration has made."""
    one, two = made(depth=1), made(depth=2)
    x = torch.rand(3, 1, 28, 28)
    with torch.no_grad():
        first = one.raw_perturbation(x)
        leaf = squash_to_ball(first, x, "linf", 0.3)
        predicted, targets = two.guide(x).argmax(1), torch.full((3,), -1)
    leaf = leaf.requires_grad_()
    logits = two.guide(leaf)
    gradient = torch.autograd.grad(logits, leaf, margin_gradient(logits.detach(), predicted, targets))[0]
    expected = first + 2 * gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(two.raw_perturbation(x).detach(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbed_images_are_in_ball_and_box(norm):
    eps = {"linf": 0.2, "l2": 1.5}[norm]
    generator = made(norm=norm, eps=eps, depth=2, eps_min=eps / 2, classes=10)
    x = torch.rand(4, 1, 28, 28).round(decimals=1)
    for radius in (eps, eps / 2):
        for target in (None, 3):
            x_adv = generator.perturb(x, y_target=target, eps=radius)
            assert Threat(norm, radius).violations(x_adv, x) == []


def test_feedback_weights_learn_and_guide_does_not():
    generator = made(depth=2, classes=10, eps_min=0.1)
    before = {name: value.clone() for name, value in generator.guide.state_dict().items()}
    parameters = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    assert not any(name.startswith("guide.") for name, p in generator.named_parameters() if p.requires_grad)
    optimizer, x = torch.optim.Adam(parameters, 1e-2), torch.rand(8, 1, 28, 28)
    target = build_target("mnist-c", (1, 28, 28), 10).eval()
    losses = []
    for _ in range(8):
        loss = target(generator(x, torch.full((8,), 3))).log_softmax(1)[:, 3].neg().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in parameters)
    assert all(torch.equal(value, before[name]) for name, value in generator.guide.state_dict().items())
    assert not any(layer._forward_hooks for layer in generator.guide.modules())


@pytest.mark.parametrize("kind", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "lcnet_035"])
def test_every_parameter_has_a_gradient_with_attention_and_smooth_activations(kind):
    timm = pytest.importorskip("timm")
    size, settings = TIMM[kind]
    guide = timm.create_model(kind, num_classes=5, **settings)
    generator = Generator(
        3, eps=0.1, depth=2, width=4, architecture="unrolled", guide=guide, image_shape=(3, size, size)
    )
    for film in generator.network.films:
        nn.init.normal_(film.weight, std=0.1)
    generator(torch.rand(2, 3, size, size)).square().sum().backward()
    learned = {name: parameter for name, parameter in generator.named_parameters() if parameter.requires_grad}
    assert len(generator.network.feedback) > 3
    assert [name for name, parameter in learned.items() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in learned.values())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_perturbation_is_the_same_in_every_grad_mode(context):
    generator, x = made(depth=2), torch.rand(2, 1, 28, 28)
    expected = generator.perturb(x)
    with context():
        assert torch.equal(generator.perturb(x.clone()), expected)
        assert torch.equal(generator(x.clone()).detach(), generator(x.clone()).detach())
    torch.testing.assert_close(generator(x).detach(), expected, atol=1e-6, rtol=0)


def test_bfloat16_stays_near_float32_and_inside_the_ball():
    generator, x = made(), torch.rand(4, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = generator(x)
        x_adv.sum().backward()
    assert x_adv.dtype == torch.float32
    assert Threat("linf", 0.3).violations(x_adv.detach(), x) == []
    assert (x_adv - generator(x)).abs().mean() < 0.05


def test_number_of_iterations_can_differ_from_training():
    generator, x = made(depth=3, classes=10), torch.rand(3, 1, 28, 28)
    assert generator.iterations == 3
    own = generator.perturb(x)
    assert torch.equal(generator.perturb(x, iterations=3), own)
    one, five = generator.perturb(x, iterations=1), generator.perturb(x, iterations=5)
    assert not torch.equal(one, own)
    assert not torch.equal(five, own)
    attack = make_attack("advgan:iterations=1", nn.Identity(), Threat(), generator=generator)
    assert torch.equal(attack(x, torch.zeros(3, dtype=torch.long)), one)
    with pytest.raises(InputError, match="at least 1 iteration, got 0"):
        generator.perturb(x, iterations=0)
    with pytest.raises(InputError, match="no iterations, which are for architecture unrolled, got 2"):
        Generator(width=4, depth=1).perturb(x, iterations=2)


def test_checkpoint_round_trip(tmp_path):
    generator, x = made(depth=2, classes=10), torch.rand(3, 1, 28, 28)
    generator.save_pretrained(tmp_path)
    assert torch.equal(Generator.from_pretrained(tmp_path).perturb(x, y_target=2), generator.perturb(x, y_target=2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guide": None}, "architecture unrolled is a backward pass of its guide: expected a guide, got none"),
        ({"depth": 0}, "at least 1 iteration, got depth 0"),
        ({"classes": 4}, "targets the classes of its guide, expected one of 10, got classes 4"),
        ({"y_target": 10}, "targets the classes of its guide, expected one of 10, got y_target 10"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        made(**settings)


def test_a_guide_without_a_gradient_is_refused():
    class Rounded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.detach().mean((2, 3))[:, :1].expand(-1, 4)

    with pytest.raises(InputError, match="a guide with a gradient in its input, and Rounded has none"):
        Generator(3, architecture="unrolled", guide=Rounded(), image_shape=(3, 8, 8))


def test_a_guide_without_layers_to_learn_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    with pytest.raises(
        InputError, match=r"nn.Conv2d and nn.Linear layers, and \w+ has none: expected an nn.Module with"
    ):
        Generator(3, architecture="unrolled", guide=torch.jit.trace(net, torch.rand(2, 3, 8, 8)), image_shape=(3, 8, 8))


def test_twice_differentiable_hard_sigmoid_is_the_same_function():
    x = torch.linspace(-5, 5, 41).requires_grad_()
    with twice_differentiable():
        changed = x + 0
        F.hardsigmoid(changed, inplace=True)
        values = [F.hardsigmoid(x), F.hardsigmoid(input=x), nn.Hardsigmoid(inplace=True)(x + 0), changed]
    for value in values:
        torch.testing.assert_close(value, F.hardsigmoid(x))
        gradient = torch.autograd.grad(value.sum(), x, retain_graph=True)[0]
        torch.testing.assert_close(gradient, torch.autograd.grad(F.hardsigmoid(x).sum(), x)[0])
