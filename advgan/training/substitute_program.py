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

from dataclasses import dataclass
from pathlib import Path

import advgan.training as training
from advgan.core.config import write_settings
from advgan.core.errors import InputError
from advgan.data.flags import DataSettings, load_chosen
from advgan.defenses import ClassifierSpec, load_classifier
from advgan.defenses.flags import ClassifierSettings
from advgan.evaluation.compatibility import prepare_model_and_data
from advgan.report.tensorboard import command as tensorboard_command
from advgan.training.card import percent
from advgan.training.flags import RunFlags
from advgan.training.run_directory import Place
from advgan.training.runtime.loop import Interrupted, Terminated
from advgan.training.substitute import attacker_images, claim_substitute
from advgan.training.substitute_config import SubstituteConfig
from advgan.training.substitute_training import AttackerData, SubstituteTraining

PROGRAM = "substitute"  # as in settings-substitute.yaml


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
    place = Place(settings.output_dir, settings.resume, settings.overwrite)
    place.acquire()
    claim_substitute(place)
    data = load_chosen(settings)
    loaded = load_classifier(spec, image_shape=data.image_shape, num_classes=data.all_classes)
    model, data = prepare_model_and_data(loaded, data)
    held_out = data.validation.first(settings.validation_images)
    run = SubstituteTraining(
        model.to(accelerator.device),
        AttackerData(attacker_images(data.train, settings), held_out, data.classes),
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
