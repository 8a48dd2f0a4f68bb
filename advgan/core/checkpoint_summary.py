"""Summary of a checkpoint's folder, without PyTorch."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from advgan.core.errors import InputError, one_line
from advgan.core.files import check_regular
from advgan.core.json_files import object_digest, read_object
from advgan.core.training_record import unfinished, warn_unfinished


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """Configuration of a checkpoint, and its number of parameters; raises InputError for a damaged one."""
    try:
        config = read_object(folder / "config.json")
        check_regular(folder / "model.safetensors")
        with safe_open(folder / "model.safetensors", framework="np") as weights:
            check_config_digest(weights.metadata() or {}, config)
            sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    except (ValueError, SafetensorError, OSError) as error:  # an InputError is a ValueError
        raise InputError(f"the checkpoint in {folder} is damaged: {one_line(error)}") from None
    warn_unfinished(folder)
    progress = unfinished(folder)
    training = {"training": f"not finished: {progress}"} if progress else {}
    return {**config, "parameters": f"{sum(math.prod(shape) for shape in sizes):,}", **training}


def check_config_digest(metadata: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Raise SafetensorError unless `config` is the one saved with the weights with this `metadata`; third-party files
    have no digest."""
    expected = metadata.get("config_sha256")
    if expected is not None and object_digest(config) != expected:
        raise SafetensorError(
            "the JSON file beside the weights is not the one that they were saved with (its SHA-256 differs): restore "
            "it from a copy, or save the checkpoint again"
        )
