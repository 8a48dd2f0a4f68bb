"""External classifiers: each loader against a small model of its library, and its errors."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models._api import WeightsEnum

from advgan.classifiers import fingerprint, load_target
from advgan.classifiers.external.base import ExternalClassifier
from advgan.classifiers.external.torchvision import _build
from advgan.core.errors import InputError
from advgan.defenses import defend, load_classifier
from advgan.evaluation import predict

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalised(x: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
    return (x - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)


def frozen(model: nn.Module) -> bool:
    trainable = any(p.requires_grad for p in model.parameters())
    return not trainable and not any(m.training for m in model.modules())


# --- torchvision ---


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """An untrained squeezenet1_1 of 1000 classes, and the folder with its weights as a.pt and a.safetensors."""
    torch.manual_seed(0)
    model, folder = models.squeezenet1_1().eval(), tmp_path_factory.mktemp("squeezenet")
    torch.save({"model": model.state_dict(), "epoch": 3}, folder / "a.pt")  # as torchvision's own scripts save it
    save_file({f"_orig_mod.{k}": v for k, v in model.state_dict().items()}, folder / "a.safetensors")  # compiled
    return model, folder


@pytest.mark.parametrize("file", ["a.pt", "a.safetensors"])
def test_torchvision_named_weights_bring_their_normalization(squeezenet, file):
    model, folder = squeezenet
    target = load_target("torchvision:squeezenet1_1:IMAGENET1K_V1", folder / file, image_shape=(3, 64, 64))
    x = torch.rand(3, 3, 64, 64)
    torch.testing.assert_close(target(x), model(normalised(x, *IMAGENET)))
    assert frozen(target)
    assert (target.image_shape, target.num_classes, target.classes[:2]) == (
        (3, 64, 64),
        1000,
        ("tench", "goldfish"),
    )
    assert target.config["name"] == "torchvision:squeezenet1_1:IMAGENET1K_V1"


def test_torchvision_without_named_weights_does_not_normalize(squeezenet):
    model, folder = squeezenet
    target = load_target("torchvision:squeezenet1_1", folder / "a.pt")
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(target(x), model(x))
    assert (target.image_shape, target.classes, target.normalises) == ((3, 224, 224), None, False)


def test_normalization_is_part_of_fingerprint(squeezenet):
    _, folder = squeezenet
    bare, inside = (
        load_target(f"torchvision:squeezenet1_1{suffix}", folder / "a.pt", image_shape=(3, 64, 64))
        for suffix in ("", ":DEFAULT")
    )
    assert fingerprint(bare) != fingerprint(inside)
    assert fingerprint(defend(bare, "bit-depth")) != fingerprint(defend(inside, "bit-depth"))


def test_torchvision_published_weights_are_downloaded(squeezenet, monkeypatch):
    model, _ = squeezenet
    calls = []

    def download(self: Any, **how: Any) -> Any:
        calls.append(how)
        return model.state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", download)
    target = load_target("torchvision:squeezenet1_1:DEFAULT", image_shape=(3, 64, 64))
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(target(x), model(normalised(x, *IMAGENET)))
    assert calls[0]["weights_only"]  # read without unpickling before torchvision's builder reads it
    assert calls[0]["check_hash"]


def test_torchvision_custom_head_with_published_normalization(tmp_path):
    model = models.mobilenet_v3_small(num_classes=7).eval()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    name = "torchvision:mobilenet_v3_small:DEFAULT"
    target = load_target(name, tmp_path / "a.pt", image_shape=(3, 48, 40), num_classes=7)
    x = torch.rand(2, 3, 48, 40)
    torch.testing.assert_close(target(x), model(normalised(x, *IMAGENET)))
    assert (target.num_classes, target.classes) == (7, None)


@pytest.mark.parametrize(("kind", "weights"), [("googlenet", "IMAGENET1K_V1"), ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1")])
def test_torchvision_build_matches_published_weights(kind, weights, monkeypatch):
    published = models.get_model_weights(kind)[weights]
    with torch.device("meta"):
        ours = _build(kind, 1000, published)
        theirs = ours if kind != "googlenet" else models.googlenet(weights=None, aux_logits=True, init_weights=False)
        state = theirs.state_dict()
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, **how: state)
        theirs = models.get_model(kind, weights=published)
    assert getattr(ours, "transform_input", None) == getattr(theirs, "transform_input", None)
    sizes = {k: v.shape for k, v in ours.state_dict().items() if not k.startswith("aux")}  # used in training only
    assert sizes == {k: v.shape for k, v in theirs.state_dict().items()}


def test_fixed_image_size_is_used_and_checked(tmp_path):
    model = models.VisionTransformer(64, 16, 1, 1, 8, 8, num_classes=5)
    file = tmp_path / "vit.py"
    file.write_text(
        "from torchvision import models\n"
        "def vit():\n"
        "    model = models.VisionTransformer(64, 16, 1, 1, 8, 8, num_classes=5)\n"
        "    model.image_shape = (3, 64, 64)\n"
        "    return model\n"
    )
    torch.save(model.state_dict(), tmp_path / "a.pt")
    target = load_target(f"{file}:vit", tmp_path / "a.pt")
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(target(x), model.eval()(x))
    with pytest.raises(
        InputError, match=r"takes images of 64 x 64 pixels, got 32 x 32 .*: --image-size 64 \(in Python"
    ):
        load_target(f"{file}:vit", tmp_path / "a.pt", image_shape=(3, 32, 32))


def test_grey_images_are_repeated_to_three_channels(squeezenet):
    model, folder = squeezenet
    target = load_target("torchvision:squeezenet1_1:DEFAULT", folder / "a.pt", image_shape=(1, 64, 64))
    x = torch.rand(2, 1, 64, 64, requires_grad=True)
    torch.testing.assert_close(target(x), model(normalised(x.expand(-1, 3, -1, -1), *IMAGENET)))
    (gradient,) = torch.autograd.grad(target(x).sum(), x)
    assert gradient.shape == x.shape


# --- timm ---


@pytest.fixture(scope="module")
def timm_resnet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model, file = timm.create_model("test_resnet.r160_in1k").eval(), tmp_path_factory.mktemp("timm") / "a.safetensors"
    save_file(model.state_dict(), file)
    return model, file


def test_timm_normalization_size_and_class_names(timm_resnet):
    import timm

    model, file = timm_resnet
    target = load_target("timm:test_resnet.r160_in1k", file)
    settings = timm.data.resolve_model_data_config(model)
    x = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(target(x), model(normalised(x, settings["mean"], settings["std"])))
    assert (target.image_shape, target.num_classes) == ((3, 160, 160), 1000)
    assert target.classes[0] == "tench, Tinca tinca, n01440764"
    assert frozen(target)


def test_timm_custom_head(tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_vit3", num_classes=4).eval()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    target = load_target("timm:test_vit3", tmp_path / "a.pt", num_classes=4)
    settings = timm.data.resolve_model_data_config(model)
    x = torch.rand(2, *target.image_shape)
    torch.testing.assert_close(target(x), model(normalised(x, settings["mean"], settings["std"])))
    assert (target.num_classes, target.classes) == (4, None)
    side = target.image_shape[1]
    with pytest.raises(InputError, match=rf"takes images of {side} x {side} pixels, got 32 x 32 .*--image-size {side}"):
        load_target("timm:test_vit3", tmp_path / "a.pt", num_classes=4, image_shape=(3, 32, 32))


def test_timm_published_weights_are_requested(timm_resnet, monkeypatch):
    import timm

    model, _ = timm_resnet
    calls, real = [], timm.create_model

    def create(name: str, **how: Any) -> nn.Module:
        calls.append((name, how))
        return real(name)

    monkeypatch.setattr(timm, "create_model", create)
    target = load_target("timm:test_resnet.r160_in1k")
    assert calls == [("test_resnet.r160_in1k", {"pretrained": True})]
    assert target.num_classes == model.num_classes


# --- transformers ---


@pytest.fixture(scope="module")
def hf_dirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories written by `save_pretrained`: resnet, vit (32 x 32 only), backbone, flipping."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("hf")
    names = {0: "cat", 1: "dog", 2: "green frog, Rana"}
    labels = {"id2label": names, "label2id": {name: i for i, name in names.items()}}
    small = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    resnet = transformers.ResNetConfig(**small, **labels)
    transformers.ResNetForImageClassification(resnet).save_pretrained(root / "resnet")
    transformers.ResNetForImageClassification(resnet).half().save_pretrained(root / "half")
    transformers.ResNetModel(resnet).save_pretrained(root / "backbone")
    few = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    vit = transformers.ViTConfig(**few, image_size=32, patch_size=8, num_labels=4)
    transformers.ViTForImageClassification(vit).save_pretrained(root / "vit")
    mobile = transformers.MobileNetV2Config(depth_multiplier=0.25, num_labels=3)
    transformers.MobileNetV2ForImageClassification(mobile).save_pretrained(root / "flipping")
    usual = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "size": {"height": 32, "width": 32}}
    for folder in ("resnet", "half", "backbone", "vit"):
        transformers.ViTImageProcessor(**usual).save_pretrained(root / folder)
    transformers.MobileViTImageProcessor(do_flip_channel_order=True).save_pretrained(root / "flipping")
    return root


@pytest.mark.parametrize("kind", ["resnet", "half", "vit"])
def test_transformers_equal_processor_and_model(hf_dirs, kind):
    import transformers

    directory = hf_dirs / kind
    target = load_target(f"hf:{directory}")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(directory)
    model = transformers.AutoModelForImageClassification.from_pretrained(directory, dtype=torch.float32).eval()
    theirs = model(**processor(images=list(pixels), return_tensors="pt")).logits
    torch.testing.assert_close(target(pixels / 255), theirs, rtol=1e-4, atol=1e-5)
    assert frozen(target)
    assert {p.dtype for p in target.parameters()} == {torch.float32}
    assert target.image_shape == (3, 32, 32)
    assert target.classes == (None if kind == "vit" else ("cat", "dog", "green frog, Rana"))


def test_photos_of_transformers_are_resized_before_the_crop_as_its_processor_does(hf_dirs, tmp_path):
    """Their shorter side became that of the crop."""
    import transformers

    convnext = transformers.ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.875)
    crop = {"height": 32, "width": 32}
    mobile = transformers.MobileNetV2ImageProcessor(size={"shortest_edge": 40}, crop_size=crop)
    for processor, side, resize in ((convnext, 28, 32), (mobile, 32, 40)):
        shutil.copytree(hf_dirs / "resnet", tmp_path / str(side))
        processor.save_pretrained(tmp_path / str(side))
        target = load_target(f"hf:{tmp_path / str(side)}")
        assert (target.image_shape, target.resize) == ((3, side, side), resize)


def test_transformers_with_weights_file(hf_dirs):
    x = torch.rand(2, 3, 32, 32)
    with_file = load_target(f"hf:{hf_dirs / 'resnet'}", hf_dirs / "half" / "model.safetensors")
    torch.testing.assert_close(with_file(x), load_target(f"hf:{hf_dirs / 'half'}")(x))


def test_transformers_errors(hf_dirs, tmp_path):
    for arguments, keywords, message in [
        ((f"hf:{hf_dirs / 'backbone'}",), {}, "holds no weights of classifier.1.bias, expected a trained classifier"),
        ((f"hf:{hf_dirs / 'flipping'}",), {}, r"MobileViT\w*\) does more than rescaling and normalisation"),
        ((f"hf:{tmp_path}",), {}, "transformers cannot load hf:.*config.json"),
        ((f"hf:{hf_dirs / 'vit'}",), {"image_shape": (3, 48, 48)}, "takes images of 32 x 32 pixels, got 48 x 48"),
        ((f"hf:{hf_dirs / 'vit'}",), {"image_shape": (4, 32, 32)}, "takes images of 3 channels, got 4"),
    ]:
        with pytest.raises(InputError, match=message) as raised:
            load_target(*arguments, **keywords)
        assert "\n" not in str(raised.value)


# --- a Python file ---

NET = """\
import torch
from torch import nn
import beside

