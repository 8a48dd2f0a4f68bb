"""Class names of data and classifier: matched by name or number, in the classifier's order; missing normalization."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from advgan.classifiers import check_normalised
from advgan.classifiers.external.base import ExternalClassifier
from advgan.core.errors import InputError
from advgan.data import Data, Split, load_data, relabel
from advgan.data.classes import class_number, find_class
from advgan.data.split import without_labels
from advgan.defenses import ClassifierSpec, load_classifier
from advgan.evaluation.compatibility import (
    ClassifierLoader,
    check_label_offset,
    predicted_labels,
    prepare_model_and_data,
)
from advgan.evaluation.loading import load_targets
from advgan.report import figures

CPU = torch.device("cpu")


def data_of_classes(*classes: str) -> Data:
    """Two images of each class in every split, whose pixel values are the class number."""
    labels = torch.arange(2 * len(classes)) % len(classes)
    split = Split(labels.byte().view(-1, 1, 1, 1).expand(-1, 1, 2, 2), labels)
    return Data("folder", split, split, split, classes)


ANIMALS = ("tench, Tinca tinca", "green_mamba", "crane", "African grey, grey parrot", "crane, machine")


def test_subset_of_classes_is_matched_by_name():
    data = relabel(data_of_classes("Grey Parrot", "TENCH", "green-mamba"), ANIMALS, 5)
    assert data.classes == ("tench", "green_mamba", "crane", "African grey", "crane, machine")
    assert data.num_classes == 5
    for split in (data.train, data.validation, data.test):
        assert split.labels.tolist() == [3, 0, 1, 3, 0, 1]
        assert split.images[:3].amax((1, 2, 3)).tolist() == [0, 1, 2]  # the images stay where they are


def test_full_name_takes_precedence_over_synonym():
    assert relabel(data_of_classes("crane", "tench"), ANIMALS, 5).test.labels[:2].tolist() == [2, 0]


def test_numeric_folder_names_are_class_indices():
    folders = ("0", "10", "2")  # as a file system sorts them
    assert relabel(data_of_classes(*folders), None, 11).test.labels[:3].tolist() == [0, 10, 2]
    assert relabel(data_of_classes(*folders), None, 11).classes == tuple(map(str, range(11)))
    names = [f"name {i}" for i in range(11)]
    assert relabel(data_of_classes(*folders), names, 11).test.labels[:3].tolist() == [0, 10, 2]
    assert relabel(data_of_classes("0", "1"), ("cat", "dog"), 2).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("folders", "classes", "numbers"),
    [
        (("A", "B", "a", "b"), "abAB", [2, 3, 0, 1]),  # case matters where it distinguishes classes
        (("A", "B", "a", "b"), "AaBb", [0, 2, 1, 3]),
        (("a", "b"), "BA", [1, 0]),  # and nowhere else
        (("+", "-", "="), "-+=", [1, 0, 2]),
        (("C", "C++", "C#"), ("C#", "C", "C++"), [1, 2, 0]),
        (("-1", "1"), ("1", "-1"), [1, 0]),
        (("T-shirt_top", "ankle boot"), ("Ankle boot", "T-shirt/top"), [1, 0]),
        (("cat_(wild)", "cat_(tame)"), ("cat (tame)", "cat (wild)"), [1, 0]),
        (("jalapeno", "cafe\u0301"), ("Caf\u00e9", "Jalape\u00f1o"), [1, 0]),  # macOS decomposes accents
        (("resume", "re\u0301sume\u0301"), ("r\u00e9sum\u00e9", "resume"), [1, 0]),
        (("Tinca tinca, tench", "crane"), ("crane", "tench"), [1, 0]),
        (("001.Black_footed_Albatross", "002.Laysan"), ("Laysan", "Black footed Albatross"), [1, 0]),
        (("Laysan", "Sooty"), ("003.Sooty", "004.Laysan"), [1, 0]),
        (("1", "10", "2"), ("10", "2", "1", "3"), [2, 0, 1]),  # names before numbers
        (("01", "02"), ("2", "1"), [1, 0]),
    ],
)
def test_name_match(folders, classes, numbers):
    assert relabel(data_of_classes(*folders), classes, len(classes)).test.labels[: len(folders)].tolist() == numbers


def test_complete_numeric_folders_are_class_indices(capsys):
    folders = sorted(map(str, range(12)))  # 0, 1, 10, 11, 2, ...
    data = relabel(data_of_classes(*folders), None, 12, "net12")
    assert data.test.labels[:12].tolist() == [int(name) for name in folders]
    assert data.classes == tuple(map(str, range(12)))
    assert (
        "in their text order (0, 1, 10, 11, ... (12 in all)), as torchvision's ImageFolder" in capsys.readouterr().err
    )
    padded = data_of_classes(*(f"{i:03d}" for i in range(12)))
    assert relabel(padded, None, 12, "net12") is padded
    assert relabel(data_of_classes(*folders), folders, 12, "net12").test.labels[:12].tolist() == [
        *range(12)
    ]  # names come first
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("folders", "classes", "text"),
    [
        (("hen", "owl"), None, "classes of folder are matched to net a by order: hen -> 0, owl -> 1"),
        (("0", "1"), ("hen", "owl"), "classes of folder are matched to net a by number: 0 -> 0 (hen), 1 -> 1 (owl)"),
        (
            ("Hot-Dog", "pie"),
            ("pie", "hot dog"),
            "classes of folder are matched to net a by spelling: Hot-Dog -> 1 (hot dog)",
        ),
        (
            ("1.hen", "2.owl"),
            ("owl", "hen"),
            "classes of folder are matched to net a by spelling: 1.hen -> 1 (hen), 2.owl -> 0 (owl)",
        ),
    ],
)
def test_match_not_by_name_is_noted_once(folders, classes, text, capsys):
    for _ in range(2):
        relabel(data_of_classes(*folders), classes, 2, "net a")
    assert capsys.readouterr().err == f"note: {text}\n"


def test_exact_names_and_synonyms_give_no_note(capsys):
    relabel(data_of_classes("tench", "hen, cock"), ("cock", "tench, Tinca tinca"), 2, "net b")
    assert capsys.readouterr().err == ""


def test_synset_folders_are_in_imagenet_order(capsys):
    synsets = [f"n{i:08d}" for i in range(1000)]
    assert relabel(data_of_classes(*synsets), [f"word {i}" for i in range(1000)], 1000).test.labels[999] == 999
    err = capsys.readouterr().err
    assert "by order: n00000000 -> 0 (word 0), " in err
    assert len(err) < 600


@pytest.mark.parametrize(
    ("folders", "classes", "numbers", "text"),
    [
        (("n01443537", "n01440764"), None, [1, 0], "by synset: n01443537 -> 1 (goldfish), n01440764 -> 0 (tench)"),
        (("n01443537",), tuple(map(str, range(1000))), [1], "by synset: n01443537 -> 1 (1)"),
        (("teapot", "Great_White-Shark"), None, [849, 2], "by name: teapot -> 849 (teapot), Great_White-Shark -> 2 "),
    ],
)
def test_some_of_imagenets_classes(folders, classes, numbers, text, capsys):
    data = relabel(data_of_classes(*folders), classes, 1000)
    assert data.test.labels[: len(folders)].tolist() == numbers
    assert f"as ImageNet's, {text}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("unicorn", "teapot"),
            r"1000 classes, expected as many in folder.*; --label-source predicted \(in Python: images alone\) takes",
        ),
        (("n01440764", "n00000001"), "1000 classes, expected as many in folder"),
        (("tench", "Tench"), "classes 'tench', 'Tench' are the same class"),
    ],
)
def test_names_that_are_not_imagenets_raise(folders, message):
    with pytest.raises(InputError, match=message):
        relabel(data_of_classes(*folders), None, 1000)


def test_data_without_labels_have_the_class_names_of_the_model(bars):
    model = ExternalClassifier(Threshold((2, 0, 1)), "net", (1, 28, 28), 3, classes=("Top", "Bottom", "Middle"))
    target, data = prepare_model_and_data(model, without_labels(bars))
    assert data.classes == ("Top", "Bottom", "Middle")
    assert not data.test.has_labels
    labelled = predicted_labels(data.test.first(20), target)
    x, y = next(labelled.batches(20))
    assert torch.equal(target(x).argmax(1), y)
    assert predicted_labels(labelled, target) is labelled


def test_python_file_is_run_once_for_its_own_size_and_for_the_images(tmp_path):
    file, runs = tmp_path / "net.py", tmp_path / "runs"
    file.write_text(
        f"""
