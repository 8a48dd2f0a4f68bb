"""Black-box attack by a substitute, from queries alone: `train_substitute`."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

import advgan.training as training
from advgan.classifiers import Classifier, OutputKind
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm
from advgan.data import Split, Stream
from advgan.data.sources import as_split
from advgan.data.split import fair_order
from advgan.training.frozen import frozen, process_settings
from advgan.training.run_directory import Place
from advgan.training.runtime.distributed import make_accelerator
from advgan.training.substitute_config import SubstituteConfig
from advgan.training.substitute_training import AttackerData, Model, SubstituteResult, SubstituteTraining


def train_substitute(
    black_box: Model,
    images: Any,
    validation: Any,
    *,
    substitute: str | nn.Module,
    eps: float,
    norm: Norm = "linf",
    y_target: int | None = None,
    answers: OutputKind = "probabilities",
    budget: int | None = None,
    num_classes: int | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> SubstituteResult:
    """Train a substitute of a black box from its responses, and a generator against the substitute.

    Dynamic distillation: Xiao et al. 2018, arXiv:1801.02610, section 3.3.

        result = train_substitute(predict, x, (x_validation, y), substitute="mnist-b", eps=0.3, answers="labels")
        x_adv = result.generator.perturb(x_test)

    Args:
        black_box: a function, images (n, c, h, w) float32 in [0, 1] -> probabilities (n, k), or labels (n,) with
            answers="labels"; a module -> logits (n, k), of which only these responses are used; or a `BlackBox`.
        images: the attacker's images, as for `advgan.fit`; labels are not used.
        validation: images and true labels, which only measure. They are queried, too, and counted apart.
        substitute: name of a built-in classifier, or a module, images -> logits (n, k), trained in place, its dropout
            off for good; with `output_dir` a built-in one.
        eps, norm: the ball: the largest perturbation, in units of pixels in [0, 1].
        y_target: the class to reach; None: any but the black box's prediction.
        budget: largest number of images to query for the attack; None: no limit.
        num_classes: k; None: that of the black box, or one more than the largest validation label.
        output_dir: where both networks, the state for `resume` and TensorBoard's logs are kept; None: nowhere.
        resume, overwrite: continue the run in `output_dir`, with the same settings and no query twice; or replace it.
        threads, progress: CPU threads; a bar and a line per round.
        settings: others of `SubstituteConfig`, like rounds=10, distil_steps=500, seed=1.

    Raises:
        InputError: before any query of the attack, for what cannot work; later for a response that is none.
        Interrupted: after SIGINT (Ctrl-C): a KeyboardInterrupt with the result so far (`trained`).
        NotFiniteError: a loss became NaN or infinite.
    """
    config = SubstituteConfig(eps=eps, norm=norm, y_target=y_target, answers=answers, budget=budget, **settings)
    config.check()
    place = Place(None if output_dir is None else Path(output_dir), resume, overwrite)
    check_can_be_saved(substitute, place)
    with process_settings(threads):
        accelerator = make_accelerator(bf16=config.bf16, one_process=True)  # which counts the queries
        with place.acquired():
            claim_substitute(place)
            data = attacker_data(black_box, images, validation, config, num_classes)
            with unchanged(black_box, accelerator.device) as model:
                run = prepare(model, data, substitute, config, place, accelerator=accelerator, progress=progress)
                return run.run()


def check_can_be_saved(substitute: str | nn.Module, place: Place) -> None:
    """Raise InputError for a module of the caller's own that is to be saved."""
    if place.directory is not None and not isinstance(substitute, (str, Classifier)):
        raise InputError(f"output_dir needs a built-in substitute, got {type(substitute).__name__}")


def unchanged(black_box: Model, device: torch.device) -> AbstractContextManager[Model]:
    """A block in which a module is frozen, and left as it was; a function is itself."""
    return frozen(black_box, device) if isinstance(black_box, nn.Module) else nullcontext(black_box)


def prepare(
    black_box: Model,
    data: AttackerData,
    substitute: str | nn.Module,
    config: SubstituteConfig,
    place: Place,
    *,
    accelerator: Accelerator,
    progress: bool,
) -> SubstituteTraining:
    """The training, from the seed of `config`; its card and training.json have the names of the parts."""
    name = substitute if isinstance(substitute, str) else type(substitute).__name__
    target = getattr(black_box, "name", getattr(black_box, "__name__", type(black_box).__name__))
    names = {"target": target, "dataset": f"{len(data.train)} images", "substitute": name}
    set_seed(config.seed)
    return SubstituteTraining(
        black_box,
        data,
        substitute,
        config,
        place,
        accelerator=accelerator,
        settings=training.to_jsonable(config) | names,
        progress=progress,
    )


def claim_substitute(place: Place) -> None:
    """Raise InputError for a directory, claimed for the generator, that holds a classifier which is not to go."""
    if place.directory is not None and not place.resume:
        training.prepare_output_dir(place.directory, "classifier", resume=False, overwrite=place.overwrite)


def attacker_data(
    black_box: Any, images: Any, validation: Any, config: SubstituteConfig, num_classes: int | None
) -> AttackerData:
    """The caller's images as splits. Raises InputError as `as_split`, and for labels that are missing or too large."""
    train, held_out = as_split(images, "images").split, as_split(validation, "validation")
    if not held_out.split.has_labels or isinstance(held_out.split, Stream):
        raise InputError("validation must be images with labels, of a known number, got others")
    labels = held_out.split.labels
    n = num_classes or getattr(black_box, "num_classes", None) or int(labels.max()) + 1
    if int(labels.max()) >= n:
        raise InputError(f"validation has labels up to {int(labels.max())}, expected 0 to {n - 1}")
    classes = tuple(getattr(black_box, "classes", None) or map(str, range(n)))
    held = held_out.split.take(fair_order(labels)).first(config.validation_images)
    return AttackerData(attacker_images(train, config), held, classes)


def attacker_images(train: Split | Stream, config: SubstituteConfig) -> Split:
    """The attacker's images, each with its index in place of a label."""
    if isinstance(train, Stream):
        raise InputError("each image is queried once, expected a number of images that is known, got a stream")
    n = min(config.images or len(train), len(train))
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(train))[:n])
    return train.take(torch.from_numpy(chosen)).labelled(torch.arange(n))
