"""Training programs where files cannot be written: one line, exit code 1 or 2, and what was saved before is whole."""

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from advgan import Generator, InputError, training
from advgan.classifiers import build_target, load_target, save_target
from advgan.core.config import run
from advgan.core.files import HOST
from advgan.core.json_files import read_sealed
from advgan.core.lock import LOCK, release
from advgan.data import Split
from advgan.defenses.detection import load_detector
from advgan.models.discriminator import Discriminator
from advgan.training.gan import LossConfig
from advgan.training.runtime import checkpoint as states
from advgan.training.runtime.checkpoint import saving
from advgan.training.validation import Validator, eval_settings
from tests.conftest import program_module
from tests.core.test_file_faults import ended, forked

PROGRAMS = ("advgan", "classifier", "distill", "substitute", "detector")
FAULTS = {"ENOSPC": errno.ENOSPC, "EROFS": errno.EROFS, "EACCES": errno.EACCES, "EFBIG": errno.EFBIG}
WRITES = {"open", "os.mkdir", "os.rename"}


@dataclass
class Disk:
    """A directory in which writes fail with error `code`: all, or those after the first of what `first` names."""

    directory: Path | None = None
    code: int = 0
    first: str | None = None  # "state": the first saved weights and training state; "detector": a detector's folder
    logs: bool = False  # whether the writes of TensorBoard, in a thread of its own, fail as well

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.code or self.directory is None or event not in WRITES:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        path = arguments[0]
        if not isinstance(path, (str, os.PathLike)):
            return
        path = Path(path)
        if self.directory not in path.parents or path.name == LOCK or (not self.logs and "logs" in path.parts):
            return
        failing = {
            None: lambda: True,
            "state": lambda: all(map(any, map(self.directory.glob, ("state/*/step-*", "[!.]*/model.safetensors")))),
            "detector": lambda: path.name.startswith(".detector."),
        }
        if failing[self.first]():
            raise OSError(self.code, os.strerror(self.code), str(path))


DISK = Disk()
sys.addaudithook(DISK.hook)  # which cannot be removed again


@pytest.fixture
def disk() -> Iterator[Disk]:
    yield DISK
    vars(DISK).update(vars(Disk()))


def arguments(program: str, digits: Path, classifier: Path, directory: Path) -> list[str]:
    """A run of 4 steps that saves after each second one."""
    words = ["--dataset", "folder", "--data-dir", str(digits), "--threads", "1", "--output-dir", str(directory)]
    attacked = ["--target", "mnist-small", "--target-weights", str(classifier)]
    small = ["--width", "4", "--depth", "0", "--validation-images", "8"]
    own = {
        "advgan": [*attacked, *small, "--max-steps", "4", "--validate-every", "2", "--batch-size", "4"],
        "classifier": ["--target", "mnist-small", "--batch-size", "60", "--max-steps", "4"],
        "distill": ["--target", "mnist-small", "--batch-size", "60", "--max-steps", "2"],
        "substitute": [
            *attacked,
            *small,
            "--substitute",
            "mnist-small",
            "--rounds",
            "2",
            "--distil-steps",
            "2",
            "--generator-steps",
            "2",
        ],
        "detector": [*attacked, "--kind", "binary", "--attacks", "fgsm", "--steps", "2", "--max-samples", "20"],
    }
    more = {"substitute": ["--images", "20", "--batch-size", "4", "--adversarial-images", "4"]}
    return [*words, *own[program], *more.get(program, [])]


def train(program: str, words: list[str]) -> int:
    """The exit code of a program that runs in this process."""
    module = program_module(f"train/{program}.py")
    try:
        run(module.main, module.Settings, words)
    except SystemExit as ending:
        return ending.code  # type: ignore[return-value]
    return 0