class Net(nn.Module):
    classes = ("bottom", "middle", "top")

    def __init__(self, width=28):
        super().__init__()
        self.linear = nn.Linear(width * width, 3)
        self.image_shape = (1, width, width)

    def forward(self, x):
        return beside.twice(self.linear(nn.functional.dropout(x.flatten(1), training=self.training)))

def plain():
    torch.manual_seed(0)
    return Net()

def sized(image_shape, num_classes=0):
    assert num_classes == 3
    return Net(image_shape[1])

def unsound():
    return nn.Linear(2, "three")

def leaving():
    raise SystemExit(3)

def number():
    return 3

class Bad(Net):
    def forward(self, x):
        return {}["logits"]

net = plain()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("def twice(z):\n    return 2 * z\n")
    (tmp_path / "net.py").write_text(NET)
    yield tmp_path / "net.py"
    sys.modules.pop("beside", None)


def test_factory_result_is_frozen_in_eval_mode(file):
    path = list(sys.path)
    target = load_target(f"{file}:plain")
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(target(x), 2 * target.model.linear(x.flatten(1)))
    assert isinstance(target, ExternalClassifier)
    assert frozen(target)
    assert (target.image_shape, target.num_classes, target.classes) == ((1, 28, 28), 3, ("bottom", "middle", "top"))
    assert sys.path == path
    torch.testing.assert_close(load_target(f"{file}:net")(x), target(x))  # a model, made already


