"""The attack of the settings: generator, target, ball, target classes and the classifier's preprocessing; and a
generator with the classifier beside it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from advgan.app.attack import Pair
from advgan.attacks import AttackSpec, parse_attack
from advgan.classifiers import BlackBox, check_target
from advgan.cli.attack_images.attacker import ImageAttacker
from advgan.cli.attack_images.settings import PairSettings, Settings
from advgan.core.errors import InputError
from advgan.core.fraction import eps_text
from advgan.core.imagenet import class_names
from advgan.core.shipped import CLASSIFIERS, classifier_beside, existing_or_shipped
from advgan.core.threat_model import Threat
from advgan.core.training_record import trained_with
from advgan.data.classes import find_class
from advgan.data.image_file import check_sizes
from advgan.data.model_input import ModelInput
from advgan.defenses import ClassifierSpec, load_classifier, parse_classifier, unwrap
from advgan.evaluation.loading import LoadedGenerator, TargetModel
from advgan.models.generator import Generator, generator_folder


def load(settings: Settings, accelerator: Accelerator) -> list[ImageAttacker]:
    """The attack for each target class, with its generator and target on this process's device. Raises InputError where
    they do not fit."""
    attack = parse_attack(settings.attack)
    spec = chosen_classifier(settings)
    generator, target = None, None
    if settings.generator is not None:
        allowed = [] if spec is None else [spec.name]
        generator = Generator.from_pretrained(settings.generator, guide=settings.guide, allowed_guides=allowed)
        generator.to(accelerator.device)
    if spec is not None:
        target = load_target_model(spec, settings, generator).to(accelerator.device).eval()
    threat = threat_of(settings, attack, generator)
    y_targets = [None if generator is None else generator.y_target]
    if settings.y_target is not None:
        y_targets = target_classes(settings.y_target, target)
    model_input = model_input_of(settings, target, None if generator is None else generator.guide)
    return [
        ImageAttacker(attack, threat, y_target, settings.seed, generator, target, model_input) for y_target in y_targets
    ]


def chosen_classifier(settings: PairSettings) -> ClassifierSpec | None:
    """The target of the settings; None for none. Raises InputError for weights alone."""
    if settings.target is not None:
        return parse_classifier(settings.target, settings.target_weights, settings.defense, default=CLASSIFIERS)
    if settings.target_weights is not None:
        raise InputError(f"target_weights need a target, got {settings.target_weights} alone")
    return None


def load_target_model(spec: ClassifierSpec, settings: PairSettings, generator: Generator | None) -> Any:
    """The target, for images of the settings' or the guide's size (else of its own). Raises InputError for one that
    cannot be queried."""
    size, shape = settings.image_size, None
    if size is not None:
        shape = (3 if generator is None else generator.channels, size, size)
    elif generator is not None and generator.guide is not None:
        shape = tuple(generator.guide.image_shape)
    model = load_classifier(spec, image_shape=shape)
    if model.image_shape is None:
        raise InputError(f"the target {spec.name} has no fixed image size: pass --image-size")
    if not isinstance(model, BlackBox):  # whose outputs are checked, and queries may cost
        sample = torch.rand(2, *model.image_shape, generator=torch.Generator().manual_seed(0))
        model = check_target(model, sample, model.num_classes)
    if settings.class_names is not None:
        if getattr(model, "classes", None) or model.num_classes != 1000:
            has = "names of its own" if getattr(model, "classes", None) else f"{model.num_classes} classes"
            raise InputError(f"class_names imagenet are for a target of 1000 logits without names, got one with {has}")
        model.classes = tuple(class_names())
    return model


def threat_of(settings: Settings, attack: AttackSpec, generator: Generator | None) -> Threat | None:
    """The ball of the attack; None for a minimum-norm attack. Raises InputError for one without a radius."""
    if attack.attack.kind != "bounded":
        if settings.eps is not None:
            raise InputError(f"attack {attack.name} minimises the norm, expected no eps, got {eps_text(settings.eps)}")
        if settings.norm is not None:
            norm = attack.attack.norm
            raise InputError(
                f"attack {attack.name} minimises {norm}, without a ball, expected no norm, got {settings.norm}"
            )
        return None
    eps, norm = settings.eps, settings.norm
    if generator is not None:
        eps, norm = generator.threat.eps if eps is None else eps, norm or generator.threat.norm
    if eps is None:
        raise InputError(f"attack {attack.name} needs the radius of its ball, expected --eps, like 8/255, got none")
    return Threat(norm or "linf", eps)


def target_classes(text: str, target: Any) -> list[int | None]:
    """The numbers of classes with commas between, or of one whose name has some. Raises InputError for no class."""
    try:
        return [target_class(text, target)]
    except InputError:
        if "," not in text:
            raise
    return list(dict.fromkeys(target_class(part.strip(), target) for part in text.split(",")))


def target_class(text: str, target: Any) -> int:
    """The number of a class of the target, or without a target a number. Raises InputError for a name of no class."""
    if target is None:
        if not text.isdecimal():
            raise InputError(f"y_target must be a class number, or a class name of --target, got {text!r}")
        return int(text)
    return find_class(text, getattr(target, "classes", None), target.num_classes)


def model_input_of(settings: PairSettings, target: Any, guide: Any) -> ModelInput | None:
    """The classifier's preprocessing: of the settings, the target or the guide; None where its size is unknown."""
    image_size, resize = settings.image_size, settings.resize
    shapes = {tuple(model.image_shape) for model in (target, guide) if model is not None}
    if image_size is not None:
        shapes.add((next(iter(shapes), (3,))[0], image_size, image_size))
    if len(shapes) > 1:
        raise InputError(
            f"guide, target and image_size must be of one size, got {' and '.join(map(str, sorted(shapes)))}"
        )
    if not shapes:
        if resize is not None:
            raise InputError(f"resize needs the size of the centre crop, expected --image-size, got {resize}")
        return None
    _, height, width = shapes.pop()
    if resize is not None:
        return ModelInput(height, width, resize)
    own = getattr(unwrap(target), "resize", None)
    return ModelInput(height, width, own if own is not None and own >= max(height, width) else None)


