"""Weights in third-party files: the tensors of a model in a checkpoint, under any key and prefix.

A file is read without unpickling into one flat mapping from dotted names to tensors. It is searched for the model's
names behind one common prefix, of keys of nested dictionaries (`state_dict`, `model`, `ema`, ...) and attributes of
wrappers (`module.`, `_orig_mod.`, `net.`, ...). All of the model's tensors must be there, in their shapes, and no other
tensor of the same dictionary may have this prefix.
"""

import errno
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from advgan.core.config import BY_ORDER
from advgan.core.errors import InputError, note, one_line
from advgan.core.files import check_downloaded
from advgan.core.json_files import read_object
from advgan.core.shipped import existing_or_shipped
from advgan.core.training_record import trained_with
from advgan.core.weights import COUNTERS, M, describe_mismatch, load_weights, read_weights, shapes_of

INDEX = ".index.json"  # names the file of each tensor, of weights in shards
MAX_ENTRIES = 200_000  # of a file, nested ones counted

# Name parts of wrappers, anywhere in a name: DataParallel, torch.compile, FSDP, activation checkpointing.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Keys and attributes above a model's weights, by priority where several fit.
KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights"),
    *(*WRAPPERS, "student", "online", "backbone", "encoder", "classifier_model", "base_model", "best_model"),
)
# The same for averaged and teacher copies, of lower priority.
COPY = re.compile(r"(^|_)(ema|swa|avg|averaged?|teacher|momentum|shadow)(_|\d|$)")
LOSS = re.compile(r"(criterion|loss|\w+_loss|loss_\w+)\.")  # the loss's own weights in a Lightning checkpoint
# Auxiliary heads for training: torchvision's Inception and GoogLeNet.
AUXILIARY = re.compile(r"(AuxLogits|aux1|aux2)\.")


@dataclass
class WeightsFile:
    """Content of a file of weights: tensors and other values by dotted name, and the dictionary (group) of each."""

    path: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    contents: list[str] = field(default_factory=list)

    @property
    def listing(self) -> str:
        """The entries of the top level, for a message."""
        return ", ".join(self.contents[:8]) + (", ..." if len(self.contents) > 8 else "")


@dataclass(frozen=True)
class Match:
    """A model's tensors in a file, by the model's names; their `prefix`; `note` lists unused tensors."""

    prefix: str
    state: dict[str, Any]
    note: str = ""


def weights_file(weights: Path | str) -> tuple[Path, bool]:
    """The file of `weights`: a file, a directory with model.safetensors (or the index of its shards), or a shipped
    one's name; and whether ":by-order" follows. Raises InputError for none.
    """
    path, by_order = existing_or_shipped(Path(str(weights).removesuffix(BY_ORDER))), str(weights).endswith(BY_ORDER)
    names = "model.safetensors", "classifier/model.safetensors", f"model.safetensors{INDEX}"
    candidates = [path, *(path / name for name in names)]
    file = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if file is None:
        actual = "a directory without them" if os.path.isdir(path) else "nothing"
        expected = "a file, or a directory with model.safetensors or classifier/ (of train/classifier.py)"
        raise InputError(f"no target weights at {path}: expected {expected}, found {actual}{trained_with(path)}")
    return file, by_order


def read_file(path: Path, *, config: Mapping[str, Any] | None = None) -> WeightsFile:
    """The tensors in the file `path`, .safetensors or anything else that torch.load reads with weights_only=True; or in
    the files beside it that it lists, as .index.json.

    config   the content of its config.json, whose digest the file may hold

    Raises InputError for a file that cannot be read, holds no tensors, or was saved with another config.json.
    """
    content = _read_shards(path) if path.name.endswith(INDEX) else _read_content(path, config)
    file = WeightsFile(path)
    _collect(file, content, "", "", 0)
    if not file.tensors or not isinstance(content, Mapping):
        contents = f": it holds {file.listing}" if file.contents else ""
        raise InputError(
            f"{path} holds no weights, expected a mapping from parameter names to tensors, as "
            f"torch.save(model.state_dict(), FILE) writes it{contents}"
        )
    return file


