"""`advgan attack`: adversarial PNGs of image files, inside the ball after 8-bit rounding; no other file is changed."""

import csv
import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advgan import Generator
from advgan.cli.attack_images.find import find_images
from advgan.cli.attack_images.loading import chosen_classifier
from advgan.cli.attack_images.settings import PairSettings
from advgan.cli.attack_images.work import check_output_path, read_metadata, write_png
from advgan.cli.main import main
from advgan.core.errors import InputError
from advgan.core.shipped import CLASSIFIERS
from advgan.core.threat_model import to_8bit
from advgan.defenses import ClassifierSpec, load_classifier
from tests.conftest import randomise_conditioning, run_ranks

EPS = 20 / 255


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved generator of RGB images."""
    return save(tmp_path_factory.mktemp("rgb"), channels=3)


def save(folder: Path, **settings: object) -> Path:
    torch.manual_seed(0)
    generator = Generator(width=8, depth=1, **{"eps": EPS, **settings})  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in generator.parameters():  # some are zero at first
            parameter.add_(0.2 * torch.randn_like(parameter))
    generator.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of several sizes and modes, in nested folders."""
    rng, root = np.random.default_rng(0), tmp_path / "photos"
    for i, name in enumerate(("a.png", "b/c.png", "b/d.bmp", "b/e/f.png", "g.webp")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        size = (24, 16) if i % 2 else (20, 20)
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        image.save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return root


def attack(*arguments: object, code: int = 0) -> None:
    if not code:
        main(["attack", *map(str, arguments), "--threads", "1"])
        return
    with pytest.raises(SystemExit) as stop:
        main(["attack", *map(str, arguments), "--threads", "1"])
    assert stop.value.code == code


def rows(output: Path) -> dict[str, dict[str, str]]:
    with (output / "manifest.csv").open(newline="") as file:
        return {row["input"]: row for row in csv.DictReader(file)}


def pixels(path: Path, mode: str = "RGB") -> np.ndarray:
    return np.asarray(Image.open(path).convert(mode)).astype(int)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_folder_tree_is_attacked_within_eps(photos: Path, generator: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    attack(photos, out, "--generator", generator, "--eps", "8/255")
    assert sorted(contents(out)) == ["a.png", "b/c.png", "b/d.png", "b/e/f.png", "g.png"]
    for name, row in rows(out).items():
        change = pixels(out / row["output"]) - pixels(photos / name)
        assert 0 < abs(change).max() <= 8
        assert float(row["linf"]) == pytest.approx(abs(change).max() / 255, abs=1e-6)
        assert float(row["l2"]) == pytest.approx(np.sqrt((change**2).sum()) / 255, abs=1e-6)
        assert row["sha256"] == hashlib.sha256((out / row["output"]).read_bytes()).hexdigest()
        assert (row["status"], row["before"], row["reason"]) == ("ok", "", "")


def test_single_file_and_glob(photos: Path, generator: Path, tmp_path: Path) -> None:
    attack(photos / "b" / "d.bmp", tmp_path / "one", "--generator", generator)
    assert sorted(contents(tmp_path / "one")) == ["d.png"]
    attack(f"{photos}/**/*.png", tmp_path / "some", "--generator", generator)
    assert sorted(contents(tmp_path / "some")) == ["a.png", "b/c.png", "b/e/f.png"]


def test_predictions_before_and_after(classifier: Path, digits: Path, tmp_path: Path) -> None:
    out, target = tmp_path / "out", classifier / "classifier"
    attack(digits / "test", out, "--generator", save(tmp_path / "g"), "--target", target, "--batch-size", 7)
    model = load_classifier(str(target))
    with torch.no_grad():
        for name, row in rows(out).items():
            for when, path in (("before", digits / "test" / name), ("after", out / row["output"])):
                p = model(torch.tensor(pixels(path, "L"))[None, None].float() / 255).softmax(1)[0]
                assert int(row[f"{when}_class"]) == p.argmax()
                assert float(row[f"{when}_confidence"]) == pytest.approx(p.max().item(), abs=1e-3)


def test_predictions_of_target_are_labels_of_generator(
    classifier: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    generator = Generator(labels=3, width=8, depth=1).eval()
    randomise_conditioning(generator)
    generator.save_pretrained(tmp_path / "g")
    inputs = [digits / "test", tmp_path / "out", "--generator", tmp_path / "g"]
    attack(*inputs, "--target", classifier / "classifier")
    assert "labels are an input" not in capsys.readouterr().err
    attack(digits / "test", tmp_path / "unknown", "--generator", tmp_path / "g")
    assert "note: labels are an input of this generator, and unknown without --target" in capsys.readouterr().err
    model = load_classifier(str(classifier / "classifier"))
    for name, row in rows(tmp_path / "out").items():
        x = torch.tensor(pixels(digits / "test" / name, "L"))[None, None]
        x, written = x.float() / 255, pixels(tmp_path / "out" / row["output"], "L").astype(int)
        with torch.no_grad():
            expected = to_8bit(generator.perturb(x, model(x).argmax(1)), x)[0, 0].numpy().astype(int)
            unknown = to_8bit(generator.perturb(x), x)[0, 0].numpy().astype(int)
        assert np.abs(written - expected).max() <= 1  # rounding depends on the batch
        assert np.abs(written - unknown).max() > 1


def test_black_box_target_is_queried_for_images_only(
    photos: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bb.py").write_text(
        "from advgan.classifiers import BlackBox\n\n\ndef box():\n"
        "    return BlackBox(lambda x: (x.mean((1, 2, 3)) > 0.5).long(), 2, 'labels', max_queries=2)\n"
    )
    arguments = (photos / "a.png", tmp_path / "out", "--generator", generator, "--target", f"{tmp_path}/bb.py:box")
    attack(*arguments, code=2)
    assert "has no fixed image size: pass --image-size" in capsys.readouterr().err
    attack(*arguments, "--image-size", 20)
    bright = str(int(pixels(photos / "a.png").mean() > 127.5))
    assert rows(tmp_path / "out")["a.png"]["before_class"] == bright


def test_class_names(classifier: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(*arguments: object, **known: object) -> object:
        model = load_classifier(*arguments, **known)  # type: ignore[arg-type]
        model.classes = ("bottom", "=middle", "top")
        return model

    monkeypatch.setattr("advgan.cli.attack_images.loading.load_classifier", named)
    one, out = digits / "test" / "top" / "0.png", tmp_path / "out"
    arguments = (one, out, "--generator", save(tmp_path / "g", classes=3), "--target", classifier / "classifier")
    attack(*arguments, "--y-target", "botom", code=2)
    attack(*arguments, "--y-target", "bottom")
    assert rows(out)["0.png"]["before"] in ("bottom", "'=middle", "top")  # escaped for spreadsheets
    assert "y_target: '0'" in (out / "settings-attack.yaml").read_text()


def test_repeated_call_completes_missing_images(
    photos: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    attack(photos, whole, "--generator", generator)
    attack(photos, parts, "--generator", generator)
    before, manifest = contents(parts), (parts / "manifest.csv").read_text()
    kept = (parts / "a.png").stat().st_mtime_ns
    (parts / "b" / "c.png").unlink()
    (parts / "g.png").write_bytes(before["g.png"][:-20])  # cut short
    (parts / "manifest.csv").unlink()
    attack(photos, parts, "--generator", generator)
    assert "3 of them by an earlier call" in capsys.readouterr().out
    assert contents(parts) == before == contents(whole)
    assert (parts / "manifest.csv").read_text() == manifest
    assert (parts / "a.png").stat().st_mtime_ns == kept


def test_changed_image_is_attacked_again(
    photos: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    attack(photos, out, "--generator", generator)
    before = contents(out)
    Image.fromarray(255 - pixels(photos / "a.png").astype(np.uint8)).save(photos / "a.png")
    attack(photos, out, "--generator", generator)
    assert "4 of them by an earlier call" in capsys.readouterr().out
    assert abs(pixels(out / "a.png") - pixels(photos / "a.png")).max() <= 20
    assert {name for name, data in contents(out).items() if data != before[name]} == {"a.png"}


def test_existing_files_are_not_overwritten_without_force(
    photos: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "b" / "c.png").write_bytes(b"mine")
    attack(photos, out, "--generator", generator, code=2)
    assert "1 files in the output folder" in capsys.readouterr().err
    assert (out / "b" / "c.png").read_bytes() == b"mine"
    attack(photos, out, "--generator", generator, "--force")
    loud = (out / "a.png").read_bytes()
    attack(photos, out, "--generator", generator, "--eps", "4/255", code=2)
    assert "eps was 20/255, now 4/255" in capsys.readouterr().err
    (out / "settings-attack.yaml").unlink()
    (out / "manifest.csv").rename(tmp_path / "manifest.csv")
    attack(photos, out, "--generator", generator, "--eps", "4/255", code=2)  # eps is also in the PNG metadata
    assert "are not of these images and settings" in capsys.readouterr().err
    (out / "manifest.csv").write_text("mine")
    attack(photos, out, "--generator", generator, code=2)
    assert "manifest.csv exists" in capsys.readouterr().err
    attack(photos, out, "--generator", generator, "--eps", "4/255", "--force")
    assert (out / "a.png").read_bytes() != loud


def test_unreadable_files_are_skipped_with_reason(
    photos: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b" / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (tmp_path / "secret.png").write_bytes((photos / "a.png").read_bytes())
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    (photos / "elsewhere").symlink_to(tmp_path)
    (photos / "within.png").symlink_to(photos / "a.png")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(photos / "deep.png")
    out = tmp_path / "out"
    attack(photos, out, "--generator", generator, code=3)
    manifest = rows(out)
    assert {name for name, row in manifest.items() if row["status"] == "left out"} == {
        "b/broken.jpg",
        "deep.png",
        "link.png",
    }
    assert not any(name.startswith("elsewhere") for name in manifest)
    assert pixels(out / "within.png").shape == (20, 20, 3)
    error = capsys.readouterr().err
    for text in ("b/broken.jpg", "8 bits per channel", "a link that leads out of"):
        assert text in error


def test_output_is_independent_of_number_of_processes(digits: Path, classifier: Path, tmp_path: Path) -> None:
    """With noise, partial batches and images of different sizes."""
    source = tmp_path / "in"
    for path in sorted((digits / "test").rglob("*.png"))[:23]:
        place = source / path.relative_to(digits / "test")
        place.parent.mkdir(parents=True, exist_ok=True)
        image = Image.open(path)
        (image.crop((0, 0, 24, 28)) if path.stem.endswith("3") else image).save(place)
    arguments = ("--generator", save(tmp_path / "g", noise=4, eps=1.0), "--batch-size", 4, "--threads", 1)
    outputs = tmp_path / "outputs"
    output = run_ranks("-m", "advgan", "attack", source, tmp_path / "two", *arguments, outputs=outputs)
    assert "2 processes on cpu" in output
    assert "attacked     23 of 23 images" in output
    attack(source, tmp_path / "one", *arguments[:-2])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) == 23
    assert (tmp_path / "one" / "manifest.csv").read_text() == (tmp_path / "two" / "manifest.csv").read_text()


def test_noise_differs_between_images_and_seeds(photos: Path, tmp_path: Path) -> None:
    (photos / "a2.png").write_bytes((photos / "a.png").read_bytes())
    noisy = save(tmp_path / "g", channels=3, noise=4, eps=1.0)
    attack(photos, tmp_path / "all", "--generator", noisy)
    attack(photos / "a2.png", tmp_path / "one", "--generator", noisy, "--seed", 1)
    a, a2, other = (pixels(path) for path in (tmp_path / "all/a.png", tmp_path / "all/a2.png", tmp_path / "one/a2.png"))
    assert (a != a2).any()
    assert (a2 != other).any()


def test_channels_size_and_transparency_are_converted(photos: Path, generator: Path, tmp_path: Path) -> None:
    rgba = pixels(photos / "a.png").astype(np.uint8)
    Image.fromarray(np.dstack([rgba, np.full(rgba.shape[:2], 7, np.uint8)])).save(photos / "a.png")
    Image.fromarray(rgba[..., 0]).save(photos / "b" / "c.png")
    attack(photos, tmp_path / "rgb", "--generator", generator, "--image-size", 12, "--output-size", "input")
    assert {Image.open(path).mode for path in (tmp_path / "rgb").rglob("*.png")} == {"RGB"}
    assert {(row["height"], row["width"]) for row in rows(tmp_path / "rgb").values()} == {("12", "12")}
    attack(photos / "a.png", tmp_path / "a", "--generator", generator)
    assert 0 < abs(pixels(tmp_path / "a" / "a.png") - rgba).max() <= 20
    attack(photos / "a.png", tmp_path / "grey", "--generator", save(tmp_path / "g"))
    assert Image.open(tmp_path / "grey" / "a.png").mode == "L"


def test_guided_generator_needs_one_image_size(classifier: Path, digits: Path, tmp_path: Path) -> None:
    guide = json.loads((classifier / "classifier" / "config.json").read_text())
    guided = save(tmp_path / "g", guide={key: guide[key] for key in ("name", "image_shape", "num_classes")})
    folder = tmp_path / "in"
    folder.mkdir()
    Image.open(digits / "test" / "top" / "0.png").save(folder / "fits.png")
    Image.open(digits / "test" / "top" / "1.png").resize((30, 28)).save(folder / "wide.png")
    attack(folder, tmp_path / "out", "--generator", guided)
    assert {row["width"] for row in rows(tmp_path / "out").values()} == {"28", "30"}
    attack(folder, tmp_path / "resized", "--generator", guided, "--image-size", 28, "--output-size", "input")
    assert {row["width"] for row in rows(tmp_path / "resized").values()} == {"28"}
    attack(folder, tmp_path / "other", "--generator", guided, "--image-size", 32, code=2)


def test_settings_file_reproduces_the_call(photos: Path, generator: Path, tmp_path: Path) -> None:
    attack(photos, tmp_path / "out", "--generator", generator, "--eps", "5/255", "--seed", 3)
    again = tmp_path / "again"
    attack(photos, again, "--recipe", tmp_path / "out" / "settings-attack.yaml")
    assert contents(again) == contents(tmp_path / "out")
    main(["attack", "--recipe", str(again / "settings-attack.yaml")])  # the output folder is in the recipe


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_images_are_not_written(
    photos: Path,
    tmp_path: Path,
    norm: str,
    value: float,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, perturb = tmp_path / "out", Generator.perturb

    def one_pixel_is_not_finite(self: Generator, x: torch.Tensor, *given: object, **more: bool) -> torch.Tensor:
        x_adv = perturb(self, x, *given, **more)  # type: ignore[arg-type]
        x_adv[:, 0, 0, 0] = value
        return x_adv

    monkeypatch.setattr(Generator, "perturb", one_pixel_is_not_finite)
    attack(photos, out, "--generator", save(tmp_path / "g", channels=3, norm=norm), code=3)
    assert contents(out) == {}
    assert {(row["status"], row["reason"]) for row in rows(out).values()} == {
        ("failed", "the generator's output has NaN or infinity")
    }
    captured = capsys.readouterr()
    assert "attacked     0 of 5 images" in captured.out
    assert captured.err.count("failed  ") == 5


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("l2", 1.0)])
def test_images_outside_the_ball_are_not_written(
    photos: Path, tmp_path: Path, norm: str, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (photos, tmp_path / "out", "--generator", save(tmp_path / "g", channels=3, norm=norm, eps=eps))
    attack(*arguments)
    assert len(contents(tmp_path / "out")) == 5
    perturb = Generator.perturb

    def first_too_far(self: Generator, x: torch.Tensor, *given: object, **more: bool) -> torch.Tensor:
        x_adv = perturb(self, x, *given, **more)  # type: ignore[arg-type]
        x_adv[0] = 1 - x[0]
        return x_adv

    monkeypatch.setattr(Generator, "perturb", first_too_far)
    attack(*arguments, "--force", "--batch-size", 1, code=3)
    assert contents(tmp_path / "out") == {}, "no file of the call before stays either"
    for row in rows(tmp_path / "out").values():
        assert row["status"] == "failed"
        assert f"of the 8-bit image exceeds eps {eps:.6g}" in row["reason"]
        assert float(row[norm]) > eps


def test_images_in_target_class_are_not_counted(
    classifier: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--generator", save(tmp_path / "g", classes=3), "--target", classifier / "classifier", "--y-target", 2)
    attack(digits / "test", tmp_path / "out", *arguments)
    manifest = rows(tmp_path / "out").values()
    counted = [row for row in manifest if row["before_class"] != "2"]
    hits = sum(row["after_class"] == "2" for row in counted)
    assert 0 < len(counted) < len(manifest)
    output = capsys.readouterr().out.replace(" (top)", "")
    assert f"success      {hits} of {len(counted)} images became class 2; " in output
    assert f"; {len(manifest) - len(counted)} were before, not counted\n" in output


def test_colliding_and_long_names_are_skipped(
    photos: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("manifest.csv/a.png", "Settings-Attack.yaml/a.png", "a" * 245 + ".png", "b" * 250 + ".png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes((photos / "a.png").read_bytes())
    for ending in (".png", ".bmp"):  # whose files keep both endings: 257 bytes
        Image.open(photos / "a.png").save(photos / ("c" * 249 + ending))
    attack(photos, tmp_path / "out", "--generator", generator, code=3)
    reasons = {name: row["reason"] for name, row in rows(tmp_path / "out").items() if row["status"] != "ok"}
    assert {name: "reserved name" in reason for name, reason in reasons.items()} == {
        **{"manifest.csv/a.png": True, "Settings-Attack.yaml/a.png": True},
        **{"c" * 249 + ".png": False, "c" * 249 + ".bmp": False},
    }
    assert len(contents(tmp_path / "out")) == 7
    (tmp_path / "taken" / "manifest.csv").mkdir(parents=True)
    attack(photos, tmp_path / "taken", "--generator", generator, "--force", code=2)
    assert "manifest.csv is a folder" in capsys.readouterr().err


def test_large_images_and_pipes_are_skipped_unread(
    photos: Path, generator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (600, 500)).save(photos / "large.png")
    os.mkfifo(photos / "pipe.png")
    monkeypatch.setattr(Image.Image, "load", _fail_for_width(Image.Image.load, 600))
    attack(photos, tmp_path / "out", "--generator", generator, "--max-pixels", 250_000, code=3)
    left = {name: row["reason"] for name, row in rows(tmp_path / "out").items() if row["status"] != "ok"}
    assert left == {
        "large.png": "600 x 500 pixels, expected at most 250,000 in all (--max-pixels)",
        "pipe.png": "no regular file",
    }
    monkeypatch.undo()
    (photos / "pipe.png").unlink()
    attack(photos, tmp_path / "out", "--generator", generator, "--max-pixels", 300_000)  # goes on
    assert rows(tmp_path / "out")["large.png"]["width"] == "600"


def _fail_for_width(load: Callable[[Image.Image], object], width: int) -> Callable[[Image.Image], object]:
    def guarded(image: Image.Image) -> object:
        assert image.width != width, "decoded"
        return load(image)

    return guarded


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EFBIG, 1), (errno.EROFS, 1)])
def test_full_disk_is_exit_code_1_and_keeps_images(
    photos: Path, generator: Path, tmp_path: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_bytes, arguments = Path.write_bytes, (photos, tmp_path / "out", "--generator", generator)

    def full(path: Path, data: bytes) -> int:
        if path.name.startswith(".g.png"):
            raise OSError(number, os.strerror(number))
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    attack(*arguments, "--batch-size", 1, code=code)
    assert capsys.readouterr().err.endswith(f"error: {os.strerror(number)}: {tmp_path / 'out' / 'g.png'}\n")
    kept = contents(tmp_path / "out")
    assert sorted(kept) == ["a.png", "b/c.png", "b/d.png", "b/e/f.png"]
    monkeypatch.undo()
    attack(*arguments, "--batch-size", 1)
    assert "4 of them by an earlier call" in capsys.readouterr().out
    assert len(contents(tmp_path / "out")) == 5


def test_names_that_are_no_utf8_are_resumed(generator: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    (tmp_path / "in").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / name)
    for _ in range(2):
        attack(tmp_path / "in", tmp_path / "out", "--generator", generator)
    assert (tmp_path / "out" / name).is_file()
    assert [*rows(tmp_path / "out")] == ["\\xff.png"]


def test_control_characters_in_names_are_escaped(
    photos: Path, generator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "x\x1b]0;title\x07\nattacked     9 of 9 images\u202e.png"
    (photos / name).write_bytes(b"no")
    attack(photos, tmp_path / "out", "--generator", generator, code=3)
    error = capsys.readouterr().err
    assert r"left out     x\x1b]0;title\x07\nattacked     9 of 9 images\u202e.png: no image" in error
    assert name in rows(tmp_path / "out"), "the manifest has the name as it is"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{in}", "{out}", "--generator", "{g}", "--max-pixels", "99", "--image-size", "10"], "max_pixels must be"),
        (["{in}", "{out}", "--generator", "{out}"], "no generator in"),
        (["{in}", "{out}", "--generator", "{g}", "--eps", "0.5"], "was trained for eps"),
        (["{in}", "{out}", "--generator", "{g}", "--eps", "0.001"], "at least one grey level"),
        (["{in}", "{out}", "--generator", "{g}", "--y-target", "3"], "was trained untargeted"),
        (["{in}", "{out}", "--generator", "{g}", "--y-target", "cat"], "a class name of --target"),
        (["{in}", "{out}", "--generator", "{g}", "--target", "{c}"], "expected the same of guide and target"),
        (["{in}", "{out}", "--generator", "{g}", "--target-weights", "x.pt"], "need a target"),
        (["{in}", "{out}", "--generator", "{g}", "--class-names", "imagenet"], "class_names are of the target"),
        (["{in}", "{out}", "--generator", "{g}", "--batch-size", "0"], "batch_size must be at least 1"),
        (["{in}", "{out}", "--generator", "{g}", "--image-size", "0"], "image_size must be at least 1"),
        (["{in}", "{out}", "--generator", "{g}", "--resize", "9"], "resize needs the size of the centre crop"),
        (["{in}", "{out}", "--generator", "{g}", "--image-size", "8", "--resize", "7"], "resize must be at least"),
        (["{in}", "{out}", "--generator", "{g}", "--resize", "1000000"], "at most 9459, got 1000000"),
        (["{in}", "{out}", "--generator", "{g}", "--attack", "pgd"], "attack pgd: expected no --generator"),
        (["{in}", "{out}"], "attack advgan: expected --generator, or another --attack, got None"),
        (["{in}", "{out}", "--attack", "pgd", "--eps", "0.1"], "needs the classifier under attack, expected --target"),
        (["{in}", "{out}", "--attack", "fgms", "--eps", "0.1"], "did you mean fgsm"),
        (["{in}", "{out}", "--attack", "deepfool", "--target", "{c}", "--norm", "l2"], "expected no norm, got l2"),
        (["{in}", "{out}", "--attack", "fgsm", "--target", "{c}", "--guide", "x.py:y"], "a guide is of a generator"),
        (["{in}", "{out}/a.png", "--generator", "{g}"], "OUT must be a folder"),
        (["{in}", "{in}", "--generator", "{g}"], "must not lie among the images"),
        (["{in}/a.png", "{in}", "--generator", "{g}"], "would be replaced by its own output"),
        (["{in}/none", "{out}", "--generator", "{g}"], "no image, folder or glob"),
        (["{in}/*.gif", "{out}", "--generator", "{g}"], "no images in"),
        (["{in}/*/../../*.png", "{out}", "--generator", "{g}"], "must not contain .. after"),
    ],
)
def test_input_errors_are_one_line(
    arguments: list[str], message: str, photos: Path, generator: Path, classifier: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    places = {"in": photos, "out": tmp_path / "out", "g": generator, "c": classifier / "classifier"}
    attack(*(word.format(**places) for word in arguments), code=2)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert not list((tmp_path / "out").rglob("*.png"))


def test_output_inside_input_folder_is_not_attacked(photos: Path) -> None:
    out = photos / "attacked"
    names = [image.name for image in find_images(str(photos), out)]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).with_suffix(".png").touch()
    assert [image.name for image in find_images(str(photos), out)] == names
    assert [image.name for image in find_images(f"{photos}/**/*", out)] == names


def test_all_supported_file_types_are_found(tmp_path: Path) -> None:
    for kind in ("GIF", "PPM", "BMP", "WEBP", "TIFF", "PNG", "JPEG"):
        for ending in (ending for ending, name in Image.registered_extensions().items() if name == kind):
            (tmp_path / f"{kind}{ending}").touch()
    suffixes = {image.path.suffix for image in find_images(str(tmp_path), tmp_path / "out")}
    assert suffixes >= {
        ".gif",
        ".pbm",
        ".pgm",
        ".pnm",
        ".ppm",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".png",
        ".jpg",
        ".jpeg",
    }


def test_colliding_output_names_keep_suffix(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.jpg"):
        (tmp_path / name).touch()
    assert [p.output for p in find_images(str(tmp_path), tmp_path / "out")] == ["a.jpg.png", "a.png.png", "b.png"]
    (tmp_path / "a.jpg.png").touch()
    with pytest.raises(InputError, match=r"a\.jpg\.png and .*a\.jpg\.png|would both become a\.jpg\.png"):
        find_images(str(tmp_path), tmp_path / "out")


def test_output_paths_stay_in_output_folder(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "link").symlink_to(elsewhere)
    assert check_output_path(root, "a/b.png") == root / "a" / "b.png"
    for name in ("../x.png", "a/../../x.png", "/tmp/x.png", "link/x.png"):
        with pytest.raises(InputError, match="leads out of"):
            check_output_path(root, name)


def test_png_metadata_identify_finished_images(tmp_path: Path) -> None:
    path, image = tmp_path / "a.png", np.arange(48, dtype=np.uint8).reshape(3, 4, 4)
    digest = write_png(path, image, {"input": "ä.png"})
    assert read_metadata(path) == {"input": "ä.png", "sha256": digest}
    assert (np.asarray(Image.open(path)).transpose(2, 0, 1) == image).all()
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])
    assert read_metadata(path) == {"input": "ä.png"}, "damaged"
    assert read_metadata(_plain_png(tmp_path)) is None


def _plain_png(folder: Path) -> Path:
    Image.new("L", (4, 4)).save(folder / "plain.png")
    return folder / "plain.png"


def test_target_without_weights_is_the_shipped_classifier_of_its_name() -> None:
    """As in the other programs; another name is still an error when it is loaded."""
    assert chosen_classifier(PairSettings(target="mnist-c")) == ClassifierSpec("mnist-c", CLASSIFIERS["mnist-c"])
    assert chosen_classifier(PairSettings(target="mnist-b")) == ClassifierSpec("mnist-b")
    assert chosen_classifier(PairSettings()) is None
