"""`advgan attack` on photos of any size, with any attack: success is that of the written file, read and resized."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from advgan.cli.main import main
from advgan.data.image_file import as_array, cropped, open_image
from advgan.defenses import load_classifier
from tests.cli.test_attack import attack, contents, pixels, rows, save

EPS = 12
TARGET = """
import torch
from torch import nn


def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    net.image_shape, net.resize, net.classes = (3, 8, 8), 10, ("tabby, cat", "starfish", "computer keyboard")
    return net


def unnamed():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1000))


def imagenet():
    net = unnamed()
    net.classes = "imagenet"
    return net
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    (tmp_path / "target.py").write_text(TARGET)
    return f"{tmp_path}/target.py:model"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of several sizes: larger than the classifier's input, smaller, of its size, and rotated."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    root.mkdir()
    for i, size in enumerate([(90, 70), (41, 60), (8, 8), (10, 10), (6, 7), (35, 80)]):
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 5 else 1
        coarse.resize(size, Image.Resampling.BICUBIC).save(root / f"{i}.png", exif=exif)
    return root


def reread(path: Path) -> torch.Tensor:
    """The classifier's input (1, 3, 8, 8) of a file, as data are loaded."""
    return torch.from_numpy(as_array(cropped(open_image(path), 8, 8, 10)).copy())[None].float() / 255


@pytest.mark.parametrize("name", ["fgsm", "pgd:steps=3", "noise-sign", "square:queries=20"])
def test_manifest_has_predictions_of_the_written_files(name: str, photos: Path, target: str, tmp_path: Path) -> None:
    out, model = tmp_path / "out", load_classifier(target)
    attack(photos, out, "--attack", name, "--eps", f"{EPS}/255", "--target", target)
    for file, row in rows(out).items():
        clean, written = np.asarray(open_image(photos / file)).astype(int), pixels(out / row["output"])
        assert written.shape == clean.shape == (int(row["height"]), int(row["width"]), 3)
        assert 0 < abs(written - clean).max() <= EPS
        for when, path in (("before", photos / file), ("after", out / row["output"])):
            probabilities = model(reread(path)).softmax(1)[0]
            assert int(row[f"{when}_class"]) == probabilities.argmax()
            assert row[when] == ("tabby, cat", "starfish", "computer keyboard")[int(row[f"{when}_class"])]
            assert float(row[f"{when}_confidence"]) == pytest.approx(probabilities.max().item(), abs=1e-3)


def test_carried_attack_moves_the_logits_as_far_as_the_attack_of_the_input(
    photos: Path, target: str, tmp_path: Path
) -> None:
    """FGSM of a linear model: the loss rises by half of its maximum or more."""
    out, model = tmp_path / "out", load_classifier(target)
    attack(photos / "0.png", out, "--attack", "fgsm", "--eps", f"{EPS}/255", "--target", target)
    x, x_adv = reread(photos / "0.png"), reread(out / "0.png")
    weight = model.model[1].weight
    p = model(x)[0].softmax(0)
    k = int(p.argmax())
    gradient = sum(p[i] * (weight[i] - weight[k]) for i in range(3) if i != k)  # of the cross-entropy
    change = float(((x_adv - x).flatten() * gradient).sum())
    assert change > 0.5 * EPS / 255 * float(gradient.abs().sum())


