"""Labels of a data set mapped to the classes of a classifier."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from advgan.core.errors import InputError, did_you_mean, listing, note
from advgan.core.imagenet import SYNSET, class_names, synset_numbers
from advgan.core.threat_model import check_class
from advgan.data.split import Data

IMAGENET = 1000  # classes
REMEDY = (
    "rename the class folders to class numbers, or set the model's attribute `classes` (docs/data.md); "
    "--label-source predicted (in Python: images alone) takes images without labels"
)


def relabel(data: Data, classes: Sequence[str] | None, num_classes: int, name: str = "the target") -> Data:
    """`data` with its labels and class names in the order of classifier `name` with the class names `classes`
    (None: unknown), one for each of its `num_classes` logits.

    The first rule that applies (docs/data.md):

    1. Names. Each name of the data is looked up among `classes`: exactly as it is written; else without case and
       without spaces, underscores, hyphens, dots and slashes between letters; else without accents too. Each time the
       whole name first, then the synonyms between commas ("tench, Tinca tinca"). Other signs always count (C, C++,
       C#). Leading numbers (001.Albatross) are dropped where nothing else fits. The data may have a subset of the
       classes. A note on stderr lists names that are spelled otherwise.
    2. Numbers. Names that are all whole numbers below `num_classes`, also zero-padded, are class numbers. A note on
       stderr gives the mapping where `classes` are given, or where the text order of folders differs.
    3. ImageNet's. For 1000 logits, WordNet's synsets are ImageNet's classes; so are its names, without `classes`. A
       note on stderr gives the mapping.
    4. Order. Without `classes`, as many names as logits are matched by their order; so are 1,000 other synsets. A
       note on stderr gives the mapping.

    Without labels, `data` gets the class names alone.

    Raises InputError for everything else: names known in part or not at all, a name of several classes, several names
    of one class, numbers beyond the logits, another number of classes.
    """
    if not data.classes:  # no labels
        return replace(data, classes=_short(classes or [str(i) for i in range(num_classes)]))
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
    """The class of a classifier for each class of `data`; None: the same numbers, or no labels. Raises InputError as
    `relabel`."""
    if not data.classes:
        return None
    numbers = match_classes(data, classes, num_classes, name).numbers
    return None if numbers == list(range(num_classes)) else numbers


class Match(NamedTuple):
    """The class number of a classifier for each class of a data set, whether they are class names that are numbers, and
    the text of a note where the match is not by name."""

    numbers: list[int]
    by_number: bool = False
    note: str = ""


def numbered_otherwise(names: Sequence[str], classes: Sequence[str]) -> bool:
    """Whether one of `names` is that of a class with another number among `classes`, as `relabel` compares them."""
    return any(candidates and i not in candidates for i, candidates in enumerate(_places(names, classes)))


def match_classes(data: Data, classes: Sequence[str] | None, num_classes: int, name: str) -> Match:
    """The rules of `relabel`, on the names alone."""
    names = data.classes
    if classes and (places := _places(names, classes)):
        return _by_name(data, classes, _unique_matches(names, places, classes, name), name)
    if all(_is_number(name) for name in names):
        return _by_number(data, classes, num_classes, name)
    if num_classes == IMAGENET and (matched := _by_imagenet(data, classes, name)):
        return matched
    if classes and not (len(names) == num_classes == IMAGENET and all(map(SYNSET.fullmatch, names))):
        raise InputError(
            f"{name} has {num_classes} classes, and none has a name of {data.name}: expected names among "
            f"{listing(classes, 3)}, got {listing(names, 3)} ({len(names)} classes); {REMEDY}"
        )
    if len(names) != num_classes:
        raise InputError(
            f"{name} has {num_classes} classes, expected as many in {data.name}, or class folders named by class "
            f"numbers, got {len(names)}: {listing(names, 3)}; --label-source predicted (in Python: images alone) takes "
            "images without labels"
        )
    mapping = _mapping(names, range(num_classes), classes)
    return Match(list(range(num_classes)), note=f"classes of {data.name} are matched to {name} by order: {mapping}")


def _by_imagenet(data: Data, classes: Sequence[str] | None, name: str) -> Match | None:
    """Synsets, and names for a classifier without names, as ImageNet's; None where one of them is none of its."""
    names, synsets = data.classes, synset_numbers()
    if all(class_name in synsets for class_name in names):
        numbers, kind = [synsets[class_name] for class_name in names], "synset"
    elif classes is None and all(len(places) == 1 for places in _candidates(names, class_names())):
        numbers, kind = [places[0] for places in _candidates(names, class_names())], "name"
        _check_distinct(names, numbers, name)
    else:
        return None
    mapping = _mapping(names, numbers, classes or class_names())
    return Match(numbers, note=f"classes of {data.name} are matched to {name} as ImageNet's, by {kind}: {mapping}")


def _by_name(data: Data, classes: Sequence[str], numbers: list[int], name: str) -> Match:
    """Matched names, with a note for those spelled otherwise in `classes`."""
    pairs = [
        (class_name, i)
        for class_name, i in zip(data.classes, numbers, strict=True)
        if not _synonyms(class_name) & _synonyms(classes[i])
    ]
    if not pairs:
        return Match(numbers)
    mapping = _mapping([name for name, _ in pairs], [i for _, i in pairs], classes)
    return Match(numbers, note=f"classes of {data.name} are matched to {name} by spelling: {mapping}")


def _synonyms(name: str) -> set[str]:
    """The whole name and its parts between commas, unchanged."""
    return {_exact(part) for part in (name, *name.split(","))}


def _by_number(data: Data, classes: Sequence[str] | None, num_classes: int, name: str) -> Match:
    """Class names that are all class numbers."""
    names, numbers = data.classes, [int(name) for name in data.classes]
    if max(numbers) >= num_classes:
        raise InputError(
            f"{name} has {num_classes} classes, 0 to {num_classes - 1}, expected {data.name} to number them so, got "
            f"{min(numbers)} to {max(numbers)}; {REMEDY}"
        )
    _check_distinct(names, numbers, name)
    if classes:
        message = f"classes of {data.name} are matched to {name} by number: {_mapping(names, numbers, classes)}"
    elif data.name == "folder" and sorted(names) != sorted(names, key=int):
        message = (
            f"class folders of {data.name} named by numbers are class numbers of {name}; a model that was trained in "
            f"their text order ({listing(sorted(names), 4)}), as torchvision's ImageFolder has it, needs an "
            "attribute `classes`: docs/data.md"
        )
    else:
        message = ""
    return Match(numbers, by_number=True, note=message)


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


def _candidates(names: Sequence[str], classes: Sequence[str]) -> list[list[int]]:
    """The candidate classes of each name, by the first form with a match."""
    tables = []
    for form in FORMS:
        whole, parts = defaultdict(list), defaultdict(list)
        for i, class_name in enumerate(classes):
            whole[form(class_name)].append(i)
            for part in {form(part) for part in class_name.split(",") if part.strip()}:
                parts[part].append(i)
        tables += [(form, whole), (form, parts)]
    return [_candidates_of(name, tables) for name in names]


def _places(names: Sequence[str], classes: Sequence[str]) -> list[list[int]]:
    """The `_candidates` of names as they are, or else without their leading numbers; [] where no name has any."""
    for pair in ((names, classes), (_unnumbered(names), _unnumbered(classes))):
        if any(places := _candidates(*pair)):
            return places
    return []


def _candidates_of(name: str, tables: Sequence[tuple[Callable[[str], str], dict[str, list[int]]]]) -> list[int]:
    synonyms = [part for part in name.split(",") if part.strip()]
    for form, table in tables:
        if places := table.get(form(name) or name):
            return places
        if places := sorted({place for part in synonyms for place in table.get(form(part), [])}):
            return places
    if _is_number(name):  # "07" for "7", where the class names are numbers
        return [
            i
            for class_name, places in tables[0][1].items()
            if _is_number(class_name) and int(class_name) == int(name)
            for i in places
        ]
    return []


def _unique_matches(names: Sequence[str], places: list[list[int]], classes: Sequence[str], model: str) -> list[int]:
    """The unique class of each name. Where all names are in order already, two classes of one name are no error."""
    if len(names) == len(classes) and all(i in candidates for i, candidates in enumerate(places)):
        return list(range(len(classes)))
    for name, candidates in zip(names, places, strict=True):
        if not candidates:
            suggestion = did_you_mean(name, classes)
            raise InputError(f"class {listing([repr(name)])} is none of the {len(classes)} of {model}{suggestion}")
        if len(candidates) > 1:
            options = listing([f"{i} ({classes[i]})" for i in candidates])
            raise InputError(
                f"class {listing([repr(name)])} may be any of {options} of {model}, expected a name of one class"
            )
    numbers = [candidates[0] for candidates in places]
    _check_distinct(names, numbers, model)
    return numbers


def _check_distinct(names: Sequence[str], numbers: Sequence[int], model: str) -> None:
    if len({*numbers}) < len(numbers):
        repeated = [name for name, number in zip(names, numbers, strict=True) if numbers.count(number) > 1]
        raise InputError(f"classes {listing(map(repr, repeated), 4)} are the same class of {model}")


def _unnumbered(names: Sequence[str]) -> Sequence[str]:
    """`names` without leading numbers (001.Albatross), where all have different ones."""
    counted = [re.fullmatch(r"(\d+)[._\- ]+([^\W\d].*)", name) for name in names]
    if all(counted) and len({match[1] for match in counted if match}) == len(names):
        return [match[2] for match in counted if match]
    return names


def _mapping(names: Sequence[str], numbers: Sequence[int], classes: Sequence[str] | None) -> str:
    pairs = zip(names, numbers, strict=True)
    return listing([f"{name} -> {i if classes is None else f'{i} ({classes[i]})'}" for name, i in pairs], 8)


def _short(classes: Sequence[str]) -> tuple[str, ...]:
    """The first synonym of each class, where it is unique."""
    first = [name.split(",")[0].strip() for name in classes]
    return tuple(short if first.count(short) == 1 else name for short, name in zip(first, classes, strict=True))


def find_class(text: str, classes: Sequence[str] | None, num_classes: int, name: str = "the target") -> int:
    """The number of a class of classifier `name` that is given as a number ("3"), or by its name among `classes` (None,
    or numbers: unknown), which are compared as in `relabel`.

    Raises InputError for a name of no class (with similar ones) or of several, and a number beyond `num_classes`.
    """
    classes = None if classes and all(map(_is_number, classes)) else classes
    if not classes or _candidates([text], classes) == [[]]:
        if _is_number(text.strip()):
            check_class(int(text), num_classes)
            return int(text)
        if not classes:
            imagenet = '; for names of ImageNet, classes = "imagenet"' if num_classes == 1000 else ""
            raise InputError(f"{name} has no class names, expected a class number, got {text!r:.80}{imagenet}")
        synonyms = [part.strip() for class_name in classes for part in class_name.split(",")]
        similar = did_you_mean(text, synonyms) or f", expected one like {listing(classes, 3)}"
        raise InputError(f"{name} has no class {text!r:.80}{similar}")
    return _unique_matches([text], _candidates([text], classes), classes, name)[0]


def class_number(
    y_target: int | str | None, classes: Sequence[str] | None, num_classes: int, name: str = "the target"
) -> int | None:
    """A target class that is given as a number or a name (`find_class`), or None. Raises InputError for no class."""
    if isinstance(y_target, str):
        return find_class(y_target, classes, num_classes, name)
    check_class(y_target, num_classes)
    return y_target
