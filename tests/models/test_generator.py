"""Promises of the generator: ball and box by construction, no dead pixel, checkpoints that load or say why not."""

import json
import math
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from advgan import Generator, InputError
from advgan.core.threat_model import Threat, squash_to_ball
from advgan.core.weights import write_weights
from advgan.models.discriminator import Discriminator
from tests.conftest import ROOT, randomise_conditioning


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from([1, 3]), st.integers(1, 41), st.integers(1, 41), st.sampled_from(["linf", "l2"]),
    st.floats(0.001, 1.0), st.sampled_from(["patch", "unet", "paper", "resnet"]), st.integers(0, 9), st.integers(1, 5),
)  # fmt: skip
def test_every_answer_is_in_ball_and_box(channels, h, w, norm, eps, architecture, seed, patch):
    torch.manual_seed(seed)
    generator = Generator(channels, eps, norm, architecture=architecture, patch=patch, width=4, depth=1)
    x = torch.rand(2, channels, h, w).round(decimals=1)  # with pixels at 0 and 1
    with torch.no_grad():
        list(generator.parameters())[-1].mul_(100)  # far out on the tanh
    x_adv = generator.perturb(x)
    assert not x_adv.requires_grad
    assert Threat(norm, eps).violations(x_adv, x) == []
    torch.testing.assert_close(generator(x), x_adv, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_every_pixel_of_a_saturated_image_receives_gradient(norm, value):
    x, raw = torch.full((2, 1, 6, 6), value), torch.randn(2, 1, 6, 6, requires_grad=True)
    towards = torch.rand(2, 1, 6, 6) + 0.5
    (squash_to_ball(raw, x, norm, 0.3) * towards).sum().backward()
    assert (raw.grad != 0).all()


def test_linf_bound_is_the_equation():
    x, raw = torch.rand(4, 1, 5, 5), 3 * torch.randn(4, 1, 5, 5)
    low, high = (x - 0.3).clamp(min=0), (x + 0.3).clamp(max=1)
    torch.testing.assert_close(squash_to_ball(raw, x, "linf", 0.3), low + (high - low) * (1 + raw.tanh()) / 2)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_bound_without_a_gradient_is_the_bound_with_one_and_leaves_its_inputs_alone(norm):
    x, raw = torch.rand(4, 1, 5, 5).round(decimals=1), 3 * torch.randn(4, 1, 5, 5)
    before = x.clone(), raw.clone()
    plain = squash_to_ball(raw, x, norm, 0.3)
    torch.testing.assert_close(plain, squash_to_ball(raw.requires_grad_(), x, norm, 0.3).detach(), atol=1e-6, rtol=0)
    assert torch.equal(x, before[0])
    assert torch.equal(raw, before[1])


def test_the_bound_holds_under_bfloat16():
    x, generator = torch.rand(4, 1, 8, 8), Generator(1, 8 / 255, width=8, depth=1)
    with torch.autocast("cpu", torch.bfloat16):
        x_adv = generator(100 * x)
        x_adv = generator(x)
    assert x_adv.dtype == torch.float32
    assert Threat("linf", 8 / 255).violations(x_adv.detach(), x) == []


def test_an_image_alone_gives_what_it_gives_in_a_batch_larger_than_a_chunk():
    generator, x = Generator(width=8, depth=1).eval(), torch.rand(300, 1, 12, 12)
    whole = generator.perturb(x)
    torch.testing.assert_close(generator.perturb(x[299:]), whole[299:], atol=1e-6, rtol=1e-5)
    assert generator.perturb(x[:0]).shape == (0, 1, 12, 12)


@pytest.mark.parametrize("n", [0, 1, 130])
def test_answers_are_float32_and_contiguous_and_the_images_are_left_alone(n):
    x = torch.rand(n, 8, 8, 3, dtype=torch.float64).movedim(-1, 1)  # as from a decoder
    before, x_adv = x.clone(), Generator(3, 0.1, width=4, depth=1).perturb(x)
    assert (x_adv.dtype, x_adv.shape, x_adv.is_contiguous()) == (torch.float32, x.shape, True)
    assert torch.equal(x, before)


def test_a_smaller_eps_is_kept():
    generator, x = Generator(eps=0.3, width=8, depth=1), torch.rand(3, 1, 12, 12)
    assert Threat("linf", 0.1).violations(generator.perturb(x, eps=0.1), x) == []


@pytest.mark.parametrize("architecture", ["patch", "paper"])
@pytest.mark.parametrize("size", [8, 28, 33])
def test_the_discriminator_scores_images_one_by_one(architecture, size):
    discriminator, x = Discriminator(3, architecture), torch.rand(5, 3, size, size)
    scores = discriminator(x)
    assert scores.shape == (5,)
    torch.testing.assert_close(discriminator(x[2:3]), scores[2:3], atol=1e-5, rtol=1e-4)


def test_checkpoint_round_trip(tmp_path):
    generator, x = Generator(3, 8 / 255, y_target=2, width=8, depth=1).eval(), torch.rand(2, 3, 10, 10)
    generator.save_pretrained(tmp_path / "generator")
    for source in (tmp_path / "generator", tmp_path):  # the folder itself, or the run that holds it
        loaded = Generator.from_pretrained(source)
        assert not loaded.training
        assert loaded.threat == Threat("linf", 8 / 255, targeted=True)
        assert torch.equal(loaded.perturb(x, y_target=2), generator.perturb(x))


def test_who_may_read_the_configuration_may_read_the_weights(tmp_path):
    Generator(width=8, depth=1).save_pretrained(tmp_path)
    modes = {path.stat().st_mode for path in (tmp_path / "config.json", tmp_path / "model.safetensors")}
    assert len(modes) == 1


def test_settings_of_numpy_are_saved_as_numbers(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"width": np.int64(8), "noise": np.int64(2), "y_target": np.int64(1)}
    Generator(channels=1, eps=np.float32(0.125), **settings).save(tmp_path / "g")  # type: ignore[arg-type]
    config = Generator.from_pretrained(tmp_path / "g").config
    assert (config["eps"], config["width"], config["noise"], config["y_target"]) == (0.125, 8, 2, 1)


def test_checkpoints_that_cannot_be_loaded_say_why(tmp_path):
    with pytest.raises(InputError, match=r"no generator in .*missing"):
        Generator.from_pretrained(tmp_path / "missing")
    with pytest.raises(InputError, match=r"no generator in .*expected config\.json"):
        Generator.from_pretrained(tmp_path)
    Generator(width=8, depth=1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"width": 16}))
    with pytest.raises(InputError, match="not the one that they were saved with"):
        Generator.from_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    write_weights(Generator(width=8, depth=1).state_dict(), tmp_path / "model.safetensors")  # without the digest
    with pytest.raises(InputError, match=r"does not fit the architecture in its config.json: .*of another shape"):
        Generator.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match="damaged"):
        Generator.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no generator in"):
        Generator.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*config\.json"):
        Generator.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (torch.rand(2, 3, 8, 8), {}, r"expects float images \(n, 1, h, w\).*\(2, 3, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), {}, "got torch.uint8"),
        (torch.rand(2, 1, 0, 8), {}, r"got torch.float32 \(2, 1, 0, 8\)"),
        (torch.rand(1, 8, 8), {}, r"got torch.float32 \(1, 8, 8\): x\[None\] is a batch of one image"),
        (torch.rand(2, 8, 8, 1), {}, r"got torch.float32 \(2, 8, 8, 1\): x.permute\(0, 3, 1, 2\)"),
        (255 * torch.rand(2, 1, 8, 8), {}, r"must lie in \[0, 1\]"),
        (torch.full((2, 1, 8, 8), float("nan")), {}, r"must lie in \[0, 1\], got NaN or infinity in 2 of 2 images"),
        (torch.rand(2, 1, 8, 8), {"eps": 0.4}, "trained for eps 0.3, got the larger 0.4"),
        (torch.rand(2, 1, 8, 8), {"eps": 0.0}, "eps must be in"),
        (torch.rand(2, 1, 8, 8), {"y_target": 3}, "trained untargeted"),
    ],
)
def test_images_of_another_kind_are_refused(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        Generator(width=4, depth=0).perturb(x, **arguments)


def test_perturb_refuses_weights_that_overflow():
    generator = Generator(width=4, depth=0).eval()
    with torch.no_grad():
        next(p for p in generator.parameters() if p.ndim > 1).fill_(3e38)
    with pytest.raises(InputError, match="NaN or infinity for 2 of 2 images"):
        generator.perturb(torch.rand(2, 1, 8, 8))
    assert not torch.isfinite(generator.perturb(torch.rand(2, 1, 8, 8), check_finite=False)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"eps": 0}, "eps must be"), ({"norm": "l3"}, "norm must be"), ({"width": 0}, "width must be at least 1, got 0"),
     ({"depth": -1}, "depth must not"), ({"architecture": "vgg"}, "unrolled, paper or resnet, got 'vgg'"),
     ({"smoothing": 4}, "smoothing must be 0 or an odd number of pixels, got 4")],
)  # fmt: skip
def test_impossible_generators_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Generator(**arguments)