def test_factory_receives_its_parameters(file):
    assert load_target(f"{file}:sized", image_shape=(1, 12, 12), num_classes=3).model.linear.in_features == 144


def test_factory_with_weights_file(file, tmp_path):
    linear = nn.Linear(784, 3)
    torch.save({f"module.linear.{k}": v for k, v in linear.state_dict().items()}, tmp_path / "a.pt")
    x = torch.rand(4, 1, 28, 28)
    torch.testing.assert_close(load_target(f"{file}:plain", tmp_path / "a.pt")(x), 2 * linear(x.flatten(1)))


def test_fingerprint_depends_on_code(file):
    before = fingerprint(load_target(f"{file}:plain"))
    assert fingerprint(load_target(f"{file}:plain")) == before
    file.write_text(NET.replace("beside.twice(", "beside.twice(-"))
    assert fingerprint(load_target(f"{file}:plain")) != before


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("unsound", r"cannot be built: .*net.py, line 25: TypeError: empty"),
        ("sized", r"net.py, line 21: AssertionError"),
        ("leaving", r"net.py, line 28: SystemExit: 3"),
        ("number", "must return an nn.Module, got int"),
        ("plane", "has no function 'plane'; did you mean plain"),
        ("Bad", r"cannot take images of shape \(1, 28, 28\): .*net.py, line 35: KeyError: 'logits'"),
    ],
)
def test_errors_in_file_are_reported_with_line(file, word, message):
    with pytest.raises(InputError, match=message) as raised:
        load_target(f"{file}:{word}")
    assert (raised.value.__cause__ is not None) == (word not in ("number", "plane"))


