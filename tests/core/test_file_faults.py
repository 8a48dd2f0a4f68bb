"""File faults: processes killed while saving, full disks, flipped bits, one directory of two runs, hostile pickles."""

import errno
import io
import os
import pickle
import resource
import shutil
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from advgan import Generator, InputError, training
from advgan.classifiers import load_target, save_target
from advgan.core import lock
from advgan.core.config import run
from advgan.core.files import atomic_write
from advgan.core.lock import LOCK, acquire, release
from advgan.defenses.detection import FeatureSqueezing, load_detector
from advgan.models.discriminator import Discriminator
from advgan.training.runtime import checkpoint as states
from advgan.training.runtime.checkpoint import Checkpointer, saving


def forked(call: Callable[[], object]) -> int:
    """Runs `call` in a child process and returns its id; exit code 0, or 1 after an exception."""
    if child := os.fork():
        return child
    code = 1
    try:
        call()
        code = 0
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def state(tmp_path: Path) -> Checkpointer:
    """The state of a small network with an optimizer, saved after step 3 of 12."""
    accelerator = Accelerator(cpu=True)
    net = torch.nn.Linear(40, 40)
    net, optimizer = accelerator.prepare(net, torch.optim.Adam(net.parameters()))
    net(torch.rand(2, 40)).sum().backward()
    optimizer.step()
    record = training.TrainState(step=3, settings={"eps": 0.3})
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer.optimizer, lambda step: 1.0)
    state = Checkpointer(accelerator, tmp_path, "generator", 12, record, schedule)
    state.save(3)
    return state


def folder(state: Checkpointer) -> Path:
    newest = training.latest_state(state.output_dir, "generator")
    assert newest is not None
    return newest


FILES = ["SHA256SUMS", "model.safetensors", "objects.pt", "optimizer.bin", "progress.json", "random_states_0.pkl"]


def test_files_of_a_state(state: Checkpointer) -> None:
    assert sorted(path.name for path in folder(state).iterdir()) == FILES


