"""Configurations of checkpoints: digests, hostile values refused before building, class names, fingerprints."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from advgan import Generator
from advgan.classifiers import build_target, fingerprint, load_target, save_target
from advgan.core.errors import InputError
from advgan.core.training_record import describe_checkpoint
from advgan.core.weights import read_weights, write_weights
from advgan.defenses import defend, load_classifier, load_detector
from advgan.defenses.checkpoint import load_members
from advgan.defenses.detection import FeatureSqueezing
from advgan.evaluation.loading import read_training_json
from advgan.models.discriminator import Discriminator
from tests.conftest import ROOT

LOADERS: dict[str, Callable[[Path], Any]] = {
    "generator": Generator.from_pretrained,
    "classifier": lambda folder: load_classifier(str(folder)),
    "discriminator": Discriminator.load,
    "detector": load_detector,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint of each kind."""
    root = tmp_path_factory.mktemp("saved")
    Generator(width=8, depth=1).save(root / "generator", "# card")
    save_target(named_target(), root / "classifier", "# card", {"training_seconds": 2.0})
    Discriminator(width=4).save(root / "discriminator")
    save_target(FeatureSqueezing((1, 28, 28)), root / "detector", "# card", {"settings": {}})
    return root


def named_target(*names: str) -> Any:
    torch.manual_seed(0)
    model = build_target("mnist-small", (1, 28, 28), 3)
    model.classes = names or ("cat", "dog", "fox")
    return model.eval()


def with_config(saved: Path, kind: str, folder: Path, text: str | None = None, /, **values: Any) -> Path:
    """A copy of a checkpoint with another config.json and without its digest, as third parties write them."""
    shutil.copytree(saved / kind, folder / kind)
    config = json.loads((folder / kind / "config.json").read_text()) | values
    (folder / kind / "config.json").write_text(json.dumps(config) if text is None else text)
    file = folder / kind / "model.safetensors"
    write_weights(read_weights(file), file)
    return folder / kind


@pytest.mark.parametrize("kind", LOADERS)
def test_flipped_config_bits_are_refused_or_harmless(kind: str, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / kind, tmp_path / kind)
    LOADERS[kind](folder)
    whole = (folder / "config.json").read_bytes()
    content = json.loads(whole)
    for i in range(0, len(whole), 7):
        flipped = whole[:i] + bytes([whole[i] ^ (1 << i % 7)]) + whole[i + 1 :]
        (folder / "config.json").write_bytes(flipped)
        try:
            same = json.loads(flipped) == content
        except ValueError:
            same = False
        if not same:
            for call in (LOADERS[kind], describe_checkpoint):
                with pytest.raises(InputError):
                    call(folder)


@pytest.mark.parametrize("kind", LOADERS)
def test_weights_with_nan_are_refused(kind: str, saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / kind, tmp_path / kind)
    tensors = read_weights(folder / "model.safetensors")
    next(iter(tensors.values())).view(-1)[0] = torch.nan
    write_weights(tensors, folder / "model.safetensors", config=json.loads((folder / "config.json").read_text()))
    with pytest.raises(InputError, match="holds NaN or infinity"):
        LOADERS[kind](folder)


@pytest.mark.parametrize("kind", LOADERS)
def test_config_without_digest_loads(kind: str, saved: Path, tmp_path: Path) -> None:
    assert LOADERS[kind](with_config(saved, kind, tmp_path)) is not None