def check_saved(program: str, directory: Path) -> None:
    """Each artefact of the run is absent or whole; nothing half-written lies beside."""
    assert not list(directory.rglob(".*"))
    if program == "detector":
        assert not (directory / "detector").exists()
        return
    (artefact,) = (directory / "state").iterdir()
    state = training.latest_state(directory, artefact.name)
    assert state is not None
    states._verify_checksums(state)
    readers = {"generator": Generator.from_pretrained, "discriminator": Discriminator.load, "detector": load_detector}
    for name in ("classifier", "teacher"):
        readers[name] = lambda folder: load_target("mnist-small", folder)
    made = [name for name in readers if (directory / name).exists()]
    assert made
    for name in made:
        readers[name](directory / name)
        if (directory / name / "training.json").exists():
            read_sealed(directory / name / "training.json")


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("saved", [False, True])
def test_message_of_a_failed_save(fault: str, saved: bool, tmp_path: Path, capsys: Any) -> None:
    if saved:
        (tmp_path / "state" / "generator" / "step-0000002").mkdir(parents=True)
    with pytest.raises(SystemExit) as ending, saving(Accelerator(cpu=True), tmp_path):
        raise OSError(FAULTS[fault], os.strerror(FAULTS[fault]), "weights")
    error = capsys.readouterr().err
    assert ending.value.code == 1
    assert error.startswith(f"error: cannot save in {tmp_path}: {os.strerror(FAULTS[fault])}: weights; ")
    assert ("MiB are free there" in error) == (fault in ("ENOSPC", "EFBIG"))
    assert error.endswith("with --resume (resume=True) continues it\n" if saved else "no state was saved before\n")


@pytest.mark.parametrize(
    ("program", "fault"),
    [*((program, "ENOSPC") for program in PROGRAMS), *(("advgan", fault) for fault in FAULTS if fault != "ENOSPC")],
)
def test_write_failing_in_mid_training_keeps_what_was_saved(
    program: str, fault: str, disk: Disk, digits: Path, classifier: Path, tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "run"
    words = arguments(program, digits, classifier, output)
    disk.directory, disk.code = output, FAULTS[fault]
    disk.first = "detector" if program == "detector" else "state"
    assert train(program, words) == 1
    disk.code = 0
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert os.strerror(FAULTS[fault]) in errors[0]
    check_saved(program, output)
    if fault == "ENOSPC" and program != "detector":
        assert train(program, [*words, "--resume"]) == 0
        check_saved(program, output)


@pytest.mark.parametrize("program", PROGRAMS)
def test_write_failing_before_the_first_step_leaves_nothing(
    program: str, disk: Disk, digits: Path, classifier: Path, tmp_path: Path, capsys: Any
) -> None:
    disk.directory, disk.code = tmp_path / "run", errno.EROFS
    disk.directory.mkdir()
    assert train(program, arguments(program, digits, classifier, disk.directory)) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert "Read-only file system" in errors[0]
    assert not list(disk.directory.iterdir())


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("place", "reason"),
    [("file/run", "Not a directory"), ("n" * 300, "File name too long"), ("file", "File exists")],
    ids=["below a file", "300 letters", "a file"],
)
def test_output_directory_that_cannot_be_made_is_refused_before_any_work(
    program: str, place: str, reason: str, digits: Path, classifier: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("kept")
    assert train(program, arguments(program, digits, classifier, tmp_path / place)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: cannot write to output directory {tmp_path / place}: {reason}")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "kept"}


def test_log_that_cannot_be_written_is_one_line(
    disk: Disk, digits: Path, classifier: Path, tmp_path: Path, capsys: Any
) -> None:
    disk.directory, disk.code, disk.logs = tmp_path / "run", errno.ENOSPC, True
    disk.first = "state"
    assert train("advgan", arguments("advgan", digits, classifier, disk.directory)) == 1
    assert len([line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]) == 1
    check_saved("advgan", disk.directory)


def test_file_size_limit_of_the_system(digits: Path, classifier: Path, tmp_path: Path, capsys: Any) -> None:
    """The limit is 64 KiB: less than the weights of a classifier."""
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, limits[1]))
    try:
        assert train("classifier", arguments("classifier", digits, classifier, tmp_path)) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    error = capsys.readouterr().err
    assert error.startswith(f"error: cannot save in {tmp_path}")
    assert "File too large" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "classifier").exists()
    assert not list(tmp_path.rglob(".*"))


