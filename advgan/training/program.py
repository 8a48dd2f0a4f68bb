"""Train a generator that attacks a fixed classifier in one forward pass (AdvGAN, Xiao et al. 2018, arXiv:1801.02610).

accelerate launch train/advgan.py                                    5,000 embedded digits, with all defaults
torchrun --nproc-per-node 2 train/advgan.py ...                      several processes share each batch
accelerate launch -m advgan train ...                                the same of an installed package: advgan train
python train/advgan.py --dataset mnist --data-dir data --target mnist-c --target-weights RUN --eps 8/255
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from accelerate import Accelerator
from torch import nn

import advgan.training as training
from advgan.core.config import Real
from advgan.core.errors import InputError, note, warn
from advgan.core.json_files import read_sealed
from advgan.core.recipe import NameOrPath
from advgan.core.threat_model import Norm, check_eps
from advgan.data import Data
from advgan.data.classes import class_number
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses import load_classifier, parse_classifier, unwrap
from advgan.defenses.flags import ClassifierSettings
from advgan.evaluation.compatibility import ClassifierLoader, prepare_model_and_data, require_gradients
from advgan.models.generator_settings import Architecture
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.flags import LossFlags, NetworkFlags, RunFlags, save_settings
from advgan.training.generator import fit
from advgan.training.options import FLAGS, Augment, TrainingConfig
from advgan.training.run_files import Description
from advgan.training.runtime.loop import Interrupted, Terminated

PROGRAM = "advgan"  # as in settings-advgan.yaml


@dataclass(frozen=True)
class Settings(NetworkFlags, LossFlags, RunFlags, ClassifierSettings, DataSettings):
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    architecture: Architecture | None = None
    """Architecture of generator and discriminator: patch (fast), unet (for success), unrolled (for small eps, with a
    guide), paper (Xiao et al. 2018) or resnet (the published attacks that transfer). None: patch, or unet from 96
    pixels a side on; a training of 300 steps or more tries it for 60 first, and where that has less than 0.7 of FGSM's
    success takes unrolled with --guide instead"""
    eps: Real = 0.3
    """Radius of the ball, in pixel units of [0, 1]"""
    norm: Norm = "linf"
    """Norm of the ball"""
    y_target: int | str | None = None
    """Target class of every image, a number or a name; None: untargeted"""
    labels: bool | None = None
    """Whether the label, the class to leave, is an input of the generator; None: for patch and unet with at least 10
    training images a class, without a guide and --universal"""
    label_dropout: Real = 0.1
    """Fraction of the training images whose label the generator does not get, so that it also works without"""
    any_class: bool = False
    """One generator for all target classes, and untargeted: the class is an input"""
    target_classes: tuple[str | int, ...] = ()
    """With --any-class: the classes to be trained toward, two or more, by number or name; (): all"""
    aimed: Real = 0.5
    """With --any-class: fraction of the training images with a target class; the others are untargeted"""
    eps_min: Real | None = None
    """One generator for all radii from this one to eps; None: for eps alone"""
    noise: int = 0
    """Length of a noise vector that makes several perturbations of one image; 0: one perturbation"""
    universal: bool = False
    """One perturbation for all images"""
    smoothing: int = 0
    """Side in pixels, odd, of a Gaussian filter (deviation 1) of the perturbation (CDA: 3); 0: none"""
    ensemble: tuple[NameOrPath, ...] = ()
    """Further classifiers, named like --target, on which the generator is trained too: the loss is the mean over all;
    labels and validation are of --target"""
    guide: bool = False
    """Condition the generator on the logits of a frozen copy of the target for the clean image"""
    guide_dir: Path | None = None
    """Directory of a saved classifier that is the guide instead of the target: a smaller one (quick) costs less"""
    train_on: Literal["train", "test"] = "train"
    """Split that the generator is trained on; test: to audit published protocols that train on the images they report
    on (card and reports state it)"""
    output_dir: Path = Path("checkpoints/runs/advgan")
    """Directory of generator/, discriminator/, state/ and logs/"""
    init: Path | None = None
    """Initial weights: a trained generator's folder or run, and the discriminator beside it; None: random ones"""
    epochs: int | None = None
    """Passes over the training images (with --noise a pass is over half of them, each twice); None: 20, but at most 600
    steps (unrolled: 200; from 96 pixels a side on: 60). With --resume a larger number trains longer"""
    max_steps: int | None = None
    """Number of steps, instead of epochs; with --resume a larger number trains longer"""
    batch_size: int | None = None
    """Images per step, over all processes; None: 64, from 96 pixels a side on 16 (unrolled: 8), or all images if there
    are fewer"""
    survive: tuple[str, ...] = ()
    """Transforms of the written image (8 bits), one of which is drawn for each training image: png, jpeg:75, resize,
    crop, resize-crop, or a preprocessing defense; the best generator is that of the highest mean success after them"""
    curriculum: Real | None = None
    """Factor on eps at the first step, which falls to 1 over the first half of the steps; None: 2 for an untargeted
    generator of photos of 100 classes and more, otherwise 1"""
    seed: int = 0
    """Seed of weights and batches"""
    bf16: bool = False
    """Mixed precision: twice the speed on a GPU, or on a CPU that has bfloat16 matrix units"""
    augment: Augment | None = None
    """crop-flip: random crops of photos, half to all of their area, and mirrored ones; none: the images as they are;
    None: crop-flip for files that are larger than --image-size"""
    accumulate: int = 1
    """Micro-batches per step and process: the same step in less memory"""
    checkpoint_target: bool = False
    """Recompute the target's activations in the backward pass instead of keeping them: less memory, one more forward"""
    compile: bool = False
    """Compile generator and target (torch.compile): the first pass takes a minute"""

    layer: str | None = None
    """Layer of the features (--adversarial features, cosine-features), by name, like features.5; None: in the middle"""
    random_normalization: bool = False
    """Random normalisation of the images that the target sees, another one in each step (BIA, Zhang et al. 2022)"""
    gamma: Real = 0.5
    """Weight of the diversity loss (with --noise)"""
    evasion: Real | None = None
    """Weight of the detector loss, where the target can reject (--defense reject:detector=DIR); None: 1"""

    learning_rate: Real | None = None
    """Peak of the generator's one-cycle schedule (Adam); None: 1e-2 (unet: 4e-3, unrolled and resnet: 2e-3)"""
    discriminator_learning_rate: Real = 1e-3
    """Learning rate of the discriminator, constant (Adam)"""
    warmup: Real = 0.1
    """Fraction of the steps in which the learning rate rises"""
    ema: Real = 0.9
    """Decay of the averaged weights that are validated and kept; 0 keeps the latest"""
    clip_norm: Real = 10.0
    """Largest gradient norm of the generator"""
    validate_every: int = 100
    """Steps between validations (and saves)"""
    validation_images: int | None = None
    """Maximum number of validation images; None: 1000, from 96 pixels a side on 200"""


