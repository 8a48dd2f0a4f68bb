"""Black-box attack by a substitute, from queries alone.

python train/substitute.py --dataset mnist --data-dir data --target mnist-c --target-weights RUN
python train/substitute.py --distillation static --answers labels --images 2000 --budget 2000 ...

Static: the substitute f is trained on the black box's responses b to the attacker's images, then the generator against
f. Dynamic (Xiao et al. 2018, arXiv:1801.02610, section 3.3): both in turn, in rounds; before each but the first, b is
queried for the newest adversarial images, and f is trained on these responses, too (and on those of earlier rounds).
Static is dynamic with one round: both take the same steps.

The attacker has no labels: the class of a training image is the black box's prediction. The last round's generator is
the result, so no query is spent on choosing one. Queries of the attack, and those of validation, which only measure,
are counted apart.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from torch import Tensor, nn

import advgan.training as training
from advgan.classifiers import Classifier, OutputKind
from advgan.classifiers.adapters import classes_of
from advgan.classifiers.checks import check_outputs
from advgan.core.config import write_settings
from advgan.core.errors import InputError
from advgan.core.files import optional_folder
from advgan.core.threat_model import Norm
from advgan.core.weights import check_weights, device_of
from advgan.data import Split, Stream
from advgan.data.flags import DataSettings, load_chosen
from advgan.data.sources import as_split, by_name
from advgan.data.split import fair_order
from advgan.defenses import ClassifierSpec, load_classifier
from advgan.defenses.flags import ClassifierSettings
from advgan.evaluation import predict
from advgan.evaluation.compatibility import prepare_model_and_data
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.card import percent
from advgan.training.datasets import Images
from advgan.training.frozen import frozen, training_context
from advgan.training.run_directory import Place, RunFlags
from advgan.training.runtime.loop import Interrupted, Terminated
from advgan.training.substitute_training import (
    Model,
    SubstituteConfig,
    SubstituteResult,
    SubstituteTraining,
)
from advgan.training.supervised import replaced


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
    settings |= {"eps": eps, "norm": norm, "y_target": y_target, "answers": answers, "budget": budget}
    config = replaced(SubstituteConfig(), settings)
    config.check()
    place = Place(optional_folder(output_dir, "output_dir"), resume, overwrite, beside=("classifier",))
    if place.directory is not None and not isinstance(substitute, (str, Classifier)):
        raise InputError(f"output_dir needs a built-in substitute, got {type(substitute).__name__}")
    settings = training.to_jsonable(config)
    # One process, which counts the queries.
    with training_context(place, None, threads=threads, bf16=config.bf16, one_process=True) as accelerator:
        data = attacker_data(black_box, images, validation, config, num_classes)
        is_module = isinstance(black_box, nn.Module)
        if isinstance(substitute, nn.Module):
            check_substitute(substitute, black_box, next(data.validation.first(2).batches(2))[0])
        context: Any = frozen(black_box, accelerator.device) if is_module else nullcontext(black_box)
        with context as model:
            settings |= {
                "target": getattr(model, "name", getattr(model, "__name__", type(model).__name__)),
                "dataset": f"{len(data.train)} images",
                "substitute": substitute if isinstance(substitute, str) else type(substitute).__name__,
            }
            set_seed(config.seed)
            return SubstituteTraining(
                replace(data, model=model),
                substitute,
                config,
                place,
                accelerator=accelerator,
                settings=settings,
                progress=progress,
            ).run()


def check_substitute(substitute: nn.Module, black_box: Any, x: Tensor) -> None:
    """Raise InputError for a substitute with weights of the black box, without weights, or that returns probabilities
    for images `x` (n, c, h, w)."""
    check_weights(substitute)
    if isinstance(black_box, nn.Module) and not {*substitute.parameters()}.isdisjoint(black_box.parameters()):
        raise InputError("the substitute must be another network than the black box, got one with weights of it")
    check_outputs(substitute, x.to(device_of(substitute)), predict(substitute, x), alone=False)


def attacker_data(
    black_box: Any, images: Any, validation: Any, config: SubstituteConfig, num_classes: int | None
) -> Images:
    """The caller's images as splits. Raises InputError as `as_split`, and for labels that are missing or too large."""
    train = as_split(images, "images").split
    held_out = by_name(as_split(validation, "validation"), classes_of(black_box))
    if not held_out.split.has_labels or isinstance(held_out.split, Stream):
        raise InputError("validation must be images with labels, of a known number, got others")
    labels = held_out.split.labels
    n = num_classes or getattr(black_box, "num_classes", None) or int(labels.max()) + 1
    if int(labels.max()) >= n:
        raise InputError(f"validation has labels up to {int(labels.max())}, expected 0 to {n - 1}")
    classes = classes_of(black_box) or tuple(map(str, range(n)))
    held = held_out.split.take(fair_order(labels)).first(config.validation_images)
    return Images(black_box, attacker_images(train, config), held, classes)


