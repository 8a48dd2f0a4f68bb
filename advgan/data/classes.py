"""A data set and a classifier that name the same classes, brought to one order: the classifier's."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from advgan.core.errors import InputError, did_you_mean, listing, note
from advgan.data.split import Data

SYNSET = re.compile(r"n\d{8}")  # of WordNet: ImageNet's 1,000, sorted, are in the order of its classes
WAY_OUT = "rename the class folders to class numbers, or set the model's attribute `classes` (docs/data.md)"


def relabel(data: Data, classes: Sequence[str] | None, num_classes: int, name: str = "the target") -> Data:
    """`data` with its labels and class names in the order of classifier `name`, whose classes are called `classes`
    (None: without names), one for each of its `num_classes` logits.

    The first rule that applies (docs/data.md):

    1. Names. Each name of the data is looked up among `classes`: exactly as it is written; else without case and
       without spaces, underscores, hyphens, dots and slashes between letters; else without accents too. Each time the
       whole name first, then the synonyms between commas ("tench, Tinca tinca"). Other signs always count (C, C++,
       C#). Numbers in front (001.Albatross) are dropped where nothing else fits. A few of the classes are enough. A
       note on stderr gives the names that are spelled otherwise.
    2. Numbers. Names that are all whole numbers below `num_classes`, also zero-padded, are class numbers. A note on
       stderr gives the mapping where `classes` are words, or where folders in order of text would differ.
    3. Order. Without `classes`, as many names as logits are matched by their order; so are ImageNet's 1,000 synsets. A
       note on stderr gives the mapping.

    Raises InputError for everything else: names known in part or not at all, a name of several classes, several names
    of one class, numbers beyond the logits, another number of classes.
    """
    matched = match_classes(data, classes, num_classes, name)
    if matched.note:
        note(matched.note)
    if matched.numbers == list(range(num_classes)) and not (classes and matched.by_number):
        return data
    numbers = torch.tensor(matched.numbers)
    train, validation, test = (split.remap_labels(numbers) for split in (data.train, data.validation, data.test))
    named = _short(classes or [str(i) for i in range(num_classes)])
    return replace(data, train=train, validation=validation, test=test, classes=named)


def class_mapping(data: Data, classes: Sequence[str] | None, num_classes: int, name: str) -> list[int] | None:
    """The class of a classifier for each class of `data`; None: the same numbers. Raises InputError as `relabel`."""
    numbers = match_classes(data, classes, num_classes, name).numbers
    return None if numbers == list(range(num_classes)) else numbers


class Match(NamedTuple):
    """The class number of a classifier for each class of a data set, whether they were read from names that are
    numbers, and the text of a note where the match is not by name."""

    numbers: list[int]
    by_number: bool = False
    note: str = ""


def match_classes(data: Data, classes: Sequence[str] | None, num_classes: int, name: str) -> Match:
    """The rule of `relabel`, applied to the names alone."""
    names = data.classes
    if classes:
        for ours, theirs in ((names, classes), (_unnumbered(names), _unnumbered(classes))):
            if any(places := _places(ours, theirs)):
                return _by_name(data, classes, _unique(names, places, classes, name), name)
    if all(_is_number(each) for each in names):
        return _by_number(data, classes, num_classes, name)
    if classes and not (len(names) == num_classes == 1000 and all(map(SYNSET.fullmatch, names))):
        raise InputError(
            f"{name} has {num_classes} classes, and none is called as one of {data.name}: expected names among "
            f"{listing(classes, 3)}, got {listing(names, 3)} ({len(names)} classes); {WAY_OUT}"
        )
    if len(names) != num_classes:
        raise InputError(
            f"{name} has {num_classes} classes, expected as many in {data.name}, or some of them in class folders "
            f"called by their numbers, got {len(names)}: {listing(names, 3)}"
        )
    mapping = _mapping(names, range(num_classes), classes)
    return Match(list(range(num_classes)), note=f"classes of {data.name} are matched to {name} by order: {mapping}")


def _by_name(data: Data, classes: Sequence[str], numbers: list[int], name: str) -> Match:
    """Names found among `classes`, with a note of those that are spelled otherwise there."""
    pairs = [
        (each, i) for each, i in zip(data.classes, numbers, strict=True) if not _synonyms(each) & _synonyms(classes[i])
    ]
    if not pairs:
        return Match(numbers)
    mapping = _mapping([name for name, _ in pairs], [i for _, i in pairs], classes)
    return Match(numbers, note=f"classes of {data.name} are matched to {name} by spelling: {mapping}")


def _synonyms(name: str) -> set[str]:
    """The whole name and its parts between commas, as they are written."""
    return {_exact(part) for part in (name, *name.split(","))}


def _by_number(data: Data, classes: Sequence[str] | None, num_classes: int, name: str) -> Match:
    """Names that are all whole numbers: those of the classes."""
    names, numbers = data.classes, [int(each) for each in data.classes]
    if max(numbers) >= num_classes:
        raise InputError(
            f"{name} has {num_classes} classes, 0 to {num_classes - 1}, expected {data.name} to number them so, got "
            f"{min(numbers)} to {max(numbers)}; {WAY_OUT}"
        )
    _check_distinct(names, numbers, name)
    if classes:
        about = f"classes of {data.name} are matched to {name} by number: {_mapping(names, numbers, classes)}"
    elif data.name == "folder" and sorted(names) != sorted(names, key=int):
        about = (
            f"class folders of {data.name} called by numbers are class numbers of {name}; a model that was trained in "
            f"their order as text ({listing(sorted(names), 4)}), as torchvision's ImageFolder has it, needs an "
            "attribute `classes`: docs/data.md"
        )
    else:
        about = ""
    return Match(numbers, by_number=True, note=about)


def class_order(names: Sequence[str]) -> list[str]:
    """`names` sorted: as numbers where all are whole numbers, else as text."""
    numbered = all(_is_number(name) for name in names)
    return sorted(names, key=lambda name: (int(name) if numbered else 0, name))


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 10


def _exact(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()


def _folded(name: str) -> str:
    """Without case; separators between letters and digits dropped, between two digits made one."""
    text = unicodedata.normalize("NFKC", name).casefold().strip()
    text = re.sub(r"(?<=\d)[\s_\-./'’]+(?=\d)", "|", text)
    return re.sub(r"[\s_]", "", re.sub(r"(?<=[^\W_])[\s_\-./'’]+(?=[^\W_])", "", text))


def _unaccented(name: str) -> str:
    return re.sub(r"(?<=[a-z])[\u0300-\u036f]+", "", unicodedata.normalize("NFD", _folded(name)))


FORMS: tuple[Callable[[str], str], ...] = (_exact, _folded, _unaccented)


def _places(names: Sequence[str], classes: Sequence[str]) -> list[list[int]]:
    """For each name the classes that it may stand for, by the first form that fits one."""
    tables = []
    for form in FORMS:
        whole, parts = defaultdict(list), defaultdict(list)
        for i, each in enumerate(classes):
            whole[form(each)].append(i)
            for part in {form(part) for part in each.split(",") if part.strip()}:
                parts[part].append(i)
        tables += [(form, whole), (form, parts)]
    return [_place(name, tables) for name in names]


def _place(name: str, tables: Sequence[tuple[Callable[[str], str], dict[str, list[int]]]]) -> list[int]:
    synonyms = [part for part in name.split(",") if part.strip()]
    for form, table in tables:
        if places := table.get(form(name) or name):
            return places
        if places := sorted({place for part in synonyms for place in table.get(form(part), [])}):
            return places
    if _is_number(name):  # "07" for "7", where the classes are called by numbers
        return [
            i for each, places in tables[0][1].items() if _is_number(each) and int(each) == int(name) for i in places
        ]
    return []


def _unique(names: Sequence[str], places: list[list[int]], classes: Sequence[str], model: str) -> list[int]:
    """The one class of each name. Where all names are in order already, two classes of one name are no matter."""
    if len(names) == len(classes) and all(i in several for i, several in enumerate(places)):
        return list(range(len(classes)))
    for name, several in zip(names, places, strict=True):
        if not several:
            near = did_you_mean(name, classes)
            raise InputError(f"class {listing([repr(name)])} is none of the {len(classes)} of {model}{near}")
        if len(several) > 1:
            which = listing([f"{i} ({classes[i]})" for i in several])
            raise InputError(
                f"class {listing([repr(name)])} may be any of {which} of {model}, expected a name of one alone"
            )
    numbers = [several[0] for several in places]
    _check_distinct(names, numbers, model)
    return numbers


def _check_distinct(names: Sequence[str], numbers: Sequence[int], model: str) -> None:
    if len({*numbers}) < len(numbers):
        twice = [name for name, number in zip(names, numbers, strict=True) if numbers.count(number) > 1]
        raise InputError(f"classes {listing(map(repr, twice), 4)} are one and the same of {model}")


def _unnumbered(names: Sequence[str]) -> Sequence[str]:
    """`names` without the numbers that count them (001.Albatross), where each has one of its own."""
    counted = [re.fullmatch(r"(\d+)[._\- ]+([^\W\d].*)", name) for name in names]
    if all(counted) and len({match[1] for match in counted if match}) == len(names):
        return [match[2] for match in counted if match]
    return names


def _mapping(names: Sequence[str], numbers: Sequence[int], classes: Sequence[str] | None) -> str:
    pairs = zip(names, numbers, strict=True)
    return listing([f"{name} -> {i if classes is None else f'{i} ({classes[i]})'}" for name, i in pairs], 8)


def _short(classes: Sequence[str]) -> tuple[str, ...]:
    """Each class by the first of its synonyms, where that says which it is."""
    first = [name.split(",")[0].strip() for name in classes]
    return tuple(short if first.count(short) == 1 else name for short, name in zip(first, classes, strict=True))
