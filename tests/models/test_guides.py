"""The guide may be any classifier, the network any module: attacked with, saved, loaded again, exported."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advgan import Generator, InputError, fit
from advgan.attacks.registry import make_attack
from advgan.classifiers import BlackBox, build_target, load_target
from advgan.core.threat_model import Threat
from advgan.core.weights import read_weights, write_weights
from advgan.evaluation.evaluate import evaluate
from advgan.models.export import export_generator
from advgan.models.guides import allowed_guide

SHAPE = (1, 12, 12)
KINDS: list[dict[str, Any]] = [{"patch": 4}, {"architecture": "unrolled", "depth": 1}, {"architecture": "unet"}]


class Net(nn.Module):
    """A classifier of a user's."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(self.scale * x)).relu().amax((2, 3)))


class Body(nn.Module):
    """A generator's network of a user's."""

    size_multiple = 2

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 2, 2), nn.ConvTranspose2d(4, 1, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x).relu())


class ConditionalBody(Body):
    def __init__(self) -> None:
        super().__init__()
        self.film = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.up(self.down(x).relu() * self.film(cond)[:, :, None, None])


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def factory_file(folder: Path) -> str:
    """FILE.py:FACTORY of a small classifier."""
    (folder / "net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), pool, nn.Linear(6, 4))\n"
        "    model.image_shape = (1, 12, 12)\n"
        "    return model\n"
    )
    return f"{folder / 'net.py'}:net"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.get("architecture", "patch"))
def test_a_module_in_memory_is_the_guide_and_stays_as_it_was(kind, tmp_path):
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = Generator(width=4, guide=model, image_shape=SHAPE, **kind).eval()
    x = torch.rand(3, *SHAPE)
    generator(x).sum().backward()
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(generator.guide(x), net().eval()(x))
    generator.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path, guide=net())
    assert torch.equal(loaded.perturb(x), generator.perturb(x))
    assert loaded.config == generator.config


