"""Hugging Face data sets: supported layouts, columns, splits and classes, and error messages."""

import io
import json
import math
import os
import tarfile
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advgan.core.config import parse
from advgan.core.errors import InputError
from advgan.data import Data, Split, Stream, load_data, training_batches
from advgan.data.columns import Columns, find_classes, find_column, plain_label, read_classes
from advgan.data.shards import describe_damage
from tests.cli.test_image_files import bomb, encoded
from tests.conftest import program_module
from tests.data.test_data import all_images, check_triple, write_folder

os.environ["HF_HUB_OFFLINE"] = "1"
pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets", reason="the extra 'hf' is not installed")

PIXELS = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
NAMES = ["cat", "dog"]
PNG = [encoded(Image.fromarray(pixels)) for pixels in PIXELS]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the library, without progress bars and network."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    return folder


def table(places: Sequence[int], label: Any = None, names: tuple[str, str] = ("image", "label")) -> Any:
    """Images at `places` of PIXELS; even ones are cats, odd ones dogs."""
    features = datasets.Features({names[0]: datasets.Image(), names[1]: label or datasets.ClassLabel(names=NAMES)})
    cells = [{"bytes": PNG[i], "path": f"{i}.png"} for i in places]
    labels = [NAMES[i % 2] if getattr(label, "dtype", "") == "string" else i % 2 for i in places]
    return datasets.Dataset.from_dict({names[0]: cells, names[1]: labels}, features=features)


def write_parquet(root: Path, shards: dict[str, int], per_shard: int = 10, **options: Any) -> Path:
    """`each` images per shard, numbered across all shards of all splits."""
    root.mkdir(exist_ok=True, parents=True)
    n = 0
    for split, many in shards.items():
        for i in range(many):
            table(range(n, n + per_shard), **options).to_parquet(root / f"{split}-{i:05d}-of-{many:05d}.parquet")
            n += per_shard
    return root


def write_tars(
    root: Path,
    shards: dict[str, int],
    per_shard: int = 10,
    label: str = "cls",
    key: Callable[[int], str] = "{:06d}".format,
) -> Path:
    root.mkdir(exist_ok=True, parents=True)
    n = 0
    for split, many in shards.items():
        for shard in range(many):
            with tarfile.open(root / f"{split}-{shard:03d}.tar", "w") as archive:
                for i in range(n, n + per_shard):
                    for ending, data in (
                        ("png", PNG[i]),
                        (label, (NAMES[i % 2] if label == "txt" else str(i % 2)).encode()),
                    ):
                        info = tarfile.TarInfo(f"{key(i)}.{ending}")
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
            n += per_shard
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def positions_of(split: Split) -> list[int]:
    """Positions in PIXELS of the images of a split; their labels are checked."""
    where = {pixels.tobytes(): i for i, pixels in enumerate(PIXELS)}
    x, y = all_images(split)
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    places = [where[image.tobytes()] for image in pixels]
    assert y.tolist() == [place % 2 for place in places]
    return places


def check_positions(data: Data, train: Sequence[int], validation: Sequence[int], test: Sequence[int]) -> None:
    assert data.classes == ("cat", "dog")
    for split, expected in ((data.train, train), (data.validation, validation), (data.test, test)):
        split = split.first(1000) if isinstance(split, Stream) else split
        assert sorted(positions_of(split)) == [*expected]


THREE = {"train": 2, "validation": 1, "test": 1}


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_parquet_and_tar_on_disk_and_streamed(
    write: Callable[..., Path], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "shards", THREE)
    for data in (load_data(f"{kind}:{root}"), load_data(kind, root)):
        check_positions(data, range(20), range(20, 30), range(30, 40))
        assert data.image_shape == (3, 8, 8)
    if kind == "hf":
        check_triple(data, (3, 8, 8), (20, 10, 10))
        assert data.train.labels.view(10, 2).sum(1).tolist() == [1] * 10  # the classes alternate
    assert capsys.readouterr().err == ""  # nothing had to be held out


