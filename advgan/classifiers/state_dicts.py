"""Weights in anybody's files: which of the tensors in a checkpoint are a model's, under which key and prefix.

A file is read without unpickling into one flat mapping from dotted names to tensors. The model's own names are looked
for in it behind one common prefix, which may be keys of nested dictionaries (`state_dict`, `model`, `ema`, ...) and
attributes of wrappers (`module.`, `_orig_mod.`, `net.`, ...) alike. All of the model's tensors must be there, in their
shapes; what else the same dictionary holds must be outside of the prefix, or is none of the model's.
"""

from __future__ import annotations

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
from advgan.core.weights import COUNTERS, M, describe_mismatch, load_weights, read_weights, shapes_of

MAX_ENTRIES = 200_000  # of a file, nested ones counted

# Parts of names that wrappers add anywhere: DataParallel, torch.compile, FSDP, activation checkpointing.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Keys and attributes that a model's weights lie under, in the order in which they are taken where several fit.
KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "params", "weights"),
    *(*WRAPPERS, "student", "online", "backbone", "encoder", "classifier_model", "base_model", "best_model"),
)
# The same for averaged and teaching copies, which come after.
COPY = re.compile(r"(^|_)(ema|swa|avg|averaged?|teacher|momentum|shadow)(_|\d|$)")
LOSS = re.compile(r"(criterion|loss|\w+_loss|loss_\w+)\.")  # the loss's own weights in a Lightning checkpoint
# Heads that serve training alone: torchvision's Inception and GoogLeNet.
AUXILIARY = re.compile(r"(AuxLogits|aux1|aux2)\.")


@dataclass
class WeightsFile:
    """What a file of weights holds: tensors and other values by dotted name, and the dictionary that each lies in."""

    path: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    contents: list[str] = field(default_factory=list)

    @property
    def listing(self) -> str:
        """What lies at the top, for a message."""
        return ", ".join(self.contents[:8]) + (", ..." if len(self.contents) > 8 else "")


@dataclass(frozen=True)
class Match:
    """A model's tensors in a file, by the model's names; behind `prefix`; `note` names what else was left aside."""

    prefix: str
    state: dict[str, Any]
    note: str = ""


def weights_file(weights: Path | str) -> tuple[Path, bool]:
    """The file that `weights` means: itself, or model.safetensors in it; and whether ":by-order" follows. Raises
    InputError for none.
    """
    path, by_order = Path(str(weights).removesuffix(BY_ORDER)), str(weights).endswith(BY_ORDER)
    candidates = [path, path / "model.safetensors", path / "classifier" / "model.safetensors"]
    file = next((candidate for candidate in candidates if os.path.isfile(candidate)), None)
    if file is None:
        found = "a directory without them" if os.path.isdir(path) else "nothing"
        raise InputError(f"no target weights at {path}: expected a file, or model.safetensors in it, found {found}")
    return file, by_order


def read_file(path: Path, *, beside: Mapping[str, Any] | None = None) -> WeightsFile:
    """The tensors in the file `path`, .safetensors or anything else that torch.load reads with weights_only=True.

    beside   the config.json that lies beside it, whose digest the file may hold

    Raises InputError for a file that cannot be read so, holds no tensors, or was saved with another config.json.
    """
    try:
        if path.suffix == ".safetensors":
            content: Any = read_weights(path, beside=beside)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can end in nearly any exception
        raise _unreadable(path, error) from None
    file = WeightsFile(path)
    _collect(file, content, "", "", 0)
    if not file.tensors or not isinstance(content, Mapping):
        held = f": it holds {file.listing}" if file.contents else ""
        raise InputError(
            f"{path} holds no weights, expected a mapping from parameter names to tensors, as "
            f"torch.save(model.state_dict(), FILE) writes it{held}"
        )
    return file


