"""Weights on disk with their digest, and loading into a model with checks of names, shapes and types."""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from advgan.core.errors import InputError, listing, one_line
from advgan.core.files import check_downloaded
from advgan.core.json_files import object_digest
from advgan.core.random_state import float32_default
from advgan.core.terminal import utf8
from advgan.core.training_record import check_config_digest

M = TypeVar("M", bound=nn.Module)

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # cast to the model's type
# Entries without effect in eval mode: BatchNorm's counters, and those of profilers and averaging.
COUNTERS = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")


def device_of(model: nn.Module, default: torch.device | None = None) -> torch.device:
    """Device of a model's parameters; the `default`, the CPU for None, without any."""
    return next((tensor.device for tensor in model.parameters()), default or torch.device("cpu"))


def check_weights(model: nn.Module) -> None:
    """Raise InputError for a model that has no weights yet: of a lazy layer, or on the device meta; and for one made
    under inference_mode, whose weights cannot be frozen and passed by a gradient."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise InputError(
                f"{type(model).__name__} has no weights yet in {name} (a lazy layer): call it once on a batch of "
                "images, then train it"
            )
        if tensor.is_meta:
            raise InputError(f"the model's weights are on the device meta, without values ({name}): load them first")
        if tensor.is_inference():
            raise InputError(f"the model was made under torch.inference_mode ({name}): make or load it outside of it")


def dtype_hint(model: nn.Module, reason: str) -> str:
    """The remedy of an error with this `reason` for float32 images, where the weights of `model` are of another
    dtype."""
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()} - {torch.float32}
    if not dtypes or "type" not in reason:  # a linear layer names dtypes, a convolution "bias type (double)"
        return ""
    return f"its weights are {dtypes.pop()}, expected a model of float32 images: model.float()"


def dense(tensor: Tensor) -> Tensor:
    """The values of a tensor of any layout: a sparse one in full, the parts of a nested one in a row."""
    if tensor.is_nested:
        return torch.cat([part.flatten() for part in tensor.unbind()])
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def check_trainable(model: nn.Module) -> None:
    """Raise InputError as `check_weights`, and for what is no module, frozen, without weights, or has a state that is
    no tensor, as a quantised one has."""
    if not isinstance(model, nn.Module):
        raise InputError(f"expected an nn.Module to train, got {type(model).__name__}")
    check_weights(model)
    if others := [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]:
        raise InputError(
            f"{type(model).__name__} has a state that is no tensor ({listing(others, 3)}): a quantised model?"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(f"{type(model).__name__} has no trainable parameters: requires_grad_(True)")


def write_weights(tensors: Mapping[str, Tensor], path: Path, *, config: Mapping[str, Any] | None = None) -> None:
    """Write `tensors` as .safetensors, with the SHA-256 of them all in its metadata, and that of the JSON object
    `config` it (a config.json), where there is one. Tensors that share memory (tied weights) are written once each.
    """
    tensors_on_cpu: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        tensors_on_cpu[name] = value.clone() if value.untyped_storage().data_ptr() in written else value
        written.add(value.untyped_storage().data_ptr())
    metadata = {"format": "pt", "sha256": digest(tensors_on_cpu)}
    if config is not None:
        metadata["config_sha256"] = object_digest(config)
    # Not save_file, whose file permissions ignore the umask.
    path.write_bytes(save(tensors_on_cpu, metadata=metadata))


def read_weights(
    path: Path | str, *, config: Mapping[str, Any] | None = None, digests: bool = False
) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, on the CPU. Raises SafetensorError for a damaged one: where it has the
    SHA-256 of `write_weights`, for one of which a single bit is not as it was, or with another object `config` it. With
    `digests` it must have both.
    """
    check_downloaded(path)
    if (shown := utf8(str(path))) != str(path):
        raise OSError(errno.EINVAL, "safetensors reads no path that is not UTF-8", shown)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if digests and not {"sha256", "config_sha256"} <= metadata.keys():
            raise SafetensorError("it holds no SHA-256")
        if config is not None:
            check_config_digest(metadata, config)
        # Copies: tensors of safetensors are memory-mapped, and change with the file.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    expected = metadata.get("sha256")
    if expected is not None and digest(tensors) != expected:
        raise SafetensorError(f"its weights were changed after saving, their SHA-256 was {expected[:12]}...")
    return tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values, whatever their order in the file."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha256.hexdigest()


def read_checkpoint(folder: Path, config: Mapping[str, Any] | None) -> dict[str, Tensor]:
    """The weights in model.safetensors in `folder`, whose config.json holds `config`. Raises InputError for damaged
    ones, and for those that were saved with another config.json."""
    file = folder / "model.safetensors"
    if not file.is_file():
        raise InputError(f"no weights in {folder}: expected model.safetensors")
    try:
        return read_weights(file, config=config)
    except OSError as error:
        raise InputError(f"cannot read the checkpoint in {folder}: {one_line(error)}") from None
    except Exception as error:  # a damaged file can end in nearly any exception
        raise InputError(f"the checkpoint in {folder} is damaged: {one_line(error)}") from None