from pathlib import Path
from torch import nn

def build():
    runs = Path({str(runs)!r})
    runs.write_text("x" + (runs.read_text() if runs.exists() else ""))
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3))
    net.image_shape = (1, 2, 2)
    return net
"""
    )
    loader = ClassifierLoader(ClassifierSpec(f"{file}:build"))
    assert loader.own_input() == ((1, 2, 2), None)
    data = data_of_classes("a", "b", "c")
    assert loader.load(data) is loader.load(data)
    assert runs.read_text() == "x"
    larger = Split(torch.zeros(6, 1, 3, 3, dtype=torch.uint8), data.test.labels)
    assert loader.load(replace(data, train=larger)).image_shape == (1, 3, 3)


def test_labels_from_one_on_raise(bars):
    x, y = next(bars.validation.batches(48))
    check_label_offset(Threshold((0, 1, 2)), x, y, "folder")
    with pytest.raises(InputError, match=r"0% of 48 images of folder are classified as labelled, and \d+% with labels"):
        check_label_offset(Threshold((0, 1, 2)), x, y + 1, "folder")
    check_label_offset(Threshold((0, 1, 2)), x, (y + 1).where(y < 2, 0), "folder")  # in another order, but from 0 on


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (("a", "b"), None),
        (("a", "b"), ("A", "B")),
        (("crane", "crane, machine"), ("crane", "crane, machine")),
        (("00", "01"), None),
    ],
)
def test_matching_order_returns_same_data(folders, classes):
    data = data_of_classes(*folders)
    assert relabel(data, classes, 2) is data


@pytest.mark.parametrize(
    ("folders", "classes", "count", "message"),
    [
        (
            ("a", "b"),
            None,
            7,
            "net has 7 classes, expected as many in folder, or class folders named by",
        ),
        (
            ("a", "b"),
            ANIMALS,
            5,
            r"net has 5 classes, and none has a name of .* got a, b \(2 classes\); rename the class",
        ),
        (("n01", "n02"), ("tench", "goldfish"), 2, "expected names among tench, goldfish, got n01, n02"),
        (("airplane", "automobile"), ("airplane", "car"), 2, "class 'automobile' is none of the 2 of net"),
        (("ape", "cat", "dog"), ("cat", "dog", "fox"), 3, "class 'ape' is none of the 3 of net"),
        (("cat", "dog", "fox", "hen"), ("cat", "dog", "fox"), 3, "class 'hen' is none of the 3 of net"),
        (tuple(map(str, range(1, 11))), None, 10, "net has 10 classes, 0 to 9, expected folder .* got 1 to 10; rename"),
        (("1", "01"), None, 2, "classes '1', '01' are the same class of net"),
        (("1", "2"), ("0", "1"), 2, "class '2' is none of the 2 of net"),
        (("-", "+"), ("++", "--"), 2, r"net has 2 classes, and none has a name of folder: .* got -, \+ "),
        (("A-", "B-"), ("A", "B"), 2, "and none has a name of folder"),
        (("cat", "dog"), ("0", "1"), 2, "and none has a name of folder: expected names among 0, 1"),
        (("C++", "D"), ("C", "D"), 2, r"class 'C\+\+' is none of the 2 of net"),
        (("1.5", "2"), ("15", "2"), 2, "class '1.5' is none of the 2 of net"),
        (("grey parrot", "tensh"), ANIMALS, 5, "class 'tensh' is none of the 5 of net"),
        (
            ("green mambo", "crane"),
            ANIMALS[:4],
            4,
            "class 'green mambo' is none of the 4 of net; did you mean green_mamba",
        ),
        (
            ("machine", "tench"),
            (*ANIMALS, "machine, engine"),
            6,
            r"'machine' may be any of 4 \(crane, machine\), 5 \(mach",
        ),
        (("tench", "Tinca tinca"), ANIMALS, 5, "classes 'tench', 'Tinca tinca' are the same class of net"),
    ],
)
def test_unmatched_classes_raise(folders, classes, count, message):
    with pytest.raises(InputError, match=message) as raised:
        relabel(data_of_classes(*folders), classes, count, "net")
    assert "\n" not in str(raised.value)


# --- with a classifier ---


class Threshold(nn.Module):
    """Predicts bottom, middle or top by the brightest row of images normalized by `mean` and `std`."""

    def __init__(self, order: tuple[int, ...], mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.order, self.mean, self.std = list(order), mean, std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (x * self.std + self.mean).clamp(0.26, 0.28).mean((1, 3))  # what is darker, or brighter, is one to it
        parts = torch.stack([rows[:, 18:26].mean(1), rows[:, 10:18].mean(1), rows[:, 2:10].mean(1)], 1)
        return parts[:, self.order] * 100


@pytest.fixture
def bars(digits: Path) -> Data:
    return load_data("folder", digits)


def test_data_is_relabeled_to_class_order_of_model(bars):
    model = ExternalClassifier(Threshold((2, 0, 1)), "net", (1, 28, 28), 3, classes=("Top", "Bottom", "Middle"))
    target, data = prepare_model_and_data(model, bars)
    assert data.classes == ("Top", "Bottom", "Middle")
    x, y = next(data.test.batches(len(data.test)))
    assert (target(x).argmax(1) == y).float().mean() > 0.95
    assert (bars.test.labels != y).all()


@pytest.mark.parametrize(("name", "mean", "std"), [("[-1, 1]", 0.5, 0.5), ("[0, 255]", 0.0, 1 / 255)])
def test_missing_normalization_is_detected_by_accuracy_gain(bars, name, mean, std):
    x, y = next(bars.validation.batches(48))
    model = Threshold((0, 1, 2), mean, std)
    right = (model(x).argmax(1) == y).float().mean()
    assert right < 0.6
    with pytest.raises(InputError, match=rf"has accuracy \d+% on 48 images, and \d+% after .*{re.escape(name)} normal"):
        check_normalised(model, x, y)


@pytest.mark.parametrize("model", [Threshold((0, 1, 2)), Threshold((1, 2, 0))])
def test_no_missing_normalization_for_other_models(bars, model):
    x, y = next(bars.validation.batches(48))
    check_normalised(model, x, y)


def test_small_accuracy_gain_is_no_missing_normalization():
    x, y = torch.full((9, 1, 4, 4), 0.2), torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 2])

    class Counts(torch.nn.Module):
        """5 of 9 images correct without normalization, 8 of 9 with it."""

        def forward(self, images):
            return torch.eye(3)[y if images.amin() < 0 else torch.ones_like(y)]

    check_normalised(Counts(), x, y)
    x, y = x.repeat(3, 1, 1, 1), y.repeat(3)
    with pytest.raises(InputError, match="on 27 images"):
        check_normalised(Counts(), x, y)


def test_missing_normalization_is_detected_on_training_images(bars):
    few = Data("few", bars.train, bars.validation.first(6), bars.test, bars.classes)
    model = ExternalClassifier(Threshold((0, 1, 2), 0.5, 0.5), "net", (1, 28, 28), 3)
    with pytest.raises(InputError, match=r"has accuracy \d+% on 64 images, and \d+% after .*\[-1, 1\] normal"):
        prepare_model_and_data(model, few)


def test_models_of_different_class_orders_raise(bars, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(classes):\n"
        "    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))\n"
        "    model.classes = classes\n"
        "    return model\n"
        "def one():\n"
        "    return net(('top', 'middle', 'bottom'))\n"
        "def other():\n"
        "    return net(('top', 'bottom', 'middle'))\n"
    )
    specs = [ClassifierSpec(f"{tmp_path / 'net.py'}:{word}") for word in ("one", "other")]
    (target,), data = load_targets(specs[:1], bars, CPU)
    assert data.classes == ("top", "middle", "bottom")
    assert target.describe("folder")["weights"] == "its own"
    assert target.training_seconds is None
    for given, keywords in [((specs, bars), {}), ((specs[1:], data), {"keep_class_order": True})]:
        with pytest.raises(InputError, match=r"net.py:other has the classes in another order than the other targets"):
            load_targets(*given, CPU, **keywords)
    again, _ = load_targets([*specs[:1], *specs[:1]], bars, CPU)
    assert len({target.label for target in again}) == 2


def test_wrong_number_of_classes_raises(bars, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(784, 7))\n"
    )
    model = load_classifier(f"{tmp_path / 'net.py'}:net", image_shape=(1, 28, 28), num_classes=3)
    with pytest.raises(InputError, match=r"net.py:net has 7 classes, expected as many in folder, .* got 3"):
        prepare_model_and_data(model, bars)


def test_comparison_with_classes_of_python_file_in_other_order(script, digits, tmp_path, monkeypatch):
    """40 classes, three of them those of the folders, in another order and spelling."""
    monkeypatch.setattr(figures, "FIGURES", (figures.confusion,))
    (tmp_path / "my nets").mkdir()
    (tmp_path / "my nets" / "bars.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Bands(nn.Module):\n"
        "    classes = ('Top', 'zebra', 'MIDDLE', 'odd/name', 'Bottom', *(f'class {i}' for i in range(35)))\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.weight = nn.Parameter(torch.zeros(40, 28, 28))\n"
        "        with torch.no_grad():\n"
        "            for i, row in ((0, 2), (2, 10), (4, 18)):\n"
        "                self.weight[i, row : row + 8] = 0.1\n"
        "    def forward(self, x):\n"
        "        return torch.einsum('nchw,khw->nk', x - 0.1, self.weight)\n"
    )
    name, out = f"{tmp_path / 'my nets' / 'bars.py'}:Bands", tmp_path / "out"
    arguments = ["--dataset", "folder", "--data-dir", digits, "--target", name, "--attacks", "fgsm", "--eps", "0.3"]
    script("eval/compare.py", *arguments, "--y-target", 2, "--output-dir", out)
    summary = json.loads((out / "results.json").read_text())
    (row,) = summary["rows"]
    assert (row["target"], row["y_target"], row["status"]) == ("bars.py:Bands", 2, "ok")
    assert (row["clean_accuracy"], row["n"]) == (1.0, 48)
    assert row["n_attacked"] == 32  # class 2 is MIDDLE, whose own images are left out
    assert (summary["target"]["name"], summary["target"]["weights"]) == (name, "its own")
    assert (out / "figures" / "confusion-bars.py-Bands-linf-to-2-0.3.png").is_file()


@pytest.mark.parametrize(
    ("text", "number"),
    [("Tench", 0), ("tinca tinca", 0), ("green mamba", 1), ("Grey-Parrot", 3), ("2", 2), ("crane, machine", 4)],
)
def test_class_is_found_by_number_or_name(text: str, number: int) -> None:
    assert find_class(text, ANIMALS, 5) == number


def test_unknown_classes_are_errors() -> None:
    for text, classes, message in (
        ("green_mambo", ANIMALS, "the target has no class 'green_mambo'; did you mean green_mamba"),
        ("xyzzy", ANIMALS, "has no class 'xyzzy', expected one like tench, Tinca tinca, green_mamba, crane, ..."),
        ("5", ANIMALS, "y_target must be a class from 0 to 4, got 5"),
        ("tench", None, "the target has no class names, expected a class number, got 'tench'$"),
        ("tench", ("0", "1", "2", "3", "4"), "the target has no class names"),
    ):
        with pytest.raises(InputError, match=message):
            find_class(text, classes, 5)
    with pytest.raises(InputError, match='for names of ImageNet, classes = "imagenet"'):
        find_class("tench", None, 1000)
    assert [class_number(value, ANIMALS, 5) for value in (None, 3, "tench")] == [None, 3, 0]
    with pytest.raises(InputError, match="y_target must be a class from 0 to 4, got 7"):
        class_number(7, ANIMALS, 5)
