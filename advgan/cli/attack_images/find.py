"""Which pictures a path names, and what their answers are called. Names are strangers': none leads out."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from advgan.core.errors import InputError
from advgan.data.image_file import EXTENSIONS
from advgan.data.walk import is_data_name, is_picture_name, walk

RESERVED = ("manifest.csv", "settings-attack.yaml", ".lock")  # names in the output folder that are the command's own


@dataclass(frozen=True)
class Picture:
    """A picture to be answered.

    name      its path below the folder that was given, or below a glob's fixed part
    output    its answer's path below the output folder: the same name, as .png
    problem   why it is not even looked at; "" for nearly all
    """

    path: Path
    name: str
    output: str
    problem: str = ""


def find(source: str, output_dir: Path) -> list[Picture]:
    """The pictures of a file, of a folder with all below it, or of a glob like "photos/**/*.jpg", ordered by name.

    Hidden files, those of systems (__MACOSX), links to folders, and what lies in `output_dir` are left out; a link to a
    file elsewhere is a problem, and so is what is no regular file, like a FIFO.
    Two pictures whose answers would have one name (a.jpg, a.png) keep their endings: a.jpg.png, a.png.png. Raises
    InputError where there is no picture, where answers would lie among the pictures or still share a name, and for a
    glob that climbs.
    """
    base, pattern = _parted(source)
    root, out = base.resolve(), output_dir.resolve()
    if base == Path(source):
        found = _below(base)
    elif os.path.isfile(source):
        found = iter([Path(source)])
    else:
        found = (path for path in base.glob(pattern) if not path.is_dir() and is_picture_name(path.name))
    if out == root and not os.path.isfile(source):
        raise InputError(f"the answers must not lie among the pictures, expected another folder than {output_dir}")
    pictures = []
    for path in found:
        name = path.relative_to(base).as_posix()
        own = out != root and out.is_relative_to(root) and _real(path).is_relative_to(out)
        if own or not all(map(is_data_name, PurePosixPath(name).parts[:-1])):
            continue
        leads_out = not os.path.isfile(source) and not _real(path).is_relative_to(root)
        output = str(PurePosixPath(name).with_suffix(".png"))
        problem = f"a link that leads out of {base}" if leads_out else "" if os.path.isfile(path) else "no regular file"
        if PurePosixPath(output).parts[0].lower() in RESERVED:
            problem = f"{output} would lie in the place of this command's own file"
        pictures.append(Picture(path, name, output, problem))
    if not pictures:
        raise InputError(f"no pictures in {source} (files that end with {' '.join(EXTENSIONS)})")
    return _apart(sorted(pictures, key=lambda picture: picture.name), output_dir)


def _real(path: Path) -> Path:
    """The path without links; unlike Path.resolve, also of a link that leads to itself."""
    return Path(os.path.realpath(path))


def _parted(source: str) -> tuple[Path, str]:
    """The folder below which names are kept, and the part of a path that is a pattern or a file."""
    path = Path(source)
    if os.path.isdir(path):
        return path, ""
    if os.path.isfile(path):
        return path.parent, path.name
    parts = path.parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), None)
    if first is None:
        raise InputError(f"no picture, folder or glob {source}: nothing of that name is there")
    if ".." in parts[first:]:
        raise InputError(f"a glob must not climb after its first pattern, got {source}")
    return Path(*parts[:first]), "/".join(parts[first:])


def _below(folder: Path) -> Iterator[Path]:
    """All pictures below a folder; links to folders are not followed."""
    for parent, names in walk(folder, follow=False):
        yield from (Path(parent, name) for name in names if is_picture_name(name))


def _apart(pictures: list[Picture], output_dir: Path) -> list[Picture]:
    """The same with no two answers of one name, and none in a picture's place."""
    count = Counter(picture.output for picture in pictures)
    found = [replace(p, output=p.name + ".png") if count[p.output] > 1 else p for p in pictures]
    owner: dict[str, Picture] = {}
    for picture in found:
        other = owner.setdefault(picture.output, picture)
        if other is not picture:
            raise InputError(f"{other.path} and {picture.path} would both become {picture.output}: rename one")
    out = output_dir.resolve()
    for picture in found:
        if _real(picture.path) == out / picture.output:
            raise InputError(f"{picture.path} would be replaced by its own answer, expected another output folder")
    return found