def test_minimum_norm_attack_needs_no_eps(
    photos: Path, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack(photos, tmp_path / "out", "--attack", "deepfool:overshoot=1", "--target", target)
    output, row = capsys.readouterr().out, rows(tmp_path / "out")["0.png"]
    assert "files read as shorter side to 10, centre crop to 8 x 8; of the inputs themselves, before their" in output
    assert "to the photos: 6 of 6" in output
    assert row["after_class"] == row["input_class"] != row["before_class"], "the largest photo"
    attack(photos, tmp_path / "out", "--attack", "deepfool", "--target", target, "--eps", "0.1", code=2)
    assert "minimises the norm, expected no eps" in capsys.readouterr().err
    attack(photos, tmp_path / "out", "--attack", "pgd", "--target", target, code=2)
    assert "needs the radius of its ball, expected --eps, like 8/255" in capsys.readouterr().err


def test_l2_bounds_the_input(photos: Path, target: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    attack(photos, out, "--attack", "fgsm", "--eps", 0.5, "--norm", "l2", "--target", target)
    for file, row in rows(out).items():
        assert row["status"] == "ok"
        assert (reread(out / row["output"]) - reread(photos / file)).norm() < 0.5 + 0.5 / 255 * math.sqrt(192)
        clean = np.asarray(open_image(photos / file)).astype(int)
        norm = np.sqrt(np.square(pixels(out / row["output"]) - clean).sum()) / 255
        assert float(row["l2"]) == pytest.approx(norm, abs=1e-5)


def test_generator_at_the_input_size_without_a_target(photos: Path, tmp_path: Path) -> None:
    generator = save(tmp_path / "g", channels=3, eps=EPS / 255)
    attack(photos, tmp_path / "out", "--generator", generator, "--image-size", 8, "--resize", 10)
    sizes = {name: Image.open(photos / name).size for name in rows(tmp_path / "out")}
    assert {name: Image.open(tmp_path / "out" / name).size for name in sizes} == {**sizes, "5.png": (80, 35)}
    change = pixels(tmp_path / "out" / "0.png") - pixels(photos / "0.png")
    assert not change[:3].any(), "outside of the crop"
    assert change[20:50, 20:50].any()


def test_orientation_is_applied_and_colour_profile_kept(photos: Path, target: str, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(photos / "1.png")
    for name, kept in (("rgb.jpg", profile), ("wrong.png", profile[:16] + b"GRAY" + profile[20:])):
        image.save(photos / name, icc_profile=kept, exif=exif, **({"quality": 95} if name[0] == "r" else {}))
    attack(photos, tmp_path / "out", "--attack", "fgsm", "--eps", "4/255", "--target", target)
    written = Image.open(tmp_path / "out" / "rgb.png")
    assert written.size == (60, 41)
    assert written.info["icc_profile"] == profile
    assert 0x0112 not in written.getexif()
    assert "icc_profile" not in Image.open(tmp_path / "out" / "wrong.png").info
    assert abs(pixels(tmp_path / "out" / "rgb.png") - np.asarray(open_image(photos / "rgb.jpg"))).max() <= 4


def test_class_names_are_targets(photos: Path, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (photos, tmp_path / "out", "--attack", "fgsm", "--eps", "60/255", "--target", target, "--y-target")
    for name, message in (
        ("starfsh", "the target has no class 'starfsh'; did you mean starfish?"),
        ("7", "y_target must be a class from 0 to 2, got 7"),
        ("xyzzy", "expected one like tabby, cat, starfish, computer keyboard"),
    ):
        attack(*arguments, name, code=2)
        assert message in capsys.readouterr().err
    attack(*arguments, "Cat")
    assert "images became class 0 (tabby, cat)" in capsys.readouterr().out
    attack(*arguments, "0")  # resumes: the same class
    assert "6 of them by an earlier call" in capsys.readouterr().out


def test_imagenet_names_are_taken_where_they_are_given(
    photos: Path, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = target.partition(":")[0]
    arguments = (photos / "0.png", tmp_path / "out", "--attack", "fgsm", "--eps", "4/255", "--image-size", 8)
    arguments = (*arguments, "--y-target", "starfish", "--target")
    attack(*arguments, f"{file}:unnamed", code=2)
    assert "has no class names, expected a class number, got 'starfish'; for names" in capsys.readouterr().err
    attack(*arguments, f"{file}:model", "--class-names", "imagenet", code=2)
    assert "are for a target of 1000 logits without names, got one with names of its own" in capsys.readouterr().err
    attack(*arguments, f"{file}:unnamed", "--class-names", "imagenet")
    assert "y_target: '327'" in (tmp_path / "out" / "settings-attack.yaml").read_text()
    assert load_classifier(f"{file}:imagenet").classes[327] == "starfish"


def test_note_where_photos_are_attacked_at_their_own_sizes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from advgan.core.errors import note

    note.cache_clear()
    generator = save(tmp_path / "g", channels=3)
    attack(photos / "2.png", tmp_path / "square", "--generator", generator)
    assert "attacked at their own size" not in capsys.readouterr().err
    attack(photos, tmp_path / "out", "--generator", generator)
    assert "note: photos are attacked at their own size" in capsys.readouterr().err
    assert len(contents(tmp_path / "out")) == 6


def test_random_attack_is_reproduced_by_its_settings_file(photos: Path, target: str, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    attack(photos, first, "--attack", "pgd:steps=2", "--eps", "4/255", "--target", target, "--y-target", "starfish")
    main(["attack", str(photos), str(second), "--recipe", str(first / "settings-attack.yaml"), "--threads", "1"])
    assert contents(first) == contents(second)


def test_one_photo_into_several_classes_with_a_figure(photos: Path, target: str, tmp_path: Path) -> None:
    out, figure = tmp_path / "out", tmp_path / "figures" / "classes.png"
    arguments = ("--attack", "pgd:steps=3", "--eps", "60/255", "--target", target, "--figure", figure)
    attack(photos / "0.png", out, *arguments, "--y-target", "starfish, computer keyboard,0")
    folders = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert folders == ["0-tabby", "1-starfish", "2-computer-keyboard"]
    for folder in folders:
        row = rows(out / folder)["0.png"]
        y_target = int(folder[0])
        reached = {True: "", False: str(row["after_class"] == str(y_target))}
        assert row["success"] == reached[row["before_class"] == str(y_target)]
    height, width, _ = np.asarray(Image.open(figure)).shape
    assert width > 900, "four columns"
    assert height > 400, "two rows"
    attack(photos, tmp_path / "untargeted", *arguments)
    assert np.asarray(Image.open(figure)).shape[0] > 2 * height, "four photos"


def test_figure_replaces_no_image(
    photos: Path, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, output = photos / "0.png", tmp_path / "out" / "0.png"
    before = photo.read_bytes()
    for figure in (photo, output):
        attack(photos, tmp_path / "out", "--attack", "fgsm", "--target", target, "--figure", figure, code=2)
        assert "the figure must be another file than the images and their outputs" in capsys.readouterr().err
    assert photo.read_bytes() == before
    assert not output.exists()


def test_figure_needs_predictions(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attack(photos, tmp_path / "out", "--generator", "g", "--figure", tmp_path / "a.png", code=2)
    assert "a figure is a PNG with predictions, expected --target and FILE.png" in capsys.readouterr().err


def test_progress_without_a_terminal_counts_whole_batches(
    photos: Path, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("FIRST_LINE_SECONDS", "LINE_SECONDS"):
        monkeypatch.setattr(f"advgan.core.progress.{name}", 0)
    attack(photos, tmp_path / "out", "--attack", "fgsm", "--eps", "0.1", "--target", target, "--batch-size", "3")
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("attacking: ")]
    assert lines == [f"attacking: {n} of 6 images" for n in (0, 3, 6)]