def test_saved_sets_and_image_folders(tmp_path: Path) -> None:
    sets = {"train": table(range(20)), "val": table(range(20, 30)), "test": table(range(30, 40))}
    datasets.DatasetDict(sets).save_to_disk(tmp_path / "saved")
    check_positions(load_data(f"hf:{tmp_path / 'saved'}"), range(20), range(20, 30), range(30, 40))
    write_folder(tmp_path / "folders", n=6)
    ours, theirs = load_data("folder", tmp_path / "folders"), load_data(f"hf:{tmp_path / 'folders'}")
    assert theirs.classes == ours.classes
    assert torch.equal(theirs.test.images, ours.test.images)
    assert load_data("hf-stream", tmp_path / "folders").train.first(99).labels.bincount().tolist() == [
        5,
        5,
    ]  # two are held out
    with pytest.raises(
        InputError, match="was saved by save_to_disk, which cannot be streamed: expected hf: in place of hf-stream:"
    ):
        load_data("hf-stream", tmp_path / "saved")


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_validation_becomes_test_and_a_tenth_is_held_out(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_parquet(tmp_path, {"train": 4, "validation": 1})
    one, again, other = (load_data(kind, root, seed=seed) for seed in (0, 0, 1))
    notes = capsys.readouterr().err.splitlines()[:2]
    assert notes == [
        f"note: {kind} has no labelled test images: its validation images are used as test images",
        f"note: {kind}: a tenth of the training images is held out for validation",
    ]
    parts = [
        [sorted(positions_of(s.first(99))) for s in (data.train, data.validation, data.test)]
        for data in (one, again, other)
    ]
    assert parts[0] == parts[1]
    assert parts[0][1] != parts[2][1]
    for train, validation, test in parts:
        assert sorted(train + validation) == [*range(40)]
        assert len(validation) == 4
        assert test == [*range(40, 50)]


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_train_split_alone_is_divided(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = load_data(kind, write_tars(tmp_path / "alone", {"train": 3}))
    parts = [positions_of(split.first(99)) for split in (data.train, data.validation, data.test)]
    assert sorted(chain(*parts)) == [*range(30)]
    assert min(map(len, parts)) >= 2
    assert "a tenth of the training images is held out as test images" in capsys.readouterr().err
    if kind == "hf":
        unknown = table(range(30, 40)).map(lambda row: {"label": -1})
        datasets.DatasetDict({"train": table(range(30)), "test": unknown}).save_to_disk(tmp_path / "saved")
        data = load_data("hf", tmp_path / "saved")
        assert sorted(chain(*map(positions_of, (data.train, data.validation, data.test)))) == [*range(30)]


def test_label_types(tmp_path: Path) -> None:
    text, number = datasets.Value("string"), datasets.Value("int64")
    assert load_data("hf", write_parquet(tmp_path / "texts", THREE, label=text)).classes == ("cat", "dog")
    data = load_data("hf", write_parquet(tmp_path / "numbers", THREE, label=number))
    assert data.classes == ("0", "1")
    check_positions(
        load_data("hf-stream", write_tars(tmp_path / "txt", THREE, label="cls")),
        range(20),
        range(20, 30),
        range(30, 40),
    )
    with pytest.raises(InputError, match=r"has no list of classes.*ClassLabel, or a file classes\.txt"):
        load_data("hf-stream", tmp_path / "numbers")
    (tmp_path / "numbers" / "classes.txt").write_text("cat\ndog\n")
    assert load_data("hf-stream", tmp_path / "numbers").classes == ("cat", "dog")
    assert load_data("hf", tmp_path / "numbers").classes == ("cat", "dog")


def test_columns_are_found_by_name_or_type(tmp_path: Path) -> None:
    features = table(range(2), names=("photo", "species")).features
    named = features | {"img": datasets.Value("binary"), "cls": datasets.Value("int64")}
    for columns, images, labels in ((features, "photo", "species"), (named, "img", "cls")):
        assert (find_column("images", columns, "pets"), find_column("labels", columns, "pets")) == (images, labels)
    write_parquet(tmp_path, {"train": 1}, names=("photo", "words"), label=datasets.Value("string"))
    message = (
        r"has no column of labels: expected label, labels, cls, or type ClassLabel, or --label-column, "
        r"or --label-source predicted, got photo, words"
    )
    with pytest.raises(InputError, match=message):
        load_data("hf", tmp_path)
    with pytest.raises(InputError, match=r"has no column of images: expected image, img, .*, got text, label"):
        find_column("images", {"text": datasets.Value("string"), "label": datasets.Value("int64")}, "reviews")


def test_find_classes_and_errors() -> None:
    with pytest.raises(InputError, match=r"whole numbers or names expected, got "):
        find_classes([None], None, [1, "cat"], "x")
    with pytest.raises(InputError, match="at least two classes expected, x has 0"):
        find_classes([None], None, [0, 0], "x")
    with pytest.raises(InputError, match="labels below 100000 expected, got 1000000000"):
        find_classes([None], None, [0, 10**9], "x")
    assert find_classes([None, ("dog", "cat"), ("cat", "ape")], None, None, "x") == ("dog", "cat", "ape")
    assert find_classes([("0", "1", "10", "2")], None, None, "x") == ("0", "1", "2", "10")
    assert find_classes([None], None, ["10", "9", None], "x") == ("9", "10")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3),
        ([3], 3),
        (np.int32(3), 3),
        (np.array([3]), 3),
        (True, 1),
        (2.0, 2),
        ("ox", "ox"),
        (["ox"], "ox"),
        (b"ox\n", "ox"),
    ],
)
def test_plain_label_types(value: Any, expected: int | str) -> None:
    label = plain_label(value, None, "row 3")
    assert label == expected
    assert type(label) is type(expected)
    assert plain_label(2, ("cat", "dog", "ox"), "row 3") == "ox"


