"""Defensive distillation: a classifier that learns another one's soft labels (Papernot et al. 2016, arXiv:1511.04508).

python train/distill.py --temperature 20                       mnist-c on the embedded digits, with all other defaults
python train/distill.py --dataset mnist --data-dir data --temperature 100 --epochs 4 --output-dir RUN
accelerate launch --cpu --num_processes 2 train/distill.py ...    several processes share each batch

A teacher is trained on the labels at temperature T; then a student of the same architecture on the teacher's
probabilities at T for the same images. RUN/classifier is the student, used by the other programs at temperature 1, with
logits T times as large as a plain classifier's. RUN/teacher is the teacher.

Nothing is chosen: both nets are kept as the last step leaves them, when the learning rate has come down to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

import advgan.training as training
from advgan.classifiers import build_target, save_target
from advgan.core.config import Real
from advgan.core.errors import InputError
from advgan.core.recipe import NameOrPath
from advgan.data import Data, steps_per_epoch
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses.distillation import check_temperature, soft_cross_entropy, soft_labels
from advgan.evaluation import predict
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.card import UNFINISHED, command, percent, plain, target_card, trained, trained_on
from advgan.training.frozen import training_context
from advgan.training.run_directory import Place, RunFlags, save_settings
from advgan.training.supervised import (
    ClassifierConfig,
    SupervisedTraining,
    accuracy,
    check_module,
    check_trains,
    labelled_data,
    replaced,
)

Phase = Literal["teacher", "student"]
PROGRAM = "distill"  # as in settings-distill.yaml
Save = Callable[["DistillationTraining", Phase, bool], None]  # the training, a phase, whether it is finished
FOLDER: dict[Phase, str] = {"teacher": "teacher", "student": "classifier"}  # in the order of training


def distill(
    teacher: nn.Module,
    student: nn.Module,
    train: Any,
    validation: Any = None,
    *,
    temperature: float = 20.0,
    config: ClassifierConfig | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    **settings: Any,
) -> nn.Module:
    """Defensive distillation (Papernot et al. 2016, arXiv:1511.04508): train both in place; the student, in eval mode.

        student = distill(make_net(), make_net(), (x, y), temperature=20, epochs=5)

    The teacher learns the labels with softmax(logits / T), the student the teacher's probabilities at T. Both are kept
    as the last step leaves them: nothing is chosen on `validation`.

    Args:
        teacher, student: images (n, c, h, w) float32 in [0, 1] -> logits (n, k); in the paper of one architecture.
        train, validation: labelled images, as for `train_classifier`.
        temperature: T, positive.
        config: settings of the steps of each (`ClassifierConfig`); `settings` replaces single ones, like epochs=5.
        accelerator: an existing Accelerator; None: one of the launched processes, or of this one.
        progress: a progress bar and a line per validation.

    Raises:
        InputError: before any training, for what cannot work.
        Interrupted: after SIGINT (Ctrl-C): a KeyboardInterrupt with the student as it is (`trained`).
        NotFiniteError: the loss became NaN or infinite.
    """
    config = replaced(config or ClassifierConfig(), settings)
    config.check()
    check_temperature(temperature)
    place = Place(artefact="classifier")
    with training_context(place, accelerator) as accelerator:
        data = labelled_data(student, train, validation, config.seed)
        check_teacher(teacher, student, next(data.validation.first(2).batches(2))[0])
        config = config.with_batch_size(data.train, accelerator.num_processes)
        set_seed(config.seed)
        nets: dict[Phase, Any] = {"teacher": teacher, "student": student}
        steps = DistillationTraining(nets, data, config, accelerator, place, temperature=temperature)
        steps.progress = progress
        code = steps.run()
        steps.files.raise_if_stopped(code, student)
        teacher.eval()
        return student.eval()


def check_teacher(teacher: nn.Module, student: nn.Module, x: Tensor) -> None:
    """Raise InputError for a teacher that is the student itself, cannot be trained, or has other classes."""
    if teacher is student:
        raise InputError("teacher and student must be two networks, got the same one twice")
    check_module(teacher)
    outputs, expected = tuple(predict(teacher, x).shape), tuple(predict(student, x).shape)
    if outputs != expected:
        raise InputError(f"the teacher must return logits of the student's shape {expected}, got {outputs}")
    check_trains(teacher, x)


class DistillationTraining(SupervisedTraining):
    """A distillation that is ready; `run` takes its steps: first the teacher's, then as many of the student.

    nets       trained in place
    settings   all settings, for the record of the run
    save       writes the network of a phase, called after a validation; None: nothing is written
    """

    title = "distill"

    def __init__(
        self,
        nets: dict[Phase, Any],
        data: Data,
        config: ClassifierConfig,
        accelerator: Accelerator,
        place: Place,
        *,
        temperature: float,
        settings: dict[str, Any] | None = None,
        save: Save | None = None,
    ) -> None:
        self.nets, self.temperature, self.save = nets, temperature, save
        networks = [(phase, folder, nets[phase]) for phase, folder in FOLDER.items()]
        epoch = steps_per_epoch(data.train, config.images_per_step)
        super().__init__(networks, data, config, accelerator, between=epoch)
        settings = training.to_jsonable(config) | {"temperature": temperature} if settings is None else settings
        self.open_files(place, "distill", settings, accuracies={})

    def phase_of(self, step: int) -> Phase:
        """That of the step with this number, counted from 1."""
        return "teacher" if step <= self.steps else "student"

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        step = self.record["step"] + 1
        if self.phase_of(step) == "teacher":
            q = F.one_hot(y, self.data.num_classes).float()
        else:
            with torch.no_grad():
                q = soft_labels(self.nets["teacher"].eval()(x), self.temperature)
        logits = self.network_of(step).model.train()(x)
        return soft_cross_entropy(logits, q, self.temperature).mean(), logits

    def validate(self, log: Any, bar: Any) -> None:
        step = self.record["step"]
        phase = self.phase_of(step)
        score = accuracy(self.nets[phase], self.data.validation, self.accelerator)
        self.record["accuracies"][phase] = {"validation": score}
        if log:
            log.add_scalar(f"{phase}/validation accuracy", score, step)
        if self.accelerator.is_main_process and self.progress:
            bar.console.print(f"step {step:5d}  {phase}, validation accuracy {score:.2%}", highlight=False)
        with self.files.writing() as writing:
            if writing and self.save is not None:
                self.save(self, phase, False)

    def summary(self) -> str:
        phase = self.phase_of(self.record["step"])
        score = self.record["accuracies"].get(phase, {}).get("validation")
        return f"{phase} loss {self.last_loss:.3f}" + ("" if score is None else f" val {score:.1%}")


# The program


@dataclass(frozen=True)
class Settings(RunFlags, ClassifierConfig, DataSettings):
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    target: NameOrPath = "mnist-c"
    """Architecture of teacher and student: mnist-a, mnist-b, mnist-c, mnist-tutorial, cifar-resnet20, ..."""
    temperature: Real = 20.0
    """Temperature T of the softmax in the training of both"""
    output_dir: Path = Path("checkpoints/runs/distill")
    """Directory of classifier/ (the student), teacher/, state/ and logs/"""

    def check(self) -> None:
        check_temperature(self.temperature)
        super().check()


def main(settings: Settings) -> None:
    settings.check()
    accelerator = training.init_accelerator(settings.seed, settings.threads)
    place = Place(settings.output_dir, settings.resume, settings.overwrite, "classifier")
    place.acquire()
    with accelerator.main_process_first():  # one downloads, the others find it
        data = load_chosen(settings)
    settings = settings.with_batch_size(data.train, accelerator.num_processes)
    nets: dict[Phase, Any] = {
        phase: build_target(settings.target, data.image_shape, data.num_classes) for phase in FOLDER
    }
    for net in nets.values():
        net.classes = data.classes
    steps = DistillationTraining(
        nets,
        data,
        settings,
        accelerator,
        place,
        temperature=settings.temperature,
        settings=training.to_jsonable(settings),
        save=partial(save_network, settings),
    )
    code = steps.run(partial(save_settings, settings, accelerator))
    finalize(settings, steps)
    training.shutdown(accelerator, code)


def save_network(settings: Settings, steps: DistillationTraining, phase: Phase, finished: bool) -> None:
    """Write the weights and the card of a phase, and the student's training.json."""
    run = None
    if phase == "student":
        accuracies = {"temperature": settings.temperature, "accuracies": steps.record["accuracies"]}
        run = steps.files.progress(finished=finished) | accuracies  # seconds of both nets
    folder = settings.output_dir / FOLDER[phase]
    save_target(steps.nets[phase], folder, card(settings, steps.data, steps.record, phase), run)