def match_weights(model: nn.Module, file: WeightsFile, about: str, *, by_order: bool = False) -> Match:
    """The model's weights in `file`. Raises InputError where they do not fit `about`, with what is in the file.

    by_order   take tensors of the same shapes in the same order, whatever their names
    """
    match = find_by_order(model, file) if by_order else find_by_name(model, file)
    if match is None:
        raise InputError(_misfit(model, file, about, by_order))
    others = [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]
    if missing := [name for name in others if name not in match.state]:
        raise InputError(f"{file.path} does not fit {about}: it lacks {missing[0]}")
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

    Where several copies differ, KEYS have an order, averaged copies come last, and a note says which was taken. Raises
    InputError for copies without an order.
    """
    expected = shapes_of(model.state_dict())
    matches: list[Match] = []
    for rename in (str, plain_name):  # as they are first: a model's own state dict always loads back
        matches = _matches(model, expected, file, rename)
        if matches:
            break
    distinct = [each for i, each in enumerate(matches) if not any(_same(each, other) for other in matches[:i])]
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
    for place in sorted(dict.fromkeys(file.places.values()), key=_rank):
        given = shapes_of({name: file.tensors[name] for name in file.tensors if file.places[name] == place})
        given = {name: shape for name, shape in given.items() if not LOSS.match(name.removeprefix(place))}
        if list(given.values()) == list(expected.values()) and all(map(_same_part, expected, given)):
            return Match(place, {own: file.tensors[name] for own, name in zip(expected, given, strict=True)})
    return None


def plain_name(name: str) -> str:
    """A tensor's name without the parts that wrappers add, and with DenseNet's "norm.1" as it is called today."""
    plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", plain)


def _matches(
    model: nn.Module, expected: Mapping[str, Any], file: WeightsFile, rename: Callable[[str], str]
) -> list[Match]:
    """All ways to find the names `expected` in the file behind a prefix, or without a prefix that all of them have."""
    wanted = {rename(name): name for name in expected}
    given: dict[str, str] = {}
    for name in file.tensors:
        if rename(name) in given and file.places[given[rename(name)]] == file.places[name]:
            return []  # two names would become one
        given.setdefault(rename(name), name)
    if len(wanted) != len(expected) or not wanted:
        return []
    for added in _common_prefixes(list(wanted)):
        names = {name.removeprefix(added): own for name, own in wanted.items()}
        anchor = max(names, key=len)
        prefixes = [name.removesuffix(anchor) for name in given if f".{name}".endswith(f".{anchor}")]
        found = (_match(model, names, expected, file, given, prefix=prefix, rename=rename) for prefix in prefixes)
        if matches := [match for match in found if match is not None]:
            return matches
    return []


def _match(
    model: nn.Module,
    names: Mapping[str, str],
    expected: Mapping[str, Any],
    file: WeightsFile,
    given: Mapping[str, str],
    *,
    prefix: str,
    rename: Callable[[str], str],
) -> Match | None:
    """The tensors behind `prefix`, if all `names` are there in their shapes and nothing else is that matters."""
    state: dict[str, Any] = {}
    for name, own in names.items():
        tensor = file.tensors.get(given.get(prefix + name, ""))
        if tensor is None or shapes_of({own: tensor}) != {own: expected[own]}:
            return None
        state[own] = tensor
    used = {given[prefix + name] for name in names}
    places = {file.places[name] for name in used}
    beside = [name for name in file.tensors if file.places[name] in places and name not in used]
    beside = [name for name in beside if not name.endswith(COUNTERS)]
    unused = []
    for name in beside:
        inside = rename(name).startswith(prefix)
        rest = rename(name).removeprefix(prefix) if inside else name.removeprefix(file.places[name])
        local = prefix.removeprefix(rename(file.places[name] + "x")[:-1])  # the part of the prefix that is in names
        if inside and AUXILIARY.match(rest):
            continue
        if not (LOSS.match(rest) or (not inside and local.split(".")[0] in KEYS) or (not inside and _is_copy(local))):
            return None
        unused.append(name)
    for own in model.state_dict():  # counters, and what is no tensor, where the file has them
        if own not in state:
            name = prefix + rename(own)
            value = file.tensors.get(given.get(name, ""), file.others.get(name))
            if value is not None:
                state[own] = value
    some = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
    return Match(prefix, state, f"{len(unused)} tensors beside the model's are not used ({some})" if unused else "")


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
    """Where weights behind `prefix` come among several that fit."""
    parts = prefix.rstrip(".").split(".") if prefix else []
    known = [KEYS.index(part) if part in KEYS else len(KEYS) for part in parts]
    return any(map(_is_copy, parts)), max(known, default=-1)


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
    known = ("weight", "bias", "running_mean", "running_var")
    parts = one.rpartition(".")[2], other.rpartition(".")[2]
    return parts[0] == parts[1] or not set(parts) <= set(known)


def _collect(file: WeightsFile, value: Any, name: str, place: str, depth: int) -> None:
    """Add what `value`, called `name`, in the dictionary `place`, holds to `file`."""
    if len(file.tensors) + len(file.others) > MAX_ENTRIES or depth > 8:
        raise InputError(f"{file.path} holds too much: expected at most {MAX_ENTRIES:,} entries, nested 8 times")
    if isinstance(value, Tensor):
        if name in file.tensors:
            raise InputError(f"{file.path} holds two tensors called {name}")
        file.tensors[name], file.places[name] = value, place
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


def _misfit(model: nn.Module, file: WeightsFile, about: str, by_order: bool) -> str:
    """Why the file does not fit the model: in the dictionary and behind the prefix where it fits best."""
    expected = shapes_of(model.state_dict())
    best, given = "", dict[str, tuple[int, ...] | None]()
    known = -1
    for place in dict.fromkeys(file.places.values()):
        here = shapes_of({name: file.tensors[name] for name in file.tensors if file.places[name] == place})
        for prefix in dict.fromkeys(f"{place}{added}" for added in _prefixes_in(here, place)):
            inside = {name.removeprefix(prefix): shape for name, shape in here.items() if name.startswith(prefix)}
            count = len(expected.keys() & inside.keys())
            if (count, len(inside)) > (known, len(given)):
                best, given, known = prefix, inside, count
    nested = "" if set(file.places.values()) == {""} else f"; the file holds {file.listing}"
    where = f" under {best.rstrip('.')}" if best else ""
    if by_order:
        return f"{file.path} does not fit {about} by order: expected the same shapes in the same order{where}{nested}"
    message = f"{file.path} does not fit {about}: {describe_mismatch(expected, given)}{where}{nested}"
    if find_by_order(model, file) is not None:
        message += (
            "; the shapes are the same in the same order: --weights-by-order (in Python by_order=True) takes them so"
        )
    return message


def _prefixes_in(names: Mapping[str, Any], place: str) -> list[str]:
    """ "", and what the names in a dictionary begin with that a wrapper may have added."""
    firsts = dict.fromkeys(name.removeprefix(place).split(".")[0] for name in names)
    return ["", *(f"{first}." for first in firsts if first in KEYS)]


def _unreadable(path: Path, error: Exception) -> InputError:
    """One line for what reading `path` raised, and what to type where it holds more than weights."""
    if isinstance(error, SafetensorError):
        return InputError(f"cannot read weights {path}: truncated or not safetensors ({one_line(error)[:120]})")
    text = str(error)
    refused = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"unsupported (?:class|global) ([\w.]+)", text)
    resave = "to load it where you trust it, save its weights alone: torch.save"
    if refused:
        load = f"torch.load({path.name!r}, map_location='cpu', weights_only=False)"
        return InputError(
            f"cannot read weights {path}: not only weights, it needs {refused[1]}, and nothing is unpickled; {resave}"
            f"({load}['state_dict'], 'weights.pth'), or .state_dict() in place of ['state_dict'] for a whole model"
        )
    if "TorchScript" in text:
        return InputError(
            f"cannot read weights {path}: TorchScript, not only weights; {resave}"
            f"(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        )
    return InputError(f"cannot read weights {path}: truncated or not only weights ({one_line(error)[:120]})")
