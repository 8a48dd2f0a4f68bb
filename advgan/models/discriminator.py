"""The discriminator of clean and adversarial images."""

from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.files import atomic_write_dir
from advgan.core.json_files import check_int, check_keys, read_object
from advgan.core.weights import build_and_load, read_checkpoint, write_checkpoint
from advgan.models.generator_settings import MAX_CHANNELS, MAX_WIDTH, Architecture, check_architecture
from advgan.models.networks import InstanceNorm


class Discriminator(nn.Module):
    """Images (n, channels, h, w) in [0, 1], padded to what the strides need, -> scores (n,), higher for clean ones.

    ours     (not "paper") patches scored where they stand, the image's score is their mean; no normalisation, so
             that what it says of one image does not depend on the others (clean and perturbed ones go in together)
    "paper"  Xiao et al. 2018: C8, C16, C32 of 4 x 4 with stride 2, LeakyReLU .2; a score per position and their mean in
             place of the fully connected layer, so that any size will do
    """

    def __init__(self, channels: int = 1, architecture: Architecture = "patch", width: int = 32) -> None:
        super().__init__()
        check_int("channels", channels, 1, MAX_CHANNELS)
        check_int("width", width, 1, MAX_WIDTH)
        check_architecture(architecture)
        self.config: dict[str, Any] = {"channels": channels, "architecture": architecture, "width": width}
        self.multiple = 8 if architecture == "paper" else 4
        leaky = nn.LeakyReLU(0.2, inplace=True)
        if architecture != "paper":
            self.network = nn.Sequential(
                nn.Conv2d(channels, width, 4, stride=4),
                leaky,
                nn.Conv2d(width, width, 3, stride=2, padding=1),
                leaky,
                nn.Conv2d(width, 1, 1),
            )
        else:
            self.network = nn.Sequential(
                nn.Conv2d(channels, 8, 4, stride=2, padding=1),
                leaky,
                nn.Conv2d(8, 16, 4, stride=2, padding=1),
                InstanceNorm(16),
                leaky,
                nn.Conv2d(16, 32, 4, stride=2, padding=1),
                InstanceNorm(32),
                leaky,
                nn.Conv2d(32, 1, 1),
            )
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[-2:]
        padded = F.pad(x, (0, -w % self.multiple, 0, -h % self.multiple), mode="replicate")
        scores: Tensor = self.network((2 * padded - 1).contiguous(memory_format=torch.channels_last))
        return scores.mean((1, 2, 3))

    def save(self, directory: Path | str) -> None:
        """Write config.json and model.safetensors, all or nothing; other files there stay."""

        def write(folder: Path) -> None:
            write_checkpoint(folder, self.config, self.state_dict())

        atomic_write_dir(Path(directory), write, keep=True)

    @classmethod
    def load(cls, run: Path) -> Self:
        """The discriminator of a run of train/advgan.py, or of its discriminator/; in eval mode, frozen.

        Raises InputError where there is none, or a damaged one.
        """
        folder = run if run.name == "discriminator" else run / "discriminator"
        if not (folder / "config.json").is_file():
            raise InputError(f"no discriminator in {run}: expected a run of train/advgan.py with alpha above 0")
        config = read_object(folder / "config.json")
        check_keys(f"config.json in {folder}", config, ["channels", "architecture", "width"])
        tensors, file = read_checkpoint(folder, config), folder / "model.safetensors"
        return build_and_load(lambda: cls(**config), tensors, file, "its config.json").eval().requires_grad_(False)
