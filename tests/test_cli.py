"""The `advgan` command: what it tells of a checkpoint, and of one that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from advgan import Generator, __version__
from advgan.cli import main


@pytest.fixture
def run_directory(classifier: Path, tmp_path: Path) -> Path:
    """A run with a classifier and a generator, whose card has the Hub's front matter."""
    (tmp_path / "classifier").symlink_to(classifier / "classifier")
    Generator(width=8, depth=1, eps=8 / 255).save_pretrained(tmp_path / "generator")
    (tmp_path / "generator" / "README.md").write_text("---\ntags: [x]\n---\n# A generator\n\none\n\n---\n\ntwo\n")
    return tmp_path


def info(directory: Path, capsys: pytest.CaptureFixture[str]) -> str:
    main(["info", str(directory)])
    return capsys.readouterr().out


def test_a_generator(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = info(run_directory / "generator", capsys)
    size = sum(parameter.numel() for parameter in Generator(width=8, depth=1).parameters())
    for words in ("0.0313725", "linf", f"{size:,}", "A generator", "one", "two"):
        assert words in text
    assert "tags" not in text


def test_a_run(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = info(run_directory, capsys)
    for words in ("mnist-tutorial", "[1, 28, 28]", "A test's classifier", "linf", "A generator"):
        assert words in text


@pytest.mark.parametrize("card", [b"---\ntags: [x]\n# Unclosed", b"# Caf\xe9, not UTF-8", b""])
def test_a_damaged_card_is_shown_as_it_is(card: bytes, run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_directory / "generator" / "README.md").write_bytes(card)
    assert "linf" in info(run_directory / "generator", capsys)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "no checkpoint in"),
        ("config.json", b"{", "is damaged"),
        ("config.json", b'{"eps": "\xff"}', "is damaged"),
        ("config.json", b"[1, 2]", "is damaged: config.json must hold an object, got [1, 2]"),
        ("model.safetensors", None, "is damaged"),
        ("model.safetensors", b"", "is damaged"),
        ("model.safetensors", b"\xff" * 100, "is damaged"),
    ],
)
def test_what_is_no_checkpoint_is_one_line_and_exit_code_2(
    file: str, content: bytes | None, message: str, run_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run_directory / "generator" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        main(["info", str(run_directory / "generator")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in said


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    main(["version"])
    assert capsys.readouterr().out.strip() == __version__