def test_saving_warns_about_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Generator(width=4, depth=0).save_pretrained(tmp_path)
        Generator.from_pretrained(tmp_path)


def conditional(**changes):
    """A generator that heeds what it is asked for: as it comes, the modulation is zero."""
    torch.manual_seed(0)
    arguments = {"classes": 3, "eps_min": 0.1, "noise": 2, "width": 8, "depth": 1} | changes
    generator = Generator(**arguments).eval()
    randomise_conditioning(generator)
    return generator


@pytest.mark.parametrize("architecture", ["patch", "unet", "paper", "resnet"])
def test_a_conditional_generator_answers_what_each_image_is_asked_for(architecture):
    generator, x, z = conditional(architecture=architecture), torch.rand(4, 1, 12, 12), torch.randn(4, 2)
    asked = torch.tensor([0, 2, 1, 2])
    answers = generator.perturb(x, y_target=asked, eps=0.2, z=z)
    assert Threat("linf", 0.2).violations(answers, x) == []
    for i in range(4):  # each as if it were alone
        alone = generator.perturb(x[i : i + 1], y_target=int(asked[i]), eps=0.2, z=z[i : i + 1])
        torch.testing.assert_close(alone, answers[i : i + 1], atol=1e-5, rtol=1e-4)
    others = [
        generator.perturb(x, y_target=asked.flip(0), eps=0.2, z=z),
        generator.perturb(x, eps=0.2, z=z),
        generator.perturb(x, y_target=asked, eps=0.2, z=-z),
    ]
    assert all((answers - other).abs().max() > 1e-3 for other in others)
    raws = [generator.raw_perturbation(x, None, asked, torch.full((4,), eps), z) for eps in (0.05, 0.1, 0.2)]
    assert torch.equal(raws[0], raws[1])  # below the trained range the pattern stays
    assert not torch.allclose(raws[1], raws[2])


