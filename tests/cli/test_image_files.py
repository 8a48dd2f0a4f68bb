"""Untrusted image files: orientation, modes, refused files, and the number of images decoded ahead."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advgan.cli.attack_images import decode as ahead
from advgan.cli.attack_images.decode import Batch, Unreadable, decode_images, group_by_shape
from advgan.core.errors import InputError
from advgan.data import load_data
from advgan.data.image_file import MAX_PIXELS, open_image
from tests.data.test_data import write_folder

ORIENTATION = 0x0112
TURNS = {  # what a viewer does to the stored pixels: EXIF 2.3, table 6
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0, channels: tuple[int, ...] = (3,)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), np.uint8)


def bomb(width: int, height: int) -> bytes:
    """A PNG of 100 bytes whose header declares a large image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    stored, exif = noise(4, 6), Image.Exif()
    exif[ORIENTATION] = orientation
    image = open_image(io.BytesIO(encoded(Image.fromarray(stored), kind, exif=exif)))
    assert np.array_equal(np.asarray(image), TURNS[orientation](stored))


def test_image_shape_of_folder_respects_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for path in write_folder(tmp_path, size=(4, 6), n=3).rglob("*.png"):
        Image.open(path).save(path, exif=exif)
    assert load_data("folder", tmp_path).image_shape == (3, 6, 4)


def test_damaged_exif_data_are_ignored() -> None:
    data = encoded(Image.fromarray(noise(4, 6)), "JPEG", exif=b"Exif\0\0garbage")
    assert open_image(io.BytesIO(data)).size == (6, 4)


def test_modes_are_converted_to_grey_or_rgb() -> None:
    first, second = (Image.fromarray(noise(4, 6, i)).quantize(8) for i in (0, 1))
    animated = encoded(first, "GIF", save_all=True, append_images=[second])
    assert np.array_equal(np.asarray(open_image(io.BytesIO(animated))), np.asarray(first.convert("RGB")))
    for mode, expected in (("1", "L"), ("L", "L"), ("LA", "L"), ("P", "RGB"), ("RGBA", "RGB")):
        assert open_image(io.BytesIO(encoded(Image.new(mode, (3, 2))))).mode == expected
    assert open_image(io.BytesIO(encoded(Image.new("CMYK", (3, 2)), "JPEG"))).mode == "RGB"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(60_000, 60_000), (10_000, 10_000), (MAX_PIXELS + 1, 1)])
def test_decompression_bombs_are_refused_by_header(size: tuple[int, int]) -> None:
    """Above twice Pillow's limit, where Pillow raises, and above the limit, where it only warns."""
    with pytest.raises(OSError, match=f"at most {MAX_PIXELS} pixels expected"):
        open_image(io.BytesIO(bomb(*size)))


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"no image that can be read \(JPEG, PNG"),
        (encoded(Image.fromarray(np.full((4, 4), 1000, np.uint16))), "8 bits per channel expected, got mode I;16"),
        (encoded(Image.fromarray(noise(32, 32)))[:-100], "truncated"),
        (flip(encoded(Image.fromarray(noise(32, 32))), 500), "(?i)broken|crc|checksum|decod"),
        (encoded(Image.fromarray(noise(32, 32)), "JPEG")[:-100], "truncated"),
    ],
    ids=["nothing", "a program for Ghostscript", "16 bits", "a cut PNG", "a flipped bit", "a cut JPEG"],
)
def test_unreadable_image_raises_with_reason(data: bytes, message: str) -> None:
    with pytest.raises(OSError, match=message):
        open_image(io.BytesIO(data))


@pytest.mark.parametrize("image_size", [None, 8])
def test_bomb_in_class_folder_raises(image_size: int | None, tmp_path: Path) -> None:
    write_folder(tmp_path, n=3)
    (tmp_path / "test" / "dog" / "01.png").write_bytes(bomb(60_000, 60_000))
    with pytest.raises(InputError, match=r"^1 of 12 .*test/dog/01\.png \(the first: at most 89478485 pixels"):
        load_data("folder", tmp_path, image_size=image_size)


# Many of them, ahead of the network


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    """Paths of 20 images of two alternating sizes; the 4th is no image, the 9th is missing."""
    paths = [tmp_path / f"{i:02d}.png" for i in range(20)]
    for i, path in enumerate(paths):
        Image.fromarray(noise(6, 8 + i % 2, i)).save(path)
    paths[3].write_text("no image")
    paths[8].unlink()
    return paths


def test_batches_by_shape_cover_all_images(mixed: list[Path]) -> None:
    items = list(group_by_shape(decode_images(mixed, None, None, 4), 4))
    batches = [item for item in items if isinstance(item, Batch)]
    assert [batch.indices for batch in batches] == [
        [0, 2, 4, 6], [1, 5, 7, 9], [10, 12, 14, 16], [11, 13, 15, 17], [18], [19],
    ]  # fmt: skip
    for indices, images, _ in batches:
        expected = [np.asarray(Image.open(mixed[i])).transpose(2, 0, 1) for i in indices]
        assert torch.equal(images, torch.from_numpy(np.stack(expected)))
    broken = [item for item in items if isinstance(item, Unreadable)]
    assert [(item.number, item.reason[:10]) for item in broken] == [(3, "no image t"), (8, "No such fi")]


def test_batches_are_independent_of_workers(mixed: list[Path]) -> None:
    one, many = ([*group_by_shape(decode_images(mixed, 1, None, n), 3)] for n in (1, 7))
    assert len(one) == len(many)
    for a, b in zip(one, many, strict=True):
        assert a[0] == b[0]
        assert a[1] == b[1] if isinstance(a, Unreadable) else torch.equal(a[1], b[1])
    assert {batch.images.shape[1] for batch in one if isinstance(batch, Batch)} == {1}


@pytest.mark.parametrize("every_size_is_another", [False, True])
def test_number_of_waiting_images_is_bounded(
    every_size_is_another: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded and waiting: four batches of pixels, the batch being delivered, and two images per worker."""
    paths = [tmp_path / f"{i}.png" for i in range(60)]
    for i, path in enumerate(paths):
        Image.new("L", (10, 10 + i * every_size_is_another)).save(path)
    opened = 0

    def counted(source: str) -> Image.Image:
        nonlocal opened
        opened += 1
        return open_image(source)

    monkeypatch.setattr(ahead, "open_image", counted)
    delivered, most, limit = 0, 0, 500
    for batch in group_by_shape(decode_images(paths, None, None, 2), 8, limit):
        assert isinstance(batch, Batch)
        assert len(batch.indices) == 1 or batch.images[:, 0].numel() <= limit
        most = max(most, opened - delivered)
        delivered += len(batch.indices)
    assert delivered == 60
    assert most <= 5 * limit // 100 + 2 * 2 + 1
