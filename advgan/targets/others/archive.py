"""What a .pt2 may hold, looked at before torch sees it: data and calls of torch's own operators, nothing that runs.

`torch.export.load` (2.15) trusts its file. It unpickles without `weights_only`: the sample inputs where the safe way
fails, tensors marked `use_pickle`, and custom objects. It evaluates text: sizes through sympy, guards, and names that
become Python source. And it calls whatever under `torch`, `math` or `operator` the graph names; `torch.os.system` is
one. So it is given another archive, in memory: of this one's weights and its graph, once each text in it is a plain
name, a sum of sizes or an operator of `torch.ops.aten`. The rest (sample inputs, guards, metadata, extra files,
compiled libraries) stays behind.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from advgan.errors import InputError

GRAPH = "models/model.json"
LISTS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
COPIED = re.compile(
    r"archive_format|archive_version|byteorder|\.data/(version|serialization_id)"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+"
)
PLAIN = re.compile(r"[\w.,+\-> ]*", re.ASCII)  # a name, "layer1.0.weight", or an operator's word, "ij,jk->ik"
# A size as torch writes it, "Mul(Integer(2), Symbol('s77', positive=True, integer=True))". Sympy would evaluate more.
WORDS = "Symbol|Integer|Rational|Add|Mul|Pow|Max|Min|FloorDiv|CeilDiv|CleanDiv|Mod|PythonMod|positive|integer|True"
SIZE = re.compile(rf"(?:\b(?:{WORDS})\b|'[su]\d+'|\b[su]?\d+\b|[\s(),=*+\-/])*", re.ASCII)
SIZES = "add sub mul floordiv truediv mod neg pow getitem lt le gt ge eq ne"  # Python's operators, on sizes
OPERATORS = {f"_operator.{name}" for name in SIZES.split()}
OPERATORS |= {"torch.ops.higher_order.wrap_with_set_grad_enabled", "torch.ops.higher_order.wrap_with_autocast"}
CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def checked(file: Path) -> io.BytesIO:
    """An archive for torch.export.load of what is harmless in `file`.

    Raises InputError for a file that is damaged, none of torch.export.save's, or wants more than that.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            if broken := archive.testzip():
                raise InputError(f"{file} is damaged: {broken} in it does not have its checksum")
            names = archive.namelist()
            parts = {name.partition("/")[2]: archive.read(name) for name in names}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"cannot read {file}: truncated, or no archive of torch.export.save ({error})") from None
    if len(parts) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise InputError(f"{file} holds two files of one name, expected an archive of torch.export.save")
    if missing := [name for name in (GRAPH, *LISTS) if name not in parts]:
        raise InputError(f"{file} holds no {missing[0]}, expected what torch.export.save writes since torch 2.9")
    try:
        graph, *lists = (json.loads(parts[name]) for name in (GRAPH, *LISTS))
        _check_lists(lists)
        _strip(graph)
        _check(graph)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(f"{file} is not loaded: {error or type(error).__name__}") from None
    kept = {name: data for name, data in parts.items() if COPIED.fullmatch(name)}
    kept |= {name: json.dumps(text).encode() for name, text in zip((GRAPH, *LISTS), (graph, *lists), strict=True)}
    return _archive(kept | {"data/sample_inputs/model.pt": b""})


def _archive(parts: dict[str, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in parts.items():
            archive.writestr(f"model/{name}", data)
    stream.seek(0)
    return stream


def _check_lists(lists: list[Any]) -> None:
    """Raise ValueError unless all weights and constants are tensors that lie as they are."""
    for name, entry in ((name, entry) for each in lists for name, entry in each["config"].items()):
        if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
            raise ValueError(f"{name} in it would be unpickled, expected plain tensors")


def _strip(graph: dict[str, Any]) -> None:
    """Take out what only describes, and the guards, which are Python source."""
    graph["guards_code"], graph["graph_module"]["metadata"] = [], {}
    for node in _nodes(graph):
        node["metadata"] = {}


def _nodes(found: Any) -> Iterator[dict[str, Any]]:
    """All operators of a graph and of the graphs within it."""
    if isinstance(found, dict):
        if {"target", "inputs", "outputs"} <= found.keys():
            yield found
        found = list(found.values())
    for each in found if isinstance(found, list) else ():
        yield from _nodes(each)


def _check(found: Any, key: str = "") -> None:
    """Raise ValueError for the first text in a graph that could be more than what it is there for."""
    if isinstance(found, dict):
        for name, each in found.items():
            _check(name)
            _check(each, name)
    elif isinstance(found, list):
        for each in found:
            _check(each, key)
    elif not isinstance(found, str):
        return
    elif key == "target":
        _check_operator(found)
    elif key == "expr_str":
        if not SIZE.fullmatch(found):
            raise ValueError(f"a size in it is no sum or product of sizes: {found[:80]!r}")
    elif key in ("in_spec", "out_spec"):
        _check_container(json.loads(found)[1])
    elif not PLAIN.fullmatch(found):
        raise ValueError(f"it holds a text that is no name: {found[:80]!r}")


def _check_operator(name: str) -> None:
    """Raise ValueError unless `name` is an operator on tensors and sizes that touches no files."""
    space, _, operator = name.partition("torch.ops.aten.")
    packet, _, overload = operator.partition(".")
    found = None if space else getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
    safe = isinstance(found, torch._ops.OpOverload) and "filename" not in {
        each.name for each in found._schema.arguments
    }
    if name not in OPERATORS and not safe:
        raise ValueError(f"its graph calls {name[:80]!r}, expected operators of torch.ops.aten")


def _check_container(spec: dict[str, Any]) -> None:
    """Raise ValueError unless inputs and outputs are tensors, and tuples, lists and dictionaries of them."""
    if spec["type"] not in CONTAINERS:
        raise ValueError(
            f"it takes or returns a {spec['type']!r}, expected tensors: export a module that returns logits"
        )
    keys = json.loads(spec["context"] or "null")
    if not (keys is None or (isinstance(keys, list) and all(isinstance(key, str) for key in keys))):
        raise ValueError(f"its inputs or outputs have names that are no text: {spec['context'][:80]!r}")
    for child in spec["children_spec"]:
        _check_container(child)