def test_perturbation_depends_on_label_of_each_image() -> None:
    generator, x = conditional(labels=3, classes=0, noise=0, eps_min=None), torch.rand(4, 1, 12, 12)
    y = torch.tensor([0, 2, -1, 2])
    x_adv = generator.perturb(x, y)
    assert Threat("linf", 0.3).violations(x_adv, x) == []
    for i in range(4):  # each as if it were alone
        alone = generator.perturb(x[i : i + 1], int(y[i]))
        torch.testing.assert_close(alone, x_adv[i : i + 1], atol=1e-5, rtol=1e-4)
    unknown = generator.perturb(x)
    changed = (x_adv - unknown).abs().flatten(1).amax(1) > 1e-3
    assert changed.tolist() == [True, True, False, True]  # -1 is an unknown label
    assert (x_adv - generator.perturb(x, y.flip(0))).abs().max() > 1e-3


def test_unknown_label_is_prediction_of_guide() -> None:
    guide = {"name": "cifar-resnet20", "image_shape": [1, 16, 16], "num_classes": 4}
    torch.manual_seed(0)
    generator = conditional(labels=4, classes=0, noise=0, eps_min=None, guide=guide)
    x = torch.rand(3, 1, 16, 16)
    predicted = generator.guide(x).argmax(1)
    assert torch.equal(generator.perturb(x), generator.perturb(x, predicted))
    assert not torch.equal(generator.perturb(x), generator.perturb(x, (predicted + 1) % 4))