CLASSIFIER: dict[str, Any] = {"name": "mnist-small", "image_shape": [1, 28, 28], "num_classes": 3}
VOTE = {"name": "vote", "settings": {"members": [{**CLASSIFIER, "defenses": [{"name": "zzz", "settings": {}}]}]}}
HOSTILE: list[tuple[str, dict[str, Any]]] = [
    *(("generator", {key: 10**9}) for key in ("channels", "patch", "width", "depth", "levels", "noise", "classes")),
    *(("generator", {"width": value}) for value in (True, 8.0, "8", [8], None, -8, 10**30, 4096)),
    *(("generator", {"eps": value}) for value in ("0.3", None, True, -1.0, [0.3], {})),
    *(("generator", {"guide": value}) for value in ({}, [], "mnist-c", {"name": "mnist-c"}, {**CLASSIFIER, "x": 1})),
    ("generator", {"architecture": "unrolled", "guide": {"name": "mnist-c"}}),
    ("generator", {"architecture": "unrolled", "guide": {**CLASSIFIER, "num_classes": 10**12}}),
    ("generator", {"architecture": ["patch"]}),
    ("generator", {"norm": ["linf"]}),
    ("generator", {"norm": None}),
    ("generator", {"y_target": "x"}),
    ("generator", {"y_target": 1.5}),
    ("generator", {"eps_min": "x"}),
    ("generator", {"universal": "false"}),
    ("generator", {"colour": 1}),
    *(("classifier", {"name": value}) for value in (["mnist-c"], None, 5, {}, "x" * 10**6, "mnist-z")),
    *(
        ("classifier", {"image_shape": value})
        for value in (None, [1.0, 28.0, 28.0], [1, 28], "128", [1, 28, True], [1, 65_000, 65_000], [1, 10**9, 28], [])
    ),
    *(("classifier", {"num_classes": value}) for value in ("3", 3.0, True, 10**9, 999_999, -3, None)),
    *(("classifier", {"classes": value}) for value in ("abc", [1, 2, 3], ["a", "b"], {}, [None] * 3)),
    *(("classifier", {"defenses": value}) for value in ("abc", None, {}, [1], ["jpeg"], [[]], [{}])),
    *(
        ("classifier", {"defenses": [{"name": name, "settings": settings}]})
        for name, settings in (
            *(("zzz", {}), (["jpeg"], {}), ("jpeg", {"quality": "x"}), ("jpeg", {"foo": 1}), ("jpeg", [])),
            *(("jpeg", {"quality": True}), ("jpeg", {}), ("prune", {"amount": "0.5"}), ("prune", {"amount": 1e9})),
            *(("reject", {"detector": "/etc"}), ("reject", {"kind": ["binary"], "image_shape": [], "settings": {}})),
            ("reject", {"kind": "binary", "image_shape": [1, 28, 28], "settings": {"width": 10**9}}),
            ("reject", {"kind": "binary", "image_shape": 3, "settings": {"architecture": "patch", "width": 4}}),
            *(("vote", {"members": value}) for value in ([], "DIR", [1], [{}], [CLASSIFIER] * 500, [VOTE])),
        )
    ),
    ("classifier", {"defenses": [{"name": "bit-depth", "settings": {"bits": 4}}] * 5000}),
    ("classifier", {"defenses": [{"name": "jpeg"}]}),
    ("classifier", {"colour": 1}),
    *(("discriminator", {"width": value}) for value in (10**9, "4", True, None, 2048)),
    ("discriminator", {"architecture": {}}),
    ("detector", {"kind": ["binary"]}),
    ("detector", {"settings": {"bits": 10**9}}),
    ("detector", {"settings": None}),
    ("detector", {"image_shape": "x"}),
]


@pytest.mark.parametrize(("kind", "values"), HOSTILE, ids=lambda value: str(value)[:60])
def test_hostile_values_are_refused_before_building(
    kind: str, values: dict[str, Any], saved: Path, tmp_path: Path
) -> None:
    folder, began = with_config(saved, kind, tmp_path, **values), time.process_time()
    with pytest.raises(InputError) as raised:
        LOADERS[kind](folder)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1500
    assert time.process_time() - began < 5


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("text", ["[" * 10**5 + "]" * 10**5, '{"eps":' + "9" * 5000 + "}", "{}", "", '{"name": NaN}'])
def test_hostile_json_is_refused(kind: str, text: str, saved: Path, tmp_path: Path) -> None:
    folder = with_config(saved, kind, tmp_path, text)
    for call in (LOADERS[kind], describe_checkpoint) if text != "{}" else (LOADERS[kind],):
        with pytest.raises(InputError) as raised:
            call(folder)
        assert "\n" not in str(raised.value)


