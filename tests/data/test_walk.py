"""Files below a folder: hidden files, links and special files are not read as data, and every walk ends."""

import os
from pathlib import Path

import pytest

from advgan.cli.attack_images.find import find_images
from advgan.core.errors import InputError
from advgan.data import load_data
from advgan.data.image_file import open_image
from advgan.data.walk import image_files
from tests.data.test_data import write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six images of each of two classes in train/ and test/."""
    return write_folder(tmp_path / "data", n=6)


def count(root: Path) -> tuple[int, int]:
    data = load_data("folder", root)
    return len(data.train) + len(data.validation), len(data.test)


def test_hidden_and_system_files_are_skipped(root: Path) -> None:
    for folder in (".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        for parent in (root, root / "train", root / "train" / "cat"):
            (parent / folder).mkdir()
            (parent / folder / "00.png").write_bytes(b"no image")
    for name in ("._00.png", ".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "test" / "dog" / name).write_bytes(b"no image")
    assert count(root) == (12, 12)
    assert len(find_images(str(root), root.parent / "out")) == 24


def test_cyclic_links_are_followed_once(root: Path) -> None:
    for name in ("x", "y"):
        os.symlink(".", root / "train" / "cat" / name)
    os.symlink("../../train/cat", root / "train" / "cat" / "z")
    assert count(root) == (12, 12)


def test_linked_folder_is_read(root: Path) -> None:
    (root / "train" / "dog").rename(root.parent / "dogs")
    os.symlink(root.parent / "dogs", root / "train" / "dog")
    assert count(root) == (12, 12)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_linked_file_counts_once(link, root: Path) -> None:
    link(root / "train" / "cat" / "00.png", root / "train" / "cat" / "again.png")
    assert count(root) == (12, 12)


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("place", ["test/cat/leak.png", "train/dog/other.png"])
def test_file_in_two_splits_or_classes_raises(link, place: str, root: Path) -> None:
    link(root / "train" / "cat" / "00.png", root / place)
    with pytest.raises(InputError, match=rf"1 files are in two splits or classes .*train/cat/00.png and .*{place} are"):
        load_data("folder", root)


def test_special_files_and_dangling_links_are_not_opened(root: Path) -> None:
    os.mkfifo(root / "train" / "cat" / "fifo.png")
    os.symlink("/dev/zero", root / "train" / "cat" / "zero.png")
    os.symlink("nowhere", root / "train" / "cat" / "gone.png")
    assert count(root) == (12, 12)
    problems = {image.name: image.problem for image in find_images(str(root), root.parent / "out") if image.problem}
    assert [*problems] == ["train/cat/fifo.png", "train/cat/gone.png", "train/cat/zero.png"]
    assert problems["train/cat/fifo.png"] == "no regular file"
    with pytest.raises(OSError, match="a regular file expected, got a device or pipe"):
        open_image(root / "train" / "cat" / "fifo.png")


def test_path_of_linked_file_is_real_path(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "0.png").write_bytes(b"")
    os.symlink("b", tmp_path / "a")
    assert image_files(tmp_path) == [str(tmp_path / "b" / "0.png")]


def test_self_links_do_not_hide_files(tmp_path: Path) -> None:
    write_folder(tmp_path)
    before = image_files(tmp_path)
    for path in {Path(file).parent for file in before}:
        (path / "link").symlink_to("link")
        (path / "link.png").symlink_to("link.png")
    assert image_files(tmp_path) == before
    problems = {image.name: image.problem for image in find_images(str(tmp_path), tmp_path / "out")}
    assert sum(problem == "" for problem in problems.values()) == len(before)
    assert {problem for name, problem in problems.items() if name.endswith("link.png")} == {"no regular file"}
