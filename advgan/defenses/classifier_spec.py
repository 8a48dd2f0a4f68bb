"""A classifier in one string: its name, after @ its weights, after + its defenses: `mnist-c@RUN+jpeg:quality=75`."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from advgan.classifiers import TARGETS
from advgan.classifiers.external import source_of
from advgan.core.config import BY_ORDER
from advgan.core.errors import InputError
from advgan.core.shipped import existing_or_shipped
from advgan.core.spec_strings import parse_spec
from advgan.defenses.registry import DEFENSES

NO_WEIGHTS: Mapping[str, Path] = {}


@dataclass(frozen=True)
class ClassifierSpec:
    """A classifier's `name` (built-in, directory, or external), the `weights` beside it, the `defense` around it."""

    name: str
    weights: Path | None = None
    defense: str | None = None

    @property
    def is_directory(self) -> bool:
        """Whether the name is the directory of a saved classifier."""
        return self.name not in TARGETS and not source_of(self.name) and _is_directory(self.name)

    @property
    def needs_weights(self) -> bool:
        """Whether weights are missing: the name is no directory and of no external source."""
        return self.weights is None and not self.is_directory and not source_of(self.name)

    @property
    def path(self) -> Path | None:
        """Directory or file of the weights; None for an external classifier with its published ones."""
        return existing_or_shipped(Path(self.name)) if self.is_directory else self.weights


def parse_classifier(
    text: str,
    weights: Path | str | None = None,
    defense: str | None = None,
    *,
    default: Mapping[str, Path] = NO_WEIGHTS,
) -> ClassifierSpec:
    """`NAME[@WEIGHTS][+DEFENSE]...`, with `weights` and `defense` where `text` has none.

    NAME       a built-in classifier, a directory, or an external name (`advgan.classifiers.external`)
    WEIGHTS    a directory or a file, also FILE:by-order
    DEFENSE    with settings after colons, from the inside out, see `defend`; `defense` "none" is None
    default    weights of these names, where none are given

    An `@` or `+` in an existing path is part of the path; so is one in a URL unless a defense follows. Raises
    InputError for weights or a defense given twice, weights of a directory, and an unknown defense or setting.
    """
    name_part, named_defense = _split_defense(text)
    name, named_weights = _split_weights(name_part)
    defense = None if defense == "none" else defense
    for kind, named_value, argument in (("weights", named_weights, weights), ("defense", named_defense, defense)):
        if named_value == "" or None not in (named_value, argument):
            expected = "a value after it" if named_value == "" else f"no {kind} beside it"
            raise InputError(f"target {text!r} has its {kind}, expected {expected}, got {argument}")
    defense, weights = defense if named_defense is None else named_defense, named_weights or weights
    for part in [] if defense is None else defense.split("+"):
        parse_spec(part, DEFENSES, {"inner"}, "defense")
    spec = ClassifierSpec(name, None if weights is None else Path(weights), defense)
    if spec.is_directory and weights is not None:
        raise InputError(f"the directory {name} holds its own weights, expected no others, got {weights}")
    return replace(spec, weights=default.get(spec.name)) if spec.needs_weights else spec


def parse_classifiers(
    texts: Sequence[str],
    weights: Sequence[Path],
    defenses: Sequence[str] = (),
    *,
    default: Mapping[str, Path] = NO_WEIGHTS,
) -> list[ClassifierSpec]:
    """Several classifiers, each parsed by `parse_classifier`.

    weights    one for each name without weights that is no directory, or for each that needs some
    default    weights of these names, where no `weights` are given; a name that has none there is left without
    defenses   one for each, one for all, or none

    Raises InputError as `parse_classifier`, and unless the numbers fit.
    """
    if len(defenses) not in (0, 1, len(texts)):
        raise InputError(f"expected one defense, or one for each of {len(texts)} targets, got {len(defenses)}")
    defenses = list(defenses or ["none"]) * (len(texts) if len(defenses) < 2 else 1)
    default = NO_WEIGHTS if weights else default
    specs = [
        parse_classifier(text, None, defense, default=default) for text, defense in zip(texts, defenses, strict=True)
    ]
    if texts and default:
        return specs
    without_path = [spec.path is None for spec in specs]
    need_weights = [spec.needs_weights for spec in specs]
    with_weights = without_path if len(weights) == sum(without_path) else need_weights
    if texts and len(weights) == len(texts) > sum(without_path):
        parse_classifier(texts[without_path.index(False)], weights[without_path.index(False)])  # raises: given twice
    if not texts or len(weights) != sum(with_weights):
        n = sum(with_weights)
        raise InputError(f"expected one target-weights for each target, got {len(weights)} for {n} targets")
    weights_left = iter(weights)
    return [
        replace(spec, weights=next(weights_left)) if takes_weights else spec
        for spec, takes_weights in zip(specs, with_weights, strict=True)
    ]


def _split_defense(text: str) -> tuple[str, str | None]:
    """The text before the first + of the defenses, and the text after it."""
    pairs = [(text[: at.start()], text[at.end() :]) for at in re.finditer(r"\+", text)]
    if not pairs or _classifier_exists(text):
        return text, None
    with_defenses = [pair for pair in pairs if all(part.partition(":")[0] in DEFENSES for part in pair[1].split("+"))]
    existing = [pair for pair in with_defenses if _classifier_exists(pair[0])]
    if existing:
        return existing[-1]
    if _is_name(_split_weights(pairs[0][0])[0]):
        return pairs[0]
    return with_defenses[0] if with_defenses else (text, None)


def _split_weights(text: str) -> tuple[str, str | None]:
    """The text before the @ of the weights, and the text after it."""
    if "@" not in text or _path_exists(text):
        return text, None
    pairs = [(text[: at.start()], text[at.end() :]) for at in re.finditer("@", text)]
    pairs = [pair for pair in pairs if _is_name(pair[0])]
    existing = [pair for pair in pairs if os.path.exists(pair[1].removesuffix(BY_ORDER))]
    pairs = [pair for pair in pairs if not pair[0].startswith("timm:hf-hub:")]  # timm:hf-hub:REPO@REVISION
    return next(iter(existing or pairs), (text, None))


def _is_name(text: str) -> bool:
    """Whether `text` is a name that weights or defenses may follow; not so for a URL, which may contain both signs."""
    source = source_of(text)
    return source != "endpoint" and (source is not None or bool(re.fullmatch(r"[\w-]+", text)) or _is_directory(text))


def _classifier_exists(text: str) -> bool:
    """Whether the directory or file of a classifier exists: that of its weights, if any."""
    name, weights = _split_weights(text)
    return _path_exists(name) if weights is None else os.path.exists(weights.removesuffix(BY_ORDER))


def _path_exists(name: str) -> bool:
    """Whether the directory or file in a classifier's name exists."""
    path = re.sub(r"^(hf|timm:local-dir):", "", name)
    return os.path.exists(re.sub(r"(?<=\.py):\w+$|(?<=\.onnx)#.*$", "", path))


def _is_directory(name: str) -> bool:
    return bool(name) and os.path.isdir(existing_or_shipped(Path(name)))
