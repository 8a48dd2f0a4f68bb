"""Train a classifier: any built-in target on any data set, adversarially or not, chosen on validation, tested once.

python train/classifier.py                                           mnist-c on the embedded digits, with all defaults
python train/classifier.py --dataset mnist --data-dir data --epochs 4 --output-dir RUN
python train/classifier.py --adversarial pgd --eps 0.3 ...           adversarial training
python train/classifier.py --target FILE.py:build --freeze-backbone --dataset folder ...    a new head on any network
accelerate launch --cpu --num_processes 2 train/classifier.py ...    several processes share each batch
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

import advgan.training as training
from advgan.attacks import pgd
from advgan.classifiers import Classifier, build_target, finetune_target, fingerprint, save_target
from advgan.classifiers.external import load_external, source_of
from advgan.classifiers.external.base import ExternalClassifier
from advgan.classifiers.external.head import SOURCES_WITH_HEADS, replace_head
from advgan.core.config import ByOrder, Real, check_signs
from advgan.core.errors import InputError
from advgan.core.files import optional_folder
from advgan.core.recipe import NameOrPath
from advgan.data import Data, Stream, steps_per_epoch
from advgan.data.flags import DataSettings, load_chosen
from advgan.data.stream import in_memory
from advgan.defenses import load_members
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.adversarial import (
    AdversarialConfig,
    InnerAttack,
    Method,
    adversarial_config,
    catastrophic_overfitting,
    mixed_loss,
    stuck_at_chance,
)
from advgan.training.card import classifier_card
from advgan.training.features import CachedFeatures, ends_with
from advgan.training.frozen import training_context
from advgan.training.run_directory import Place, RunFlags, save_settings, save_weights
from advgan.training.supervised import (
    ClassifierConfig,
    SupervisedTraining,
    accuracy,
    labelled_data,
    replaced,
    validate,
)

Save = Callable[["ClassifierTraining", "dict[str, float] | None"], None]  # writes the net; metrics on test at the end


def train_classifier(
    model: nn.Module,
    train: Any,
    validation: Any = None,
    *,
    adversarial: AdversarialConfig | None = None,
    config: ClassifierConfig | None = None,
    accelerator: Accelerator | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **settings: Any,
) -> nn.Module:
    """Train a classifier in place, adversarially or not; the weights that are best on validation, in eval mode.

        model = train_classifier(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (x, y), epochs=5)
        robust = train_classifier(net, (x, y), adversarial=adversarial_config("pgd", 0.3, steps=7))

    Args:
        model: images (n, c, h, w) float32 in [0, 1] -> logits (n, k), normalisation inside.
        train: labelled images, as for `advgan.fit`: a pair (x, y), a Dataset, a DataLoader, a folder of class folders.
        validation: as `train`; None: a tenth of `train`, drawn by `seed`, of each class its part.
        adversarial: the inner attack (Madry et al. 2018, arXiv:1706.06083, and others: `adversarial_config`).
        config: settings of the steps (`ClassifierConfig`); `settings` replaces single ones, like epochs=5, shift=0.
        accelerator: an existing Accelerator; None: one of the launched processes, or of this one.
        output_dir: where the best weights, the state for `resume` and TensorBoard's logs are kept; None: nowhere.
        resume, overwrite: continue the run in `output_dir`, with the same settings and images; or replace it.
        progress: a progress bar and a line per validation.

    Raises:
        InputError: before any training, for what cannot work.
        Interrupted: after SIGINT (Ctrl-C): a KeyboardInterrupt with the best model so far (`trained`).
        NotFiniteError: the loss became NaN or infinite.
    """
    config = replaced(config or ClassifierConfig(), settings)
    config.check()
    place = Place(optional_folder(output_dir, "output_dir"), resume, overwrite, "classifier")
    with training_context(place, accelerator) as accelerator:
        data = labelled_data(model, train, validation, config.seed)
        config = config.with_batch_size(data.train, accelerator.num_processes)
        set_seed(config.seed)
        steps = ClassifierTraining(model, data, config, accelerator, place, adversarial=adversarial, save=save_best)
        steps.progress = progress
        code = steps.run()
        steps.files.raise_if_stopped(code, steps.best_model())
        return steps.best_model()


class ClassifierTraining(SupervisedTraining):
    """A training that is ready: everything is built, nothing is written; `run` takes its steps.

    net               trained in place
    settings          all settings, for the record of the run
    save              writes the net where it is the best so far, and at the end with its metrics on test
    freeze_backbone   the net stays in eval mode: its batch normalisation as it will be used
    """

    def __init__(
        self,
        net: nn.Module,
        data: Data,
        config: ClassifierConfig,
        accelerator: Accelerator,
        place: Place,
        *,
        adversarial: AdversarialConfig | None = None,
        settings: dict[str, Any] | None = None,
        save: Save,
        freeze_backbone: bool = False,
        title: str = "classifier",
    ) -> None:
        self.net: Any = net
        self.adversarial, self.save, self.freeze_backbone, self.title = adversarial, save, freeze_backbone, title
        # A validation an epoch, of a stream, which has none, after a tenth of the steps.
        streamed = isinstance(data.train, Stream) and config.max_steps
        between = max(1, streamed // 10) if streamed else steps_per_epoch(data.train, config.images_per_step)
        super().__init__([("train", "classifier", net)], data, config, accelerator, between=between)
        self.adversary = (
            InnerAttack(adversarial, net, accelerator, seed=config.seed, channels=data.image_shape[0])
            if adversarial
            else None
        )
        attack = adversarial and vars(adversarial) | {"members": [*map(fingerprint, adversarial.members)]}
        settings = training.to_jsonable(config) | {"adversarial": attack} if settings is None else settings
        self.open_files(place, "classifier", settings, best=-1.0, best_step=0, history=[], extensions=[])
        self.best = self.files.saved_weights(net)
        self.features = self._cached_features()

    def _cached_features(self) -> CachedFeatures | None:
        """The net with the features of each image kept in memory, where they are the same in each step: an external
        backbone that is frozen, images that are not augmented or attacked, one process."""
        augmented = self.config.shift or self.config.flip
        if not isinstance(self.net, ExternalClassifier) or self.adversarial or augmented:
            return None
        if self.accelerator.num_processes > 1 or not self.freeze_backbone:
            return None
        x, _ = next(self.data.train.first(2).batches(2))
        head = self.net.model.get_submodule(self.net.head or "")
        same = ends_with(self.net.eval(), head, x.to(self.accelerator.device))
        return CachedFeatures(self.net, head) if same else None

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        step, alpha = self.record["step"], 1.0 if self.adversarial is None else self.adversarial.alpha
        x_adv = x if self.adversary is None else self.adversary(x, y, step, step / self.total)
        model = self.networks[0].model.train(not self.freeze_backbone)
        return mixed_loss(self.features or model, x, x_adv, y, alpha)

    def validate(self, log: Any, bar: Any) -> None:
        eps, most = (self.adversarial.eps, self.adversarial.robust_images) if self.adversarial else (None, 0)
        metrics = validate(self.features or self.net, self.data.validation, self.accelerator, eps, most)
        better = append_history(self.record, metrics)
        if better:
            self.best = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        if log:
            for name, value in metrics.items():
                tag = "accuracy/validation" if name == "accuracy" else f"validation/{name}"  # the first group of all
                log.add_scalar(tag, value, self.record["step"])
        if self.accelerator.is_main_process and self.progress:
            print_validation(self.record, bar, self.data.num_classes)
        with self.files.writing() as writing:
            if better and writing:
                self.save(self, None)

    def summary(self) -> str:
        history = self.record["history"]
        validated = f" val {history[-1]['accuracy']:.1%}" if history else ""
        return f"{self.images_per_second():.0f} images/s loss {self.last_loss:.3f}{validated}"

    def best_model(self) -> nn.Module:
        """The net with its best weights, in eval mode; before the first validation with the latest ones."""
        if self.best is not None:
            self.net.load_state_dict(self.best)
        return self.net.eval()

    def description(self, tested: dict[str, float] | None) -> dict[str, Any]:
        """training.json: what is known of the run; `tested` at its end."""
        record = self.record
        return self.files.progress(finished=tested is not None) | {
            "extensions": record["extensions"],  # at which steps a run was resumed with another number of steps in all
            "best_step": record["best_step"],
            "history": record["history"],
            "test": tested,
        }


def save_best(steps: ClassifierTraining, tested: dict[str, float] | None) -> None:
    """Write the weights and training.json of a training in memory to its directory."""
    summary = steps.description(tested) | {"finished": steps.record["step"] == steps.total}
    folder = steps.files.directory / "classifier"  # type: ignore[operator]
    if isinstance(steps.net, Classifier):
        save_target(steps.net, folder, f"# A classifier of {len(steps.data.classes)} classes\n", summary)
    else:
        save_weights(steps.net, folder, summary)


def append_history(record: training.TrainState, metrics: dict[str, float]) -> bool:
    """Add a validation to the record; whether it is the best so far (of equals the later).

    Of an adversarially trained one by the mean of its accuracy with and without PGD: by PGD alone a constant
    prediction would be the best of a training that PGD defeats.
    """
    record["history"].append({"step": record["step"], "seconds": record["seconds"], **metrics})
    value = (metrics["accuracy"] + metrics.get("accuracy_pgd", metrics["accuracy"])) / 2
    better: bool = value >= record["best"]
    if better:
        record["best"], record["best_step"] = value, record["step"]
    return better


def print_validation(record: training.TrainState, bar: Any, num_classes: int) -> None:
    """One line a validation, and a warning of an adversarial training that is stuck, and of catastrophic
    overfitting."""
    last = record["history"][-1]
    line = f"step {record['step']:5d}  validation accuracy {last['accuracy']:.2%}"
    if "accuracy_pgd" not in last:
        bar.console.print(line, highlight=False)
        return
    bar.console.print(f"{line}, FGSM {last['accuracy_fgsm']:.2%}, PGD-10 {last['accuracy_pgd']:.2%}", highlight=False)
    notes = []
    if stuck_at_chance(record["history"], num_classes):
        notes.append(
            "the training is stuck at the accuracy of chance; to try: a radius that rises from 0 (--eps-warmup 0.5, in "
            "Python warmup=0.5 of adversarial_config), a smaller eps"
        )
    if catastrophic_overfitting(record["history"]):
        notes.append(
            "catastrophic overfitting: the classifier resists FGSM and no longer PGD; kept is that of step "
            f"{record['best_step']}. A smaller step (--attack-step-size, in Python step_size=), fewer epochs or the "
            "method pgd prevent it"
        )
    for text in notes:
        bar.console.print(f"  note: {text}", style="yellow", highlight=False)


# The program


@dataclass(frozen=True)
class Settings(RunFlags, ClassifierConfig, DataSettings):
    """Everything a run depends on; it is saved with the run, and --resume insists on the same."""

    target: NameOrPath = "mnist-c"
    """The classifier: mnist-a, mnist-b, mnist-c, mnist-tutorial, cifar-resnet20, cifar-resnet32, ...; with
    --freeze-backbone also torchvision:NAME:WEIGHTS, timm:NAME or FILE.py:FACTORY, with a new last layer"""
    init_weights: Path | None = None
    """Initial backbone, under a new head: that of a trained classifier of this name, a run or a file of weights; of
    torchvision:, timm: and Python files None is their own"""
    weights_by_order: ByOrder = False
    freeze_backbone: bool = False
    """Train the new head alone: the backbone, its batch norm among it, stays as it is. With --shift 0 the features of
    each image are computed once, for classifiers that are not built in"""
    head: str | None = None
    """Name of the layer to replace, of a classifier that is not built in; None: the last linear one of its logits"""
    classes: int | None = None
    """Number of classes of the new head, of a classifier that is not built in; None: those of the data"""
    output_dir: Path = Path("checkpoints/runs/classifier")
    """Directory of classifier/, state/ and logs/"""
    bf16: bool = False
    """Mixed precision: twice the speed on a GPU, or on a CPU that has bfloat16 matrix units"""

    adversarial: Method | None = None
    """Adversarial training, by the images of fgsm, fast, pgd, ensemble, or a generator that is trained in turn; None:
    plain training. The flags below are for it"""
    eps: Real = 0.3
    """Radius of the linf ball, in pixel units of [0, 1]"""
    alpha: Real | None = None
    """Weight of the loss on clean images; that on adversarial ones has 1 - alpha. None: 0.5 with fgsm and ensemble,
    else 0"""
    attack_steps: int | None = None
    """Gradient steps of pgd (None: 40), and after the generator's pass (None: 3; 0: the pass alone)"""
    attack_step_size: Real | None = None
    """Step size of fast (None: 1.25 eps), pgd (2.5 eps / steps) and generator (0.5 eps)"""
    eps_warmup: Real = 0.0
    """Fraction of the steps in which the radius rises from 0 to eps; helps where training is stuck at one class"""
    ensemble: tuple[NameOrPath, ...] = ()
    """Directories of trained classifiers: with --adversarial ensemble each step attacks one of them, or the own"""
    generator_width: int = 16
    """Channels of the generator"""
    generator_learning_rate: Real = 1e-3
    """Learning rate of the generator, constant (Adam)"""
    robust_images: int = 500
    """Maximum number of attacked images: by FGSM and PGD-10 in validation, by PGD-40 in the test at the end"""

    def check(self) -> None:
        super().check()
        if source_of(str(self.target)) is not None:
            self._check_external()
            return
        for name in ("head", "classes"):
            if getattr(self, name) is not None:
                raise InputError(f"{name} is for a target of torchvision:, timm: or a Python file, got {self.target}")
        if self.freeze_backbone and self.init_weights is None:
            raise InputError(
                "freeze_backbone needs init_weights, a trained classifier whose backbone is kept, got none"
            )

    def _check_external(self) -> None:
        if source_of(str(self.target)) not in SOURCES_WITH_HEADS:
            raise InputError(f"target must be built in, torchvision:, timm: or a Python file, got {self.target}")
        if not self.freeze_backbone:
            raise InputError(f"only a new head on {self.target} can be trained here, expected --freeze-backbone")
        if self.classes is not None and self.classes < 2:
            raise InputError(f"classes must be at least 2, got {self.classes}")


