"""Trainings that a study needs: each in a process of its own, finished ones only once."""

import hashlib
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import advgan.training as training
from advgan.core.config import parse
from advgan.core.errors import InputError
from advgan.core.files import atomic_write
from advgan.core.json_files import read_sealed
from advgan.core.program import program_module
from advgan.core.shutdown import stopped_by_signal
from advgan.core.training_record import read_or_nothing

ROOT = Path(__file__).resolve().parents[2]
STAMP_FILE = "prepared.json"  # in the output directory of a command: the command, and whether it is finished
# Settings that decide nothing about what is made.
IGNORED_IN_STAMP = training.IGNORED_ON_RESUME - {"target_weights", "guide_dir", "init"}
IGNORED_ON_RESUME = IGNORED_IN_STAMP - {"data_dir"}  # in which a finished training may differ from the requested one


@dataclass(frozen=True)
class TrainingCommand:
    """The `path` of a training program, its `arguments` and output directory, and the `sha256` of everything that
    affects its result: its settings, those of its recipe among them, and the earlier commands whose runs it uses."""

    path: str
    arguments: tuple[str, ...]
    output_dir: Path
    sha256: str

    @property
    def text(self) -> str:
        return shlex.join((self.path, *self.arguments))


def parse_commands(texts: Sequence[str]) -> list[TrainingCommand]:
    """The commands of lines like "train/classifier.py --epochs 4 --output-dir RUN".

    Raises InputError for another program than train/*.py of this repository, for unknown flags, for
    --resume and --overwrite, which `prepare` chooses, and for two commands with one output directory.
    """
    commands: list[TrainingCommand] = []
    for text in texts:
        try:
            name, *arguments = shlex.split(text) or [""]
        except ValueError as error:
            raise InputError(f"cannot read the command {text!r}: {error}") from None
        if not re.fullmatch(r"train/[a-z_]+\.py", name) or not (ROOT / name).is_file():
            raise InputError(f"expected a command of a program train/*.py of this repository, got {text!r}")
        try:
            settings = parse(program_module(ROOT / name).Settings, arguments)
        except InputError as error:
            raise InputError(f"{name} does not take the flags of {text!r}: {error}") from None
        if any(getattr(settings, flag, False) for flag in ("resume", "overwrite")):
            raise InputError(
                f"expected a command without --resume and --overwrite, which are chosen here, got {text!r}"
            )
        if any(settings.output_dir == other.output_dir for other in commands):
            raise InputError(f"expected an --output-dir for each command, got {settings.output_dir} for two")
        relevant = {key: value for key, value in training.to_jsonable(settings).items() if key not in IGNORED_IN_STAMP}
        description = json.dumps([name, relevant], sort_keys=True, default=str)
        paths = {Path(path) for path in re.split(r'[,=:+"]', description)}
        referenced = {parent for path in paths for parent in (path, *path.parents)}
        before = [other.sha256 for other in commands if other.output_dir in referenced]
        digest = hashlib.sha256(json.dumps([description, before]).encode()).hexdigest()
        commands.append(TrainingCommand(name, tuple(arguments), settings.output_dir, digest))
    return commands


def run_all(commands: Sequence[TrainingCommand], *extra_arguments: object) -> None:
    """Run the commands in order, with `extra_arguments` before their own; finished ones are skipped.

    An interrupted one resumes from its saved state; a changed one runs anew. Ends this program if one fails: finished
    runs stay. Raises InputError, before any run, for an output directory with other contents.
    """
    for command in commands:
        if not (command.output_dir / STAMP_FILE).exists() and any(command.output_dir.glob("*")):
            raise InputError(
                f"{command.output_dir} has contents that are not of {command.text!r}, expected an empty directory"
            )
    for number, command in enumerate(commands, 1):
        stamp, stamped = command.output_dir / STAMP_FILE, read_or_nothing(command.output_dir / STAMP_FILE)
        begun = {"command": command.text, "sha256": command.sha256, "done": False}
        if stamped == begun | {"done": True}:
            print(f"made before  {number} of {len(commands)}: {command.output_dir}", flush=True)
            continue
        same_settings = stamped.get("sha256") == command.sha256
        states = (command.output_dir / "state").glob("*")
        has_state = any(training.latest_state(command.output_dir, folder.name) for folder in states)
        flags = [] if not stamped else ["--resume"] if same_settings and has_state else ["--overwrite"]
        print(f"making       {number} of {len(commands)}: {command.text} {' '.join(flags)}", flush=True)
        command.output_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(stamp, json.dumps(begun, indent=2) + "\n")
        run_script(command.path, *extra_arguments, *command.arguments, *flags)
        if training.unfinished(command.output_dir):  # stopped by its own signal
            sys.exit(f"error: {command.path} was stopped before its end; the same command goes on")
        atomic_write(stamp, json.dumps(begun | {"done": True}, indent=2) + "\n")


def ensure_trained(path: str, arguments: Sequence[object], directory: Path, settings: Any, artefact: str) -> bool:
    """Train in `directory` with the program at `path`, unless finished; whether there were steps left.

    settings  those of `arguments`
    artefact  its result: a "generator" or a "classifier"
    Ends this program if the training was stopped. Raises InputError for a run with other settings.
    """
    run_dir = directory if artefact == "generator" else directory / artefact
    if _finished(run_dir, settings):
        return False
    resume_flags = ["--resume"] if training.latest_state(directory, artefact) else []
    run_script(path, *arguments, *resume_flags, "--output-dir", directory)
    if not _finished(run_dir, settings):
        sys.exit(f"error: the training in {directory} stopped before its end; the same command goes on")
    return True


def _finished(directory: Path, settings: Any) -> bool:
    """Whether the training there is at its end; raises InputError if it was with other settings."""
    path = directory / "training.json"
    if not path.exists():
        return False
    run = read_sealed(path)
    if changed := training.settings_diff(run["settings"], training.to_jsonable(settings), IGNORED_ON_RESUME):
        raise InputError(f"{directory} was trained otherwise ({changed}): choose another --output-dir")
    return bool(run["finished"])


def flags_of(settings: Any, names: Iterable[str]) -> list[str]:
    """Settings of these names as flags of another program, without those that are None."""
    given = {name: getattr(settings, name) for name in names}
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


def run_script(path: str, *arguments: object) -> None:
    """Run one of the programs of this repository; if it fails, this one ends, if a signal stopped it with its exit
    code. Errors of input are printed by that program."""
    if code := run_until_signal([sys.executable, str(ROOT / path), *map(str, arguments)]):
        if stopped := stopped_by_signal(code):
            print(f"{path} was stopped before its end; the same command goes on", file=sys.stderr)
            sys.exit(stopped)
        sys.exit(2 if code == 2 else f"error: {path} ended with exit code {code}")


def run_until_signal(command: list[str]) -> int:
    """The exit code of a command. A signal to this program stops the command too, which saves first; then this program
    exits with the signal's code."""
    with training.GracefulShutdown() as stop, subprocess.Popen(command) as child:
        while child.poll() is None:
            if stop.received_signal:
                child.terminate()
                child.wait()
            time.sleep(0.1)
    return child.returncode
