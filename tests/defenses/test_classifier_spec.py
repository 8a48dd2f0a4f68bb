"""A classifier in one string: NAME@WEIGHTS+DEFENSE."""

from pathlib import Path

import pytest
import torch

import advgan
from advgan.classifiers import build_target, fingerprint, save_target
from advgan.core.errors import InputError
from advgan.core.recipe import convert_paths
from advgan.defenses import ClassifierSpec, defend, load_classifier, parse_classifier, parse_classifiers
from advgan.training.program import Settings


@pytest.mark.parametrize(
    ("text", "name", "weights", "defense"),
    [
        ("mnist-c", "mnist-c", None, None),
        ("mnist-c@runs/a", "mnist-c", "runs/a", None),
        ("mnist-c@runs/a@b", "mnist-c", "runs/a@b", None),
        ("mnist-c@w.pth:by-order+median", "mnist-c", "w.pth:by-order", "median"),
        ("mnist-c+jpeg:quality=75", "mnist-c", None, "jpeg:quality=75"),
        ("mnist-c@runs/a+jpeg:quality=75+median", "mnist-c", "runs/a", "jpeg:quality=75+median"),
        ("mnist-c+vote:members=a@b,c+median", "mnist-c", None, "vote:members=a@b,c+median"),
        ("torchvision:resnet18:DEFAULT+bit-depth:bits=3", "torchvision:resnet18:DEFAULT", None, "bit-depth:bits=3"),
        ("torchvision:resnet18@w.pth+median", "torchvision:resnet18", "w.pth", "median"),
        ("net.py:make@w.pth+median", "net.py:make", "w.pth", "median"),
        ("hf:org/model+median", "hf:org/model", None, "median"),
        ("timm:resnet18@w.pth", "timm:resnet18", "w.pth", None),
        ("timm:hf-hub:org/model@revision", "timm:hf-hub:org/model@revision", None, None),
        ("http://user@host/a+b", "http://user@host/a+b", None, None),
        ("http://user@host/a+b+median", "http://user@host/a+b", None, "median"),
        ("net.onnx#output=z+median", "net.onnx#output=z", None, "median"),
    ],
)
def test_string_splits_into_name_weights_and_defense(
    text: str, name: str, weights: str | None, defense: str | None
) -> None:
    assert parse_classifier(text) == ClassifierSpec(name, None if weights is None else Path(weights), defense)


def test_existing_path_is_never_split(tmp_path: Path) -> None:
    for folder in ("a+median", "b@c", "d"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a+median.py").write_text("")
    for text in ("a+median", "b@c", "a+median.py:make", "hf:a+median"):
        prefix, place = text.rpartition("hf:")[1:]
        path = f"{prefix}{tmp_path / place}"
        assert parse_classifier(path) == ClassifierSpec(path)
        assert parse_classifier(f"{path}+median") == ClassifierSpec(path, None, "median")
    weights = tmp_path / "a+median"
    assert parse_classifier(f"mnist-c@{weights}") == ClassifierSpec("mnist-c", weights)
    assert parse_classifier(f"mnist-c@{weights}+median") == ClassifierSpec("mnist-c", weights, "median")
    assert parse_classifier(f"timm:hf-hub:org/m@v@{weights}") == ClassifierSpec("timm:hf-hub:org/m@v", weights)
    assert parse_classifier(f"{tmp_path / 'd'}+median") == ClassifierSpec(str(tmp_path / "d"), None, "median")


@pytest.mark.parametrize(
    ("text", "weights", "defense", "message"),
    [
        ("mnist-c@a", "b", None, "target 'mnist-c@a' has its weights, expected no weights beside it, got b"),
        ("mnist-c+median", None, "jpeg", "has its defense, expected no defense beside it, got jpeg"),
        ("mnist-c@", None, None, "has its weights, expected a value after it"),
        ("mnist-c@a+", None, None, "has its defense, expected a value after it"),
        ("mnist-c@a+jpge", None, None, "unknown defense 'jpge'; did you mean jpeg"),
        ("mnist-c+jpeg:bits=3", None, None, "cannot take 'bits=3'"),
    ],
)
def test_contradictions_are_errors(text: str, weights: str | None, defense: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        parse_classifier(text, weights, defense)


def test_weights_and_defenses_of_several_classifiers(tmp_path: Path) -> None:
    a, b = Path("a"), Path("b")
    texts = ["mnist-c@a", "mnist-b", str(tmp_path)]
    expected = [ClassifierSpec("mnist-c", a), ClassifierSpec("mnist-b", b), ClassifierSpec(str(tmp_path))]
    assert parse_classifiers(texts, [b]) == parse_classifiers(texts, [], default={"mnist-b": b}) == expected
    assert parse_classifiers(["mnist-b", "mnist-a"], [], default={"mnist-b": b})[1] == ClassifierSpec("mnist-a")
    assert parse_classifier("mnist-b", default={"mnist-b": b}) == ClassifierSpec("mnist-b", b)
    assert parse_classifier("mnist-a", default={"mnist-b": b}).needs_weights
    assert [spec.defense for spec in parse_classifiers(texts, [b], ["median"])] == ["median"] * 3
    external = [*parse_classifiers(["timm:resnet18", "mnist-b"], [b]), *parse_classifiers(["timm:resnet18"], [a])]
    assert [spec.weights for spec in external] == [None, b, a]
    for given, message in [
        ((texts, []), "expected one target-weights for each target, got 0 for 1 targets"),
        ((texts, [b], ["median", "jpeg"]), "expected one defense, or one for each of 3 targets, got 2"),
        ((["mnist-c@a"], [b]), "'mnist-c@a' has its weights, expected no weights beside it, got b"),
        ((["mnist-c+median"], [b], ["jpeg"]), "has its defense, expected no defense beside it, got jpeg"),
        (([str(tmp_path)], [b]), "holds its own weights, expected no others, got b"),
    ]:
        with pytest.raises(InputError, match=message):
            parse_classifiers(*given)


def test_string_loads_the_classifier_of_the_three_arguments(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_target("mnist-b").eval()
    save_target(model, tmp_path / "run+1", "# card")
    expected = fingerprint(defend(model, "median"))
    for text, *others in (
        (f"mnist-b@{tmp_path / 'run+1'}+median",),
        (f"{tmp_path / 'run+1'}+median",),
        (f"mnist-b@{tmp_path / 'run+1'}", None, "median"),
        ("mnist-b", tmp_path / "run+1", "median"),
    ):
        assert fingerprint(load_classifier(text, *others)) == expected
    assert advgan.load_classifier is load_classifier


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mnist-c@runs/a", "mnist-c@up/runs/a"),
        ("mnist-c@a+reject:detector=runs/d", "mnist-c@up/a+reject:detector=up/runs/d"),
        ("dir/net.py:make@w.pth:by-order+median", "up/dir/net.py:make@up/w.pth:by-order+median"),
        ("timm:resnet18@/abs/w.pth", "timm:resnet18@/abs/w.pth"),
        ("runs/a@b/c", "up/runs/a@b/c"),
    ],
)
def test_relative_weights_in_recipes_follow_the_recipe(text: str, expected: str) -> None:
    converted = convert_paths(Settings, {"target": text}, lambda path: f"up/{path}")
    assert converted == {"target": expected}
