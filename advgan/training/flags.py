"""Flags that training programs share, and the file that holds all flags of a run."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from advgan.core.config import Real, write_settings
from advgan.models import losses
from advgan.models.generator import Architecture
from advgan.training.runtime.checkpoint import saving


@dataclass(frozen=True)
class RunFlags:
    """What becomes of an earlier run, and the threads of this one."""

    resume: bool = False
    """Continue the run in the output directory where it stopped"""
    overwrite: bool = False
    """Replace an earlier run in the output directory"""
    threads: int | None = None
    """CPU threads per process; None: the cores, divided among the processes"""


@dataclass(frozen=True)
class LossFlags:
    """The weighted sum that the generator minimises."""

    adversarial: losses.AdversarialLoss | None = None
    """Adversarial loss. Of the logits: margin, cross-entropy. Of published attacks that transfer: relativistic (CDA,
    Naseer et al. 2019); features (LTP, Nakka & Salzmann 2021) and cosine-features (BIA, Zhang et al. 2022), of a
    layer's output, untargeted; match (TTP, Naseer et al. 2021), targeted. None: margin; relativistic for an untargeted
    generator of photos of 100 classes and more"""
    kappa: Real = 5.0
    """Confidence margin of the adversarial loss (form margin)"""
    gan: losses.GANLoss = "least-squares"
    """Form of the GAN loss"""
    alpha: Real = 0.1
    """Weight of the GAN loss; 0 leaves it out, and trains no discriminator"""
    beta: Real = 0.05
    """Weight of the hinge loss; 0 leaves it out"""
    hinge_c: Real | None = None
    """Threshold c of the hinge loss, an l2 norm; None: 0.85 of that of random-sign noise of this eps on training
    images"""


@dataclass(frozen=True)
class NetworkFlags:
    """The network of the generator."""

    architecture: Architecture | None = None
    """Architecture of generator and discriminator: patch (fast), unet (for success), unrolled (for small eps, with a
    guide), paper (Xiao et al. 2018) or resnet (the published attacks that transfer). None: patch, or unet from 96
    pixels a side on"""
    patch: int = 4
    """Side in pixels of the patches: the generator's feature map has one position for each"""
    width: int | None = None
    """Channels of the generator; None: 32 (unet from 96 pixels a side on: 28, resnet: 64, unrolled: 0, the learned
    backward pass alone)"""
    depth: int | None = None
    """Residual blocks of the generator (unet: at its bottom; unrolled: iterations); None: 2 (resnet: 6)"""
    levels: int | None = None
    """Downsampling levels of a unet; None: 1, from 96 pixels a side on 2"""


def save_settings(settings: Any, accelerator: Accelerator) -> None:
    """Write the settings of a run to its directory, in the main process."""
    with saving(accelerator, settings.output_dir):
        if accelerator.is_main_process:
            write_settings(settings, settings.output_dir)