def _read_content(path: Path, config: Mapping[str, Any] | None = None) -> Any:
    """The content of one file. Raises InputError as `read_file`."""
    try:
        if path.suffix == ".safetensors":
            return read_weights(path, config=config)
        check_downloaded(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        if error.filename is None and error.errno == errno.EINVAL:  # torch's, of a truncated archive
            raise _read_error(path, error) from None
        raise InputError(f"cannot read weights {one_line(error)}") from None
    except Exception as error:  # a damaged file can end in nearly any exception
        raise _read_error(path, error) from None


def _read_shards(index: Path) -> dict[str, Any]:
    """The tensors that the file `index` lists, from the files beside it. Raises InputError for one that is missing."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and name and Path(name).name == name for name in places.values()
    ):
        raise InputError(f"{index} has no weight_map, expected a file beside it for each tensor")
    shards = {name: _read_content(index.with_name(name)) for name in sorted(set(places.values()))}
    for tensor, name in places.items():
        if not isinstance(shards[name], Mapping) or tensor not in shards[name]:
            raise InputError(f"{index.with_name(name)} lacks {tensor}, which {index.name} places there")
    return {tensor: shards[name][tensor] for tensor, name in places.items()}


def match_weights(model: nn.Module, file: WeightsFile, description: str, *, by_order: bool = False) -> Match:
    """The model's weights in `file`. Raises InputError, with the model's `description`, where they do not fit.

    by_order   match tensors of the same shapes in the same order, whatever their names
    """
    match = find_by_order(model, file) if by_order else find_by_name(model, file)
    if match is None:
        raise InputError(_mismatch_message(model, file, description, by_order))
    others = [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]
    if missing := [name for name in others if name not in match.state]:
        raise InputError(f"{file.path} does not fit {description}: it lacks {missing[0]}")
    if match.note:
        note(f"{file.path}: {match.note}")
    return match


def load_weights_into(model: M, match: Match, file: WeightsFile) -> M:
    """`model` with the weights of a `match` in `file`, in eval mode, frozen. Raises InputError for weights of another
    kind than the model's, see `advgan.core.weights.load_weights`.
    """
    return load_weights(model, match.state, file.path).eval().requires_grad_(False)


def find_by_name(model: nn.Module, file: WeightsFile) -> Match | None:
    """The model's tensors in `file` by their names behind a common prefix; None where not all are there.

    Of several different copies the first by KEYS is used, averaged ones last, with a note on stderr. Raises
    InputError for copies without an order.
    """
    expected = shapes_of(model.state_dict())
    matches: list[Match] = []
    for rename in (str, plain_name):  # unchanged first: a model's own state dict always loads
        matches = _matches(model, expected, file, rename)
        if matches:
            break
    distinct = [match for i, match in enumerate(matches) if not any(_same(match, other) for other in matches[:i])]
    if len(distinct) < 2:
        return distinct[0] if distinct else None
    distinct.sort(key=lambda match: _rank(match.prefix))
    names = [match.prefix.rstrip(".") or "the top" for match in distinct]
    if _rank(distinct[0].prefix) == _rank(distinct[1].prefix):
        raise InputError(
            f"{file.path} holds several weights that fit, under {', '.join(names[:5])}: expected a file with one, as "
            "torch.save(model.state_dict(), FILE) writes it"
        )
    note = f"weights under {names[0]} are used; those under {', '.join(names[1:4])} fit too"
    return replace(distinct[0], note=note)


def find_by_order(model: nn.Module, file: WeightsFile) -> Match | None:
    """The tensors of one dictionary in `file` that have the model's shapes in the model's order; None if there is none,
    or their last parts (weight, bias, running_mean, running_var) contradict each other."""
    expected = shapes_of(model.state_dict())
    for group in sorted(dict.fromkeys(file.groups.values()), key=_rank):
        shapes = shapes_of({name: file.tensors[name] for name in file.tensors if file.groups[name] == group})
        shapes = {name: shape for name, shape in shapes.items() if not LOSS.match(name.removeprefix(group))}
        if list(shapes.values()) == list(expected.values()) and all(map(_same_part, expected, shapes)):
            return Match(
                group, {model_name: file.tensors[name] for model_name, name in zip(expected, shapes, strict=True)}
            )
    return None


def plain_name(name: str) -> str:
    """A tensor's name without parts of wrappers, and with DenseNet's former "norm.1" as "norm1"."""
    plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", plain)


def _matches(
    model: nn.Module, expected: Mapping[str, Any], file: WeightsFile, rename: Callable[[str], str]
) -> list[Match]:
    """All matches of the names `expected` in the file behind a prefix, or without a prefix common to all of them."""
    model_names = {rename(name): name for name in expected}
    file_names: dict[str, str] = {}
    for name in file.tensors:
        if rename(name) in file_names and file.groups[file_names[rename(name)]] == file.groups[name]:
            return []  # ambiguous names
        file_names.setdefault(rename(name), name)
    if len(model_names) != len(expected) or not model_names:
        return []
    for added in _common_prefixes(list(model_names)):
        names = {name.removeprefix(added): model_name for name, model_name in model_names.items()}
        anchor = max(names, key=len)
        prefixes = [name.removesuffix(anchor) for name in file_names if f".{name}".endswith(f".{anchor}")]
        candidates = (
            _match(model, names, expected, file, file_names, prefix=prefix, rename=rename) for prefix in prefixes
        )
        if matches := [match for match in candidates if match is not None]:
            return matches
    return []


def _match(
    model: nn.Module,
    names: Mapping[str, str],
    expected: Mapping[str, Any],
    file: WeightsFile,
    file_names: Mapping[str, str],
    *,
    prefix: str,
    rename: Callable[[str], str],
) -> Match | None:
    """The tensors behind `prefix`, if all `names` are there in their shapes and no other tensor is relevant."""
    state: dict[str, Any] = {}
    for name, model_name in names.items():
        tensor = file.tensors.get(file_names.get(prefix + name, ""))
        if tensor is None or shapes_of({model_name: tensor}) != {model_name: expected[model_name]}:
            return None
        state[model_name] = tensor
    used = {file_names[prefix + name] for name in names}
    groups = {file.groups[name] for name in used}
    remaining = [name for name in file.tensors if file.groups[name] in groups and name not in used]
    remaining = [name for name in remaining if not name.endswith(COUNTERS)]
    unused = []
    for name in remaining:
        inside = rename(name).startswith(prefix)
        rest = rename(name).removeprefix(prefix) if inside else name.removeprefix(file.groups[name])
        local = prefix.removeprefix(rename(file.groups[name] + "x")[:-1])  # the part of the prefix inside the names
        if inside and AUXILIARY.match(rest):
            continue
        if not (LOSS.match(rest) or (not inside and local.split(".")[0] in KEYS) or (not inside and _is_copy(local))):
            return None
        unused.append(name)
    for model_name in model.state_dict():  # counters and other values, if in the file
        if model_name not in state:
            name = prefix + rename(model_name)
            value = file.tensors.get(file_names.get(name, ""), file.others.get(name))
            if value is not None:
                state[model_name] = value
    examples = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
    return Match(prefix, state, f"{len(unused)} tensors beside the model's are not used ({examples})" if unused else "")


def _common_prefixes(names: Sequence[str]) -> list[str]:
    """ "", and each longer beginning, in whole parts, that all `names` have."""
    prefixes = [""]
    parts = [name.split(".")[:-1] for name in names]
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        prefixes.append(f"{prefixes[-1]}{column[0]}.")
    return prefixes


def _rank(prefix: str) -> tuple[bool, int]:
    """Priority of weights behind `prefix` among several that fit."""
    parts = prefix.rstrip(".").split(".") if prefix else []
    order = [KEYS.index(part) if part in KEYS else len(KEYS) for part in parts]
    return any(map(_is_copy, parts)), max(order, default=-1)


def _is_copy(part: str) -> bool:
    return bool(COPY.search(part.split(".")[0]))


def _same(one: Match, other: Match) -> bool:
    return all(
        one.state[name] is other.state[name]
        or (one.state[name].dtype == other.state[name].dtype and torch.equal(one.state[name], other.state[name]))
        for name in one.state
        if isinstance(one.state[name], Tensor) and name in other.state and not name.endswith(COUNTERS)
    )


def _same_part(one: str, other: str) -> bool:
    parameter_names = ("weight", "bias", "running_mean", "running_var")
    parts = one.rpartition(".")[2], other.rpartition(".")[2]
    return parts[0] == parts[1] or not set(parts) <= set(parameter_names)


def _collect(file: WeightsFile, value: Any, name: str, group: str, depth: int) -> None:
    """Add the tensors in `value`, called `name`, in the dictionary `group`, to `file`."""
    if len(file.tensors) + len(file.others) > MAX_ENTRIES or depth > 8:
        raise InputError(f"{file.path} holds too much: expected at most {MAX_ENTRIES:,} entries, nested 8 times")
    if isinstance(value, Tensor):
        if name in file.tensors:
            raise InputError(f"{file.path} holds two tensors called {name}")
        file.tensors[name], file.groups[name] = value, group
        _describe(file, name, "a tensor", depth)
        return
    file.others[name] = value
    if not isinstance(value, Mapping | list | tuple):
        _describe(file, name, type(value).__name__, depth)
        return
    before = len(file.tensors)
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    inner = f"{name}." if name else ""
    for key, part in items:
        _collect(file, part, f"{inner}{key}", inner, depth + 1)
    count = len(file.tensors) - before
    _describe(file, name, f"{count} tensors" if count else type(value).__name__, depth)


def _describe(file: WeightsFile, name: str, kind: str, depth: int) -> None:
    if depth == 1:
        file.contents.append(f"{name} ({kind})")


def _mismatch_message(model: nn.Module, file: WeightsFile, description: str, by_order: bool) -> str:
    """The mismatch of file and model, in the dictionary and behind the prefix with the most common names."""
    expected = shapes_of(model.state_dict())
    best_prefix, best_shapes = "", dict[str, tuple[int, ...] | None]()
    best_count = -1
    for group in dict.fromkeys(file.groups.values()):
        shapes = shapes_of({name: file.tensors[name] for name in file.tensors if file.groups[name] == group})
        for prefix in dict.fromkeys(f"{group}{added}" for added in _prefixes_in(shapes, group)):
            inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
            count = len(expected.keys() & inside.keys())
            if (count, len(inside)) > (best_count, len(best_shapes)):
                best_prefix, best_shapes, best_count = prefix, inside, count
    nested = "" if set(file.groups.values()) == {""} else f"; the file holds {file.listing}"
    where = f" under {best_prefix.rstrip('.')}" if best_prefix else ""
    if by_order:
        return f"{file.path} does not fit {description} by order, expected the same shapes in order{where}{nested}"
    message = f"{file.path} does not fit {description}: {describe_mismatch(expected, best_shapes)}{where}{nested}"
    if find_by_order(model, file) is not None:
        message += (
            "; the shapes are the same in the same order: --weights-by-order (in Python by_order=True) loads them"
        )
    return message


def _prefixes_in(names: Mapping[str, Any], group: str) -> list[str]:
    """ "", and the first parts of names in a dictionary that are keys of wrappers."""
    first_parts = dict.fromkeys(name.removeprefix(group).split(".")[0] for name in names)
    return ["", *(f"{first}." for first in first_parts if first in KEYS)]


def _read_error(path: Path, error: Exception) -> InputError:
    """The error for an exception while reading `path`, with a remedy where it holds more than weights."""
    if isinstance(error, SafetensorError):
        return InputError(f"cannot read weights {path}: truncated or not safetensors ({one_line(error)[:120]})")
    text = str(error)
    refused_type = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"unsupported (?:class|global) ([\w.]+)", text)
    resave = "if you trust it, save its weights alone: torch.save"
    if refused_type:
        load_call = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)"
        return InputError(
            f"cannot read weights {path}: not only weights, it needs {refused_type[1]}, and nothing is unpickled; "
            f"{resave}({load_call}['state_dict'], 'weights.pth'), or .state_dict() in place of ['state_dict'] for a "
            "whole model"
        )
    if "TorchScript" in text:
        return InputError(
            f"cannot read weights {path}: TorchScript, not only weights; {resave}"
            f"(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        )
    return InputError(f"cannot read weights {path}: truncated or not only weights ({one_line(error)[:120]})")