def test_unreadable_file_raises(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ndef f(:\n")
    with pytest.raises(InputError, match=r"a.py, line 2: SyntaxError"):
        load_target(f"{tmp_path / 'a.py'}:f")
    with pytest.raises(InputError, match=r"no Python file .*b.py"):
        load_target(f"{tmp_path / 'b.py'}:f")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("net.classes = list(range(3))", r"classes of .*net.py:net must be a list of str, .* got \[0, 1, 2\]"),
        ("net.classes = {1: 'cat', 2: 'dog', 3: 'frog'}", r"classes of .* list of str, .* got \{1: 'cat'"),
        ("net.classes = {'cat', 'dog', 'frog'}", r"classes of .* list of str, .* got \{'cat'"),
        ("net.classes = nn.Linear(2, 2); net.image_shape = 5", "image_shape of"),
        ("net.classes = 'abc'", r"classes of .* must be a list of str, .* got 'abc'"),
        ("net.image_shape = 28", r"image_shape of .*net.py:net must be three positive ints .* got 28"),
        ("net.image_shape = (28, 28)", r"image_shape of .* three positive ints .* got \(28, 28\)"),
        ("net.image_shape = (10**9, 28, 28)", r"image_shape of .* three positive ints .* got \(1000000000, 28, 28\)"),
        ("net.image_shape = (1, 0, 28)", r"image_shape of .* three positive ints .* got \(1, 0, 28\)"),
        (
            "net.linear = nn.LazyLinear(3)",
            r"no weights yet in linear.weight \(a lazy layer\): call it once",
        ),
    ],
)
def test_declared_attributes_are_checked(file, line, message):
    file.write_text(f"{NET}{line}\n")
    with pytest.raises(InputError, match=message):
        load_target(f"{file}:net", image_shape=(1, 28, 28))


@pytest.mark.parametrize("names", ["{2: 'c', 0: 'a', 1: 'b'}", "__import__('numpy').array(['a', 'b', 'c'])"])
def test_class_names_may_be_a_dict_by_number_or_an_array(file, names):
    file.write_text(f"{NET}net.classes = {names}\n")
    assert load_target(f"{file}:net", image_shape=(1, 28, 28)).classes == ("a", "b", "c")


