"""What training programs stand on: files whole or untouched, states that fit or say why not, launchers understood."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from advgan import InputError, training
from advgan.core.files import atomic_write, atomic_write_dir
from advgan.training.runtime import distributed as processes
from advgan.training.runtime.checkpoint import Checkpointer, clear


def test_a_failure_while_writing_leaves_what_was_there(tmp_path):
    folder, file = tmp_path / "generator", tmp_path / "results.json"
    atomic_write_dir(folder, lambda d: (d / "weights").write_text("old"))
    atomic_write(file, "old")

    def fail(directory):
        (directory / "weights").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        atomic_write_dir(folder, fail)
    with pytest.raises(TypeError):
        atomic_write(file, 1)
    assert (folder / "weights").read_text() == file.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["generator", "results.json"]
    atomic_write_dir(folder, lambda d: (d / "weights").write_text("new"))
    assert (folder / "weights").read_text() == "new"


@pytest.fixture
def saved(tmp_path):
    """An accelerator with a network, a record, and their state saved after step 3."""
    accelerator = Accelerator(cpu=True)
    net = accelerator.prepare(torch.nn.Linear(2, 2))
    record = training.TrainState(step=3, settings={"eps": 0.3, "threads": 1})
    state = Checkpointer(accelerator, tmp_path, "generator", 12, record)
    state.save(3)
    yield state, net, record, tmp_path
    accelerator.free_memory()


def test_a_state_comes_back_and_insists_on_its_settings(saved):
    state, net, record, _ = saved
    weight = net.weight.detach().clone()
    torch.nn.init.zeros_(net.weight)
    record["step"], record["settings"] = 0, {"eps": 0.3, "threads": 2}
    state.load()
    assert torch.equal(net.weight, weight)
    assert record["step"] == 3
    record["settings"] = {"eps": 0.2, "threads": 1}
    with pytest.raises(InputError, match=r"eps was 0\.3, now 0\.2"):
        state.load()


def test_state_of_another_version_is_refused(saved):
    state, _, record, _ = saved
    record["shown_warnings"] = []
    with pytest.raises(InputError, match="it has no shown_warnings: another version of advgan saved it"):
        state.load()
    del record.values["shown_warnings"]
    record["settings"] = []
    with pytest.raises(InputError, match="its settings is of type dict, not list"):
        state.load()


def test_a_newer_state_replaces_the_older_one(saved):
    state, _, _, directory = saved
    (directory / "state" / "generator" / ".DS_Store").touch()
    state.save(12)
    (directory / "state" / "generator" / ".DS_Store").unlink()
    assert [p.name for p in (directory / "state" / "generator").iterdir()] == ["step-0000012"]
    clear(directory, "generator")
    assert training.latest_state(directory, "generator") is None


def test_the_newest_state_is_the_one_of_the_most_steps(tmp_path):
    names = ["step-9999999", "step-10000000", "step-10000000+"]
    for n in range(1, 4):
        (tmp_path / "state" / "generator" / names[n - 1]).mkdir(parents=True)
        assert training.latest_state(tmp_path, "generator").name == names[n - 1]


@pytest.mark.parametrize("file", ["model.safetensors", "objects.pt"])
def test_a_damaged_state_is_refused_in_one_line(saved, file):
    state, _, _, directory = saved
    path = training.latest_state(directory, "generator") / file
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(InputError, match=rf"cannot resume from .*: {file} is damaged"):
        state.load()


def test_signals_are_questions_within_the_loop_and_ordinary_after_it():
    before = signal.getsignal(signal.SIGTERM)
    with training.GracefulShutdown() as stop:
        assert not stop.requested(Accelerator(cpu=True))
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested(Accelerator(cpu=True))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("variable", ["ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"])
def test_the_end_of_the_launcher_is_a_request_to_stop(variable, monkeypatch):
    monkeypatch.setenv(variable, "no")
    monkeypatch.setattr(os, "getppid", lambda: 2**22 - 1)  # nobody's
    with training.GracefulShutdown() as stop:
        assert stop.requested(Accelerator(cpu=True))


def test_variables_of_launchers_are_whole_numbers(monkeypatch):
    for variable, text, minimum in (("WORLD_SIZE", "x", 1), ("LOCAL_WORLD_SIZE", "0", 1), ("RANK", "", 0)):
        monkeypatch.setenv(variable, text)
        with pytest.raises(InputError, match=f"{variable} must be a whole number from {minimum} on, got '{text}'"):
            training.init_accelerator(0, 1)
        monkeypatch.delenv(variable)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(InputError, match="RANK must be below WORLD_SIZE, 2, got 5"):
        training.init_accelerator(0, 1)


@pytest.mark.parametrize("started", [True, False])
def test_what_the_launcher_demands_in_vain_is_named(started, monkeypatch):
    def fail(**arguments):
        raise ImportError("DeepSpeed is not installed\npip install deepspeed")

    monkeypatch.setattr(processes, "Accelerator", fail)
    monkeypatch.setattr(processes, "is_initialized", lambda: started)
    with pytest.raises(InputError, match="bf16 cannot be" if started else "a launcher's variables .*: DeepSpeed is"):
        training.init_accelerator(0, 1)


@pytest.mark.parametrize(
    ("precision", "arguments", "message"),
    [("fp16", {}, "mixed precision must be no or bf16, got fp16"), ("no", {"threads": 0}, "threads must be at least 1"),
     ("no", {"threads": 10**6}, "threads must be at most 4,096, got 1000000"),
     ("no", {"seed": -1}, "seed must be from 0")],
)  # fmt: skip
def test_what_cannot_train_two_networks_is_refused(monkeypatch, precision, arguments, message):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
    with pytest.raises(InputError, match=message):
        training.init_accelerator(**{"seed": 0, **arguments})


@pytest.mark.parametrize(
    ("options", "before", "main", "message"),
    [
        ("--cpu --num_processes 2", {}, None, "1 of 2 .* torchrun --nproc-per-node 2 train/x.py ...$"),
        ("--cpu --num_processes 2", {"MASTER_ADDR": "10.0.0.1"}, None, "1 of 2 processes"),
        ("--num-machines=2 --num_processes=4", {}, None, "1 of 4 .* torchrun --nnodes 2 --nproc-per-node 2 train/x"),
        ("--config_file two.yaml", {}, None, "1 of several .* torchrun --nproc-per-node N train/x.py ...$"),
        ("--num_processes 2", {}, SimpleNamespace(name="advgan.__main__"), "--nproc-per-node 2 -m advgan ...$"),
    ],
)
def test_fewer_processes_than_requested_are_an_error(options, before, main, message, launcher, monkeypatch):
    launcher(options, before)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", main)
    with pytest.raises(InputError, match=message) as error:
        training.init_accelerator(0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "launched", "expected"),
    [("3", False, 3), ("5,2", False, 5), ("3", True, 2), ("0", False, 2), ("x", False, 2)],
)
def test_threads_are_those_of_the_environment_without_a_launcher(text, launched, expected, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    for variable in processes.LAUNCHED:
        monkeypatch.delenv(variable, raising=False)
    if launched:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(5)), raising=False)
    assert processes._default_threads(2) == expected


@pytest.mark.parametrize(
    ("options", "before", "variables"),
    [
        ("--num_processes 1", {}, {}),
        ("train/x.py", {"MASTER_ADDR": "10.0.0.1"}, {}),  # set by the user
        ("--num_processes 2", {}, {"WORLD_SIZE": "2"}),
        ("--num_processes 2", {}, {"PMI_SIZE": "2"}),
    ],
)
def test_processes_that_all_started_are_no_error(options, before, variables, launcher):
    launcher(options, before, **variables)
    processes._check_all_started()


@pytest.fixture
def launcher(monkeypatch):
    """A parent process `accelerate launch <options>` with the environment `before`."""

    def start(options, before, **variables):
        parent = SimpleNamespace(cmdline=lambda: ["accelerate", "launch", *options.split()], environ=lambda: before)
        environment = {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "10.0.0.1", **variables}
        monkeypatch.setattr(processes.psutil, "Process", lambda: SimpleNamespace(parent=lambda: parent))
        monkeypatch.setattr(processes.os, "environ", environment)
        monkeypatch.setattr(sys, "argv", ["train/x.py", "--eps", "0.1"])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)

    return start


def test_bar_of_a_notebook_without_widgets_has_no_escape_sequences(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as its kernel does
    monkeypatch.setattr("rich.get_console", lambda: SimpleNamespace(is_jupyter=True))
    monkeypatch.setattr("advgan.core.terminal.find_spec", lambda name: None)
    assert not training.progress_bar(SimpleNamespace(is_main_process=True)).console.is_terminal
