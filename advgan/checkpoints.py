"""What a checkpoint's folder says of itself, without PyTorch."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from advgan.errors import InputError, reason


def summary(folder: Path) -> dict[str, Any]:
    """Configuration of a checkpoint, and how many numbers it holds; raises InputError for a damaged one."""
    try:
        config = json.loads((folder / "config.json").read_text())
        with safe_open(folder / "model.safetensors", framework="np") as weights:
            sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    except (ValueError, SafetensorError, OSError) as error:  # neither JSON nor text is a ValueError
        raise InputError(f"the checkpoint in {folder} is damaged: {reason(error)}") from None
    if not isinstance(config, dict):
        raise InputError(f"the checkpoint in {folder} is damaged: config.json must hold an object, got {config!r:.60}")
    return {**config, "parameters": f"{sum(math.prod(shape) for shape in sizes):,}"}