def test_generator_replaced_when_a_run_was_killed_is_put_back_by_the_next(tmp_path: Path) -> None:
    """Killed between the two renames that replace the kept generator: the old one is the only whole copy."""
    Generator(width=4, depth=0).save(tmp_path / "generator", "card")

    def replace() -> None:
        rename, renamed = Path.rename, []

        def killed_at_the_second(path: Path, new: Path) -> None:
            if renamed:
                os.kill(os.getpid(), signal.SIGKILL)
            renamed.append(rename(path, new))

        Path.rename = killed_at_the_second  # type: ignore[method-assign, assignment]
        Generator(width=8, depth=0).save(tmp_path / "generator", "card")

    assert ended(forked(replace)) == -signal.SIGKILL
    assert not (tmp_path / "generator").exists()
    (tmp_path / "state" / "generator" / ".step-0000004").mkdir(parents=True)
    living = tmp_path / f".training.json.{HOST}-1-0123ab.aside.json"  # of the system's first process
    living.write_text("{}")
    with pytest.raises(InputError, match="already holds a generator run"):
        training.prepare_output_dir(tmp_path, "generator", resume=False, overwrite=False)
    release()
    assert Generator.from_pretrained(tmp_path).network.body[0].conv.out_channels == 4
    assert sorted(path.name for path in tmp_path.rglob(".*")) == [living.name]


@pytest.mark.parametrize(
    ("program", "change"),
    [
        *((program, {"--learning-rate": "inf"}) for program in PROGRAMS),
        *((program, {"--learning-rate": "nan"}) for program in PROGRAMS),
        *(("advgan", {f"--{name}": "inf"}) for name in ("kappa", "beta", "hinge-c", "clip-norm")),
        *((program, {"--batch-size": "1000"}) for program in PROGRAMS if program != "detector"),
        ("classifier", {"--weight-decay": "inf"}),
        *((program, {"--shift": "28"}) for program in ("classifier", "distill")),
    ],
)
def test_impossible_number_leaves_an_earlier_run_alone(
    program: str, change: dict[str, str], digits: Path, classifier: Path, tmp_path: Path, capsys: Any
) -> None:
    artefact = {"advgan": "generator", "substitute": "generator", "detector": "detector"}.get(program, "classifier")
    (tmp_path / artefact).mkdir()
    (tmp_path / artefact / "config.json").write_text("kept")
    words = [*arguments(program, digits, classifier, tmp_path), "--overwrite"]
    assert train(program, [*words, *(word for pair in change.items() for word in pair)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    (value,) = change.values()
    assert error.endswith(f"got {value}")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.json"]


@pytest.mark.parametrize("program", ["advgan", "substitute"])
def test_target_class_of_all_images_that_count_is_refused(
    program: str, digits: Path, tmp_path: Path, capsys: Any
) -> None:
    """The target gives every image class 0, and the images are pulled toward it: those of class 0 are there already."""
    model = build_target("mnist-small", (1, 28, 28), 3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=1e-4)
    list(model.parameters())[-1].data[0] = 1.0
    save_target(model, tmp_path / "target", "card")
    words = arguments(program, digits, tmp_path / "target", tmp_path / "run")
    assert train(program, [*words, "--y-target", "0", "--validation-images", "48"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        "error: no validation image can be attacked: expected a target that classifies at least one correctly, got "
        "16 of 48, all of them of the target class 0"
    )


def test_images_of_the_target_class_and_misclassified_ones_never_count() -> None:
    """Labels 0 0 1 1 2 2, predictions 0 1 1 1 1 2, a generator that leads all to class 1: of the two images that are
    classified correctly and not of class 1, both; those of class 1, and those taken for class 1 before, are left out.
    """
    images = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    for i, predicted in enumerate((0, 1, 1, 1, 1, 2)):
        images[i, 0, 0, predicted] = 255
    split = Split(images, torch.tensor([0, 0, 1, 1, 2, 2]))

    def target(x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0, :3]

    class ToClassOne(Generator):
        def forward(self, x: torch.Tensor, *given: Any) -> torch.Tensor:
            x_adv = torch.zeros_like(x)
            x_adv[:, 0, 0, 1] = 1.0
            return x_adv

    generator = ToClassOne(width=4, depth=0, y_target=1)
    rest = (Accelerator(cpu=True), eval_settings(generator), LossConfig(hinge_threshold=1.0))
    validation = Validator(target, split, *rest)
    validation.check_attackable()
    figures = validation(generator, Discriminator()).metrics
    assert (figures["n"], figures["n_correct"], figures["asr"]) == (6, 2, 1.0)
    only = Validator(target, split.take(torch.tensor([1, 2, 3, 4])), *rest)
    with pytest.raises(InputError, match="got 2 of 4, all of them of the target class 1"):
        only.check_attackable()