@pytest.mark.parametrize("moment", ["begin", "weights", "objects", "seal", "rename", "renamed", "last"])
def test_kill_while_saving_keeps_a_complete_state(
    state: Checkpointer, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def then_killed(call: Callable[..., object]) -> Callable[..., None]:
        return lambda *args, **kwargs: (call(*args, **kwargs), killed())[1]

    def save() -> None:
        where = {
            "begin": (Path, "mkdir", then_killed(Path.mkdir)),
            "weights": (state.accelerator, "save_state", then_killed(state.accelerator.save_state)),
            "objects": (torch, "save", then_killed(torch.save)),
            "seal": (states, "_write_checksums", then_killed(states._write_checksums)),
            "rename": (Path, "rename", killed),
            "renamed": (Path, "rename", then_killed(Path.rename)),
            "last": (shutil, "rmtree", lambda path, **kwargs: None if kwargs else killed()),  # the older state
        }
        monkeypatch.setattr(*where[moment])
        state.record["step"] = 4
        state.save(4)

    assert ended(forked(save)) == -signal.SIGKILL
    assert folder(state).name == ("step-0000004" if moment in ("renamed", "last") else "step-0000003")
    state.load()
    assert state.record["step"] == (4 if moment in ("renamed", "last") else 3)
    state.save(5)
    assert [path.name for path in folder(state).parent.iterdir()] == ["step-0000005"], "nothing is left of it"


def test_saving_the_same_step_again_keeps_a_state(state: Checkpointer) -> None:
    state.record["step"] = 33
    state.save(3)
    assert [path.name for path in folder(state).parent.iterdir()] == ["step-0000003+"]
    state.record["step"] = 0
    state.load()
    assert state.record["step"] == 33
    state.save(4)
    assert folder(state).name == "step-0000004"


@pytest.fixture
def small_disk() -> Iterator[Callable[[int], None]]:
    """Limits the size of every written file, which the writer sees as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("size", [1000, 8000])  # the weights do not fit; they do, and the optimizer does not
def test_full_disk_keeps_previous_state(
    state: Checkpointer, small_disk: Callable[[int], None], size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    small_disk(size)
    with pytest.raises(SystemExit) as stop:
        state.save(4)
    small_disk(10**9)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "error: cannot save in" in error
    assert (
        "MiB are free there; the state saved before is complete, and the same command with --resume (resume=True)"
        in error
    )
    assert [path.name for path in folder(state).parent.iterdir()] == ["step-0000003"]
    state.load()


def test_full_disk_keeps_previous_generator(
    state: Checkpointer, small_disk: Callable[[int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = Generator(width=4, depth=0)
    generator.save(tmp_path / "generator", "card")
    small_disk(1000)
    with pytest.raises(SystemExit), saving(state.accelerator, tmp_path):
        Generator(width=8, depth=0).save(tmp_path / "generator", "card")
    small_disk(10**9)
    assert f"cannot save in {tmp_path}" in capsys.readouterr().err
    assert Generator.from_pretrained(tmp_path).network.body[0].conv.out_channels == 4
    assert not list(tmp_path.glob(".generator*"))


def test_other_errors_are_not_converted(state: Checkpointer) -> None:
    with pytest.raises(RuntimeError, match="a bug"), saving(state.accelerator, Path()):
        raise RuntimeError("a bug")


def test_full_disk_in_a_program_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Nothing:
        pass

    def write(settings: Nothing) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.log")

    with pytest.raises(SystemExit) as stop:
        run(write, Nothing, [])
    assert (stop.value.code, capsys.readouterr().err) == (1, "error: No space left on device: events.log\n")


def flip(file: Path, place: int = -3) -> None:
    """Flips one bit near the end of a file: in a weights file, a bit of a weight."""
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize("name", FILES[1:])
def test_flipped_bit_in_state_is_reported(state: Checkpointer, name: str) -> None:
    flip(folder(state) / name)
    with pytest.raises(InputError, match=rf"cannot resume from .*step-0000003: {name} is damaged"):
        state.load()


def test_state_without_checksums_is_refused(state: Checkpointer) -> None:
    (folder(state) / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="it has no SHA256SUMS"):
        state.load()


def test_flipped_bit_in_checkpoint_is_reported(classifier: Path, tmp_path: Path) -> None:
    shutil.copytree(classifier, tmp_path, dirs_exist_ok=True)
    Generator(width=4, depth=0).save(tmp_path / "generator", "card")
    Discriminator(width=4).save(tmp_path / "discriminator")
    save_target(FeatureSqueezing((1, 28, 28)), tmp_path / "detector", "card", {})
    readers = {
        "generator": Generator.from_pretrained,
        "discriminator": Discriminator.load,
        "detector": load_detector,
        "classifier": lambda path: load_target("mnist-small", path),
    }
    for kind, read in readers.items():
        read(tmp_path)
        flip(tmp_path / kind / "model.safetensors")
        with pytest.raises(InputError, match=f"{kind}.*were changed after saving, their SHA-256 was"):
            read(tmp_path)


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.sprung),)


def as_torch_saves(content: bytes) -> bytes:
    """A file in the format of torch.save with `content` as its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", content)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
    return buffer.getvalue()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("name", [*FILES[1:], "custom_checkpoint_0.pkl", "pytorch_model.bin", "sampler.bin"])
def test_pickles_in_a_state_are_not_executed(state: Checkpointer, name: str, wrapped: bool, tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "sprung"), protocol=2)
    (folder(state) / name).write_bytes(as_torch_saves(trap) if wrapped else trap)
    if name == "pytorch_model.bin":  # used by Accelerate without model.safetensors
        (folder(state) / "model.safetensors").unlink()
    (folder(state) / "SHA256SUMS").unlink()
    states._write_checksums(folder(state))
    try:
        state.load()
    except InputError as error:
        assert "cannot resume from" in str(error)  # noqa: PT017
    assert not (tmp_path / "sprung").exists()
    pickle.loads(trap)
    assert (tmp_path / "sprung").exists(), "the trap is one"