def main(settings: Settings) -> None:
    config = training_config(settings)
    check(settings, config)
    accelerator = training.init_accelerator(settings.seed, settings.threads, bf16=settings.bf16)
    training.prepare_output_dir(settings.output_dir, "generator", resume=settings.resume, overwrite=settings.overwrite)
    models, data, guide = load(settings, accelerator)
    names = getattr(unwrap(models[0]), "classes", None) or data.classes
    y_target = class_number(settings.y_target, names, data.num_classes, settings.target)
    numbers = (class_number(target, names, data.num_classes, settings.target) for target in settings.target_classes)
    target_classes = tuple(number for number in numbers if number is not None)
    settings = replace(settings, y_target=y_target, target_classes=target_classes)
    config = config.replace({"target_classes": target_classes})
    code = 0
    try:
        fit(
            models,
            data.train,
            data.validation,
            eps=settings.eps,
            norm=settings.norm,
            y_target=y_target,
            generator=config.generator,
            guide=guide,
            loss=config.loss,
            optimization=config.optimization,
            run=config.run,
            callbacks=[lambda step, metrics: None if metrics else save_settings(settings, accelerator)],
            accelerator=accelerator,
            output_dir=settings.output_dir,
            resume=settings.resume,
            overwrite=settings.overwrite,
            init=settings.init,
            description=Description(
                training.to_jsonable(settings), "train/advgan.py", data.classes, data.preprocessing
            ),
        )
    except (Interrupted, Terminated) as end:
        code = int(end.code or 0)
    if accelerator.is_main_process:
        print_summary(settings.output_dir)
    training.shutdown(accelerator, code)


