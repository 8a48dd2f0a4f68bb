"""The rows of a matrix of defenses, from names: a defense around the base, or a robust classifier from disk."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from advgan.core.errors import InputError
from advgan.core.spec_strings import parse_spec
from advgan.data import Data
from advgan.defenses import DEFENSES, ClassifierSpec
from advgan.evaluation.loading import TargetModel, load_targets

LABEL = re.compile(r"([^:=+/\\]+)=(.+)")


@dataclass(frozen=True)
class MatrixRow:
    """A `classifier` from disk (None: the base), the words of the defenses around it (None: none), and its label."""

    label: str
    classifier: Path | None
    defense: str | None


def parse_row(text: str) -> MatrixRow:
    """`[LABEL=](none | DIRECTORY | DEFENSE)[+DEFENSE]...`, a defense with settings after colons as `defend` takes it.

        none                                  the base as it is
        bit-depth:bits=2+median               the base behind defenses, from the inside out
        checkpoints/runs/fast                 a classifier from disk: a run, or the folder of a checkpoint
        fast, 2 bits=RUN+bit-depth:bits=2     that one behind a defense, under a name of its own

    A label has no colon, slash, plus or equals sign. Raises InputError for a defense or a setting that is unknown.
    """
    named = LABEL.fullmatch(text)
    label, expression = named.groups() if named else ("", text)
    first, plus, outer_defenses = expression.partition("+")
    on_base = first.partition(":")[0] in DEFENSES
    defense = expression if on_base else outer_defenses if plus else None
    for defense_name in [] if defense is None else defense.split("+"):
        parse_spec(defense_name, DEFENSES, {"inner"}, "defense")
    if on_base or first == "none":
        return MatrixRow(label or (expression if on_base else defense or first), None, defense)
    path = Path(first)
    name = path.parent.name if path.name == "classifier" else path.name
    return MatrixRow(label or (f"{name} + {defense}" if defense else name), path, defense)


def parse_rows(texts: Sequence[str], run_dirs: Collection[Path] = ()) -> list[MatrixRow]:
    """The rows that `texts` ask for. Raises InputError for none, for two of one label, and for a word that is no
    defense and no directory that is there, or in one of those `promised` to be there later.
    """
    rows = [parse_row(text) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        path = row.classifier
        if path and not path.is_dir() and not {path, *path.parents} & set(run_dirs):
            raise InputError(
                f"row {text!r} must be none, a directory that is there, or a defense of {', '.join(DEFENSES)}, "
                f"got {str(path)!r}"
            )
        if [other.label for other in rows].count(row.label) > 1:
            raise InputError(f"expected rows of different names (LABEL=...), got {row.label!r} twice")
    if not rows:
        raise InputError("expected one row at least, got none")
    return rows


def load_rows(
    rows: Sequence[MatrixRow], base: ClassifierSpec, data: Data, device: torch.device
) -> tuple[list[TargetModel], Data]:
    """The classifiers of the rows, `base` for those that name none, each under its row's label, and the data; the rest
    as in `load_targets`.
    """
    specs = [base if row.classifier is None else ClassifierSpec(str(row.classifier)) for row in rows]
    defenses = ["+".join(filter(None, (spec.defense, row.defense))) for spec, row in zip(specs, rows, strict=True)]
    specs = [replace(spec, defense=defense or None) for spec, defense in zip(specs, defenses, strict=True)]
    targets, data = load_targets(specs, data, device)
    return [target.with_label(row.label) for target, row in zip(targets, rows, strict=True)], data
