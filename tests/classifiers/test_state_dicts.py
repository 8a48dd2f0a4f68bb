"""Third-party weight files: nested keys and prefixes, tensor kinds, order of entries."""

import argparse
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from advgan.classifiers import build_target, load_target
from advgan.classifiers.external.torchvision import _build
from advgan.classifiers.state_dicts import find_by_name, load_weights_into, match_weights, plain_name, read_file
from advgan.core.errors import InputError
from advgan.defenses import load_classifier

State = dict[str, Tensor]
NAME = "mnist-small"
X = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_target(NAME).eval()


STATE: State = model().state_dict()
OTHER: State = model(1).state_dict()


def prefixed(prefix: str, state: State = STATE) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def load_saved(content: Any, file: Path, **settings: Any) -> Any:
    torch.save(content, file)
    return load_target(NAME, file, **settings)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "w.pth"


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        *({key: STATE, "epoch": 3} for key in ("state_dict", "model", "net", "ema", "params", "weights", "generator")),
        {"checkpoint": {"model_state_dict": prefixed("module.")}, "loss": torch.tensor(0.2)},
        {"state_dict": prefixed("model._orig_mod.net."), "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
        {"a": [{"student": STATE}]},
        {"layers": {name.removeprefix("layers."): tensor for name, tensor in STATE.items()}},
        prefixed("an.own.attribute."),
        {**prefixed("module."), "n_averaged": torch.tensor(5)},
        {name.replace("layers.", "layers.module."): tensor for name, tensor in STATE.items()},
        {name.replace("layers.5", "layers.5._orig_mod"): tensor for name, tensor in STATE.items()},
        {name.removeprefix("layers."): tensor for name, tensor in STATE.items()},
        {**STATE, "layers.0.total_ops": torch.zeros(1, dtype=torch.float64)},
    ],
    ids=lambda content: next(iter(content)),
)
def test_weights_load_with_any_key_and_prefix(content: Any, file: Path) -> None:
    assert torch.equal(load_saved(content, file)(X), model()(X))


@pytest.mark.parametrize(
    ("content", "taken", "note"),
    [
        ({"model_ema": OTHER, "model": STATE}, STATE, "weights under model are used; those under model_ema fit too"),
        (
            {"state_dict": prefixed("teacher.", OTHER) | prefixed("student.")},
            STATE,
            "under state_dict.student are used",
        ),
        ({"net": OTHER, "state_dict": STATE}, STATE, "weights under state_dict are used"),
        ({"model": STATE, "model_ema": STATE}, STATE, ""),
        ({**prefixed("net."), "criterion.weight": torch.ones(4)}, STATE, r"1 tensors .* not used \(criterion.weight\)"),
        ({**prefixed("encoder."), "projector.0.weight": torch.ones(4, 4)}, STATE, "projector.0.weight"),
    ],
)
def test_choice_among_several_state_dicts_is_noted(
    content: Any, taken: State, note: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load_saved(content, file).state_dict()
    assert all(torch.equal(loaded[name], taken[name]) for name in taken)
    printed = capsys.readouterr().err
    assert re.search(note, printed) if note else not printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"first": STATE, "second": OTHER}, "several weights that fit, under first, second"),
        ({**STATE, "layers.9.weight": torch.ones(2, 2)}, r"1 unexpected \(layers.9.weight\)"),
        ({**prefixed("part."), "rest.weight": torch.ones(2, 2)}, "does not fit mnist-small"),
        ({"state_dict": dict(list(STATE.items())[1:]), "epoch": 1}, r"1 missing \(layers.0.weight\).*holds state_dict"),
        ({"epoch": 3, "optimizer": {"lr": 0.1}}, r"holds no weights.*it holds epoch \(int\), optimizer \(dict\)"),
        ({"net.x": STATE["layers.0.weight"], "net": {"x": STATE["layers.0.weight"]}}, "two tensors called net.x"),
    ],
)
def test_partial_or_ambiguous_weights_are_refused(content: Any, message: str, file: Path) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load_saved(content, file)
    assert "\n" not in str(raised.value)