@pytest.mark.parametrize("value", [None, "", " ", "NaN", b"", math.nan, np.float32("nan"), [""]])
def test_empty_text_and_nan_are_missing_labels(value: Any) -> None:
    assert plain_label(value, None, "row 3") is None


@pytest.mark.parametrize(
    "value", [[1, 2], [], {"id": 1}, 1.5, np.float32(0.5), math.inf, np.array([1, 2]), [[1]], [None, 1]]
)
def test_invalid_label_raises(value: Any) -> None:
    with pytest.raises(InputError, match="row 3: a label is a whole number or a name, alone or in a list of one, got"):
        plain_label(value, None, "row 3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\n\x80\n", r"is not UTF-8 \(byte 0\): expected one class name a line"),
        (b"cat\ndog\ncat\n", "has 'cat' in lines 1 and 3: expected each class once"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"x" * (17 << 20), "cannot read .*: at most 16,777,216 bytes expected, got 17,825,792"),
        (None, "cannot read .*: a regular file expected, got a device or pipe"),
    ],
)
def test_invalid_class_file_raises(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is None:
        os.mkfifo(tmp_path / "classes.txt")
    else:
        (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_classes(tmp_path / "classes.txt")


def test_class_file_with_bom_and_crlf(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("\ufeffcat\r\nzebra finch \r\n\r\n".encode())
    assert read_classes(tmp_path / "classes.txt") == ("cat", "zebra finch")


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    fine, coarse = datasets.ClassLabel(names=NAMES), datasets.ClassLabel(names=["x", "y", "z"])
    rows = table(range(20)).rename_column("label", "fine_label").cast_column("fine_label", fine)
    both = rows.add_column("coarse_label", [2] * 20).cast_column("coarse_label", coarse)
    both.to_parquet(tmp_path / "train-0.parquet")
    both.to_parquet(tmp_path / "test-0.parquet")
    for kind in ("hf", "hf-stream"):
        with pytest.raises(InputError, match=r"several columns of labels: .* got fine_label, coarse_label"):
            load_data(kind, tmp_path)
        with pytest.raises(InputError, match=r"has no column 'fine_labl' .* did you mean fine_label"):
            load_data(kind, tmp_path, label_column="fine_labl")
        data = load_data(kind, tmp_path, label_column="fine_label", image_column="image")
        assert data.classes == ("cat", "dog")
        positions_of(data.test.first(99))
    assert load_data("hf", tmp_path, label_column="coarse_label").test.labels.tolist() == [2] * 20
    write_folder(tmp_path / "folders")
    with pytest.raises(InputError, match="columns can be chosen for hf, hf-stream and CSV files, got a folder without"):
        load_data("folder", tmp_path / "folders", label_column="fine_label")


@pytest.mark.parametrize("parts", [("train", "test"), ("train/more", "train/other", "test"), ("train",), ("photos",)])
def test_image_folders_without_classes_have_no_labels(parts: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in parts:
        (tmp_path / part).mkdir(parents=True)
        for i in range(12):
            name = f"{part.replace('/', '-')}-{i}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / part / name)
    data = load_data("hf", tmp_path)
    assert (data.classes, data.train.has_labels, data.test.has_labels) == ((), False, False)
    assert len(data.train) + len(data.validation) + len(data.test) == 12 * len(parts)
    with pytest.raises(InputError, match="has no labels, which a stream needs: expected hf: in place of hf-stream:"):
        load_data("hf-stream", tmp_path)


@pytest.mark.parametrize("column", ["label", "Labels", "fine"])
def test_labels_in_metadata_of_an_image_folder(column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / part / f"{i}.png")
        rows = [f'{{"file_name": "{i}.png", "{column}": {i % 2}, "n": 0}}\n' for i in range(12)]
        (tmp_path / part / "metadata.jsonl").write_text("".join(rows))
    data, named = load_data("hf", tmp_path), column != "fine"
    assert (data.test.has_labels, data.classes) == (named, ("0", "1") if named else ())
    assert named != (
        f"has no column of labels: expected label, labels, cls, or --label-column, got {column}, n"
        in (capsys.readouterr().err)
    )
    assert load_data("hf", tmp_path, label_column=column).test.has_labels
    load_data("folder", tmp_path)
    assert "metadata.jsonl is not read: --dataset hf gives the images its labels" in capsys.readouterr().err


def test_labels_of_a_table_can_be_left_out(tmp_path: Path) -> None:
    data = load_data("hf", write_parquet(tmp_path, THREE), label_source="predicted")
    assert (data.classes, len(data.train), len(data.test), data.test.has_labels) == ((), 20, 10, False)


def renamed(places: Sequence[int], names: list[str]) -> Any:
    """The rows of `table`, with class names in another order and matching numbers."""
    rows = table(places)
    labels = [names.index(NAMES[label]) for label in rows["label"]]
    return (
        rows.remove_columns("label").add_column("label", labels).cast_column("label", datasets.ClassLabel(names=names))
    )


@pytest.mark.parametrize("form", ["saved", "hf", "hf-stream"])
def test_class_numbers_of_splits_are_mapped_by_name(form: str, tmp_path: Path) -> None:
    parts = {
        "train-0": renamed(range(10), ["cat", "dog"]),
        "train-1": renamed(range(10, 20), ["ape", "dog", "cat"]),
        "test-0": renamed(range(20, 30), ["dog", "cat"]),
        "valid-0": renamed(range(30, 40), ["dog", "owl", "cat"]),
    }
    if form == "saved":
        sets = {name.removesuffix("-0"): part for name, part in parts.items() if name != "train-1"}
        datasets.DatasetDict(sets).save_to_disk(tmp_path / "d")
    else:
        for name, part in parts.items():
            part.to_parquet(tmp_path / "d" / f"{name}.parquet")
    data = load_data(form if form == "hf-stream" else "hf", tmp_path / "d")
    assert data.classes == ("cat", "dog", "ape")[: 2 if form == "saved" else 3]
    for split, places in ((data.validation, range(30, 40)), (data.test, range(20, 30))):
        assert sorted(positions_of(split.first(99))) == [*places]
    assert sorted(positions_of(data.train.first(99))) == [*range(10 if form == "saved" else 20)]


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_label_types_differ_between_splits(kind: str, tmp_path: Path) -> None:
    text = datasets.Value("string")
    for part, first, second in (("names last", None, text), ("names first", text, None)):
        table(range(10), label=first).to_parquet(tmp_path / part / "train-0.parquet")
        table(range(10, 20), label=second).to_parquet(tmp_path / part / "test-0.parquet")
    positions_of(load_data(kind, tmp_path / "names last").test.first(9))
    with pytest.raises(InputError, match=r"column label is int64 in .*test-0.parquet and string in others|cannot load"):
        load_data(kind, tmp_path / "names first")
    for i, label in enumerate((datasets.Value("int64"), text)):
        table(range(10 * i, 10 * i + 10), label=label).to_parquet(tmp_path / "numbers" / f"train-{i}.parquet")
    with pytest.raises(
        InputError, match=r"column label is string in .*train-1.parquet and int64 in others|cannot load"
    ):
        load_data(kind, tmp_path / "numbers")
    cells = [[{"bytes": PNG[i], "path": None} for i in range(4)], [0, 1, 0, 1], [0, 1, 0, 1]]
    (tmp_path / "twice").mkdir()
    twice = pa.table([pa.array(cell) for cell in cells], ["image", "label", "label"])
    pq.write_table(twice, tmp_path / "twice" / "train.parquet")
    with pytest.raises(InputError, match=r"column label is there twice in .*train.parquet|cannot load"):
        load_data(kind, tmp_path / "twice")


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_class_missing_in_training_raises(kind: str, tmp_path: Path) -> None:
    table(range(10)).to_parquet(tmp_path / "train-0.parquet")
    rows = table(range(10)).cast_column("label", datasets.ClassLabel(names=["cat", "owl"]))
    rows.to_parquet(tmp_path / "test-0.parquet")
    with pytest.raises(InputError, match=r"a label expected in column label, one of 0 to 1, or cat to dog, got 'owl'"):
        load_data(kind, tmp_path).test.first(9)


@pytest.mark.parametrize(
    ("label", "values"), [(datasets.List(datasets.Value("int64")), [[0], [1]]), (datasets.Value("bool"), [False, True])]
)
def test_list_and_bool_labels(label: Any, values: list[Any], tmp_path: Path) -> None:
    rows = table(range(20)).remove_columns("label").add_column("label", [values[i % 2] for i in range(20)])
    datasets.DatasetDict(train=rows.cast_column("label", label), test=rows.cast_column("label", label)).save_to_disk(
        tmp_path
    )
    data = load_data("hf", tmp_path)
    assert data.classes == ("0", "1")
    positions_of(data.train)


def test_ambiguous_splits_raise_and_unused_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = {"train": table(range(20)), "valid": table(range(20, 24)), "extra": table(range(24, 28))}
    datasets.DatasetDict(sets).save_to_disk(tmp_path / "one")
    assert len(load_data("hf", tmp_path / "one").test) == 4
    assert "note: splits of hf that are not used: extra" in capsys.readouterr().err
    datasets.DatasetDict(sets | {"val": table(range(28, 30))}).save_to_disk(tmp_path / "two")
    with pytest.raises(InputError, match="hf has two splits for validation, valid and val: expected one"):
        load_data("hf", tmp_path / "two")


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_image_folder_links_and_special_files(kind: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "d", n=6)
    (root / "train" / "cat" / "@eaDir").mkdir()
    (root / "train" / "cat" / "@eaDir" / "00.png").write_bytes(b"no image")
    os.link(root / "train" / "cat" / "00.png", root / "train" / "cat" / "again.png")
    data = load_data(kind, root)
    assert data.classes == ("cat", "dog")
    assert len(data.train.first(99)) + len(data.validation.first(99)) == 12
    os.link(root / "train" / "cat" / "00.png", root / "test" / "cat" / "leak.png")
    with pytest.raises(InputError, match=r"has one file in train and test, expected it in one: .*00.png and .*leak"):
        load_data(kind, root)
    for what, make in (("a link that leads back into", lambda path: os.symlink("..", path)), ("no regular", os.mkfifo)):
        make(root / "train" / "x.png")
        with pytest.raises(InputError, match=rf"train/x.png is {what}"):
            load_data(kind, root)
        (root / "train" / "x.png").unlink()


@pytest.mark.parametrize("value", [7, -1, None, "bird"])
def test_out_of_range_label_raises(value: Any) -> None:
    columns = Columns("pets", "image", "label", ("cat", "dog"), paths=False)
    assert [columns.number(good, "row 3") for good in (0, 1, "cat", "dog")] == [0, 1, 0, 1]
    assert columns.number(1, "row 3", ("dog", "cat")) == 0
    assert columns.number("1", "row 3") == 1
    with pytest.raises(InputError, match="one of 0 to 1, or 10 to 20, got '1'"):
        Columns("pets", "image", "label", ("10", "20"), paths=False).number("1", "row 3")
    with pytest.raises(InputError, match=rf"row 3: a label expected in column label, one of 0 to 1, .* got {value!r}"):
        columns.number(value, "row 3")


def test_size_and_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_parquet(tmp_path, THREE)
    for kind in ("hf", "hf-stream"):
        assert load_data(kind, root, image_size=4, channels=1).image_shape == (1, 4, 4)
    small = load_data("hf", root, image_size=6)
    monkeypatch.setattr("advgan.data.image_io.MEMORY_LIMIT", 0)
    stored = load_data("hf", root, image_size=6)
    assert small.train.in_memory
    assert not stored.train.in_memory
    steps = {"batch_size": 6, "seed": 0, "last": 5}
    for (x, y), (x_expected, y_expected) in zip(
        training_batches(stored.train, **steps, workers=1), training_batches(small.train, **steps), strict=True
    ):
        assert torch.equal(x, x_expected)
        assert torch.equal(y, y_expected)


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_ranks_and_workers_share_batches_of_real_shards(write: Callable[..., Path], tmp_path: Path) -> None:
    """Inside DataLoader workers the library would split each shard once more and lose three quarters of the images."""
    split = load_data("hf-stream", write(tmp_path / "shards", {"train": 4, "test": 1})).train

    def seen(**share: int) -> list[list[int]]:
        return [
            positions_of(Split((x * 255).round().to(torch.uint8), y))
            for x, y in training_batches(split, 8, seed=1, last=7, **share)
        ]

    whole = seen()
    halves = seen(rank=0, world=2, workers=2), seen(rank=1, world=2, workers=2)
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    assert len(set(chain(*whole))) == 36  # an epoch and a half: all of them, but for those held out


# What is broken, and what is meant to harm


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
@pytest.mark.parametrize(
    ("ruin", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "unexpected end of data|truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[: 4 * 512]), "no end-of-archive mark"),
        (lambda path: flip(path, 4 * 512 + 3), "damaged at byte 2048, no end-of-archive mark"),
        (lambda path: flip(path, 3), "header|checksum"),
        (lambda path: path.write_bytes(b""), "empty"),
    ],
    ids=["cut in a image", "cut between two", "a bit of a name", "a bit of the first name", "empty"],
)
def test_damaged_tar_shard_raises(kind: str, ruin: Callable[[Path], Any], reason: str, tmp_path: Path) -> None:
    """tarfile, and so the library, reads most of these as a shorter archive."""
    root = write_tars(tmp_path / "tars", THREE)
    ruin(root / "train-001.tar")
    with pytest.raises(InputError, match=rf"damaged shard, .*train-001\.tar: .*({reason})") as caught:
        list(training_batches(load_data(kind, root).train, 10, seed=0, last=4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
@pytest.mark.parametrize(
    ("which", "ruin"),
    [
        ("train-00000-of-00002", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("train-00001-of-00002", lambda path: path.write_bytes(path.read_bytes()[:-100])),
        ("train-00001-of-00002", lambda path: flip(path, -6)),
    ],
    ids=["the first, cut", "the second, cut", "a flipped bit"],
)
def test_damaged_parquet_file_raises(kind: str, which: str, ruin: Callable[[Path], Any], tmp_path: Path) -> None:
    root = write_parquet(tmp_path / "tables", THREE)
    ruin(root / f"{which}.parquet")
    with pytest.raises(InputError, match=rf"damaged shard, .*{which}\.parquet: ") as caught:
        list(training_batches(load_data(kind, root).train, 10, seed=0, last=4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
@pytest.mark.parametrize(
    "bad", [bomb(60_000, 60_000), PNG[7][:-40], PNG[7][:60] + b"?" + PNG[7][61:]], ids=["bomb", "cut", "flipped"]
)
def test_broken_image_in_shard_raises(bad: bytes, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PNG", [*PNG[:7], bad, *PNG[8:]])
    root = write_tars(tmp_path / "tars", THREE)
    with pytest.raises(InputError, match=r"cannot be read: .*'000007\.png' \(the first: "):
        list(training_batches(load_data(kind, root).train, 10, seed=0, last=4))


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_archive_names_are_never_written_to_disk(kind: str, tmp_path: Path, cache: Path) -> None:
    root = write_tars(tmp_path / "tars", THREE, key="../../evil/{:06d}".format)
    before = {path for path in tmp_path.parent.rglob("*") if cache not in path.parents}
    check_positions(load_data(kind, root), range(20), range(20, 30), range(30, 40))
    assert {path for path in tmp_path.parent.rglob("*") if cache not in path.parents} == before
    assert not [path for path in cache.rglob("*") if "evil" in path.name or path.suffix == ".png"]


@pytest.mark.parametrize("kind", ["hf", "hf-stream"])
def test_table_cannot_reference_local_files(kind: str, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(PNG[0])
    cells = pa.array([{"bytes": None, "path": str(tmp_path / "secret.png")}] * 20)
    rows = pa.table({"image": cells, "label": pa.array([0, 1] * 10)}).cast(table([0]).features.arrow_schema)
    (tmp_path / "tables").mkdir()
    pq.write_table(rows, tmp_path / "tables" / "train.parquet")
    with pytest.raises(InputError, match=r"an image's bytes expected in column image, got {'bytes': None, 'path': "):
        load_data(kind, tmp_path / "tables")


def test_names_in_the_place_of_class_numbers_have_a_hint(tmp_path: Path) -> None:
    write_tars(tmp_path / "a", {"train": 1}, label="txt")
    with tarfile.open(tmp_path / "a" / "train-000.tar", "w") as archive:
        info = tarfile.TarInfo("0.cls")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"cat"))
    with pytest.raises(InputError, match=r"labels that are names belong in .txt files, with --label-column txt"):
        load_data("hf", tmp_path / "a")


def test_invalid_sources_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot load hf:nobody/nothing, expected a folder or a repository .*: \w+: "):
        load_data("hf:nobody/nothing")
    with pytest.raises(InputError, match="cannot load hf, expected a folder or a repository"):
        load_data("hf", tmp_path)
    with pytest.raises(InputError, match="hf has no training images: expected a split called train, got test"):
        load_data("hf", write_parquet(tmp_path / "tables", {"test": 1}))
    with pytest.raises(InputError, match="unknown data set 'mnist:x', expected one of"):
        load_data("mnist:x")


def test_missing_package_names_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match=r"datasets is not installed, expected it here: pip install 'advgan\[hf\]'"):
        load_data("hf:anything")


def test_no_damage_in_valid_files(tmp_path: Path) -> None:
    paths = [
        *write_tars(tmp_path / "a", {"train": 1}).iterdir(),
        *write_parquet(tmp_path / "b", {"train": 1}).iterdir(),
    ]
    assert [describe_damage(str(path)) for path in [*paths, tmp_path / "absent.tar"]] == [None] * 4


# The programs


@pytest.fixture(scope="module")
def shards(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bars of `digits` as shuffled tar shards."""
    root, classes = tmp_path_factory.mktemp("shards"), sorted(path.name for path in (digits / "train").iterdir())
    (root / "classes.txt").write_text("\n".join(classes))
    for split, many in (("train", 4), ("val", 2), ("test", 2)):
        paths = sorted((digits / split).rglob("*.png"))
        order = np.random.default_rng(0).permutation(len(paths))
        for shard in range(many):
            with tarfile.open(root / f"{split}-{shard:03d}.tar", "w") as archive:
                for i in order[shard::many]:
                    label = str(classes.index(paths[i].parent.name)).encode()
                    info = tarfile.TarInfo(f"{i:04d}.cls")
                    info.size = len(label)
                    archive.addfile(info, io.BytesIO(label))
                    archive.add(paths[i], f"{i:04d}.png")
    return root


def call(program: str, *arguments: object) -> None:
    """Runs a program in this process."""
    module = program_module(program)
    module.main(parse(module.Settings, [*map(str, arguments)]))


NO_LENGTH = (
    r"hf-stream:\S+ is a stream, which has no length: expected --max-steps to train on it, --max-samples to evaluate"
)


def trained(shards: Path, world: int) -> torch.Tensor:
    """Weights of a linear classifier after 12 steps on a stream shared by `world` processes, all run in this one."""
    weights = torch.zeros(3, 28 * 28, requires_grad=True)
    given = {"seed": 3, "last": 12, "world": world, "workers": world - 1}
    shares = [training_batches(load_data(f"hf-stream:{shards}").train, 16, rank=rank, **given) for rank in range(world)]
    for batches in zip(*shares, strict=True):
        losses = [torch.nn.functional.cross_entropy(x.flatten(1) @ weights.T, y) for x, y in batches]
        (gradient,) = torch.autograd.grad(sum(losses) / world, weights)
        with torch.no_grad():
            weights -= 0.1 * gradient
    return weights.detach()


def test_stream_training_is_independent_of_number_of_processes(shards: Path) -> None:
    one, two = trained(shards, 1), trained(shards, 2)
    assert one.abs().max() > 0.01
    torch.testing.assert_close(two, one, atol=1e-6, rtol=1e-5)


def test_advgan_program_on_stream(shards: Path, classifier: Path, tmp_path: Path) -> None:
    arguments = ["--dataset", f"hf-stream:{shards}", "--target", "mnist-small", "--target-weights", classifier]
    arguments += ["--width", 8, "--depth", 1, "--batch-size", 20, "--threads", 1, "--validation-images", 30]
    with pytest.raises(InputError, match=NO_LENGTH):
        call("train/advgan.py", *arguments, "--output-dir", tmp_path / "none")
    call("train/advgan.py", *arguments, "--max-steps", 4, "--output-dir", tmp_path / "run")
    (judged,) = json.loads((tmp_path / "run" / "training.json").read_text())["history"]
    assert (judged["step"], judged["n"]) == (4, 30)
    assert (tmp_path / "run" / "generator" / "model.safetensors").is_file()


@pytest.mark.usefixtures("undrawn")
def test_classifier_and_compare_programs_on_stream(shards: Path, tmp_path: Path) -> None:
    arguments = ["--dataset", f"hf-stream:{shards}", "--target", "mnist-small", "--threads", 1]
    training = ["--max-steps", 20, "--batch-size", 20, "--shift", 0, "--output-dir", tmp_path]
    call("train/classifier.py", *arguments, *training)
    card = (tmp_path / "classifier" / "README.md").read_text()
    assert "accuracy, test (48 images, seen once)" in card
    assert f"streamed images of hf-stream:{shards}, classes bottom, middle, top" in card
    arguments += ["--target-weights", tmp_path, "--attacks", "fgsm", "--output-dir", tmp_path / "compared"]
    with pytest.raises(InputError, match=NO_LENGTH):
        call("eval/compare.py", *arguments)
    call("eval/compare.py", *arguments, "--max-samples", 40)
    (row,) = json.loads((tmp_path / "compared" / "results.json").read_text())["rows"]
    assert (row["n"], row["status"]) == (40, "ok")
    assert row["clean_accuracy"] > 0.8
