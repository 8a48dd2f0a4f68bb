"""The `advgan` command: subcommands, `info` of checkpoints, help, and errors."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from advgan import Generator, __version__
from advgan.cli.main import main
from tests.conftest import ROOT


@pytest.fixture
def run_directory(classifier: Path, tmp_path: Path) -> Path:
    """A run with a classifier and a generator whose card has front matter of the Hub."""
    (tmp_path / "classifier").symlink_to(classifier / "classifier")
    Generator(width=8, depth=1, eps=8 / 255).save_pretrained(tmp_path / "generator")
    (tmp_path / "generator" / "README.md").write_text("---\ntags: [x]\n---\n# A generator\n\none\n\n---\n\ntwo\n")
    return tmp_path


def info(directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    main(["info", str(directory)])
    return capsys.readouterr().out


def test_info_of_generator(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = info(run_directory / "generator", capsys)
    size = sum(parameter.numel() for parameter in Generator(width=8, depth=1).parameters())
    for expected in ("│ 8/255 ", "linf", f"{size:,}", "A generator", "one", "two"):
        assert expected in text
    assert "tags" not in text


def test_info_shows_a_long_path_on_one_line(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = run_directory / ("a-folder-with-a-long-name-" * 4)
    shutil.copytree(run_directory / "generator", long)
    assert str(long) in info(long, capsys).splitlines()


def test_info_of_run(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = info(run_directory, capsys)
    for expected in ("mnist-small", "[1, 28, 28]", "A test's classifier", "linf", "A generator"):
        assert expected in text


@pytest.mark.parametrize("card", [b"---\ntags: [x]\n# Unclosed", b"# Caf\xe9, not UTF-8", b""])
def test_info_with_damaged_card(card: bytes, run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_directory / "generator" / "README.md").write_bytes(card)
    assert "linf" in info(run_directory / "generator", capsys)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "no checkpoint in"),
        ("config.json", b"{", "is damaged"),
        ("config.json", b'{"eps": "\xff"}', "is damaged"),
        ("config.json", b"[1, 2]", "config.json: a JSON object expected, got [1, 2]"),
        ("model.safetensors", None, "cannot read the checkpoint in"),
        ("model.safetensors", b"", "is damaged"),
        ("model.safetensors", b"\xff" * 100, "is damaged"),
    ],
)
def test_info_of_damaged_checkpoint_is_one_line_and_exit_code_2(
    file: str, content: bytes | None, message: str, run_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_directory / "generator" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main(["info", str(run_directory / "generator")])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.strip() == __version__


EXAMPLES = ("attack", "compare", "export", "info")


def test_help_lists_commands_without_heavy_imports() -> None:
    code = (
        "import sys; from advgan.cli.main import main; main(['--version']); main(['--help'])\n"
        "assert not {'torch', 'numpy', 'tyro', 'rich', 'huggingface_hub'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    for name in EXAMPLES:
        assert re.search(rf"^  {name} +\S.*\.$", done.stdout, re.M)
    assert done.stdout.startswith(f"{__version__}\nusage: ")
    assert done.stdout.count("\n  advgan ") == 3


def test_info_imports_no_pytorch() -> None:
    code = "import sys; from advgan.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "info", "checkpoints/mnist-c-generator"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "39,760" in done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_command_help_has_three_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: advgan {name} ")
    assert len(re.findall(rf"^    .*advgan {name} ", text, re.M)) == 3
    if name != "info":
        assert "--recipe" in text


def test_unknown_command_suggests_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    for word, suggestion in (("atack", "did you mean attack?"), ("xyzzy", "expected one of app, attack, ")):
        with pytest.raises(SystemExit) as stop:
            main([word])
        assert stop.value.code == 2
        assert suggestion in capsys.readouterr().err


def test_missing_required_flag_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["attack", "in", "out"])
    assert stop.value.code == 2
    assert "--generator" in capsys.readouterr().err


def test_info_of_exported_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    helper = pytest.importorskip("onnx.helper")
    value = helper.make_tensor_value_info("x", 1, ["n", 1, 28, 28])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["x_adv"])], "g", [value], [value])
    graph.output[0].name = "x_adv"
    model = helper.make_model(graph)
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    text = info(tmp_path / "g.onnx", capsys)
    assert "x (n, 1, 28, 28)" in text
    assert "x_adv (n, 1, 28, 28)" in text
    (tmp_path / "bad.onnx").write_bytes(b"no")
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "bad.onnx")])
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_help_that_cannot_be_printed_is_no_traceback() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "advgan", "--help"], cwd=ROOT, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"")
