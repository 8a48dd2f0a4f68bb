"""Recipes, YAML files of settings: bounded before anything is built, with paths relative to the file."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import yaml

from advgan.core.errors import InputError, did_you_mean, one_line
from advgan.core.files import read_text
from advgan.core.shipped import INSTALLED, shipped

MAX_BYTES = 1_000_000
MAX_DEPTH = 4  # a mapping of settings, each a value or a list of values
NULL = ("", "~", "null", "Null", "NULL")  # of YAML, where the text is not in quotes
SUFFIXES = (".py", ".onnx", ".pt", ".pth", ".safetensors")
Value = str | None | list[Any] | dict[str, Any]


@dataclass(frozen=True)
class MayBePath:
    """Annotation of a text setting that may contain paths: `always` (except addresses like hf://USER/MODEL), or in
    parts with a slash or the suffix of a model's file.
    """

    always: bool = False


NameOrPath = Annotated[str, MayBePath()]
PathOrAddress = Annotated[str, MayBePath(always=True)]


def find_recipe(path: Path) -> Path:
    """`path` where a file is there; else the shipped recipe of that name, with or without `.yaml`.

    Raises InputError that lists the shipped recipes where `path` is neither, and a name (`recipes/` may precede it).
    """
    if (path.exists() and not path.is_dir()) or path.parent not in (Path(), Path("recipes")):
        return path
    folder, name = shipped("recipes"), path.name.removesuffix(".yaml")
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    if name not in names:
        suggestion = did_you_mean(name, names)
        raise InputError(
            f"cannot read recipe {path}: no such file or shipped recipe{suggestion}, expected {', '.join(names)}"
        )
    return folder / f"{name}.yaml"


def read_recipe(path: Path) -> dict[str, Value]:
    """The settings in the YAML file `path`: unparsed texts, None, lists of these.

    Raises InputError for a file that cannot be read, is larger than MAX_BYTES, is no mapping, sets a value twice,
    nests deeper than MAX_DEPTH, or uses aliases or tags, so that memory is bounded by the file's size.
    """
    try:
        text = read_text(path, MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read recipe {path}: {one_line(error)}") from None
    content: Value = None  # of an empty file
    try:
        events = yaml.parse(text, Loader=yaml.SafeLoader)
        starts = (event for event in events if isinstance(event, yaml.DocumentStartEvent))
        if next(starts, None):
            content = _node(next(events), events, path, 1)
        if next(starts, None):
            raise InputError(f"recipe {path} must be one mapping of settings, got several documents")
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not YAML: {one_line(error)}") from None
    if not isinstance(content, dict):
        kind = "nothing" if content is None else "a list" if isinstance(content, list) else "a single value"
        raise InputError(f"recipe {path} must be a mapping of settings, got {kind}")
    return content


def _node(event: Any, events: Iterator[Any], path: Path, depth: int) -> Value:
    line = f"line {event.start_mark.line + 1}"
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise InputError(f"recipe {path} must have no anchors and aliases, got one in {line}")
    if depth > MAX_DEPTH:
        raise InputError(f"recipe {path} nests too deep in {line}, expected settings that are values or lists of them")
    if getattr(event, "tag", None) not in (None, "!"):
        raise InputError(f"recipe {path} must have no tags, got {event.tag[:40]!r} in {line}")
    if isinstance(event, yaml.ScalarEvent):
        if "\0" in event.value:
            raise InputError(f"recipe {path} has a NUL character in {line}, expected text without one")
        return None if event.style is None and event.value in NULL else str(event.value)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, path, depth + 1))
        return items
    values: dict[str, Value] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _node(event, events, path, depth + 1)
        name = str(key)
        if isinstance(key, (list, dict)) or name in values:
            problem = f"{name[:40]!r} twice" if name in values else "a key that is no name"
            raise InputError(f"recipe {path} has {problem}, the second in line {event.start_mark.line + 1}")
        values[name] = _node(next(events), events, path, depth + 1)
    return values


def path_kind(hint: Any) -> MayBePath | None:
    """Whether a setting of type `hint` (also in a tuple or union) is a path, or may be one."""
    if isinstance(hint, type) and issubclass(hint, Path):
        return MayBePath(always=True)
    marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, MayBePath)]
    kinds = [*marks, *map(path_kind, get_args(hint))]
    return next((kind for kind in kinds if kind is not None), None)


def convert_paths(settings_class: type, values: dict[str, Any], convert: Callable[[str], str]) -> dict[str, Any]:
    """`values` of settings by name, with each relative path in them replaced by `convert` of it."""
    hints = get_type_hints(settings_class, include_extras=True)

    def converted(value: Any, kind: MayBePath) -> Any:
        if isinstance(value, list):
            return [converted(item, kind) for item in value]
        if not isinstance(value, str) or value in ("None", *NULL):
            return value
        return _convert_relative(value, convert) if kind.always else _convert_parts(value, convert)

    kinds = {name: path_kind(hints[name]) for name in values if name in hints}
    return {
        name: value if (kind := kinds.get(name)) is None else converted(value, kind) for name, value in values.items()
    }


def _convert_parts(text: str, convert: Callable[[str], str]) -> str:
    """A name or path with settings ("FILE.py:FACTORY", "reject:detector=RUN+median"), or a command line of such."""
    first, *rest = re.split(r"(\s+)", text)
    if rest and first.endswith(".py"):
        return first + "".join(_convert_parts(part, convert) for part in rest)
    if "://" in text:
        return text
    if (spec := re.fullmatch(r"([\w-]+|.+:[\w.-]+)@([^:+]+)(.*)", text)) and not os.path.exists(text):
        name, weights, defenses = spec.groups()  # NAME@WEIGHTS
        return (
            f"{_convert_parts(name, convert)}@{_convert_relative(weights, convert)}{_convert_parts(defenses, convert)}"
        )

    def replace(match: re.Match[str]) -> str:
        text_part = match[0]
        fraction = re.fullmatch(r"[\d.]+/[\d.]+", text_part)
        is_path = "/" in text_part or text_part.endswith(SUFFIXES)
        return _convert_relative(text_part, convert) if is_path and not fraction else text_part

    # At the start of the text, after an equals sign, a plus or a comma; after a colon only with a leading dot.
    return re.sub(r"(?:^|(?<=[=+,])|(?<=:)(?=\.\.?/))[^:=+,]+", replace, text)


def _convert_relative(text: str, convert: Callable[[str], str]) -> str:
    text = expand_home(text)
    return text if os.path.isabs(text) or re.match(r"\w+:/", text) else convert(text)


def expand_home(text: str) -> str:
    """A path that begins with "~/" or "~USER/", which a shell leaves in --flag=~/PATH, with the home directory."""
    return os.path.expanduser(text) if re.match(r"~[\w.-]*/", text) else text


def from_recipe(recipe: Path) -> Callable[[str], str]:
    """A function from paths relative to the folder of the file `recipe` to paths relative to the working directory, or
    absolute ones where they lie outside of it. Paths in a shipped recipe that the package does not contain, such as
    results, are in the working directory.
    """
    base, working = recipe.parent.resolve(), Path.cwd()

    def convert(text: str) -> str:
        path = Path(os.path.normpath(base / text))
        if path.is_relative_to(INSTALLED) and not path.exists():
            return str(path.relative_to(INSTALLED))
        return str(path.relative_to(working) if path.is_relative_to(working) else path)

    return convert


def to_recipe(directory: Path) -> Callable[[str], str]:
    """A function from paths relative to the working directory to paths relative to `directory`, the inverse of
    `from_recipe` for a file there.
    """
    base, working = directory.resolve(), Path.cwd()

    def convert(text: str) -> str:
        path = working / text
        relative = os.path.relpath(path.resolve() if ".." in path.parts else path, base)
        return relative if "/" in relative else f"./{relative}"

    return convert