class Recording(Net):
    """Keeps its features, as Grad-CAM reads them: in an attribute, a dict and a list."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, torch.Tensor] = {}
        self.outputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.features = self.by_name["conv"] = self.conv(x)
        self.outputs = [self.features]
        return super().forward(x)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.get("architecture", "patch"))
def test_a_generator_can_be_copied_after_passes_of_a_guide_that_keeps_its_features(kind):
    generator, x = Generator(width=4, guide=Recording(), image_shape=SHAPE, **kind), torch.rand(3, *SHAPE)
    copy.deepcopy(generator)(x).sum().backward()
    generator(x).sum().backward()
    assert torch.equal(copy.deepcopy(generator).eval().perturb(x), generator.eval().perturb(x))


def test_guides_that_cannot_be_used_are_refused():
    with pytest.raises(InputError, match=r"the guide Net has no image_shape, expected image_shape=\(c, h, w\)"):
        Generator(guide=net())
    with pytest.raises(InputError, match=r"guide must be a classifier, an nn\.Module that runs here, got function"):
        Generator(guide=lambda x: x, image_shape=SHAPE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="got BlackBox"):
        Generator(guide=BlackBox.from_model(net(), 4), image_shape=SHAPE)
    with pytest.raises(InputError, match=r"the guide takes images \(1, 12, 12\), got a generator of channels 3"):
        Generator(3, guide=net(), image_shape=SHAPE)
    with pytest.raises(InputError, match="cannot take images of shape"):
        Generator(3, guide=net(), image_shape=(3, 12, 12))

    class WithState(Net):
        def get_extra_state(self) -> int:
            return 3

    with pytest.raises(InputError, match=r"no dense tensor \(_extra_state\), which no checkpoint can hold"):
        Generator(guide=WithState(), image_shape=SHAPE)
    sparse = net()
    sparse.register_buffer("mask", torch.eye(3).to_sparse())
    with pytest.raises(InputError, match=r"has a state that is no dense tensor \(mask\), which no checkpoint can hold"):
        Generator(guide=sparse, image_shape=SHAPE)


def test_a_guide_of_tied_weights_is_saved_and_resumed(tmp_path):
    model, x = net().eval(), torch.rand(24, *SHAPE)
    model.register_parameter("again", model.head.weight)
    settings = {"eps": 0.1, "guide": True, "batch_size": 8, "output_dir": tmp_path, "validate_every": 1}
    fit(model, x, max_steps=1, **settings)
    generator = fit(model, x, max_steps=2, resume=True, **settings)
    loaded = Generator.from_pretrained(tmp_path, guide=model)
    assert torch.equal(loaded.perturb(x), generator.perturb(x))


def test_a_guide_of_torchscript_is_saved_and_loaded(tmp_path):
    script, x = torch.jit.script(net().eval()), torch.rand(5, *SHAPE)
    generator = Generator(width=4, depth=1, guide=script, image_shape=SHAPE).eval()
    generator.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path, guide=script)
    assert torch.equal(loaded.perturb(x), generator.perturb(x))


def test_another_guide_than_the_saved_one_is_refused(tmp_path):
    Generator(width=4, guide=net(), image_shape=SHAPE).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"expected from_pretrained\(..., guide=MODEL\), the Net that it was made with"
    ):
        Generator.from_pretrained(tmp_path)
    for other in (net(1), build_target("mnist-small", (1, 28, 28), 4)):
        with pytest.raises(InputError, match="the guide given is another classifier than that of the checkpoint, Net"):
            Generator.from_pretrained(tmp_path, guide=other)
    other = net()
    other.scale = 1.5  # the same weights, another function
    with pytest.raises(InputError, match=r"another classifier .* its weights or logits differ"):
        Generator.from_pretrained(tmp_path, guide=other)
    Generator(width=4).save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="its guide is built in, or it has none: expected no guide"):
        Generator.from_pretrained(tmp_path / "plain", guide=net())


def test_a_built_in_guide_is_saved_as_its_configuration(tmp_path):
    model = build_target("mnist-small", (1, 28, 28), 3)
    Generator(width=4, guide=model).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["guide"] == model.config
    x = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(Generator.from_pretrained(tmp_path).guide(x), model.eval()(x))


def test_a_guide_from_a_python_file_is_loaded_by_those_who_name_it(tmp_path):
    spec = factory_file(tmp_path)
    generator, x = Generator(width=4, guide=load_target(spec)).eval(), torch.rand(2, *SHAPE)
    generator.save_pretrained(tmp_path / "run")
    with pytest.raises(InputError, match=r"guide='.*net.py:net'\), which runs that file"):
        Generator.from_pretrained(tmp_path / "run")
    loaded = Generator.from_pretrained(tmp_path / "run", guide=spec)
    assert torch.equal(loaded.perturb(x), generator.perturb(x))
    assert torch.equal(Generator.from_pretrained(tmp_path / "run", allowed_guides=[spec]).perturb(x), loaded.perturb(x))
    assert allowed_guide(generator.config, ["mnist-c", f"{tmp_path}/other.py:net"]) is None
    text = (tmp_path / "net.py").read_text()
    (tmp_path / "net.py").write_text(text.replace("nn.ReLU()", "nn.SiLU()"))
    with pytest.raises(InputError, match="another classifier than that of the checkpoint"):
        Generator.from_pretrained(tmp_path / "run", guide=spec)


def test_a_guide_of_a_library_is_built_again_with_the_saved_weights(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    weights = timm.create_model("lcnet_035", num_classes=5).state_dict()
    write_weights(weights, tmp_path / "own.safetensors")
    guide = load_target("timm:lcnet_035", tmp_path / "own.safetensors", image_shape=(3, 32, 32), num_classes=5)
    generator, x = Generator(3, width=4, guide=guide).eval(), torch.rand(2, 3, 32, 32)
    generator.save_pretrained(tmp_path / "run")
    loaded = Generator.from_pretrained(tmp_path / "run")
    assert loaded.guide.name == "timm:lcnet_035"
    assert torch.equal(loaded.perturb(x), generator.perturb(x))


@pytest.mark.parametrize("values", [{"name": 5}, {"sha256": None}, {"image_shape": "x"}, {"num_classes": 0}, {"x": 1}])
def test_hostile_entries_of_a_guide_are_refused(values, tmp_path):
    Generator(width=4, guide=net(), image_shape=SHAPE).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["guide"] |= values
    write_weights(read_weights(tmp_path / "model.safetensors"), tmp_path / "model.safetensors", config=config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError):
        Generator.from_pretrained(tmp_path, guide=net())


def test_an_exported_file_holds_a_guide_in_memory(tmp_path):
    generator, x = Generator(width=4, depth=1, guide=net(), image_shape=SHAPE).eval(), torch.rand(5, *SHAPE)
    export_generator(generator, tmp_path / "g.pt2", "pt2")
    run: Any = torch.export.load(tmp_path / "g.pt2").module()
    torch.testing.assert_close(run(x=x), generator.perturb(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", [{}, {"classes": 3, "eps_min": 0.1}])
def test_an_own_network_is_attacked_with_saved_loaded_and_compared(kind, tmp_path):
    torch.manual_seed(0)
    body = ConditionalBody() if kind else Body()
    generator, x = Generator(eps=0.2, network=body, **kind).eval(), torch.rand(6, 1, 11, 13)
    x_adv = generator.perturb(x)
    assert Threat("linf", 0.2).violations(x_adv, x) == []
    generator(x).sum().backward()
    assert body.down.weight.grad.any()
    generator.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path, network=type(body)())
    assert torch.equal(loaded.perturb(x), x_adv)
    model, y = nn.Sequential(nn.Flatten(), nn.Linear(143, 3)).eval(), torch.arange(6) % 3
    threat = Threat("linf", 0.2)
    result = evaluate(make_attack("advgan", model, threat, generator=loaded), model, x, y, threat)
    assert result.row["status"] == "ok"


def test_own_networks_that_cannot_be_used_are_refused(tmp_path):
    for network in (Generator(width=4), nn.DataParallel(Generator(width=4))):
        with pytest.raises(InputError, match=r"network must not be a .*Generator: pass the Generator itself"):
            Generator(network=network)
    with pytest.raises(InputError, match=r"network must be an nn\.Module, got str"):
        Generator(network="net")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected network or architecture, got a network and architecture unet"):
        Generator(network=Body(), architecture="unet")
    with pytest.raises(
        InputError, match=r"called as network\(x, cond\) with labels, classes, eps_min, noise or a guide, got Body"
    ):
        Generator(network=Body(), classes=3)
    with pytest.raises(
        InputError, match=r"must return a perturbation \(1, 1, 8, 8\), like its input, got \(1, 4, 7, 7\)"
    ):
        Generator(network=nn.Conv2d(1, 4, 2)).perturb(torch.rand(1, 1, 8, 8))
    Generator(network=Body()).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"of the class Body: expected from_pretrained\(..., network=MODULE\)"):
        Generator.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="network must be of the class Body, got ConditionalBody"):
        Generator.from_pretrained(tmp_path, network=ConditionalBody())
    changed = Body()
    changed.down = nn.Conv2d(1, 5, 2, 2)
    with pytest.raises(InputError, match="of another shape"):
        Generator.from_pretrained(tmp_path, network=changed)
    Generator(width=4).save_pretrained(tmp_path / "patch")
    with pytest.raises(InputError, match="its architecture is patch, expected no network"):
        Generator.from_pretrained(tmp_path / "patch", network=Body())


def test_an_own_network_is_exported_or_refused_in_one_line(tmp_path):
    class Untraceable(Body):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * float(x.sum().item() > 0)

    generator, x = Generator(network=Body()).eval(), torch.rand(3, 1, 14, 10)
    export_generator(generator, tmp_path / "g.pt2", "pt2")
    run: Any = torch.export.load(tmp_path / "g.pt2").module()
    torch.testing.assert_close(run(x=x), generator.perturb(x), atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="the network of this generator cannot be exported to pt2"):
        export_generator(Generator(network=Untraceable()), tmp_path / "h.pt2", "pt2")
    assert not (tmp_path / "h.pt2").exists()


@pytest.mark.parametrize("kind", ["plain", "guide", "network"])
def test_the_card_of_save_pretrained_describes_the_configuration(kind, tmp_path):
    made = {
        "plain": lambda: Generator(3, 8 / 255, classes=10, eps_min=1 / 255),
        "guide": lambda: Generator(guide=net(), image_shape=SHAPE, y_target=2),
        "network": lambda: Generator(network=Body(), norm="l2", eps=2.0),
    }
    made[kind]().save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    expected = {
        "plain": [
            "3 channels, of any size",
            "any class, or untargeted",
            "linf eps 1/255 to 8/255",
            "y_target=3, eps=EPS",
        ],
        "guide": [
            "12 x 12 pixels",
            "targeted at class 2",
            "from_pretrained(DIR, guide=MODEL)",
            "| guide | `Net`, 4 classes |",
        ],
        "network": [
            "untargeted, within l2 eps 2",
            "from_pretrained(DIR, network=MODULE)",
            "| architecture | `Body` (own) |",
        ],
    }
    assert card.startswith("---\nlibrary_name: advgan\n")
    assert "More Information Needed" not in card
    assert [text for text in expected[kind] if text not in card] == []
