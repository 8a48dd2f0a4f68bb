"""--target model.pt2: the exported classifier answers and has gradients; a file that would run something does not."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from advgan.attacks import fgsm
from advgan.defenses import load_classifier
from advgan.errors import InputError
from advgan.targets import fingerprint

X = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
SIGNATURE: Any = {0: Dim("n", min=1, max=5)}


class Small(nn.Module):
    """Convolution, normalisation, dropout; part of it outside of autograd, as a detector's may be."""

    def __init__(self, kind: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head, self.kind = nn.Linear(4, 3), kind

    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            mean = x.mean((1, 2, 3), keepdim=True)
        logits = self.head(self.drop(self.norm(self.conv(x - mean))).relu().mean((2, 3)))
        return {"tensor": logits, "dict": {"logits": logits, "more": mean}, "pair": (logits, mean)}[self.kind]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .pt2 for 1 to 5 images."""
    path = tmp_path_factory.mktemp("exported") / "model.pt2"
    torch.export.save(torch.export.export(Small().eval(), (X[:2],), dynamic_shapes=(SIGNATURE,)), path)
    return path


def edited(written: Path, tmp_path: Path, edit: Callable[[dict[str, bytes]], Any]) -> Path:
    """The same archive after `edit` of its parts, each with its right checksum."""
    with zipfile.ZipFile(written) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    edit(parts)
    path = tmp_path / "edited.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def within(change: Callable[[Any], Any], part: str = "models/model.json") -> Callable[[dict[str, bytes]], None]:
    def edit(parts: dict[str, bytes]) -> None:
        name = next(name for name in parts if name.endswith(part))
        found = json.loads(parts[name])
        change(found)
        parts[name] = json.dumps(found).encode()

    return edit


# What it is


@pytest.mark.parametrize("kind", ["tensor", "dict"])
@pytest.mark.parametrize("images", [2, None])
def test_it_answers_as_the_model_in_batches_that_the_file_takes(kind: str, images: int | None, tmp_path: Path) -> None:
    model, path = Small(kind).eval(), tmp_path / "model.pt2"
    torch.export.save(
        torch.export.export(model, (X[:2],), dynamic_shapes=None if images else ({0: Dim.DYNAMIC},)), path
    )
    target = load_classifier(str(path))
    assert (target.image_shape, target.num_classes, target.name) == ((1, 8, 8), 3, str(path))
    for n in (0, 1, 2, 7):
        assert torch.allclose(target(X[:n]), Small().eval()(X[:n]), atol=1e-6)


def test_gradients_go_through_it_and_it_stands_where_a_target_stands(written: Path) -> None:
    target, model = load_classifier(str(written), image_shape=(1, 8, 8), num_classes=3), Small().eval()
    y = torch.tensor([0, 1, 2, 0])
    assert torch.allclose(fgsm(target, X[:4], y, eps=0.1), fgsm(model, X[:4], y, eps=0.1))
    assert not any(parameter.requires_grad for parameter in target.parameters())
    assert not any(module.training for module in target.modules())
    assert fingerprint(target) == fingerprint(load_classifier(str(written)))


def test_its_identity_is_its_file(written: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(Small().eval(), (X[:2],)), other)
    assert load_classifier(str(written)).identity != load_classifier(str(other)).identity


# What is not loaded


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_pickles_and_code_that_nobody_needs_stay_behind(written: Path, tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "ran"))

    def edit(parts: dict[str, bytes]) -> None:
        parts[next(name for name in parts if "sample_inputs" in name)] = trap
        root = next(iter(parts)).partition("/")[0]
        parts[f"{root}/data/aotinductor/model/run.so"] = b"\x7fELF"
        parts[f"{root}/extra/more"] = b"\x00"
        within(lambda found: found.update(guards_code=["__import__('os').abort()"]))(parts)

    target = load_classifier(str(edited(written, tmp_path, edit)))
    assert torch.allclose(target(X), load_classifier(str(written))(X))
    assert not (tmp_path / "ran").exists()


def first(found: Any) -> Any:
    return found["graph_module"]["graph"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (within(lambda f: first(f)["nodes"][0].update(target="torch.os.system")), "calls 'torch.os.system'"),
        (within(lambda f: first(f)["nodes"][1].update(target="_operator.methodcaller")), "calls '_operator.methodc"),
        (within(lambda f: first(f)["nodes"][1].update(target="torch.ops.load_library")), "calls 'torch.ops.load_li"),
        (within(lambda f: first(f)["nodes"][1].update(target="torch.ops.aten.from_file.default")), "aten.from_file"),
        (
            within(lambda f: first(f)["tensor_values"]["x"]["sizes"][0]["as_expr"].update(expr_str="exec(chr(112))")),
            "a size in it is no sum or product of sizes: 'exec",
        ),
        (within(lambda f: first(f)["inputs"].append({"as_tensor": {"name": "x=print(1)"}})), "is no name: 'x=print"),
        (
            within(
                lambda f: f["graph_module"]["module_call_graph"][0]["signature"].update(
                    in_spec='[1, {"type": "os.Thing", "context": "null", "children_spec": []}]'
                )
            ),
            "takes or returns a 'os.Thing'",
        ),
        (
            within(lambda f: next(iter(f["config"].values())).update(use_pickle=True), "model_weights_config.json"),
            "conv.weight in it would be unpickled",
        ),
        (
            within(
                lambda f: f["config"].update(
                    bad={"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
                ),
                "model_constants_config.json",
            ),
            "bad in it would be unpickled",
        ),
        (lambda parts: [parts.pop(name) for name in list(parts) if "model.json" in name], "no models/model.json"),
    ],
)  # fmt: skip
def test_a_file_that_wants_more_than_data_and_operators_is_refused(
    edit: Any, message: str, written: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load_classifier(str(edited(written, tmp_path, edit)))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_damaged_file_is_named(share: float, written: Path, tmp_path: Path) -> None:
    data, path = bytearray(written.read_bytes()), tmp_path / "damaged.pt2"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"cannot read .*damaged\.pt2: truncated, or no archive"):
        load_classifier(str(path))
    place = bytes(data).index(Small().head.weight.detach().numpy().tobytes())
    data[place + int(share * 40)] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"damaged\.pt2 is damaged: .*weight_\d+ in it does not have its checksum"):
        load_classifier(str(path))


def test_what_else_is_no_target(written: Path, tmp_path: Path) -> None:
    def path(model: nn.Module, *x: Tensor) -> str:
        torch.export.save(torch.export.export(model, x), tmp_path / "it.pt2")
        return str(tmp_path / "it.pt2")

    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x.mean((2, 3)) + y

    with pytest.raises(InputError, match=r"must take one input, images .*, got 2 inputs"):
        load_classifier(path(Two(), X[:2], torch.zeros(1)))
    with pytest.raises(InputError, match=r"must answer with one tensor, or a dict with logits"):
        load_classifier(path(Small("pair").eval(), X[:2]))
    with pytest.raises(InputError, match=r"takes torch\.float64, expected float32"):
        load_classifier(path(Small().eval().double(), X[:2].double()))
    with pytest.raises(InputError, match=r"must answer one image with logits of shape \(1, classes\), got \(1, 8, 8\)"):
        load_classifier(path(nn.Flatten(0, 1), X[:1]))
    with pytest.raises(
        InputError, match=r"was exported in training mode \(batch_norm\), expected one after model.eval"
    ):
        load_classifier(path(Small().train(), X[:2]))
    with pytest.raises(InputError, match=r"takes images of 1 x 8 x 8, got 1 x 28 x 28: --image-size 8 resizes"):
        load_classifier(str(written), image_shape=(1, 28, 28))
    with pytest.raises(InputError, match=r"takes images of 1 x 8 x 8, got 3 x 8 x 8$"):
        load_classifier(str(written), image_shape=(3, 8, 8))
    with pytest.raises(InputError, match=r"holds its own weights, expected no others, got w.safetensors"):
        load_classifier(str(written), "w.safetensors")
    with pytest.raises(InputError, match=r"no model at nowhere\.pt2: expected a file"):
        load_classifier("nowhere.pt2")


def test_an_archive_with_one_name_twice_is_refused(written: Path, tmp_path: Path) -> None:
    path, stream = tmp_path / "twice.pt2", io.BytesIO(written.read_bytes())
    with zipfile.ZipFile(stream, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"")
    path.write_bytes(stream.getvalue())
    with pytest.raises(InputError, match="holds two files of one name"):
        load_classifier(str(path))