def effective(settings: Settings, attacker: ImageAttacker) -> Settings:
    """`settings` with the values that None stands for."""
    y_target = None if attacker.y_target is None else str(attacker.y_target)
    threat = attacker.threat
    values: dict[str, Any] = {} if threat is None else {"eps": threat.eps, "norm": threat.norm}
    size = attacker.model_input
    if size is not None and size.height == size.width:
        values |= {"image_size": size.height, "resize": size.resize}
    return replace(settings, y_target=y_target, **values)


def load_pair(source: str, settings: PairSettings) -> Pair:
    """The generator in `source` (a folder, a run, hf://USER/MODEL) and its classifier. Raises InputError for a
    generator without one, and for two that do not fit."""
    check_sizes(settings.image_size, settings.resize)
    spec = chosen_classifier(settings)
    if spec is None:
        folder = classifier_beside(source)
        if folder is None:
            hub = source.startswith("hf://")
            hint = "" if hub else trained_with(generator_folder(existing_or_shipped(Path(source))).parent)
            raise InputError(
                f"{source} has no classifier beside it, expected --target, the classifier under attack{hint}"
            )
        spec = ClassifierSpec(str(folder), None, settings.defense)
    generator = Generator.from_pretrained(source, guide=settings.guide, allowed_guides=[spec.name])
    classifier = load_target_model(spec, settings, generator)
    model_input = model_input_of(settings, classifier, generator.guide) or ModelInput(*classifier.image_shape[1:])
    name = Path(source).resolve().name if not source.startswith("hf://") else source
    return Pair(name, classifier.eval(), generator.eval(), model_input, transfer_note(source, generator, classifier))


def transfer_note(source: str, generator: Generator, classifier: object) -> str:
    """A sentence where the generator's training.json names another classifier than this one; "" otherwise."""
    if source.startswith("hf://"):
        return ""
    loaded = LoadedGenerator(Path(source), generator)
    target = TargetModel("classifier", classifier)  # type: ignore[arg-type]
    return "" if loaded.trained_on(target) else "The generator was trained against another classifier: a transfer."