def test_generator_config_with_missing_entry_is_refused(saved: Path, tmp_path: Path) -> None:
    config = json.loads((saved / "generator" / "config.json").read_text())
    del config["eps"]
    with pytest.raises(InputError, match=r"its config.json lacks eps"):
        Generator.from_pretrained(with_config(saved, "generator", tmp_path, json.dumps(config)))


def test_class_names_are_saved_and_loaded(tmp_path: Path) -> None:
    model, names = named_target(), ("cat", "dog", "fox")
    save_target(model, tmp_path / "plain", "")
    save_target(defend(model, "bit-depth:bits=2"), tmp_path / "defended", "")
    assert load_target("mnist-small", tmp_path / "plain").classes == names
    assert load_classifier(str(tmp_path / "plain")).classes == names
    assert load_classifier(str(tmp_path / "defended")).classes == names
    assert load_classifier(str(tmp_path / "plain"), defense="jpeg").classes == names
    save_target(build_target("mnist-small", (1, 28, 28), 3), tmp_path / "unnamed", "")
    assert load_classifier(str(tmp_path / "unnamed")).classes is None
    assert "classes" not in json.loads((tmp_path / "unnamed" / "config.json").read_text())


def test_ensemble_with_different_class_names_is_refused(tmp_path: Path) -> None:
    save_target(named_target("ape", "cat", "dog"), tmp_path / "other", "")
    with pytest.raises(InputError, match=r"classes \('cat', 'dog', 'fox'\), got \('ape', 'cat', 'dog'\)"):
        defend(named_target(), f"vote:members={tmp_path}/other")
    shape, cpu = (1, 28, 28), torch.device("cpu")
    assert len(load_members([f"{tmp_path}/other"], shape, 3, cpu, ("ape", "cat", "dog"))) == 1
    with pytest.raises(InputError, match="has classes ape, cat, dog, expected cat, dog, fox"):
        load_members([f"{tmp_path}/other"], shape, 3, cpu, ("cat", "dog", "fox"))


def test_shipped_digit_classifiers_have_class_names() -> None:
    for name in ("mnist-c-classifier", "mnist5k-classifier"):
        assert load_target("mnist-c", ROOT / "checkpoints" / name).classes == tuple("0123456789")


def test_fingerprint_covers_settings_outside_weights() -> None:
    prints = []
    for settings in ({}, {"eps": 0.2}, {"norm": "l2"}, {"eps_min": 0.1}, {"y_target": 1}):
        torch.manual_seed(0)
        prints.append(fingerprint(Generator(width=8, depth=1, **settings)))
    guide = {"name": "mnist-small", "image_shape": [1, 28, 28], "num_classes": 10}
    for depth in (1, 2):
        torch.manual_seed(0)
        prints.append(fingerprint(Generator(width=4, depth=depth, architecture="unrolled", guide=guide)))
    torch.manual_seed(0)
    same = fingerprint(Generator(width=8, depth=1))

    class Scaled(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(scale), persistent=False)

    prints += [fingerprint(Scaled(scale)) for scale in (1.0, 2.0)]
    assert len(set(prints)) == len(prints)
    assert same == prints[0]


def test_changed_training_record_is_refused(saved: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(saved / "classifier", tmp_path / "classifier")
    assert read_training_json(folder) == {"training_seconds": 2.0}
    file = folder / "training.json"
    file.write_text(file.read_text().replace("2.0", "3.0"))
    with pytest.raises(InputError, match=r"training.json was changed after saving"):
        read_training_json(folder)
    file.write_text('{"training_seconds": "long"}')
    with pytest.raises(InputError, match="training_seconds must be a finite number"):
        read_training_json(folder)
    file.unlink()
    assert read_training_json(folder) == {}