def training_config(settings: Settings) -> TrainingConfig:
    """The settings by the names of the library. `seed_weights` is False: `training.init_accelerator` sets the seed."""
    return TrainingConfig.from_flags(settings).replace({"seed_weights": False})


def check(settings: Settings, config: TrainingConfig) -> None:
    """Raise InputError for settings that cannot work, before anything is loaded."""
    check_eps(settings.eps, settings.norm)
    config.check(FLAGS)
    config.check_objective(settings.y_target)
    guided = settings.guide or settings.guide_dir is not None
    if settings.architecture == "unrolled" and not guided:
        raise InputError(
            "architecture unrolled is a backward pass of its guide: expected --guide or --guide-dir, got neither"
        )
    if settings.guide and settings.guide_dir is not None:
        raise InputError("one guide at most: expected --guide or --guide-dir, got both")
    if settings.guide_dir is not None and not settings.guide_dir.is_dir():
        raise InputError(f"guide_dir must be the directory of a saved classifier, got {settings.guide_dir}")
    if guided and settings.universal:
        raise InputError("--universal cannot be combined with a guide: expected --guide or --universal, got both")


def load(settings: Settings, accelerator: Accelerator) -> tuple[list[nn.Module], Data, nn.Module | bool | None]:
    """The classifiers under attack, the images, and the guide."""
    specs = [settings.classifier, *(parse_classifier(name) for name in settings.ensemble)]
    classifiers = [ClassifierLoader(spec) for spec in specs]
    with accelerator.main_process_first():  # one downloads, the others find it
        data = load_chosen(settings, ("train", settings.train_on), labels=False, own_input=classifiers[0].own_input)
    if not data.train.has_labels:
        note(f"labels are the predictions of {settings.target}: the success rate is the fooling rate")
    shape = data.image_shape
    loaded = [classifier.load(data) for classifier in classifiers]
    for model in loaded:
        require_gradients(model)
    (first, named), *others = [prepare_model_and_data(model, data) for model in loaded]
    for spec, (_, other) in zip(specs[1:], others, strict=True):
        if other.classes != named.classes:
            raise InputError(f"{spec.name} has other classes than {settings.target}, or in another order")
    models, data = [first, *(model for model, _ in others)], named
    if settings.train_on == "test":
        warn("the generator is trained on the test images: results on them show memory, too")
        data = replace(data, train=data.test)
    if settings.guide_dir is None:
        return models, data, settings.guide
    return models, data, unwrap(load_classifier(str(settings.guide_dir), image_shape=shape))


def print_summary(directory: Path) -> None:
    """How far the training is, and where everything is."""
    summary = read_sealed(directory / "training.json")
    if not summary["finished"]:
        done, total = summary["steps"], summary["total_steps"]
        print(f"stopped after step {done} of {total}; the same command with --resume continues")
    if summary["history"]:
        best = summary["best_validation_asr"]
        of = ", the mean after the transforms" if summary["settings"].get("survive") else ""
        print(f"best validation ASR {best:.2%}{of}; generator in {directory / 'generator'}")
    print(tensorboard_command(directory / "logs"))
