"""A checkpoint's folder and its run, without PyTorch: whether the training was finished, and a summary."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from advgan.core.errors import InputError, one_line, warn
from advgan.core.files import check_regular
from advgan.core.json_files import object_digest, read_object

STATE_OF = {"generator": "generator", "discriminator": "generator", "classifier": "classifier", "teacher": "classifier"}
PROGRESS = "progress.json"  # in each training state: {"step": steps done, "steps": steps in all}
_warned: set[Path] = set()


def checkpoint_folder(path: Path, artefact: str) -> Path:
    """The folder of a checkpoint at `path`: `path` itself, the folder of a file, or the `artefact` of a run."""
    if os.path.isfile(path):
        return path.parent
    inside = os.path.isdir(path / artefact) and not (path / "model.safetensors").exists()
    return path / artefact if inside else path


def unfinished(checkpoint: Path) -> str | None:
    """ "step 20 of 100" where the training of the folder `checkpoint` was stopped or killed, or still runs; None where
    it was finished, and without a record in the folder and its run.

    The run's newest training state decides, because it is written last; without one its training.json.
    """
    folder = checkpoint.resolve()
    run, record = folder.parent, read_or_nothing(folder / "training.json")
    artefact = STATE_OF.get(folder.name)
    if artefact is not None and not record:
        of_run = read_or_nothing(run / "training.json")
        # A classifier may be beside another run's generator, unless both are a substitute's.
        record = of_run if artefact == "generator" or "substitute" in of_run else {}
    states = run / "state" / (artefact or "none")
    if "substitute" in record and artefact == "classifier":
        states = run / "state" / "generator"
    if states.is_dir():
        newest = newest_state(states)
        progress = {} if newest is None else read_or_nothing(newest / PROGRESS)
        step, steps = progress.get("step"), progress.get("steps")
        if isinstance(step, int) and isinstance(steps, int):
            return f"step {step} of {steps}" if step < steps else None
        if newest is None and not record:
            return "before its first saved state"
    if record.get("finished") is False:
        return f"step {record.get('steps')} of {record.get('total_steps')}"
    return None


def newest_state(states: Path) -> Path | None:
    """The complete training state of the most steps in a folder of them, of equals (step-0000020, step-0000020+) the
    later; None without any."""
    return max(states.glob("step-*"), key=lambda path: (len(path.name.rstrip("+")), path.name), default=None)


def warn_unfinished(checkpoint: Path) -> None:
    """One line on stderr, once for each checkpoint, where its training was not finished."""
    folder = checkpoint.resolve()
    if folder in _warned or os.environ.get("RANK", "0") != "0":
        return
    if progress := unfinished(folder):
        _warned.add(folder)
        warn(
            f"the training of {checkpoint} was not finished ({progress}): the same training command with --resume "
            "(resume=True) continues it"
        )


def trained_with(run: Path) -> str:
    """End of a message about the classifier of a generator's run: "; its generator was trained with --target NAME
    --target-weights PATH", or "" for a run of Python, which records no flags, and for anything else."""
    settings = read_or_nothing(run / "training.json").get("settings")
    if not isinstance(settings, Mapping) or not {"target", "target_weights"} <= settings.keys():
        return ""
    weights = settings["target_weights"]
    with_weights = f" --target-weights {weights}" if weights else ", without --target-weights"
    return f"; its generator was trained with --target {settings['target']}{with_weights}"


def read_or_nothing(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`; {} where it cannot be read."""
    try:
        return read_object(path, finite=False)
    except InputError:
        return {}


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """Configuration of a checkpoint, and its number of parameters; raises InputError for a damaged one."""
    try:
        config = read_object(folder / "config.json")
        check_regular(folder / "model.safetensors")
        with safe_open(folder / "model.safetensors", framework="np") as weights:
            check_config_digest(weights.metadata() or {}, config)
            sizes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
    except OSError as error:
        raise InputError(f"cannot read the checkpoint in {folder}: {one_line(error)}") from None
    except (ValueError, SafetensorError) as error:  # an InputError is a ValueError
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
