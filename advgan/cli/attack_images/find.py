"""Input images of a path, and the names of their outputs. Output paths cannot escape the output folder."""

import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from advgan.core.errors import InputError
from advgan.data.image_file import EXTENSIONS
from advgan.data.walk import is_data_name, is_image_name, walk

RESERVED = ("manifest.csv", "settings-attack.yaml", ".lock")  # names of the command's files in the output folder


@dataclass(frozen=True)
class InputImage:
    """An image to be attacked.

    name      its path below the given folder, or below the fixed part of a glob
    output    the path of the output below the output folder: the same name, as .png
    problem   why it is not opened; "" for nearly all
    """

    path: Path
    name: str
    output: str
    problem: str = ""


def find_images(source: str, output_dir: Path) -> list[InputImage]:
    """The images of a file, of a folder with all below it, or of a glob like "photos/**/*.jpg", ordered by name.

    Hidden files, system files (__MACOSX), links to folders, and files in `output_dir` are skipped; a link to a file
    outside is a problem, and so is anything but a regular file, like a FIFO.
    Two images with equal output names (a.jpg, a.png) keep their suffixes: a.jpg.png, a.png.png. Raises InputError
    without images, for outputs among the images or still of one name, and for a glob with "..".
    """
    base, pattern = _split_pattern(source)
    root, out = base.resolve(), output_dir.resolve()
    if base == Path(source):
        paths = _below(base)
    elif os.path.isfile(source):
        paths = iter([Path(source)])
    else:
        paths = (path for path in base.glob(pattern) if not path.is_dir() and is_image_name(path.name))
    if out == root and not os.path.isfile(source):
        raise InputError(f"the outputs must not lie among the images, expected another folder than {output_dir}")
    images = []
    for path in paths:
        name = path.relative_to(base).as_posix()
        inside_output = out != root and out.is_relative_to(root) and _real(path).is_relative_to(out)
        if inside_output or not all(map(is_data_name, PurePosixPath(name).parts[:-1])):
            continue
        leads_out = not os.path.isfile(source) and not _real(path).is_relative_to(root)
        output = str(PurePosixPath(name).with_suffix(".png"))
        problem = f"a link that leads out of {base}" if leads_out else "" if os.path.isfile(path) else "no regular file"
        if PurePosixPath(output).parts[0].lower() in RESERVED:
            problem = f"{output} is a reserved name of this command"
        images.append(InputImage(path, name, output, problem))
    if not images:
        raise InputError(f"no images in {source} (files that end with {' '.join(EXTENSIONS)})")
    return _distinct_outputs(sorted(images, key=lambda image: image.name), output_dir)


def _real(path: Path) -> Path:
    """The path without links; unlike Path.resolve, also of a link that leads to itself."""
    return Path(os.path.realpath(path))


def _split_pattern(source: str) -> tuple[Path, str]:
    """The folder below which names are kept, and the part of a path that is a pattern or a file."""
    path = Path(source)
    if os.path.isdir(path):
        return path, ""
    if os.path.isfile(path):
        return path.parent, path.name
    parts = path.parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), None)
    if first is None:
        raise InputError(f"no image, folder or glob {source}: no such file or folder")
    if ".." in parts[first:]:
        raise InputError(f"a glob must not contain .. after its first pattern, got {source}")
    return Path(*parts[:first]), "/".join(parts[first:])


def _below(folder: Path) -> Iterator[Path]:
    """All images below a folder; links to folders are not followed."""
    for parent, names in walk(folder, follow=False):
        yield from (Path(parent, name) for name in names if is_image_name(name))


def _distinct_outputs(images: list[InputImage], output_dir: Path) -> list[InputImage]:
    """The same with outputs of different names, none of them an input image."""
    count = Counter(image.output for image in images)
    renamed = [replace(p, output=p.name + ".png") if count[p.output] > 1 else p for p in images]
    by_output: dict[str, InputImage] = {}
    for image in renamed:
        first = by_output.setdefault(image.output, image)
        if first is not image:
            raise InputError(f"{first.path} and {image.path} would both become {image.output}: rename one")
    out = output_dir.resolve()
    for image in renamed:
        if _real(image.path) == out / image.output:
            raise InputError(f"{image.path} would be replaced by its own output, expected another output folder")
    return renamed
