"""Random crops of photos for training: what they show, and that seed, epoch and image decide which."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advgan.core.errors import InputError
from advgan.data import Data, load_data, training_batches
from advgan.data.image_file import random_crop
from tests.data.test_data import write_photos

STEPS = {"batch_size": 6, "seed": 3, "random_crops": True}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Data:
    root = tmp_path_factory.mktemp("photos") / "train"
    root.mkdir()
    write_photos(root, 20, sizes=((24, 40), (30, 30), (50, 20)))
    return load_data("folder", root, image_size=16, label_source="predicted")


def test_crop_is_half_to_all_of_the_square_and_mirrored_in_half_of_the_cases(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))  # each pixel is its column
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    crops = [
        np.asarray(random_crop(str(tmp_path / "ramp.png"), 32, np.random.default_rng(i))).astype(int) for i in range(60)
    ]
    shares = [abs(crop[0, -1] - crop[0, 0]) / 255 * 32 / 31 for crop in crops]
    assert min(shares) > 0.5**0.5 - 0.02
    assert max(shares) < 1.02
    assert max(shares) - min(shares) > 0.2
    assert 15 < sum(crop[0, 0] > crop[0, -1] for crop in crops) < 45


def test_crop_is_never_enlarged_unless_the_image_is_smaller(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 33, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "small.png")
    path = str(tmp_path / "small.png")
    for i in range(5):  # the whole height, at any place
        crop = np.asarray(random_crop(path, 20, np.random.default_rng(i)))
        assert crop.shape == (20, 20, 3)
        assert np.abs(crop.astype(int).mean((0, 1)) - pixels.mean((0, 1))).max() < 25
    assert random_crop(path, 32, np.random.default_rng(0)).size == (32, 32)


def test_jpeg_decoded_at_a_fraction_looks_the_same(tmp_path: Path) -> None:
    smooth = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)).resize((960, 640))
    smooth.save(tmp_path / "photo.jpg", quality=95)
    smooth.save(tmp_path / "photo.png")
    for i in range(4):
        ours, exact = (
            np.asarray(random_crop(str(tmp_path / f"photo.{kind}"), 32, np.random.default_rng(i))).astype(int)
            for kind in ("jpg", "png")
        )
        assert np.abs(ours - exact).mean() < 4


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_crops_resume_and_are_shared_by_processes(workers: int, photos: Data) -> None:
    whole = [x for x, _ in training_batches(photos.train, last=7, workers=workers, **STEPS)]
    later = [x for x, _ in training_batches(photos.train, first=4, last=7, workers=workers, **STEPS)]
    assert all(torch.equal(x, again) for x, again in zip(whole[4:], later, strict=True))
    ranks = [training_batches(photos.train, last=7, rank=rank, world=2, **STEPS) for rank in (0, 1)]
    for x, (first, _), (second, _) in zip(whole, *ranks, strict=True):
        assert torch.equal(torch.cat([first, second]), x)
    other = next(training_batches(photos.train, last=1, **STEPS | {"seed": 4}))[0]
    assert not torch.equal(other, whole[0])


def test_crop_of_an_image_differs_between_epochs(photos: Data) -> None:
    one, other = (photos.train.random_crops([5], (0, epoch))[0] for epoch in (0, 1))
    assert not torch.equal(one, other)
    assert one.shape == other.shape == (1, 3, 16, 16)


def test_only_photos_larger_than_the_image_size_have_crops(photos: Data, tmp_path: Path) -> None:
    assert photos.train.photos is not None
    assert photos.validation.photos is None
    write_photos(tmp_path / "train", 12, sizes=((16, 40), (16, 16)))
    data = load_data("folder", tmp_path / "train", image_size=16, label_source="predicted")
    assert data.train.photos is None
    for split in (data.train, load_data("mnist5k").train.first(20)):
        with pytest.raises(InputError, match="random crops need photos larger than the image size, in a folder or hf:"):
            training_batches(split, last=1, **STEPS)


def test_photos_of_a_split_are_those_of_its_images(photos: Data) -> None:
    part = photos.train.take(torch.tensor([7, 2]))
    assert part.photos is not None
    assert torch.equal(part.photos[[0, 1]], torch.stack([photos.train.images[7], photos.train.images[2]]))
