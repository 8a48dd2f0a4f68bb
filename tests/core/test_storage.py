"""Atomic files and folders: leftovers of killed processes are removed, those of live ones kept; bounded reads."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from advgan.core.errors import InputError
from advgan.core.files import HOST, atomic_write, atomic_write_dir, check_writable, read_text, replacing, staged, sweep


@pytest.fixture
def ended() -> int:
    """The id of a process that has ended."""
    if child := os.fork():
        os.waitpid(child, 0)
        return child
    os._exit(0)


def test_leftovers_of_ended_processes_are_removed(tmp_path: Path, ended: int) -> None:
    (tmp_path / f".figures.{HOST}-{ended}-0123ab.aside").mkdir()
    (tmp_path / f".results.json.{HOST}-{ended}-0123ab.aside.json").write_text("half")
    (tmp_path / f".figures.{HOST}-{ended}-0123ab.old").mkdir()
    (tmp_path / "figures").mkdir()
    kept = {
        f".figures.{HOST}-1-0123ab.aside",  # the system's first process is alive
        f".figures.{HOST}-{os.getpid()}-0123ab.aside",
        ".figures.ffffff-1-0123ab.aside",  # of another machine, just now
        *(".figures-personal", f".figures-{ended}", ".hidden.aside", "figures"),
    }
    for name in kept:
        (tmp_path / name).mkdir(exist_ok=True)
    atomic_write_dir(tmp_path / "records", lambda folder: (folder / "a.csv").write_text("1"))
    assert {path.name for path in tmp_path.iterdir()} == kept | {"records"}
    os.utime(tmp_path / ".figures.ffffff-1-0123ab.aside", (0, 0))
    sweep(tmp_path)
    assert not (tmp_path / ".figures.ffffff-1-0123ab.aside").exists()


def test_interrupted_folder_replacement_is_restored(tmp_path: Path, ended: int) -> None:
    old = tmp_path / f".figures.{HOST}-{ended}-0123ab.old"
    old.mkdir()
    (old / "a.png").write_text("whole")
    sweep(tmp_path)
    assert (tmp_path / "figures" / "a.png").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["figures"]


def test_names_of_255_bytes_are_written(tmp_path: Path) -> None:
    for name in ("a" * 255, "ä" * 127, "a" * 251 + ".png"):
        atomic_write(tmp_path / name, name)
        assert (tmp_path / name).read_text() == name
    atomic_write_dir(tmp_path / ("b" * 255), lambda folder: (folder / "x").write_text("x"))
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("place", ["folder", "missing/file", "file/below"])
def test_failed_write_leaves_no_temporary_file(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="directory"):
        atomic_write(tmp_path / place, "x")
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "file"}


@pytest.mark.parametrize("name", [None, "of the aside", "another"])
def test_failed_write_of_a_folder_names_it_not_the_temporary_one(tmp_path: Path, name: str | None) -> None:
    def write(folder: Path) -> None:
        path = {"of the aside": folder / "x", "another": Path("input")}.get(name or "")
        raise OSError(errno.ENOSPC, "No space left on device", *([str(path)] if path else []))

    with pytest.raises(OSError, match="No space") as error:
        atomic_write_dir(tmp_path / "report", write)
    assert error.value.filename == ("input" if name == "another" else str(tmp_path / "report"))
    assert not list(tmp_path.iterdir())


def test_files_of_a_report_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    """A full disk left new figures beside old tables, and no results.json."""

    def files() -> dict[str, str]:
        return {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}

    def write(text: str, *paths: str) -> None:
        with staged(tmp_path) as folder:
            for path in paths:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text)
            if text == "full":
                raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "kept").write_text("old")
    write("old", "results.json", "report.md", "figures/a.png", "logs/compare/events")
    before = files()
    with pytest.raises(OSError, match="No space") as error:
        write("full", "report.md", "figures/b.png")
    assert (error.value.filename, files()) == (str(tmp_path), before)
    write("new", "results.json", "figures/b.png", "logs/sweep/events")
    changed = {"results.json": "new", "figures/b.png": "new", "logs/sweep/events": "new"}
    assert files() == {name: text for name, text in before.items() if name != "figures/a.png"} | changed
    assert not list(tmp_path.glob(".*"))


def test_folder_of_a_report_may_be_a_link_to_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, disk = os.rename, tmp_path / "disk"

    def within_a_disk(source: Any, place: Any) -> None:
        if (disk in Path(source).parents) != (disk in Path(place).parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, place)

    monkeypatch.setattr(os, "rename", within_a_disk)
    (disk / "figures").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures").symlink_to(disk / "figures")
    with staged(tmp_path / "run") as folder:
        (folder / "figures").mkdir()
        (folder / "figures" / "a.png").write_text("new")
    assert (disk / "figures" / "a.png").read_text() == "new"


def test_replacing_keeps_suffix_and_old_file_on_failure(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_text("old")

    def fail() -> None:
        with replacing(tmp_path / "g.onnx") as aside:
            assert aside.suffix == ".onnx"
            aside.write_text("half")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("g.onnx", "old")]


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_writable(tmp_path / "new" / "below")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/1/fd/new")):
        with pytest.raises(InputError, match=r"cannot write in .*/(file|fd|1): "):
            check_writable(place)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="dangling: No such file"):
        check_writable(tmp_path / "dangling")


def test_read_text_is_bounded_and_needs_regular_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(tmp_path / "a", 6) == "abc"
    os.mkfifo(tmp_path / "pipe")
    for path, limit, message in (("a", 5, "at most 5 bytes"), (".", 9, "got a folder"), ("pipe", 9, "device or pipe")):
        with pytest.raises(OSError, match=message):
            read_text(tmp_path / path, limit)
    with pytest.raises(OSError, match="device or pipe"):
        read_text(Path("/dev/zero"), 9)
