"""Training on labelled images: settings, data and the steps that classifiers and distilled classifiers share, and the
accuracy of a classifier, on clean images and under attack.
"""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Self, TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from advgan.attacks import fgsm, pgd
from advgan.classifiers.adapters import classes_of, image_shape_of, is_recorded
from advgan.classifiers.checks import check_outputs, eval_mode
from advgan.core.config import Real, check_signs
from advgan.core.errors import InputError, did_you_mean
from advgan.core.field_docs import documented
from advgan.core.inputs import check_columns
from advgan.core.json_files import check_int
from advgan.core.weights import check_trainable, device_of
from advgan.data import Data, Split, Stream, training_batches
from advgan.data.batches import augment, check_shift
from advgan.data.sources import as_split, by_name, hold_out, note_shared
from advgan.data.split import are_photos, attack_batch_size
from advgan.evaluation import predict
from advgan.training.defaults import MAX_STEPS
from advgan.training.run_directory import Place, RunDirectory
from advgan.training.runtime.checkpoint import TrainState
from advgan.training.runtime.loop import GracefulShutdown, check_finite
from advgan.training.step_loop import StepLoop


@documented
@dataclass(frozen=True)
class ClassifierConfig:
    """The steps of a classifier's training: AdamW, one cycle of the learning rate (Smith & Topin 2018)."""

    epochs: int = 12
    """Passes over the training images (distillation: of each of the two networks)"""
    max_steps: int | None = None
    """Steps in all (distillation: of each network); overrides epochs, and the schedule follows it"""
    batch_size: int | None = None
    """Images per step, over all processes; None: 128, of photos 32 (a new head alone: 128), or fewer where there are
    fewer training images"""
    seed: int = 0
    """Seed of weights, batches and shifts"""
    learning_rate: Real = 3e-3
    """Peak of the one-cycle schedule (AdamW)"""
    weight_decay: Real = 1e-4
    """Decoupled weight decay (AdamW)"""
    shift: int = 2
    """Largest random translation of training images, in pixels; 0 leaves them as they are"""
    flip: bool = False
    """Random horizontal flips of training images (photographs, not digits)"""

    def check(self) -> None:
        """Raise InputError for settings that cannot work."""
        check_signs(
            self, positive=("epochs", "batch_size", "learning_rate"), not_negative=("weight_decay", "shift", "seed")
        )
        if self.max_steps is not None:
            check_int("max_steps", self.max_steps, 1, MAX_STEPS)

    def with_batch_size(self, train: Split | Stream, processes: int, photos: int = 32) -> Self:
        """The same with the default batch size where it is None; `photos`: that of images from 96 pixels a side on."""
        if self.batch_size is not None:
            return self
        most = photos if are_photos(train.image_shape) else 128
        most = most if isinstance(train, Stream) else min(most, len(train))
        return replace(self, batch_size=max(most // processes, 1) * processes)

    @property
    def images_per_step(self) -> int:
        assert self.batch_size is not None, "set by with_batch_size"
        return self.batch_size


C = TypeVar("C")  # a dataclass


def replaced(config: C, settings: Mapping[str, Any]) -> C:
    """`config` with single settings replaced. Raises InputError for an unknown one."""
    plain: Any = config
    names = [field.name for field in fields(plain)]
    for name in settings:
        if name not in names:
            raise InputError(f"unknown setting {name!r}{did_you_mean(name, names)}")
    return cast(C, replace(plain, **settings))


def check_module(model: nn.Module) -> None:
    """Raise InputError as `check_trainable`, and for a recorded module, which has no modes."""
    check_trainable(model)
    if is_recorded(model):
        raise InputError(
            "a module of TorchScript or torch.export cannot be trained: expected the nn.Module it was made of"
        )


def check_trains(model: nn.Module, x: Tensor) -> None:
    """Raise InputError for a model whose output of images `x` (n, c, h, w) is detached from its weights."""
    with eval_mode(model), torch.enable_grad():
        if not model(x.to(device_of(model)).clone()).requires_grad:
            raise InputError(
                f"{type(model).__name__} passes no gradient to its weights: no_grad, detach or argmax in it?"
            )


def labelled_data(model: nn.Module, train: Any, validation: Any, seed: int) -> Data:
    """Training and validation images (a tenth of `train`, drawn by `seed`, where `validation` is None) for `model`.

    Classes with names are those of the model by its names, and those of the validation images by the training images'.
    Raises InputError as `as_split` and `relabel`, for images without labels, for labels beyond the model's logits, and
    for a model that cannot be trained, or returns probabilities.
    """
    check_module(model)
    shape = image_shape_of(model)
    source = as_split(train, "train", shape)
    held_out = None if validation is None else as_split(validation, "validation", shape)
    for name, part in (("train", source), ("validation", held_out)):
        if part is not None and not part.split.has_labels:
            raise InputError(f"{name} has no labels: expected pairs (x, y), got images alone")
    classes = classes_of(model)
    source = by_name(source, classes)
    if held_out is None:
        source, held_out = hold_out(source, seed)
    else:
        held_out = by_name(held_out, classes or source.classes)
        note_shared(source.split, held_out.split)
    split, held = source.split, held_out.split
    assert not isinstance(held, Stream), "a stream has no labels of all its images"
    x, _ = next(held.first(2).batches(2))
    logits = predict(model, x)
    check_columns(logits)
    check_outputs(model, x.to(device_of(model)), logits, alone=False)
    check_trains(model, x)
    n = logits.shape[1]
    for name, labels in (("train", getattr(split, "labels", None)), ("validation", held.labels)):
        if labels is not None and len(labels) and int(labels.max()) >= n:
            raise InputError(
                f"{name} has labels up to {int(labels.max())}, expected 0 to {n - 1}: the model has {n} logits"
            )
    fitting = [names for names in (classes, source.classes) if names and len(names) == n]
    return Data("images in memory", split, held, held, fitting[0] if fitting else tuple(map(str, range(n))))


class Network:
    """A network in training: AdamW, and one cycle of the learning rate over `steps` steps.

    name     of its metrics in TensorBoard
    folder   of its weights in the directory of the run
    """

    def __init__(
        self, name: str, folder: str, net: nn.Module, config: ClassifierConfig, steps: int, accelerator: Accelerator
    ) -> None:
        self.name, self.folder, self.net = name, folder, net
        trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
        optimizer = AdamW(trained, config.learning_rate, weight_decay=config.weight_decay)
        self.schedule = OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
        self.model, self.optimizer = accelerator.prepare(net, optimizer)


class SupervisedTraining(StepLoop):
    """Steps on batches of labelled images, of one network after the other. A subclass has the loss of a step.

    networks   (name, folder, net), as of `Network`, trained in place, each in as many steps
    between    steps from one validation to the next
    """

    def __init__(
        self,
        networks: Iterable[tuple[str, str, nn.Module]],
        data: Data,
        config: ClassifierConfig,
        accelerator: Accelerator,
        *,
        between: int,
    ) -> None:
        check_shift(config.shift, data.image_shape)
        self.data, self.config, self.accelerator, self.between = data, config, accelerator, between
        self.steps = config.max_steps or config.epochs * between
        self.networks = [Network(*network, config, self.steps, accelerator) for network in networks]
        self.total = len(self.networks) * self.steps
        self.last_loss = 0.0

    def open_files(self, place: Place, log: str, settings: dict[str, Any], **values: Any) -> None:
        """The record of the run, with further `values`, and its files, as they were where it is resumed; that of one
        network may be resumed with another number of steps. `log`: name of the folder of TensorBoard's logs."""
        self.record = TrainState(step=0, seconds=0.0, settings=settings, **values)
        self.files = RunDirectory(place, self.accelerator, self.record, self.total, log)
        schedules = tuple(network.schedule for network in self.networks)
        extendable = schedules if len(schedules) == 1 else ()
        self.files.open_state(*schedules, images=(self.data.train, self.data.validation), schedules=extendable)

    def network_of(self, step: int) -> Network:
        """The network that the step with this number trains, counted from 1."""
        return self.networks[(step - 1) // self.steps]

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and its logits (n, k)."""

    def validation_due(self, step: int) -> bool:
        return ((step - 1) % self.steps + 1) % self.between == 0 or step % self.steps == 0

    def run(self, on_start: Callable[[], None] = lambda: None) -> int:
        """As `take_steps`."""
        batches = training_batches(
            self.data.train,
            self.config.images_per_step,
            seed=self.config.seed,
            first=self.record["step"],
            last=self.total,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            workers=2,
        )
        return self.take_steps(batches, *(network.folder for network in self.networks), on_start=on_start)

    def step(self, batch: tuple[Tensor, Tensor], log: Any, stop: GracefulShutdown) -> None:
        """One step; `last_loss` is its loss, the mean over all processes."""
        began, record, config, accelerator = time.perf_counter(), self.record, self.config, self.accelerator
        x, y = batch
        moved = augment(
            x,
            shift=config.shift,
            flip=config.flip,
            seed=config.seed,
            step=record["step"],
            rank=accelerator.process_index,
            world=accelerator.num_processes,
        )
        network = self.network_of(record["step"] + 1)
        y = y.to(accelerator.device)
        loss, logits = self.loss(moved.to(accelerator.device), y)
        # Before it reaches the weights; the mean over the processes, so that a NaN in one stops them all.
        self.last_loss = accelerator.reduce(loss.detach(), reduction="mean").item()
        with self.files.naming_checkpoint(network.folder):
            check_finite({"the loss": self.last_loss}, record["step"] + 1)
        network.optimizer.zero_grad()
        accelerator.backward(loss)
        network.optimizer.step()
        network.schedule.step()
        record["step"] += 1
        record["seconds"] += time.perf_counter() - began
        step = record["step"]
        if log and (step % 10 == 0 or step % self.steps == 0):
            log.add_scalar(f"{network.name}/loss", self.last_loss, step)
            log.add_scalar(f"{network.name}/accuracy", (logits.argmax(1) == y).float().mean().item(), step)
            log.add_scalar(f"{network.name}/learning rate", network.schedule.get_last_lr()[0], step)
            log.add_scalar(f"{network.name}/images per second", self.images_per_second(), step)

    def images_per_second(self) -> float:
        return float(self.record["step"] * self.config.images_per_step / self.record["seconds"])


Attack = Callable[..., Tensor]  # (model, x, y, rng=) -> x_adv


def accuracy(net: nn.Module, split: Split, accelerator: Accelerator, attack: Attack | None = None) -> float:
    """Share of `split` that `net` classifies correctly, in eval mode, after `attack` if there is one.

    Random numbers of an attack depend on the image's index in `split` alone.
    """
    net.eval()
    # Each process has its own batch norm statistics; data parallel training would take the first's at the next step.
    broadcast(list(net.buffers()))
    correct = torch.zeros((), dtype=torch.long, device=accelerator.device)
    size = 200 if attack is None else attack_batch_size(None, split.image_shape)
    with torch.no_grad():
        for i, (x, y) in enumerate(split.batches(size)):
            if i % accelerator.num_processes == accelerator.process_index:
                x, y = x.to(accelerator.device), y.to(accelerator.device)
                attacked = x if attack is None else attack(net, x, y, rng=torch.Generator().manual_seed(i))
                correct += (net(attacked).argmax(1) == y).sum()
    return int(accelerator.reduce(correct, reduction="sum").item()) / len(split)


def validate(
    net: nn.Module, split: Split, accelerator: Accelerator, eps: float | None = None, most: int = 500
) -> dict[str, float]:
    """The accuracy of `net` on `split`; with `eps` also that under FGSM and PGD-10, linf, on the first `most`."""
    metrics = {"accuracy": accuracy(net, split, accelerator)}
    if eps is not None:
        subset = split.first(most)
        attacks: dict[str, Attack] = {
            "fgsm": lambda net, x, y, rng: fgsm(net, x, y, eps=eps),
            "pgd": partial(pgd, eps=eps, steps=10),
        }
        metrics |= {f"accuracy_{name}": accuracy(net, subset, accelerator, attack) for name, attack in attacks.items()}
    return metrics
