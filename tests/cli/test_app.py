"""advgan app: bad input is one line and exit code 2; the pairs of a run and of the shipped generators."""

from pathlib import Path

import pytest

from advgan import Generator
from advgan.cli.app import Settings, choose_pairs
from advgan.cli.main import main
from advgan.core.config import parse


@pytest.fixture
def run_directory(classifier: Path, tmp_path: Path) -> Path:
    (tmp_path / "classifier").symlink_to(classifier / "classifier")
    Generator(width=4, depth=1).save_pretrained(tmp_path / "generator")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "mnist-c-genrator"], "unknown checkpoint 'mnist-c-genrator'; did you mean mnist-c-generator"),
        (["--eps", "0.5"], "this generator was trained for eps 0.3, got the larger 0.5"),
        (["--eps", "-1"], "eps must be in (0, 1]"),
        (["--y-target", "3"], "this generator was trained untargeted, got y_target 3"),
        (["--y-target", "ten"], "the target has no class names, expected a class number, got 'ten'"),
        (["--port", "80"], "port must be from 1024 to 65535, got 80"),
        (["--target", "mnist-c"], "--target is for a generator of yours, expected --generator, got --target mnist-c"),
        (["--defense", "jpeg"], "--defense is for a generator of yours, expected --generator, got --defense jpeg"),
        (["--image-size", "32"], "--image-size is for a generator of yours, expected --generator"),
        (["--generator", "nowhere"], "no generator in nowhere: expected config.json"),
        (["--generator", "nowhere", "--target-weights", "x"], "target_weights need a target, got x alone"),
        (["--generator", "nowhere", "--checkpoint", "mnist-c-generator"], "expected no --generator, got nowhere"),
    ],
)
def test_bad_input_is_exit_code_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["app", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_pairs(run_directory: Path) -> None:
    pairs = choose_pairs(parse(Settings, ["--checkpoint", "mnist5k-generator"]))
    assert list(pairs) == ["mnist5k-generator", "mnist-c-generator", "mnist-c-conditional"]
    ((name, load),) = choose_pairs(parse(Settings, ["--generator", str(run_directory)])).items()
    assert name == run_directory.name
    assert load().image_shape == (1, 28, 28)
    assert load().note == ""
    other = ["--generator", str(run_directory), "--target", "mnist-c", "--target-weights"]
    (load,) = choose_pairs(parse(Settings, [*other, "checkpoints/mnist-c-classifier"])).values()
    assert load().takes_digits