STREAM_EVAL_IMAGES = 5000  # validation images, and test images, of a stream
# Settings that do nothing without adversarial training, and those that are for one method of it.
ADVERSARIAL_ONLY: dict[str, Method | None] = {
    **dict.fromkeys(("eps", "alpha", "attack_steps", "attack_step_size", "eps_warmup", "robust_images")),
    **{"ensemble": "ensemble", "generator_width": "generator", "generator_learning_rate": "generator"},
}


def main(settings: Settings) -> None:
    settings.check()
    adversarial = adversarial_settings(settings)
    accelerator = training.init_accelerator(settings.seed, settings.threads, bf16=settings.bf16)
    place = Place(settings.output_dir, settings.resume, settings.overwrite, "classifier")
    place.acquire()
    with accelerator.main_process_first():  # one downloads, the others find it
        data = load_chosen(settings)
    members = load_members(settings.ensemble, data.image_shape, data.num_classes, accelerator.device, data.classes)
    data = in_memory(data, STREAM_EVAL_IMAGES)
    settings = settings.with_batch_size(data.train, accelerator.num_processes, 128 if settings.freeze_backbone else 32)
    steps = ClassifierTraining(
        initial_network(settings, data),
        data,
        settings,
        accelerator,
        place,
        adversarial=None if adversarial is None else replace(adversarial, members=tuple(members)),
        settings=training.to_jsonable(settings) | {"ensemble_sha256": [fingerprint(member) for member in members]},
        save=partial(save_classifier, settings),
        freeze_backbone=settings.freeze_backbone,
        title=str(settings.target),
    )
    code = steps.run(partial(save_settings, settings, accelerator))
    tested = test_metrics(steps) if steps.record["step"] == steps.total else None
    with steps.files.writing() as writing:
        if tested is not None and writing:
            save_classifier(settings, steps, tested)
    if accelerator.is_main_process:
        print_summary(steps, tested)
    training.shutdown(accelerator, code)