@pytest.mark.parametrize("architecture", ["patch", "resnet"])
def test_smoothing_is_a_gaussian_of_the_unbounded_perturbation_and_is_saved(tmp_path: Path, architecture: str) -> None:
    torch.manual_seed(0)
    smooth = Generator(architecture=architecture, width=4, depth=1, smoothing=3)
    plain = Generator(architecture=architecture, width=4, depth=1)
    plain.load_state_dict(smooth.state_dict())
    x = torch.rand(2, 1, 13, 10)
    line = torch.tensor([math.exp(-0.5), 1.0, math.exp(-0.5)]) / (1 + 2 * math.exp(-0.5))
    padded = F.pad(plain.raw_perturbation(x), (1, 1, 1, 1), mode="replicate")
    expected = sum(line[i] * line[j] * padded[..., i : i + 13, j : j + 10] for i in range(3) for j in range(3))
    torch.testing.assert_close(smooth.raw_perturbation(x), expected)
    smooth.save_pretrained(tmp_path)
    assert torch.equal(Generator.from_pretrained(tmp_path).perturb(x), smooth.perturb(x))
    assert "smoothing" in plain.differences(smooth)


def test_resnet_is_the_network_of_the_publications() -> None:
    """c7s1-64, d128, d256, six residual blocks, u128, u64, c7s1-3: 7.8 million weights in convolutions."""
    generator = Generator(channels=3, architecture="resnet", width=64, depth=6)
    w = 64
    blocks = 6 * 2 * 9 * (4 * w) ** 2
    expected = 2 * 3 * 49 * w + 3 + 2 * 9 * (2 * w * w + 8 * w * w) + blocks
    weights = sum(p.numel() for name, p in generator.named_parameters() if "norm" not in name)
    assert weights == expected


def test_labels_are_saved_and_default_to_none_in_older_checkpoints(tmp_path: Path) -> None:
    generator, x, y = conditional(labels=3, noise=0), torch.rand(2, 1, 12, 12), torch.tensor([1, 2])
    generator.save_pretrained(tmp_path)
    assert torch.equal(Generator.from_pretrained(tmp_path).perturb(x, y), generator.perturb(x, y))
    older = ROOT / "checkpoints/mnist5k-generator"
    assert "labels" not in json.loads((older / "config.json").read_text())
    assert Generator.from_pretrained(older).labels == 0


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (3, "labels 0 to 2, got y 3"),
        (torch.tensor([0, -2]), "got y -2"),
        (torch.tensor([0, 1, 2]), r"y must be one class, or one for each of 2 images, got \(3,\)"),
        (torch.rand(2), "y must be a class or int64 classes, got torch.float32"),
        (True, "y must be a whole number"),
    ],
)
def test_impossible_labels_are_refused(y: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        conditional(labels=3).perturb(torch.rand(2, 1, 8, 8), y)


def test_label_of_a_generator_without_label_input_is_refused() -> None:
    with pytest.raises(InputError, match="trained without labels: expected no y; a target class is y_target"):
        Generator(width=4, depth=0).perturb(torch.rand(2, 1, 8, 8), 1)


def test_every_image_keeps_its_own_eps():
    for norm, radii in (("linf", [0.1, 0.2, 0.3]), ("l2", [0.5, 1.0, 2.0])):
        generator, x = conditional(norm=norm, eps=radii[-1], eps_min=radii[0]), torch.rand(3, 1, 12, 12)
        x_adv = generator(x, eps=torch.tensor(radii)).detach()
        for i, eps in enumerate(radii):
            assert Threat(norm, eps).violations(x_adv[i : i + 1], x[i : i + 1]) == []


def test_noise_is_drawn_from_the_generator_that_is_given():
    generator, x = conditional(), torch.rand(2, 1, 12, 12)
    first, second = (generator.perturb(x, rng=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, generator.perturb(x, rng=torch.Generator().manual_seed(6)))


def test_a_universal_generator_writes_the_same_pattern_for_all_images():
    torch.manual_seed(0)
    generator = Generator(universal=True, width=8, depth=1).eval()
    x = 0.4 + 0.2 * torch.rand(3, 1, 20, 20)  # away from the box, which would cut it
    delta = generator.perturb(x, eps=0.2) - x
    torch.testing.assert_close(delta, delta[:1].expand_as(delta), atol=1e-6, rtol=0)
    assert delta.std() > 0.01


def test_eps_of_any_kind_of_number(tmp_path):
    x = torch.rand(2, 1, 8, 8)
    for eps in (Fraction(1, 8), np.float32(0.125), np.array(0.125), torch.tensor(0.125)):
        generator = Generator(1, eps, y_target=torch.tensor(2))
        assert (generator.threat.eps, generator.y_target) == (0.125, 2)
        generator.save(tmp_path)
        loaded = Generator.from_pretrained(tmp_path)
        assert torch.equal(loaded.perturb(x, y_target=2, eps=eps), loaded.perturb(x, y_target=2))


def test_saving_in_the_working_directory_is_refused_and_a_link_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="got the working directory"):
        Generator().save(".")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "notes").touch()
    (tmp_path / "link").symlink_to("disk")
    Generator().save("link")
    assert (tmp_path / "link").is_symlink()
    assert {"config.json", "model.safetensors", "notes"} <= {path.name for path in (tmp_path / "disk").iterdir()}


