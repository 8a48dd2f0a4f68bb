"""A target on disk: `config.json` (name and shapes), `model.safetensors`, and a `README.md` card for its reader."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from advgan.errors import InputError, reason
from advgan.storage import write_aside
from advgan.targets.base import ImageShape, Target
from advgan.targets.others import load_other, source_of
from advgan.targets.registry import build_target, target_family
from advgan.weights import read_weights, write_weights

M = TypeVar("M", bound=nn.Module)


def save_target(model: nn.Module, directory: Path | str, card: str, run: dict[str, Any] | None = None) -> None:
    """Write `model`, a target with or without defences, its `card` (Markdown) and what is told of its training (`run`,
    as training.json) to `directory`, aside and renamed; what stood there goes.
    """

    def write(folder: Path) -> None:
        (folder / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
        write_weights(model.state_dict(), folder / "model.safetensors")
        (folder / "README.md").write_text(card)
        if run is not None:
            (folder / "training.json").write_text(json.dumps(run, indent=2))

    write_aside(Path(directory), write)


def load_target(
    name: str,
    weights: Path | str | None = None,
    *,
    image_shape: ImageShape | None = None,
    num_classes: int | None = None,
) -> Any:
    """Target `name` with trained `weights`: float32, in eval mode, frozen. A name of another source
    (`advgan.targets.others`), like "timm:resnet18", needs none.

    `weights` is what `save_target` wrote, a run directory with it in `classifier/`, or a file of weights: .safetensors,
    or anything else that torch.load reads with weights_only=True. Shape and number of classes default to those of the
    config.json beside the weights, else to those of the data set the target was made for. Raises InputError when the
    weights are not there, damaged, or another model's.
    """
    if source_of(name):
        return load_other(name, weights, image_shape=image_shape, num_classes=num_classes)
    config, state, file = read_target(name, weights)
    if config.get("defenses"):
        raise InputError(f"{file} holds a classifier behind a defence: advgan.defenses.load_classifier loads it")
    return fill(build_target(name, *shapes(config, image_shape, num_classes)), state, file)


def read_target(name: str | None, weights: Path | str | None) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """What config.json says of target `name` (None: the one that it names) in `weights`, with its name at least; the
    tensors; and the file they are in.
    """
    if name is not None:
        target_family(name)
    if weights is None:
        raise InputError(
            f"{name} needs trained weights, expected a directory or a file: train them with "
            f"`python train/classifier.py --target {name} --output-dir DIR`, then give DIR"
        )
    file = weights_file(Path(weights))
    config = _read_config(file.with_name("config.json"))
    if name is None and "name" not in config:
        raise InputError(f"{weights} does not say which classifier it holds: expected a config.json beside the weights")
    if name is not None and config.get("name", name) != name:
        raise InputError(f"{weights} holds target {config['name']}, expected {name}")
    return {"name": name, **config}, read_state(file), file


def shapes(
    config: dict[str, Any], image_shape: ImageShape | None, num_classes: int | None
) -> tuple[ImageShape | None, int | None]:
    """Shape and number of classes: as given, else as config.json says, else None."""
    if image_shape is None and "image_shape" in config:
        image_shape = tuple(config["image_shape"])
    return image_shape, config.get("num_classes") if num_classes is None else num_classes


def fill(model: M, state: dict[str, Tensor], file: Path, about: str | None = None) -> M:
    """`model` with the weights `state` from `file`: in eval mode, frozen. Raises InputError if they are another's.

    about   what the model is, for the message; None: a target says so itself
    """
    if problems := misfits(model, state):
        if about is None:
            shape: Any = model.image_shape
            about = f"{model.name} for {'x'.join(map(str, shape))} images and {model.num_classes} classes"
        raise InputError(f"{file} does not fit {about}: {problems}")
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def misfits(model: nn.Module, state: dict[str, Tensor]) -> str:
    """In which names and shapes `state` is not the model's; "" if in none. BatchNorm's step counters may be missing."""
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    found = {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}
    missing, unexpected = [k for k in expected if k not in found], [k for k in found if k not in expected]
    reshaped = [f"{k} {found[k]} for {expected[k]}" for k in expected if k in found and found[k] != expected[k]]
    return ", ".join(
        f"{len(names)} {word} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for word, names in [("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)]
        if names
    )


def initial_target(
    name: str, weights: Path | str, image_shape: ImageShape, num_classes: int, *, freeze_backbone: bool = False
) -> Target:
    """Target `name` to train further: the backbone from `weights` (as in `load_target`), the head new (torch's seed).

    The weights may be those of a classifier of other classes. With `freeze_backbone` only the head asks for gradients.
    Raises InputError as `load_target`.
    """
    trained = load_target(name, weights, image_shape=image_shape)
    model = build_target(name, image_shape, num_classes)
    head = next(name for name, module in model.named_modules() if module is model.head)
    backbone = {key: value for key, value in trained.state_dict().items() if not key.startswith(f"{head}.")}
    model.load_state_dict(backbone, strict=False)
    model.requires_grad_(not freeze_backbone)
    model.head.requires_grad_(True)
    return model


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's weights, and of its defences: what says whether two runs attacked the same classifier."""
    found = hashlib.sha256()
    layers: list[dict[str, Any]] = []
    layer: Any = model
    while hasattr(layer, "word") and hasattr(layer, "settings"):  # a defence; what is behind it may be anybody's
        layers.insert(0, {"name": layer.word, "settings": layer.settings})
        layer = layer.inner
    if layers:
        found.update(json.dumps(layers, sort_keys=True).encode())
    for module in model.modules():
        found.update((getattr(module, "identity", None) or "").encode())  # of what its weights do not tell
    for name, tensor in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def weights_file(weights: Path) -> Path:
    """The file that `weights` means: itself, or model.safetensors in it. Raises InputError for none."""
    candidates = [weights / "model.safetensors", weights / "classifier" / "model.safetensors"]
    file = next((path for path in [weights, *candidates] if path.is_file()), None)
    if file is None:
        found = "a directory without them" if weights.is_dir() else "nothing"
        raise InputError(f"no target weights at {weights}: expected a file, or model.safetensors in it, found {found}")
    return file


def _read_config(path: Path) -> dict[str, Any]:
    """What config.json says, {} where there is none or another program's."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    return config if isinstance(config, dict) and "name" in config else {}


def read_state(file: Path) -> dict[str, Tensor]:
    """The tensors in `file` by name, nothing unpickled: those under "state_dict" or "model" if there are such, without
    the prefixes of DataParallel and torch.compile. Raises InputError for a file that holds none.
    """
    try:
        found: Any = (
            read_weights(file)
            if file.suffix == ".safetensors"
            else torch.load(file, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged file can end in nearly any exception
        kind = "truncated or not safetensors" if isinstance(error, SafetensorError) else "truncated or not only weights"
        raise InputError(f"cannot read weights {file}: {kind} ({reason(error)[:120]})") from None
    held: dict[str, Any] = found if isinstance(found, dict) else {}
    state = next((held[key] for key in ("state_dict", "model") if isinstance(held.get(key), dict)), held)
    if not state or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(
            f"{file} holds no weights, expected a mapping from parameter names to tensors, as "
            "torch.save(model.state_dict(), FILE) writes it"
        )
    return {str(key).removeprefix("module.").removeprefix("_orig_mod."): tensor for key, tensor in state.items()}