def initial_network(settings: Settings, data: Data) -> Classifier | ExternalClassifier:
    """The net to train: with random weights, or with a trained backbone and a new head."""
    net: Classifier | ExternalClassifier
    if source_of(str(settings.target)) is not None:
        return external_with_head(settings, data)
    if settings.init_weights is None:
        net = build_target(settings.target, data.image_shape, data.num_classes)
    else:
        given = (settings.target, settings.init_weights, data.image_shape, data.num_classes)
        net = finetune_target(*given, freeze_backbone=settings.freeze_backbone)
    net.classes = data.classes
    return net


def external_with_head(settings: Settings, data: Data) -> ExternalClassifier:
    """The external classifier with a new head for the classes of the data, or for more."""
    count = settings.classes or data.num_classes
    if count < data.num_classes:
        raise InputError(f"classes must be at least the {data.num_classes} of the data, got {count}")
    external = load_external(str(settings.target), settings.init_weights, image_shape=data.image_shape)
    if not isinstance(external, ExternalClassifier):
        raise InputError(f"{settings.target} has outputs only, expected a network whose last layer can be replaced")
    net = replace_head(external, count, settings.head)
    net.classes = data.classes if count == data.num_classes else None
    return net


def adversarial_settings(settings: Settings) -> AdversarialConfig | None:
    """Settings of adversarial training; None: a standard one. Raises InputError for impossible or unused settings."""
    for name in unused_settings(settings):
        if (value := getattr(settings, name)) != getattr(Settings, name):
            partner = " ".join(["--adversarial", *filter(None, [ADVERSARIAL_ONLY[name]])])
            raise InputError(f"{name} does nothing without {partner}, got {value}")
    if settings.adversarial is None:
        return None
    if settings.adversarial == "ensemble" and not settings.ensemble:
        raise InputError("adversarial ensemble needs trained classifiers, expected --ensemble DIR [DIR ...], got none")
    check_signs(settings, positive=("generator_width", "generator_learning_rate", "robust_images"))
    return adversarial_config(
        settings.adversarial,
        settings.eps,
        alpha=settings.alpha,
        steps=settings.attack_steps,
        step_size=settings.attack_step_size,
        warmup=settings.eps_warmup,
        generator_width=settings.generator_width,
        generator_learning_rate=settings.generator_learning_rate,
        robust_images=settings.robust_images,
    )


