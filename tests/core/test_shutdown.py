"""SIGINT, SIGTERM and SIGHUP: exit codes 130, 143 and 129 at any point of every program."""

import ast
import fcntl
import os
import re
import signal
import subprocess
import sys
import termios
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from accelerate import Accelerator

from advgan import InputError, training
from advgan.core import shutdown
from advgan.core.config import run
from advgan.core.shutdown import exit_code, stopped_by_signal
from advgan.experiments import trainings as programs
from tests.conftest import ROOT

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
STARTS = r"exit_on_signals\(\)|run_program\("
PROGRAMS = [
    path
    for path in sorted(ROOT.glob("train/*.py")) + sorted(ROOT.glob("eval/*.py"))
    if re.search(r"run\(main|run_program\(", path.read_text())
]


@dataclass
class Settings:
    pass


def send(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.001)  # the handler runs between two instructions


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signal_ends_program_at_once(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    reached = []

    def main(settings: Settings) -> None:
        send(number)
        reached.append("the next line")

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ending:
        run(main, Settings, [])
    assert (ending.value.code, reached) == (code, [])
    assert signal.getsignal(number) is before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("error", [None, InputError("after it"), RuntimeError("after it"), OSError(28, "full")])
def test_exit_code_survives_caught_exit(number: int, code: int, error: Exception | None) -> None:
    def main(settings: Settings) -> None:
        try:
            send(number)
        except BaseException:
            if error is not None:
                raise error from None

    with pytest.raises(SystemExit) as ending:
        run(main, Settings, [])
    assert ending.value.code == code


def test_repeated_signal_does_not_interrupt_cleanup() -> None:
    cleaned = []

    def main(settings: Settings) -> None:
        try:
            send(signal.SIGTERM)
        finally:
            send(signal.SIGINT)
            send(signal.SIGTERM)
            cleaned.append("a temporary folder")

    with pytest.raises(SystemExit) as ending:
        run(main, Settings, [])
    assert (ending.value.code, cleaned) == (143, ["a temporary folder"])


def test_exit_codes_without_signal() -> None:
    with pytest.raises(SystemExit) as ending:
        run(lambda settings: sys.exit(3), Settings, [])
    assert ending.value.code == 3
    run(lambda settings: None, Settings, [])


@pytest.mark.parametrize("swallows", ["a weak reference", "a thread"])
def test_swallowed_exit_ends_after_grace_period(swallows: str) -> None:
    """Python drops exceptions in garbage collector callbacks; a thread pool waits for its threads."""
    waits = {
        "a weak reference": "weakref.finalize(Settings(), send); time.sleep(60)",
        "a thread": "pool = ThreadPoolExecutor().__enter__(); pool.submit(time.sleep, 60)\n    with pool: send()",
    }[swallows]
    code = (
        "import os, signal, time, weakref\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "from dataclasses import dataclass\nfrom advgan.core import shutdown\nfrom advgan.core.config import run\n"
        "shutdown.GRACE = 0.2\n"
        "def send(): os.kill(os.getpid(), signal.SIGTERM)\n"
        "@dataclass\nclass Settings: pass\n"
        f"def main(settings):\n    {waits}\n"
        "run(main, Settings, [])\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=30).returncode == 143


def test_command_handles_signals_before_large_imports() -> None:
    code = (
        "import os, signal, sys\nfrom advgan.cli import main as cli\n"
        "cli.did_you_mean = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.argv = ['advgan', 'atack']\ncli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_programs_handle_signals_before_other_imports(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    called = next(i for i, node in enumerate(body) if re.search(STARTS, ast.unparse(node)))
    imported = {alias.name for node in body[:called] if isinstance(node, ast.Import) for alias in node.names}
    modules = {node.module for node in body[:called] if isinstance(node, ast.ImportFrom)}
    assert imported == {"sys"}
    assert modules - {"__future__"} in ({"pathlib", "advgan.core.shutdown"}, {"pathlib", "advgan.core.program"})


def test_programs_limit_the_threads_of_scipy_and_need_no_backend_of_matplotlib() -> None:
    code = (
        "import os, sys\nfrom advgan.core.program import prepare_process\nprepare_process()\n"
        "print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)\nimport matplotlib"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    environment["MPLBACKEND"] = "nonsense"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("1 False\n", "")


def test_programs_differ_only_in_their_module() -> None:
    """A start of one, in a process of its own, is a test of all; the others' tests run them in this process."""
    starts = {ast.unparse(ast.parse(path.read_text()).body[1:]) for path in PROGRAMS}
    assert len({re.sub(r"(?<=run_program\()'[\w.]+'", "", start) for start in starts}) == 1


def test_signal_handlers_import_no_pytorch() -> None:
    code = "import sys, advgan.core.program; sys.exit(bool({'torch', 'numpy', 'tyro'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_ignored_hangup_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with training.GracefulShutdown() as stop:
            send(signal.SIGHUP)
            assert not stop.received_signal
        run(lambda settings: send(signal.SIGHUP), Settings, [])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_text_for_a_closed_terminal_is_no_fault(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom advgan.core.shutdown import handle_signals\n"
        "received = []\nhandle_signals(lambda number, frame: received.append(number))\nprint('ready', flush=True)\n"
        "while not received:\n    time.sleep(0.01)\n"
        "print('saved', flush=True)\nPath(sys.argv[1]).write_text('complete')\n"
    )
    master, terminal = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "state"],
        **{"stdin": terminal, "stdout": terminal, "stderr": terminal, "cwd": ROOT, "start_new_session": True},
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(terminal)
    assert os.read(master, 5) == b"ready"
    os.close(master)  # as a window or a connection
    assert child.wait(60) == 0
    assert (tmp_path / "state").read_text() == "complete"


def test_signal_during_imports() -> None:
    code = (
        "import os, signal\n"
        "from advgan.core.shutdown import exit_on_signals\n"
        "exit_on_signals()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "import torch\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")


def test_signal_in_training_waits_for_end_of_step() -> None:
    accelerator = Accelerator(cpu=True)
    with training.GracefulShutdown() as stop:
        assert (stop.requested(accelerator), stop.code) == (False, 0)
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert (stop.requested(accelerator), stop.code) == (True, 143)


def test_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ending, training.GracefulShutdown():  # noqa: PT012
        send(signal.SIGINT)
        monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 1.5)
        send(signal.SIGTERM)  # a launcher's: not a person's
        send(signal.SIGINT)
        raise AssertionError
    assert ending.value.code == 130


def test_signal_after_last_step_sets_exit_code() -> None:
    with pytest.raises(SystemExit) as ending, training.GracefulShutdown() as stop:  # noqa: PT012
        assert not stop.requested(Accelerator(cpu=True))
        send(signal.SIGTERM)
    assert ending.value.code == 143


def test_signal_while_waiting_for_other_processes_ends_at_once() -> None:
    reached = []
    with pytest.raises(SystemExit) as ending, training.GracefulShutdown() as stop:  # noqa: PT012
        with stop.at_once():
            reached.append("the request")
        try:
            with stop.at_once():
                send(signal.SIGINT)
                reached.append("the response")
        finally:
            send(signal.SIGINT)
            reached.append("the state")
    assert (ending.value.code, reached) == (130, ["the request", "the state"])
    with pytest.raises(SystemExit), training.GracefulShutdown() as stop:  # noqa: PT012
        send(signal.SIGTERM)
        with stop.at_once():
            reached.append("another question")
    assert "another question" not in reached


@pytest.mark.parametrize(
    ("returncode", "code"),
    [(143, 143), (130, 130), (-15, 143), (-2, 130), (-1, 129), (0, None), (2, None), (-9, None), (1, None)],
)
def test_return_codes_of_stopped_processes(returncode: int, code: int | None) -> None:
    assert stopped_by_signal(returncode) == code


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_stopped_child_stops_parent_with_same_code(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for returncode in (code, -number):
        monkeypatch.setattr(programs, "run_until_signal", lambda command, returncode=returncode: returncode)
        with pytest.raises(SystemExit) as ending:
            programs.run_script("train/classifier.py")
        assert ending.value.code == code
        assert "train/classifier.py was stopped before its end" in capsys.readouterr().err


def test_exit_code_of_each_signal() -> None:
    assert [exit_code(number) for number in shutdown.SIGNALS] == [130, 143, 129]
