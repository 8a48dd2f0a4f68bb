"""A data set and a classifier that name the same classes, brought to one order: the classifier's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import torch

from advgan.data.split import Data
from advgan.errors import InputError, did_you_mean


def relabel(data: Data, classes: Sequence[str] | None, num_classes: int, name: str = "the target") -> Data:
    """`data` with its labels and class names as classifier `name` has them, who calls its classes `classes` (None: it
    does not know), one for each of its `num_classes` logits.

    Names are compared without case, underscores, hyphens and spaces, with each of the synonyms between commas
    ("tench, Tinca tinca"): a few folders are enough, in any order. Where not one name is known, folders called by
    numbers are numbers of classes; else as many classes are taken to be meant in their order.

    Raises InputError where names are known in part, stand for several classes, or the numbers of classes differ.
    """
    index = numbering(data, classes, num_classes, name)
    if index is None:
        return data
    numbers = torch.tensor(index)
    train, validation, test = (split.renumbered(numbers) for split in (data.train, data.validation, data.test))
    named = _short(classes or [str(i) for i in range(num_classes)])
    return replace(data, train=train, validation=validation, test=test, classes=named)


def numbering(data: Data, classes: Sequence[str] | None, num_classes: int, name: str) -> list[int] | None:
    """Which class of a classifier each class of `data` is; None: the same. The rest as in `relabel`."""
    index = _places(data.classes, classes or [], num_classes, name)
    if index is None and data.num_classes != num_classes:
        some = f", named as it names them ({', '.join(classes[:3])}, ...)" if classes else " called by their numbers"
        raise InputError(
            f"{name} has {num_classes} classes, expected as many in {data.name}, or some of them in class folders"
            f"{some}, got {data.num_classes}"
        )
    return index


def _places(names: Sequence[str], classes: Sequence[str], num_classes: int, model: str) -> list[int] | None:
    """Which class each of the `names` is; None where they are in order already, or nothing is known of them."""
    whole, parts = defaultdict(list), defaultdict(list)
    for i, words in enumerate(classes):
        whole[_plain(words)].append(i)
        for word in words.split(","):
            parts[_plain(word)].append(i)
    meant = [whole.get(_plain(name)) or parts.get(_plain(name), []) for name in names]
    if not any(meant):
        numbered = all(name.isdecimal() and int(name) < num_classes for name in names)
        return [int(name) for name in names] if numbered and (classes or len(names) < num_classes) else None
    if len(names) == num_classes and all(i in places or not places for i, places in enumerate(meant)):
        return None
    for name, places in zip(names, meant, strict=True):
        if not places:
            raise InputError(f"class {name!r} is none of the {num_classes} of {model}{did_you_mean(name, classes)}")
        if len(places) > 1:
            several = ", ".join(f"{i} ({classes[i]})" for i in places[:5])
            raise InputError(f"class {name!r} may be any of {several} of {model}, expected a name of one alone")
    found = [places[0] for places in meant]
    twice = [name for name, place in zip(names, found, strict=True) if found.count(place) > 1]
    if twice:
        raise InputError(f"classes {', '.join(map(repr, twice[:4]))} are one and the same of {model}")
    return found


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _short(classes: Sequence[str]) -> tuple[str, ...]:
    """Each class by the first of its synonyms, where that says which it is."""
    first = [name.split(",")[0].strip() for name in classes]
    return tuple(short if first.count(short) == 1 else name for short, name in zip(first, classes, strict=True))
