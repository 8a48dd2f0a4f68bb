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
    """CPU threads a process; None shares the cores among the processes"""


@dataclass(frozen=True)
class LossFlags:
    """The weighted sum that the generator minimises."""

    adversarial: losses.AdversarialLoss | None = None
    """Adversarial loss: of the logits (margin, cross-entropy), or of published attacks that transfer: relativistic
    (CDA, Naseer et al. 2019); of a layer's output, untargeted, features (LTP, Nakka & Salzmann 2021) and
    cosine-features (BIA, Zhang et al. 2022); toward the distribution of a target class, match (TTP, Naseer et al.
    2021); None: margin, of an untargeted generator for photos of 100 classes and more relativistic"""
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
    guide), paper (Xiao et al. 2018) or resnet (the published attacks that transfer); None: patch, for images of 96
    pixels a side and more unet"""
    patch: int = 4
    """Side of a patch, in pixels, that becomes one position of the generator"""
    width: int | None = None
    """Channels of the generator; None: 32, of a unet for images of 96 pixels and more 28, of architecture resnet 64, of
    unrolled 0, the learned backward pass alone"""
    depth: int | None = None
    """Residual blocks of the generator (unet: at its bottom; unrolled: iterations); None: 2, of a resnet 6"""
    levels: int | None = None
    """Downsampling levels of a unet; None: 1, for images of 96 pixels and more 2"""


def save_settings(settings: Any, accelerator: Accelerator) -> None:
    """Write the settings of a run to its directory, in the main process."""
    with saving(accelerator, settings.output_dir):
        if accelerator.is_main_process:
            write_settings(settings, settings.output_dir)