def unused_settings(settings: Settings) -> list[str]:
    """The settings that do nothing because adversarial training, or its method that they are for, was not requested."""
    method = settings.adversarial
    return [
        name
        for name, required_method in ADVERSARIAL_ONLY.items()
        if method is None or required_method not in (None, method)
    ]


def save_classifier(settings: Settings, steps: ClassifierTraining, tested: dict[str, float] | None) -> None:
    """Make the net the run's classifier: weights, card and training.json, whole or not at all."""
    excluded = training.IGNORED_ON_RESUME.union(unused_settings(settings))
    given = {name: value for name, value in training.to_jsonable(settings).items() if name not in excluded}
    summary = steps.description(tested)
    card = classifier_card(given, steps.data, summary) + training.extension_note(steps.record)
    save_target(steps.net, settings.output_dir / "classifier", card, summary)


def test_metrics(steps: ClassifierTraining) -> dict[str, float]:
    """The accuracy of the best weights on the test images, seen once, and under PGD-40 after adversarial training."""
    best, test, accelerator = steps.best_model(), steps.data.test, steps.accelerator
    metrics = {"accuracy": accuracy(best, test, accelerator), "n": len(test)}
    if steps.adversarial is not None:
        part, attack = test.first(steps.adversarial.robust_images), partial(pgd, eps=steps.adversarial.eps, steps=40)
        metrics |= {"accuracy_pgd40": accuracy(best, part, accelerator, attack), "n_pgd40": len(part)}
    return metrics


def print_summary(steps: ClassifierTraining, tested: dict[str, float] | None) -> None:
    """The metrics on test, and where everything is."""
    record, directory = steps.record, steps.files.directory
    if tested is None:
        print(f"stopped after step {record['step']} of {steps.total}; the same command with --resume continues")
    else:
        chosen = next(validation for validation in record["history"] if validation["step"] == record["best_step"])
        print(f"test accuracy {tested['accuracy']:.2%} (n = {tested['n']}), validation {chosen['accuracy']:.2%}")
        if "n_pgd40" in tested:
            print(f"test accuracy under PGD-40 {tested['accuracy_pgd40']:.2%} (the first {tested['n_pgd40']})")
        print(f"classifier in {directory / 'classifier'}")  # type: ignore[operator]
    print(tensorboard_command(directory / "logs"))  # type: ignore[operator]
