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
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.datasets import score_name
from advgan.training.generator import fit
from advgan.training.options import (
    FLAGS,
    ComputeFlags,
    GeneratorConfig,
    LossFlags,
    OptimizationFlags,
    TrainingConfig,
)
from advgan.training.run_directory import RunFlags, save_settings
from advgan.training.run_files import Description
from advgan.training.runtime.loop import Interrupted, Terminated

PROGRAM = "advgan"  # as in settings-advgan.yaml


@dataclass(frozen=True)
class Settings(GeneratorConfig, OptimizationFlags, ComputeFlags, LossFlags, RunFlags, ClassifierSettings, DataSettings):
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    eps: Real = 0.3
    """Radius of the ball, in pixel units of [0, 1]"""
    norm: Norm = "linf"
    """Norm of the ball"""
    y_target: int | str | None = None
    """Target class of every image, a number or a name; None: untargeted"""
    target_classes: tuple[str | int, ...] = ()  # type: ignore[assignment]
    """With --any-class: the classes to be trained toward, two or more, by number or name; (): all"""
    aimed: Real = 0.5
    """With --any-class: fraction of the training images that get a random target class; the others are attacked
    untargeted"""
    ensemble: tuple[NameOrPath, ...] = ()
    """Further classifiers, named like --target, on which the generator is trained too: the loss is the mean over all;
    labels and validation are of --target"""
    guide: bool = False
    """Condition the generator on the logits of a frozen copy of the target for the clean image"""
    guide_dir: Path | None = None
    """Directory of a saved classifier that is the guide instead of the target: a smaller one, like quick, is faster"""
    train_on: Literal["train", "test"] = "train"
    """Split that the generator is trained on; test: to audit published protocols that train on the images they report
    on (card and reports state it)"""
    output_dir: Path = Path("checkpoints/runs/advgan")
    """Directory of generator/, discriminator/, state/ and logs/"""
    init: Path | None = None
    """Initial weights: a trained generator's folder or run, and the discriminator beside it; its network is that of
    the training where no flag sets another; None: random weights"""
    survive: tuple[str, ...] = ()
    """Transforms of the written image (8 bits), one of which is drawn for each training image: png, jpeg:75, resize,
    crop, resize-crop, or a preprocessing defense; the best generator is that of the highest mean success after them"""

    layer: str | None = None
    """With --adversarial features or cosine-features: name of the layer they come from, like features.5; None: a middle
    one"""
    random_normalization: bool = False
    """Random normalisation of the images that the target sees, another one in each step (BIA, Zhang et al. 2022)"""
    gamma: Real = 0.5
    """With --noise: weight of the diversity loss, which makes two perturbations of one image differ"""
    evasion: Real | None = None
    """With a target that rejects images (--defense reject:detector=DIR): weight of the loss that keeps adversarial
    images below the detector's threshold; None: 1"""


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
        print_summary(settings.output_dir, score_name(data.train.has_labels))
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


def print_summary(directory: Path, score: str) -> None:
    """How far the training is, its success rate (`score`), and where everything is."""
    summary = read_sealed(directory / "training.json")
    if not summary["finished"]:
        done, total = summary["steps"], summary["total_steps"]
        print(f"stopped after step {done} of {total}; the same command with --resume continues")
    if summary["history"]:
        best = summary["best_validation_asr"]
        of = ", the mean after the transforms" if summary["settings"].get("survive") else ""
        print(f"best validation {score} {best:.2%}{of}; generator in {directory / 'generator'}")
    print(tensorboard_command(directory / "logs"))