@pytest.mark.parametrize("expression", ['{"logits": z, "features": x}', "(z,)", "types.SimpleNamespace(logits=z)"])
def test_logits_are_extracted_from_output_objects(file, expression):
    body = f"    def forward(self, x):\n        z = super().forward(x)\n        return {expression}\n"
    file.write_text(f"{NET}import types\nclass Wrapped(Net):\n{body}")
    target, x = load_target(f"{file}:Wrapped"), torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(target(x), 2 * target.model.linear(x.flatten(1)))


def test_number_of_class_names_must_match_logits(file):
    file.write_text(NET.replace('"middle", ', ""))
    with pytest.raises(InputError, match="has 3 logits, expected as many class names, got 2"):
        load_target(f"{file}:plain")


# --- all of them ---


def test_unknown_names_suggest_alternatives(squeezenet, timm_resnet, tmp_path, monkeypatch):
    def offline(self: Any, **how: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", offline)
    _, folder = squeezenet
    file = folder / "a.pt"
    for arguments, message in [
        (("torchvision:resnt18",), "torchvision has no classifier 'resnt18'; did you mean resnet18"),
        (
            ("torchvision:resnet18",),
            "needs trained weights: .* torchvision:resnet18:DEFAULT, or a file .*--target-weig",
        ),
        (("torchvision:resnet18:V3",), "resnet18 has weights IMAGENET1K_V1, DEFAULT, got 'V3'"),
        (("torchvision:resnet18:DEFAULT",), "cannot download .*resnet18-f37072fd.pth .no route .*--target-weights"),
        (
            ("torchvision:resnet18", file),
            r"a.pt does not fit torchvision:resnet18 with 1000 classes: 102 missing .*conv1",
        ),
        (("torchvision:squeezenet1_1:DEFAULT", file, 9), None),
        (
            ("torchvision:squeezenet1_1", file, 9),
            r"2 of another shape \(classifier.1.weight \(1000, 512, 1, 1\) for \(9",
        ),
        (("timm:resnet1",), "timm has no classifier 'resnet1'; did you mean resnet18"),
        (("timm:test_resnet.foo",), "cannot load the weights of timm:test_resnet.foo .*did you mean test_resnet.r160"),
        (("timm:test_resnet", file), "does not fit timm:test_resnet with 1000 classes"),
        (("timm:somebody/net",), "timm has no classifier 'somebody/net'"),
        (("torchvison:resnet18",), "unknown target 'torchvison:resnet18'.*; did you mean torchvision:resnet18?"),
        (
            ("resnet50",),
            "unknown target 'resnet50', expected.* timm:NAME, .*; did you mean torchvision:resnet50:DEFAULT",
        ),
        (("cifar-resnet33",), "did you mean cifar-resnet32"),
        (("train/advgan.py",), "did you mean train/advgan.py:FACTORY"),
        (("model.pt2",), r"a \.pt2 file: FILE\.py:FACTORY, a function that returns torch\.export\.unflatten"),
        ((str(file),), r"a file of weights is passed as --target-weights \(in Python weights=\), .*TorchScript: FILE"),
        (("runs/mine",), "there is no directory runs/mine"),
    ]:
        name, weights, classes = (*arguments, None, None)[:3]
        if message is None:
            target = load_target(name, weights, num_classes=classes)
            assert target.num_classes == 1000  # its own, whatever the data have
            continue
        with pytest.raises(InputError, match=message) as raised:
            load_target(name, weights, num_classes=classes)
        assert "\n" not in str(raised.value)


def test_defense_of_external_classifier(squeezenet):
    _, folder = squeezenet
    name, x = "torchvision:squeezenet1_1:DEFAULT", torch.rand(2, 3, 64, 64)
    plain, behind = (
        load_classifier(name, folder / "a.pt", defense, image_shape=(3, 64, 64))
        for defense in (None, "bit-depth:bits=3")
    )
    torch.testing.assert_close(predict(behind, x), predict(plain, (x * 7).round() / 7))
    assert (behind.name, behind.image_shape, behind.num_classes) == (name, (3, 64, 64), 1000)
    assert behind.config["defenses"] == [{"name": "bit-depth", "settings": {"bits": 3}}]


def test_missing_package_names_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"timm is not installed, expected it here: pip install 'advgan\[timm\]'"):
        load_target("timm:resnet18")


def test_unknown_input_size_is_named(tmp_path):
    file = tmp_path / "digits.py"
    file.write_text("from torch import nn\ndef build():\n    return nn.Conv2d(1, 2, 3)\n")
    with pytest.raises(InputError, match=r"its size is unknown: expected an attribute image_shape .* or --image-size"):
        load_target(f"{file}:build")