def finalize(settings: Settings, steps: DistillationTraining) -> None:
    """Measure both on the test images, once and only after the last step."""
    record, accelerator, test = steps.record, steps.accelerator, steps.data.test
    if record["step"] == steps.total:
        for phase in FOLDER:
            record["accuracies"][phase]["test"] = accuracy(steps.nets[phase], test, accelerator)
    if not accelerator.is_main_process:
        return
    if record["step"] < steps.total:
        print(f"stopped after step {record['step']} of {steps.total}; the same command with --resume continues")
    else:
        for phase in FOLDER:
            save_network(settings, steps, phase, True)
            tested, validated = (record["accuracies"][phase][split] for split in ("test", "validation"))
            print(f"{phase}: test accuracy {tested:.2%} (n = {len(test)}), validation {validated:.2%}")
        print(f"student in {settings.output_dir / 'classifier'}, teacher in {settings.output_dir / 'teacher'}")
    print(tensorboard_command(settings.output_dir / "logs"))


def card(settings: Settings, data: Data, record: training.TrainState, phase: Phase) -> str:
    """The model card: metrics and the command that trained it."""
    given = plain({k: v for k, v in training.to_jsonable(settings).items() if k not in training.IGNORED_ON_RESUME})
    accuracies, temperature = record["accuracies"][phase], f"temperature {settings.temperature:g}"
    learned = {"teacher": "the labels", "student": "the probabilities of a teacher, another net of its kind"}[phase]
    rows = {
        f"accuracy, test ({len(data.test)} images, seen once)": percent(accuracies.get("test"), UNFINISHED),
        f"accuracy, validation ({len(data.validation)} images; nothing was chosen on them)": (
            f"{accuracies['validation']:.2%}"
        ),
        "trained on": trained_on(given, data),
        "training, of both nets": trained(record.values, settings.batch_size, settings.seed),
        "made by": f"`{command('train/distill.py', given)}`",
    }
    return target_card(
        given,
        data,
        rows,
        "This masks the gradients of the softmax and leaves the decisions unchanged: `eval/distillation.py` measures "
        "both.",
        trained_as=f", {phase} of a defensive distillation at {temperature}",
        tag="defensive-distillation",
        learned=f"It learned {learned}, at {temperature} (Papernot et al. 2016, arXiv:1511.04508), and\n"
        f"is used at temperature 1: its logits are {settings.temperature:g} times as large as a plain classifier's.",
    )