def attacker_images(train: Split | Stream, config: SubstituteConfig) -> Split:
    """The attacker's images, each with its index in place of a label."""
    if isinstance(train, Stream):
        raise InputError("each image is queried once, expected a number of images that is known, got a stream")
    n = min(config.images or len(train), len(train))
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(train))[:n])
    return train.take(torch.from_numpy(chosen)).labelled(torch.arange(n))


# The program


@dataclass(frozen=True)
class Settings(RunFlags, SubstituteConfig, ClassifierSettings, DataSettings):
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    substitute: str = "mnist-tutorial"
    """The attacker's own classifier, of an architecture other than the (unknown) target's"""
    output_dir: Path = Path("checkpoints/runs/substitute")
    """Directory of classifier/ (the substitute), generator/, training.json, state/ and logs/"""


def main(settings: Settings) -> None:
    settings.check()
    spec = checked_target(settings)
    accelerator = training.init_accelerator(settings.seed, settings.threads, bf16=settings.bf16, one_process=True)
    place = Place(settings.output_dir, settings.resume, settings.overwrite, beside=("classifier",))
    place.acquire()
    data = load_chosen(settings)
    loaded = load_classifier(spec, image_shape=data.image_shape, num_classes=data.all_classes)
    model, data = prepare_model_and_data(loaded, data)
    held_out = data.validation.first(settings.validation_images)
    run = SubstituteTraining(
        Images(model.to(accelerator.device), attacker_images(data.train, settings), held_out, data.classes),
        settings.substitute,
        settings,
        place,
        accelerator=accelerator,
        settings=training.to_jsonable(settings),
        program="train/substitute.py",
    )
    if settings.substitute == spec.name:
        accelerator.print(
            f"note: substitute and target share the architecture ({spec.name}), which an attacker would have to guess"
        )
    write_settings(settings, settings.output_dir)
    code = 0
    try:
        run.run()
    except (Interrupted, Terminated) as end:
        code = int(end.code or 0)
    print_summary(run, settings.output_dir)
    training.shutdown(accelerator, code)


def print_summary(run: SubstituteTraining, directory: Path) -> None:
    """How far the training is, and where everything is."""
    record, total = run.record, len(run.plan)
    if record["step"] < total:
        print(f"stopped after step {record['step']} of {total}; the same command with --resume continues")
    if record["history"]:
        last = record["history"][-1]
        print(
            f"{record['queries']} queries (validation: {record['validation_queries']} more); validation ASR on the "
            f"black box {last['asr_black_box']:.2%}, on the substitute {percent(last['asr'])}"
        )
        print(f"substitute in {directory / 'classifier'}, generator in {directory / 'generator'}")
    print(tensorboard_command(directory / "logs"))


def checked_target(settings: Settings) -> ClassifierSpec:
    """The black box. Raises InputError where the program would overwrite it."""
    spec = settings.classifier
    folder = settings.output_dir / "classifier"
    outputs = [path.resolve() for path in (settings.output_dir, folder, folder / "model.safetensors")]
    if spec.weights is not None and spec.weights.exists() and spec.weights.resolve() in outputs:
        raise InputError(f"output_dir must not be where the black box lies, got {settings.output_dir}")
    return spec