def test_a_name_of_the_hub_and_a_pointer_of_git_lfs_get_a_hint(tmp_path):
    with pytest.raises(InputError, match=r"no generator in user/model: .* or hf://user/model for the Hub"):
        Generator.from_pretrained("user/model")
    Generator().save(tmp_path)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(InputError, match="a pointer of Git LFS in the place of the file: git lfs pull"):
        Generator.from_pretrained(tmp_path)


def test_a_conditional_checkpoint_round_trip(tmp_path):
    generator, x = conditional(universal=True), torch.rand(2, 1, 12, 12)
    generator.save_pretrained(tmp_path)
    loaded = Generator.from_pretrained(tmp_path)
    assert (loaded.classes, loaded.eps_min, loaded.noise, loaded.universal) == (3, 0.1, 2, True)
    z = torch.randn(2, 2)
    assert torch.equal(loaded.perturb(x, y_target=1, eps=0.2, z=z), generator.perturb(x, y_target=1, eps=0.2, z=z))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y_target": 1.5}, "y_target must be a class or int64 classes, got torch.float32"),
        ({"eps": torch.tensor([0.1, 0.2])}, "eps must be a number, got tensor"),
        ({"y_target": 3}, "classes 0 to 2, got y_target 3"),
        ({"y_target": torch.tensor([0, 3])}, "got y_target 3"),
        ({"y_target": torch.tensor([0, 1, 2])}, r"one for each of 2 images, got \(3,\)"),
        ({"z": 0}, "z must be noise \\(n, noise\\), got 0"),
        ({"rng": np.random.default_rng(0)}, "rng must be a torch.Generator, got Generator"),
        ({"z": torch.zeros(2, 3)}, r"takes noise \(2, 2\), got z of shape \(2, 3\)"),
        ({"eps": 0.31}, "the larger 0.31"),
    ],
)
def test_what_a_conditional_generator_was_not_made_for_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        conditional().perturb(torch.rand(2, 1, 8, 8), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"eps_min": 0.3}, "eps_min must be below eps 0.3"), ({"eps_min": 0.0}, "eps_min must be in"),
     ({"classes": 10, "y_target": 3}, "expected no y_target, got 3"),
     ({"universal": True, "guide": {}}, "got both"), ({"universal": True, "labels": 3}, "cannot depend on the label"),
     ({"labels": -1}, "labels must not be negative"),
     ({"labels": 3, "guide": {"name": "mnist-c", "image_shape": [1, 28, 28], "num_classes": 10}},
      "guide has 10 classes, expected as many labels"),
     ({"noise": -1}, "noise must not be negative")],
)  # fmt: skip
def test_impossible_conditions_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Generator(**arguments)


