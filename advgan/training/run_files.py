"""The files of a generator's training: the best generator with its card, training.json, training states."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from advgan.core.errors import InputError
from advgan.core.files import atomic_write
from advgan.core.json_files import read_sealed, sealed
from advgan.core.threat_model import Threat
from advgan.core.weights import digest
from advgan.data import Stream
from advgan.defenses import Transforms, unwrap
from advgan.models.discriminator import Discriminator
from advgan.models.generator import Generator
from advgan.training.build import Modules
from advgan.training.card import generator_card
from advgan.training.datasets import Images
from advgan.training.options import FLAGS, TrainingConfig
from advgan.training.run_directory import RunDirectory, save_weights
from advgan.training.runtime.checkpoint import IGNORED_ON_RESUME, extension_note


@dataclass(frozen=True)
class Description:
    """Description of a run in its files: all settings, the program (None: `advgan.fit`), the names of the classes
    (None: those of the classifier, or their numbers), and how images were resized ("": unknown, or not)."""

    settings: Mapping[str, Any]
    program: str | None = None
    classes: tuple[str, ...] | None = None
    images: str = ""


def describe(
    config: TrainingConfig, threat: Threat, y_target: int | None, images: Images, modules: Modules
) -> Description:
    """The description of a run by `advgan.fit`."""
    model = unwrap(images.model)
    n = "streamed" if isinstance(images.train, Stream) else len(images.train)
    settings: dict[str, Any] = {
        "target": str(getattr(model, "name", type(model).__name__)),
        "dataset": f"{n} images{'' if images.labelled else ' without labels'}",
        "eps": threat.eps,
        "norm": threat.norm,
        "y_target": y_target,
    }
    if modules.loss is not None:
        settings["loss"] = getattr(modules.loss, "__name__", type(modules.loss).__name__)
    if modules.guide_of_init:
        settings["guide"] = True  # for `settings_of_init` of a resumed run
    settings |= {FLAGS.get(name, name): value for name, value in config.to_dict().items()}
    settings["survive"] = Transforms(config.optimization.survive).names
    return Description(settings)


class GeneratorFiles(RunDirectory):
    """The files of a generator's run; without a directory every method does nothing.

    objective   of the generator's loss, in the place of settings that are None
    about       what the card holds beside settings and metrics, by the arguments of `generator_card`
    digests     of the weights in generator/: the last two, of which a kill may leave either
    """

    objective: Mapping[str, Any]
    about: Mapping[str, Any]
    digests: Sequence[str] = ()

    def save(self, generator: Generator, discriminator: nn.Module | None, threshold: float, *, better: bool) -> None:
        """training.json, then (`better`) the generator with its card and the discriminator, if any, beside it."""
        with self.writing() as writing:
            if writing and self.directory is not None:
                if better:
                    self.digests = [*self.digests[-1:], digest(generator.state_dict())]
                self.write_training(finished=False)  # before the other files
                if better and isinstance(discriminator, Discriminator):
                    discriminator.save(self.directory / "discriminator")
                elif better and discriminator is not None:
                    save_weights(discriminator, self.directory / "discriminator")
                if better:
                    generator.save(self.directory / "generator", self._card(threshold, generator))

    def saved_weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The same, and InputError for the weights of another run with the same settings."""
        tensors = super().saved_weights(model)
        if tensors is not None and self.directory is not None:
            training, saved = self.directory / "training.json", digest(tensors)
            expected = read_sealed(training).get("generator_sha256") if training.exists() else None
            if expected and saved not in expected:  # an older version wrote none
                raise InputError(
                    f"cannot resume: {self.directory / 'generator'} holds the weights of another run (SHA-256 "
                    f"{saved[:12]}..., expected {expected[-1]:.12}... of {training}): restore it from a copy"
                )
            self.digests = expected[: expected.index(saved) + 1] if expected else [saved]
        return tensors

    def _card(self, threshold: float, generator: Generator) -> str:
        settings = {name: value for name, value in self.record["settings"].items() if name not in IGNORED_ON_RESUME}
        settings["init"] = self.record["settings"].get("init")  # a call with --resume need not repeat it
        labels, metrics = bool(generator.labels), self.record["history"][-1]
        card = generator_card({**settings, **self.objective}, metrics, threshold, labels=labels, **self.about)
        return card + extension_note(self.record)

    def write_training(self, *, finished: bool) -> None:
        record, history = self.record, self.record["history"]
        pass_seconds = sorted(record["target_pass_seconds"])
        unit = pass_seconds[len(pass_seconds) // 2] if pass_seconds else None
        first_above_95 = next((metrics for metrics in history if metrics["asr"] >= 0.95), None)
        summary = self.progress(finished=finished) | {
            "extensions": record["extensions"],  # the steps after which a run was resumed with another total
            "best_validation_asr": max(record["best"], 0.0),
            "seconds_per_target_pass": unit,
            "steps_to_95": first_above_95 and first_above_95["step"],
            "passes_to_95": first_above_95 and unit and first_above_95["seconds"] / unit,
            "generator_sha256": self.digests,
            "history": history,
        }
        atomic_write(self.directory / "training.json", sealed(summary))  # type: ignore[operator]