def start_lock_holder(directory: Path) -> int:
    """A child process that holds the lock of `directory` when this returns."""

    def work() -> None:
        training.prepare_output_dir(directory, "generator", resume=None, overwrite=True)
        time.sleep(60)

    child, deadline = forked(work), time.monotonic() + 20
    while not ((directory / LOCK).exists() and (directory / LOCK).read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


def test_directory_in_use_is_refused(tmp_path: Path) -> None:
    child = start_lock_holder(tmp_path)
    try:
        with pytest.raises(InputError, match=rf"{tmp_path} is in use by process {child} on .*choose another"):
            training.prepare_output_dir(tmp_path, "comparison", resume=False, overwrite=True)
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child)
    assert (tmp_path / LOCK).exists(), "a killed process leaves the file"
    training.prepare_output_dir(tmp_path, "comparison", resume=False, overwrite=True)
    training.prepare_output_dir(tmp_path, "generator", resume=False, overwrite=True)  # one run may claim twice
    release()
    assert not list(tmp_path.iterdir())


def test_paths_that_are_no_utf8_are_refused_for_results_and_escaped_in_them(tmp_path: Path) -> None:
    for name in ("run\udcff", "run\ud800"):
        with pytest.raises(InputError, match="the path of a directory of results must be UTF-8"):
            training.prepare_output_dir(tmp_path / name, "generator", resume=False, overwrite=True)
    assert not list(tmp_path.iterdir())
    atomic_write(tmp_path / "report.html", "data/\udcff")
    assert (tmp_path / "report.html").read_text() == r"data/\xff"
    Generator(eps=0.3, width=4, depth=0).save(tmp_path / "run\udcff")
    with pytest.raises(InputError, match=r"cannot read the checkpoint in .*run\\xff: .* no path that is not UTF-8"):
        Generator.from_pretrained(tmp_path / "run\udcff")


@pytest.mark.parametrize(
    ("name", "folder", "message"),
    [
        ("training.json", True, "training.json is a folder, expected a file"),
        ("settings-advgan.yaml", True, "settings-advgan.yaml is a folder, expected a file"),
        ("generator", False, "generator is in the way of a folder"),
        ("state", False, "state is in the way of a folder"),
        ("logs", False, "logs is in the way of a folder"),
        ("logs/advgan", False, "logs/advgan is in the way of a folder"),
    ],
)
def test_places_of_a_run_are_free_before_any_work(name: str, folder: bool, message: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).mkdir() if folder else (tmp_path / name).touch()
    with pytest.raises(InputError, match=message):
        training.prepare_output_dir(tmp_path, "generator", resume=False, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == [Path(name).parts[0]], "no lock either"


def test_directories_that_were_made_for_a_run_without_files_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, file = tmp_path / "new" / "run", tmp_path / "file"
    file.touch()
    with pytest.raises(InputError, match="nothing to resume"):
        training.prepare_output_dir(place, "generator", resume=True, overwrite=False)
    for path in (file, file / "run", tmp_path / "new" / ".." / "file"):
        with pytest.raises(InputError, match="cannot write to output directory"):
            training.prepare_output_dir(path, "generator", resume=False, overwrite=False)
    with pytest.raises(InputError, match="at most 200 folders deep, got 2"):
        training.prepare_output_dir(tmp_path / ("x/" * 2000), "generator", resume=False, overwrite=False)
    assert list(tmp_path.iterdir()) == [file]
    training.prepare_output_dir(place, "generator", resume=False, overwrite=False)
    release()
    assert list(tmp_path.iterdir()) == [file]
    training.prepare_output_dir(place, "generator", resume=False, overwrite=False)
    (place / "training.json").touch()
    release()
    place.with_name("empty").mkdir()
    training.prepare_output_dir(place.with_name("empty"), "generator", resume=False, overwrite=False)
    release()
    assert {path.name for path in place.parent.iterdir()} == {"run", "empty"}, "with a file, and made by others"
    monkeypatch.setattr(lock, "_flock", lambda path: "another process")
    with pytest.raises(InputError, match="in use by another process"):
        training.prepare_output_dir(tmp_path / "other", "generator", resume=False, overwrite=False)
    assert not (tmp_path / "other").exists()


def test_forked_worker_does_not_keep_lock_of_parent(tmp_path: Path) -> None:
    assert acquire(tmp_path) is None
    worker = forked(lambda: time.sleep(60))
    try:
        release()
        other = start_lock_holder(tmp_path)
        os.kill(other, signal.SIGKILL)
        ended(other)
    finally:
        os.kill(worker, signal.SIGKILL)
        ended(worker)
