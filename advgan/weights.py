"""Weights on disk that say what they were: a flipped bit among them is found, not used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def write_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write `tensors` as .safetensors, with the SHA-256 of them all in its metadata."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Not save_file, which leaves a file that others may not read, whatever the umask says.
    path.write_bytes(save(kept, metadata={"format": "pt", "sha256": digest(kept)}))


def read_weights(path: Path | str) -> dict[str, Tensor]:
    """The tensors in a .safetensors file, on the CPU. Raises SafetensorError for a damaged one: where it has
    the SHA-256 of `write_weights`, for one of which a single bit is not as it was.
    """
    with safe_open(path, framework="pt") as file:
        told = (file.metadata() or {}).get("sha256")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if told is not None and digest(tensors) != told:
        raise SafetensorError(f"its weights are not those that were saved, whose SHA-256 is {told[:12]}...")
    return tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values, whatever their order in the file."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