def test_a_guided_generator_holds_its_classifier_frozen_and_acts_on_its_answer(tmp_path):
    torch.manual_seed(0)
    guide = {"name": "cifar-resnet20", "image_shape": [1, 16, 16], "num_classes": 4}
    generator, x = conditional(classes=0, eps_min=None, noise=0, guide=guide), torch.rand(3, 1, 16, 16)
    before = {name: tensor.clone() for name, tensor in generator.guide.state_dict().items()}
    generator.train()(x).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.guide.state_dict().items())
    assert all(parameter.grad is None for parameter in generator.guide.parameters())
    answer = generator.eval().perturb(x)
    generator.save_pretrained(tmp_path)
    assert torch.equal(Generator.from_pretrained(tmp_path).perturb(x), answer)
    generator.guide.linear.weight.data.neg_()
    assert not torch.allclose(generator.perturb(x), answer)
    with pytest.raises(InputError, match=r"guide of this generator takes images \(1, 16, 16\), got \(1, 12, 12\)"):
        generator.perturb(torch.rand(1, 1, 12, 12))


def test_from_pretrained_downloads_configuration_and_safetensors_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Generator(width=8, depth=1)
    made.save_pretrained(tmp_path)

    def download(repo: str, *, allow_patterns: list[str], revision: str) -> str:
        assert (repo, allow_patterns, revision) == ("user/model", ["config.json", "model.safetensors"], "v1")
        return str(tmp_path)

    monkeypatch.setattr("advgan.models.generator.snapshot_download", download)
    loaded = Generator.from_pretrained("hf://user/model", revision="v1")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), made.parameters(), strict=True))


def test_from_pretrained_of_an_unreachable_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, **settings: object) -> str:
        raise OSError("connection refused\nsee the documentation")

    monkeypatch.setattr("advgan.models.generator.snapshot_download", download)
    with pytest.raises(InputError, match=r"no generator at hf://user/model: .*connection refused") as error:
        Generator.from_pretrained("hf://user/model")
    assert "\n" not in str(error.value)


def test_target_classes_are_kept_and_others_are_refused(tmp_path: Path) -> None:
    generator = Generator(classes=10, target_classes=(7, 2), width=4, depth=0).eval()
    x = torch.rand(3, 1, 8, 8)
    generator.save(tmp_path / "generator")
    loaded = Generator.from_pretrained(tmp_path / "generator")
    assert loaded.target_classes == (7, 2)
    assert "targeted at one of the classes 7, 2" in (tmp_path / "generator/README.md").read_text()
    for y_target in (7, torch.tensor([2, 7, 7]), None):
        assert torch.equal(loaded.perturb(x, y_target=y_target), generator.perturb(x, y_target=y_target))
    for y_target in (3, torch.tensor([2, 7, 3])):
        with pytest.raises(InputError, match="was trained for the classes 7, 2, got y_target 3"):
            loaded.perturb(x, y_target=y_target)
    assert tuple(Generator(classes=3, width=4, depth=0).target_classes) == (0, 1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_classes": (1, 2)}, "target_classes does nothing without any class, got 1, 2"),
        ({"classes": 10, "target_classes": (1,)}, "two different classes or more, got 1"),
        ({"classes": 10, "target_classes": (1, 1, 2)}, "two different classes or more, got 1, 1, 2"),
        ({"classes": 10, "target_classes": (1, 10)}, "target_classes must be 0 to 9, got 10"),
        ({"classes": 10, "target_classes": (-1, 1)}, "target_classes must be 0 to 9, got -1"),
        ({"classes": 10, "target_classes": "12"}, "must be a list of class numbers, got '12'"),
        ({"classes": 10, "target_classes": [True, 2]}, "must be a list of class numbers"),
    ],
)
def test_impossible_target_classes_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Generator(width=4, depth=0, **settings)


def test_save_leaves_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        Generator().save(str(tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "notes.txt"}
    with pytest.raises(InputError, match="expected a directory, got the file"):
        Generator().save(tmp_path / "notes.txt")


def test_loaded_generators_are_float32_under_another_default(tmp_path: Path) -> None:
    Generator().save(tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        loaded = Generator.from_pretrained(tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_the_radius_of_training_may_be_of_float32():
    assert float(np.float32(8 / 255)) > 8 / 255
    generator, x = Generator(1, 8 / 255, width=4, depth=1).eval(), torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(generator.perturb(x, eps=np.float32(8 / 255)), generator.perturb(x))
    assert generator.supports(Threat("linf", np.float32(8 / 255)))
