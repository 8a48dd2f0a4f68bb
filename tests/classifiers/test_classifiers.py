"""Built-in classifiers: published layers, gradients at every pixel, saved and loaded weights, check_target."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from advgan.classifiers import TARGETS, build_target, check_target, load_target, save_target
from advgan.classifiers.small_resnet import ConvBN
from advgan.core.errors import InputError

# Parameters for 1x28x28 (mnist) and 3x32x32 (cifar) images of 10 classes, computed by hand from the published layers.
PARAMETERS = {
    "mnist-a": 1_664 + 102_464 + 3_276_928 + 1_290,
    "mnist-b": 4_160 + 295_040 + 409_728 + 1_290,
    "mnist-c": 320 + 9_248 + 18_496 + 36_928 + 205_000 + 40_200 + 2_010,
    "mnist-tutorial": 320 + 18_496 + 1_179_776 + 1_290,
    "mnist-small": 272 + 8_224 + 156_900 + 1_010,
    "cifar-resnet20": 269_722,
    "cifar-resnet32": 464_154,
    "cifar-resnet44": 658_586,
    "cifar-resnet56": 853_018,
    "cifar-resnet110": 1_727_962,
    "cifar-wrn-34-10": 46_160_474,
    "quick": 1_200 + 10_464 + 41_664 + 41_664 + 166_272 + 970,  # ours
}
WEIGHTED = {  # shapes of the weights of convolutions and linear layers, in order
    "mnist-a": [(64, 1, 5, 5), (64, 64, 5, 5), (128, 25600), (10, 128)],
    "mnist-b": [(64, 1, 8, 8), (128, 64, 6, 6), (128, 128, 5, 5), (10, 128)],
    "mnist-c": [(32, 1, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (64, 64, 3, 3), (200, 1024), (200, 200), (10, 200)],
    "mnist-tutorial": [(32, 1, 3, 3), (64, 32, 3, 3), (128, 9216), (10, 128)],
    "mnist-small": [(16, 1, 4, 4), (32, 16, 4, 4), (100, 1568), (10, 100)],
}
DROPOUT = {
    "mnist-a": [0.25, 0.5],
    "mnist-b": [0.2, 0.5],
    "mnist-c": [0.5],
    "mnist-tutorial": [0.25, 0.5],
    "mnist-small": [],
}
SMALL = ["mnist-a", "mnist-b", "mnist-c", "mnist-tutorial", "mnist-small", "cifar-resnet20", "quick"]


@pytest.mark.parametrize("name", TARGETS)
def test_parameter_counts_match_publications(name):
    assert sum(p.numel() for p in build_target(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", WEIGHTED)
def test_mnist_layers_match_publications(name):
    layers = list(build_target(name).modules())
    assert [tuple(m.weight.shape) for m in layers if isinstance(m, nn.Conv2d | nn.Linear)] == WEIGHTED[name]
    assert [m.p for m in layers if isinstance(m, nn.Dropout)] == DROPOUT[name]


@pytest.mark.parametrize("depth", [20, 32])
def test_resnet_parameter_names_match_public_weights(depth):
    names = {"conv1.weight", "linear.weight", "linear.bias"}
    norms = ["bn1"]
    for layer in (1, 2, 3):
        for i in range((depth - 2) // 6):
            names |= {f"layer{layer}.{i}.conv{j}.weight" for j in (1, 2)}
            norms += [f"layer{layer}.{i}.bn{j}" for j in (1, 2)]
    names |= {f"{norm}.{k}" for norm in norms for k in ("weight", "bias", "running_mean", "running_var")}
    state = build_target(f"cifar-resnet{depth}").state_dict()
    assert {k for k in state if not k.endswith("num_batches_tracked")} == names
    assert sum(k.endswith("conv1.weight") or k.endswith("conv2.weight") for k in state) + 1 == depth


def test_resnet_shortcut_subsamples_and_pads_channels():
    block = build_target("cifar-resnet20").layer2[0].eval()
    with torch.no_grad():
        block.bn2.weight.zero_()  # leaves the shortcut alone
        x = torch.rand(2, 16, 7, 8)
        y = block(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()


def test_resnet_normalizes_inside():
    net = build_target("cifar-resnet20").eval()
    seen = []
    net.conv1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = torch.rand(2, 3, 32, 32)
    net(x)
    torch.testing.assert_close(seen[0], (x - mean.view(3, 1, 1)) / std.view(3, 1, 1))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_any_image_shape_and_gradient_at_every_pixel(name, shape):
    torch.manual_seed(0)
    net = build_target(name, shape, 7).eval()
    x = torch.rand(4, *shape)
    x[:, :, :14].round_()  # pixels at exactly 0 and 1 too
    x.requires_grad_(True)
    logits = net(x)
    assert logits.shape == (4, 7)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, torch.arange(4)), x)
    assert gradient.is_contiguous()
    assert (gradient != 0).flatten(1).float().mean() > 0.999  # of all images together: none is cut off
    assert (gradient != 0).any(dim=0).all()


@pytest.mark.parametrize("name", ["mnist-b", "mnist-c", "cifar-resnet20"])
def test_output_is_independent_of_memory_format(name):
    torch.manual_seed(0)
    net = build_target(name, (3, 28, 28)).eval()
    x = torch.rand(2, 3, 28, 28)
    plain = build_target(name, (3, 28, 28)).eval()
    plain.load_state_dict(net.state_dict())
    plain = plain.to(memory_format=torch.contiguous_format)
    for images in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        torch.testing.assert_close(net(images), plain.logits(x))


@pytest.mark.parametrize("name", ["mnist-c", "cifar-resnet20"])
def test_each_family_learns(name):
    torch.manual_seed(0)
    net, y = build_target(name, (1, 16, 16), 3), torch.arange(30) % 3
    x = torch.rand(30, 1, 16, 16) * 0.5
    x[torch.arange(30), 0, 4 * y + 3] += 0.5  # a bright row encodes the class
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net.eval()(x).argmax(1) == y).float().mean() > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist-z",), "unknown target 'mnist-z', expected one of mnist-a, mnist-b"),
        (("mnist-c", (1, 15, 28)), "mnist-c was made for 28x28 images, and 15x28 is too small for its layers"),
        (("mnist-b", (1, 12, 12)), "12x12 is too small"),
        (("mnist-a", (2, 28, 28)), r"mnist-a needs images of shape \(1 or 3, h, w\), got \(2, 28, 28\)"),
        (("cifar-resnet20", (3, 0, 32)), r"got \(3, 0, 32\)"),
        (("cifar-resnet20", (3, 32)), r"got \(3, 32\)"),
        (("cifar-resnet20", (3, 32, 32), 1), "needs at least 2 classes, got 1"),
    ],
)
def test_invalid_build_arguments_raise(arguments, message):
    with pytest.raises(InputError, match=message):
        build_target(*arguments)


# --- on disk ---


@pytest.fixture
def saved(tmp_path):
    """A saved classifier with an unusual shape and batch-norm statistics, and its directory."""
    torch.manual_seed(1)
    net = build_target("cifar-resnet20", (1, 12, 10), 4)
    net(torch.rand(8, 1, 12, 10))
    save_target(net, tmp_path / "run" / "classifier", "# a card\n")
    return net.eval(), tmp_path / "run"


@pytest.mark.parametrize("where", ["", "classifier", "classifier/model.safetensors"])
def test_save_and_load_keep_logits(saved, where):
    net, run = saved
    loaded = load_target("cifar-resnet20", run / where)
    x = torch.rand(3, 1, 12, 10)
    assert torch.equal(loaded(x), net(x))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert (loaded.name, loaded.image_shape, loaded.num_classes) == ("cifar-resnet20", (1, 12, 10), 4)
    assert sorted(p.name for p in (run / "classifier").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (run / "classifier" / "README.md").read_text() == "# a card\n"


def test_saving_replaces_directory(saved):
    _, run = saved
    save_target(build_target("mnist-c"), run / "classifier", "# another\n")
    assert load_target("mnist-c", run).name == "mnist-c"
    assert [p.name for p in run.iterdir()] == ["classifier"]


@pytest.mark.parametrize("form", ["safetensors", "pt", "nested", "half"])
def test_third_party_weight_files_load(tmp_path, form):
    """Without config.json or batch-norm counters; pickled, from DataParallel, in half precision."""
    torch.manual_seed(2)
    net = build_target("cifar-resnet20").eval()
    state = {k: v.contiguous() for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.th")
    if form == "safetensors":
        save_file(state, file)
    elif form == "half":
        torch.save({k: v.half() for k, v in state.items()}, file)
    else:
        wrapped = {f"module.{k}": v for k, v in state.items()}
        torch.save({"state_dict": wrapped, "epoch": 3} if form == "nested" else state, file)
    loaded = load_target("cifar-resnet20", file)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), net(x), **({"atol": 2e-2, "rtol": 2e-2} if form == "half" else {}))


def test_invalid_files_raise_one_line(saved, tmp_path):
    _, run = saved
    file = run / "classifier" / "model.safetensors"
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(file.read_bytes())
    short = tmp_path / "short.safetensors"
    short.write_bytes(file.read_bytes()[:5000])
    pickled = tmp_path / "code.pt"
    torch.save(nn.Linear(2, 2), pickled)
    listed = tmp_path / "list.pt"
    torch.save([1, 2], listed)
    cut = tmp_path / "cut.pt"
    torch.save({"w": torch.zeros(2000)}, cut)
    cut.write_bytes(cut.read_bytes()[:4800])
    half = tmp_path / "half.pt"
    half.write_bytes(listed.read_bytes()[:200])
    mnist = tmp_path / "mnist.safetensors"
    save_file({k: v.contiguous() for k, v in build_target("mnist-c").state_dict().items()}, mnist)
    (tmp_path / "empty").mkdir()
    for folder, weights in (("shipped", None), ("own", "c/w.pt"), ("python", "")):
        (tmp_path / folder).mkdir()
        trained = {"target": "mnist-c"} | ({} if weights == "" else {"target_weights": weights})
        (tmp_path / folder / "training.json").write_text(json.dumps({"settings": trained}))
    broken = tmp_path / "broken"
    save_target(build_target("mnist-c"), broken, "")
    (broken / "config.json").write_text('{"name": "mni')
    name = "cifar-resnet20"
    for arguments, keywords, message in [
        (("mnist-z", run), {}, "unknown target 'mnist-z', expected one of mnist-a, "),
        ((name, None), {}, "cifar-resnet20 needs trained weights.*train/classifier.py --target cifar-resnet20"),
        ((name, tmp_path / "nowhere"), {}, "no target weights at .*nowhere.*found nothing"),
        ((name, tmp_path / "empty"), {}, "no target weights at .*empty.*found a directory without them"),
        ((name, tmp_path / "shipped"), {}, "without them; its .* with --target mnist-c, without --target-weights$"),
        ((name, tmp_path / "own"), {}, "; its generator was trained with --target mnist-c --target-weights c/w.pt$"),
        ((name, tmp_path / "python"), {}, "found a directory without them$"),
        ((name, short), {}, "cannot read weights .*short.safetensors: truncated or not safetensors"),
        (
            (name, pickled),
            {},
            "cannot read weights .*code.pt: not only weights, it needs torch.nn.*Linear",
        ),
        ((name, half), {}, "cannot read weights .*half.pt: truncated or not only weights"),
        ((name, cut), {}, "cannot read weights .*cut.pt: truncated or not only weights"),
        ((name, listed), {}, "list.pt holds no weights, expected a mapping from parameter names to tensors"),
        (("mnist-c", run), {}, "run holds target cifar-resnet20, expected mnist-c"),
        (("mnist-c", broken), {}, "cannot read .*broken/config.json"),
        ((name, alone), {}, r"3 of another shape \(conv1.weight \(16, 1, 3, 3\) for \(16, 3, 3, 3\), linear.*"),
        (
            (name, run),
            {"num_classes": 9},
            r"1x12x10 images and 9 classes: 2 of another shape \(linear.weight \(4, 64\)",
        ),
        ((name, run), {"image_shape": (3, 12, 10)}, r"conv1.weight \(16, 1, 3, 3\) for \(16, 3, 3, 3\)"),
        ((name, mnist), {}, r"97 missing \(conv1.weight, bn1.weight, ...\), 14 unexpected \(layers.0.bias, layers"),
    ]:
        with pytest.raises(InputError, match=message) as raised:
            load_target(*arguments, **keywords)
        assert "\n" not in str(raised.value)


def test_saved_files_are_json_and_safetensors(saved):
    net, run = saved
    config = json.loads((run / "classifier" / "config.json").read_text())
    assert config == {"name": "cifar-resnet20", "image_shape": [1, 12, 10], "num_classes": 4}
    assert load_file(run / "classifier" / "model.safetensors").keys() == net.state_dict().keys()


# --- guards ---


class FunctionModel(nn.Module):
    """A model whose output is a function of the images."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.dropout = nn.Dropout()

    def forward(self, x):
        return self.function(x.flatten(1)[:, :6] * 8 - 4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: z + torch.randn(6), "random in eval mode: two forwards of the same images differ by"),
        (lambda z: F.dropout(z), "random in eval mode"),
        (lambda z: z.softmax(1), r"returns probabilities \(rows sum to 1\), expected logits: leave out its softm"),
        (lambda z: z[:, :5], r"8 images of 6 classes the target must return logits of shape \(8, 6\), got \(8, 5\)"),
        (lambda z: z[:, :1], r"shape \(8, 6\), got \(8, 1\)"),
        (lambda z: z[:, :, None, None], r"got \(8, 6, 1, 1\)"),
        (lambda z: z.argmax(1), r"shape \(8, 6\), got \(8,\)"),
        (lambda z: z.long(), "got torch.int64"),
        (lambda z: (z, z), "a tensor of logits, got tuple"),
        (lambda z: z / 0, "NaN or infinity"),
        (lambda z: z @ torch.ones(5, 5), r"cannot take images of shape \(1, 28, 28\): .*mat1 and mat2"),
    ],
)
def test_check_target_errors(function, message):
    with pytest.raises(InputError, match=message):
        check_target(FunctionModel(function), torch.rand(8, 1, 28, 28), 6)