def test_weights_of_larger_model_are_refused(tmp_path: Path) -> None:
    larger = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    torch.save({"model": larger.state_dict()}, tmp_path / "w.pth")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef two(): return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        "def one(): return nn.Linear(4, 4)\n"
    )
    for factory in ("two", "one"):
        with pytest.raises(InputError, match="does not fit"):
            load_target(f"{tmp_path}/mine.py:{factory}", tmp_path / "w.pth", image_shape=(1, 2, 2))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_weights_load_into_wrapped_model(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.save(STATE, tmp_path / "w.pth")
    wrapped, file = wrap(model(1)), read_file(tmp_path / "w.pth")
    load_weights_into(wrapped, match_weights(wrapped, file, "a wrapper"), file)
    assert all(torch.equal(tensor, STATE[name.split(".", 1)[1]]) for name, tensor in wrapped.state_dict().items())


def test_weights_by_order_on_request(file: Path) -> None:
    renamed = {f"conv{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(STATE.items())}
    with pytest.raises(InputError, match=r"the same in the same order: --weights-by-order .*by_order=True"):
        load_saved({"net": renamed, "epoch": 2}, file)
    for loaded in (
        load_target(NAME, f"{file}:by-order"),
        load_target(NAME, file, by_order=True),
        load_classifier(NAME, file, "bit-depth", by_order=True).inner,
    ):
        assert torch.equal(loaded(X), model()(X))
    swapped = {name.replace("weight", "bias"): tensor for name, tensor in renamed.items() if "weight" in name}
    swapped |= {name.replace("bias", "weight"): tensor for name, tensor in renamed.items() if "bias" in name}
    for content in (swapped, dict(reversed(renamed.items()))):
        with pytest.raises(InputError, match=r"does not fit .* by order"):
            load_saved(content, file, by_order=True)


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "int8": lambda tensor: tensor.to(torch.int8),
    "int64": lambda tensor: (100 * tensor).long(),
    "bool": lambda tensor: tensor > 0,
    "complex64": lambda tensor: tensor.to(torch.complex64),
    "float8_e4m3fn": lambda tensor: tensor.to(torch.float8_e4m3fn),
    "sparse_coo, not dense": lambda tensor: tensor.to_sparse(),
    "on the meta device": lambda tensor: tensor.to("meta"),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["file", "safetensors", "python file"])
def test_weights_of_other_dtype_or_layout_are_refused(kind: str, where: str, tmp_path: Path) -> None:
    last = list(STATE)[-1]
    content = {**STATE, last: KINDS[kind](STATE[last])}
    if where == "safetensors" and kind.startswith(("sparse", "on the meta", "quantised")):
        pytest.skip("safetensors holds no such tensors")
    file = tmp_path / ("w.safetensors" if where == "safetensors" else "w.pth")
    content = {name: tensor.contiguous() for name, tensor in content.items()} if where == "safetensors" else content
    save_file(content, file) if where == "safetensors" else torch.save(content, file)
    name = NAME
    if where == "python file":
        (tmp_path / "mine.py").write_text(
            f"from advgan.classifiers import build_target\nnet = build_target('{NAME}')\n"
        )
        name = f"{tmp_path}/mine.py:net"
    with pytest.raises(InputError, match=f"{last} is {kind}.*expected float32 values") as raised:
        load_target(name, file, image_shape=(1, 28, 28), num_classes=10)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_non_finite_weights_are_refused(value: float, file: Path) -> None:
    broken = {name: tensor.double() for name, tensor in STATE.items()}
    broken["layers.0.bias"] = broken["layers.0.bias"].clone()
    broken["layers.0.bias"][3] = value
    with pytest.raises(InputError, match=r"layers.0.bias holds NaN or infinity, expected finite weights"):
        load_saved(broken, file)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_become_float32(dtype: torch.dtype, file: Path) -> None:
    loaded = load_saved({name: tensor.to(dtype) for name, tensor in STATE.items()}, file).state_dict()
    assert all(torch.equal(loaded[name], tensor.to(dtype).float()) for name, tensor in STATE.items())


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        ({"state_dict": STATE, "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        ({"state_dict": STATE, "best": np.float64(0.9)}, "numpy"),
        (nn.Linear(2, 2), "torch.nn.*Linear"),
    ],
)
def test_refused_pickle_global_names_conversion_command(content: Any, refused: str, file: Path) -> None:
    with pytest.raises(InputError, match=rf"it needs {refused}.*torch.save\(torch.load\('w.pth'.*weights_only=False\)"):
        load_saved(content, file)


@pytest.mark.parametrize("heads", [False, True])
def test_torchvision_auxiliary_heads_are_ignored(heads: bool, file: Path) -> None:
    with torch.device("meta"):
        saved = models.googlenet(weights=None, aux_logits=heads, init_weights=False, num_classes=4)
        built = _build("googlenet", 4)
    torch.save({"model": saved.state_dict()}, file)
    match = find_by_name(built, read_file(file))
    assert match is not None
    assert match.state.keys() == built.state_dict().keys()


def test_old_densenet_names_are_mapped() -> None:
    old = "module.features.denseblock1.denselayer12.norm.1.weight"
    assert plain_name(old) == "features.denseblock1.denselayer12.norm1.weight"
    assert plain_name("features.norm0.1.weight") == "features.norm0.1.weight"


def test_quantized_model_loads_its_weights(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n"
        "    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))\n"
        "    return torch.ao.quantization.quantize_dynamic(plain, {nn.Linear})\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: it will be moved
        plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        quantised = torch.ao.quantization.quantize_dynamic(plain, {nn.Linear})
        torch.save(quantised.state_dict(), tmp_path / "w.pth")
        x, name = torch.rand(2, 1, 2, 2), f"{tmp_path}/mine.py:net"
        assert torch.equal(load_target(name, tmp_path / "w.pth", image_shape=(1, 2, 2))(x), quantised(x))
        torch.save(plain.state_dict(), tmp_path / "w.pth")
        with pytest.raises(InputError, match="2 missing"):
            load_target(name, tmp_path / "w.pth", image_shape=(1, 2, 2))


def test_recursive_and_huge_lists_are_refused(file: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    grown: list[Any] = [torch.ones(1)]
    for _ in range(7):
        grown = [grown] * 12
    for content in (endless, grown):
        with pytest.raises(InputError, match="holds too much"):
            load_saved({"x": content, **STATE}, file)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_read_by_their_index(suffix: str, tmp_path: Path) -> None:
    names = list(STATE)
    places = {name: f"model-0000{1 + (i % 2)}-of-00002.{suffix}" for i, name in enumerate(names)}
    for shard in set(places.values()):
        part = {name: STATE[name].contiguous() for name in names if places[name] == shard}
        (save_file if suffix == "safetensors" else torch.save)(part, tmp_path / shard)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for weights in (index, tmp_path) if suffix == "safetensors" else (index,):
        loaded = load_target(NAME, weights).state_dict()
        assert all(torch.equal(loaded[name], STATE[name]) for name in names)
    index.write_text(json.dumps({"weight_map": places | {"a": places[names[0]]}}))
    with pytest.raises(InputError, match=f"model-00001-of-00002.{suffix} lacks a, which model.{suffix}.index.json pl"):
        load_target(NAME, index)
    for wrong in ({}, {"weight_map": {"a": "../x.safetensors"}}, {"weight_map": {"a": ""}}):
        index.write_text(json.dumps(wrong))
        with pytest.raises(
            InputError, match=r"index\.json has no weight_map, expected a file beside it for each tensor"
        ):
            load_target(NAME, index)