def write_checkpoint(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors, with the digests of both, to `folder`."""
    (folder / "config.json").write_text(json.dumps(config, indent=2, allow_nan=False) + "\n")
    write_weights(tensors, folder / "model.safetensors", config=config)


class _NoRandomInit(TorchFunctionMode):
    """Skips random initial values of meta tensors, for which torch would import its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_) or getattr(func, "__module__", None) == "torch.nn.init":
            tensor = args[0] if args else kwargs["tensor"]
            return tensor if tensor.is_meta else func(*args, **kwargs)
        return func(*args, **kwargs)


@float32_default()
def build_and_load(build: Callable[[], M], tensors: Mapping[str, Tensor], file: Path, about: str) -> M:
    """`build()` with the weights `tensors` from `file`. Names and shapes are compared before any memory is taken for
    the model, whatever sizes a config.json has. Raises InputError where they differ.
    """
    with torch.device("meta"), _NoRandomInit():
        expected = build()
    if problems := mismatch(expected, tensors):
        raise InputError(f"{file} does not fit {about}: {problems}")
    return load_weights(build(), tensors, file)


def load_weights(model: M, tensors: Mapping[str, Any], file: Path) -> M:
    """`model` with the weights `tensors` from `file`: names and shapes fit, see `mismatch`. BatchNorm's counters may be
    missing. Raises InputError for weights of another kind than the model's (whole numbers, complex, sparse, quantised,
    without values) and for NaN or infinity where the model has neither.
    """
    state = model.state_dict()
    for name, expected in state.items():
        if name in tensors:
            given = tensors[name]
            state[name] = _checked(given, expected, f"{file}: {name}") if isinstance(expected, Tensor) else given
    model.load_state_dict(state)
    return model


def mismatch(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """The differences in names and shapes between `tensors` and the model; "" if none. Counters may be missing."""
    return describe_mismatch(shapes_of(model.state_dict()), shapes_of(tensors))


def describe_mismatch(
    expected: Mapping[str, tuple[int, ...] | None], given: Mapping[str, tuple[int, ...] | None]
) -> str:
    """The names that are missing, unexpected, or of another shape; "" for none."""
    missing, unexpected = [k for k in expected if k not in given], [k for k in given if k not in expected]
    reshaped = [f"{k} {given[k]} for {expected[k]}" for k in expected if k in given and given[k] != expected[k]]
    return ", ".join(
        f"{len(names)} {problem} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for problem, names in [("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)]
        if names
    )


def shapes_of(state: Mapping[str, Any]) -> dict[str, tuple[int, ...] | None]:
    """The shape of each tensor by name, None for a nested one, without counters."""
    return {
        name: None if tensor.is_nested else tuple(tensor.shape)
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and not name.endswith(COUNTERS)
    }


def _checked(given: Tensor, expected: Tensor, where: str) -> Tensor:
    """`given` in the type of `expected`. Raises InputError for another kind of tensor."""
    expected_type = str(expected.dtype).removeprefix("torch.")
    kind = _kind(given)
    same_type = given.dtype == expected.dtype or (given.dtype in FLOATS and expected.dtype in FLOATS)
    whole_numbers = not any(map(_fractional, (given, expected))) and torch.bool not in (given.dtype, expected.dtype)
    if (kind and kind == _kind(expected) and same_type) or not given.numel():  # e.g. a quantised model
        return given
    if kind or not (same_type or whole_numbers):
        raise InputError(
            f"{where} is {kind or str(given.dtype).removeprefix('torch.')}, expected {expected_type} values"
        )
    value = given.detach().to(expected.dtype)
    if whole_numbers and not same_type and not torch.equal(value.to(given.dtype), given):
        raise InputError(f"{where} holds values beyond {expected_type}")
    if _fractional(value) and not bool(torch.isfinite(value).all()):
        not_finite = ~torch.isfinite(value.cpu()) & torch.isfinite(expected.detach().cpu())
        if bool(not_finite.any()) or bool(value.isnan().any()):
            raise InputError(f"{where} holds NaN or infinity, expected finite weights")
    return value


def _kind(tensor: Tensor) -> str:
    """The kind of a tensor that is no ordinary weight; "" for an ordinary one."""
    if tensor.is_quantized:
        return f"quantised ({str(tensor.dtype).removeprefix('torch.')})"
    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.is_nested or tensor.layout != torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        return f"{layout}, not dense"
    return ""


def _fractional(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