@pytest.mark.parametrize("function", [lambda z: z, lambda z: z.log_softmax(1), lambda z: z.relu()])
def test_check_target_returns_model_unchanged(function):
    model = nn.Sequential(FunctionModel(function), nn.Identity(), nn.BatchNorm1d(6))
    model.train()
    model[2].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    assert check_target(model, torch.rand(8, 1, 28, 28), 6) is model
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("function", [lambda z: z[:, 0], lambda z: z[:, :1]])
def test_check_target_wraps_single_logit(function):
    model, x = FunctionModel(function), torch.rand(8, 1, 28, 28)
    wrapped = check_target(model, x, 2)
    logits = wrapped(x)
    assert logits.shape == (8, 2)
    assert not logits[:, 0].any()
    assert torch.equal(logits[:, 1], model(x).reshape(8))
    assert torch.equal(logits.argmax(1) == 1, model(x).reshape(8) > 0)


@pytest.mark.parametrize("name", SMALL)
def test_built_in_classifiers_pass_check_target(name):
    net = build_target(name)
    x = torch.rand(4, *net.image_shape)
    assert check_target(net, x, 10) is net
    assert net.training
    with pytest.raises(InputError, match=re.escape("cannot take images of shape (2, 5, 5)")):
        check_target(net, torch.rand(4, 2, 5, 5), 10)


def test_wide_resnet_forward_and_gradient():
    net, x = build_target("cifar-wrn-34-10", (3, 8, 8)).eval().requires_grad_(False), torch.rand(2, 3, 8, 8)
    logits = net(x.requires_grad_(True))
    assert logits.shape == (2, 10)
    logits[:, 0].sum().backward()
    assert (x.grad.abs().amax((1, 2, 3)) > 0).all()


def test_quick_classifier_folds_batch_norm_in_eval_mode():
    torch.manual_seed(0)
    net, x = build_target("quick"), torch.rand(64, 3, 32, 32)
    for _ in range(60):
        net(x)  # until its running statistics are those of this batch
    normed = [m for m in net.modules() if isinstance(m, ConvBN)]
    assert len(normed) == 7
    layer, z = normed[3].eval(), torch.rand(2, 48, 8, 8)
    torch.testing.assert_close(layer(z), layer.norm(layer.conv(z)), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        trained = net.train()(x)
        torch.testing.assert_close(net.eval()(x), trained, atol=0.1, rtol=0.1)
