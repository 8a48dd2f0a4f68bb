"""A static page that runs a generator and its classifier in the browser, by onnxruntime-web, without a server."""

import base64
import gzip
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from advgan.app.attack import UNTARGETED, Pair
from advgan.app.sketch import asset, render, sketch_html
from advgan.classifiers import BlackBox
from advgan.classifiers.export import export_classifier
from advgan.core.errors import InputError, one_line
from advgan.core.files import atomic_write_dir, check_writable
from advgan.core.json_files import parse_object
from advgan.models.export import Check, export_generator

PACKAGE = "onnxruntime-web"
SCRIPT, MODULE, WASM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
RUNTIME = ("package.json", *(f"dist/{name}" for name in (SCRIPT, MODULE, WASM)))
COPIED = ("page.css", "sketch.js", "image.js", "page.js")


def write_page(pair: Pair, directory: Path, runtime: Path | None = None) -> list[Check]:
    """Write index.html and what belongs to it to `directory`, which it replaces; the comparisons of the generator.

    The page works from file:// and on any static server, without a network. eps is an input of its generator, whatever
    the generator: the radius of the last step, as in `Generator.perturb`.

    runtime   folder or .tgz of the npm package onnxruntime-web; None: fetched by `npm pack`

    Raises InputError for networks that cannot be exported, where npm fails, for a `runtime` without its files, and for
    a `directory` with other files than those of such a page.
    """
    check_replaceable(directory)
    check_writable(directory.resolve().parent)
    if isinstance(pair.classifier, BlackBox):
        raise InputError(
            f"a page needs the network of the classifier, expected no black box, got {pair.classifier.name}"
        )
    with tempfile.TemporaryDirectory() as folder:
        package = read_runtime(runtime)
        generator, classifier = Path(folder) / "generator.onnx", Path(folder) / "classifier.onnx"
        checks = export_generator(pair.generator, generator, "onnx", eps_input=True)
        export_classifier(pair.classifier, pair.image_shape, classifier)
        models = {"generator": packed(generator.read_bytes()), "classifier": packed(classifier.read_bytes())}
    files = page_files(pair, models, package)

    def write(aside: Path) -> None:
        for name, text in files.items():
            (aside / name).write_text(text, encoding="utf-8")

    atomic_write_dir(directory, write)
    return checks


def page_files(pair: Pair, models: Mapping[str, str], package: Mapping[str, bytes]) -> dict[str, str]:
    """File name -> text of all files of the page."""
    version = str(parse_object(package["package.json"].decode()).get("version"))
    index = render("index.html", sketch=sketch_html(pair.takes_digits), name=pair.name, version=version)
    wasm = {"mjs": packed(package[f"dist/{MODULE}"]), "wasm": packed(package[f"dist/{WASM}"])}
    return {
        "index.html": index,
        **{name: asset(name) for name in COPIED},
        "models.js": f"const SETTINGS = {script_json(page_settings(pair))};\nconst FILES = {script_json(models)};\n",
        "runtime.js": f"const RUNTIME = {script_json(wasm)};\n",
        "onnxruntime.js": package[f"dist/{SCRIPT}"].decode(),
    }


def page_settings(pair: Pair) -> dict[str, Any]:
    """The constant SETTINGS of the page's script: shapes, classes and conditions of the two networks."""
    generator = pair.generator
    z = torch.randn(generator.noise, generator=torch.Generator().manual_seed(0)).tolist() if generator.noise else []
    return {
        **{"shape": pair.image_shape, "digits": pair.takes_digits, "resize": pair.model_input.resize},
        **{"names": pair.classes, "norm": generator.threat.norm, "eps": generator.threat.eps, "note": pair.note},
        "levels": pair.in_levels,
        "targets": [UNTARGETED if target is None else target for target in pair.y_targets],
        **{"labels": generator.labels, "classes": generator.classes, "z": z},
    }


def check_replaceable(directory: Path) -> None:
    """Raise InputError where `directory` is a file, or holds something else than a page."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file, expected a folder for the page")
    others = [entry.name for entry in directory.iterdir()] if directory.is_dir() else []
    if others and not (directory / "models.js").is_file():
        raise InputError(f"{directory} holds other files, expected a new or empty folder, got {others[0]}")


def packed(content: bytes) -> str:
    """Compressed, as base64: under file:// a page can read nothing but scripts."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def script_json(value: Any) -> str:
    """JSON that may stand in a script."""
    return json.dumps(value).replace("</", "<\\/")


def read_runtime(source: Path | None) -> dict[str, bytes]:
    """The files of the npm package onnxruntime-web, from its folder or .tgz; None: `npm pack`. Raises InputError."""
    if source is None:
        with npm_pack() as archive:
            return read_runtime(archive)
    try:
        if source.is_dir():
            return {name: (source / name).read_bytes() for name in RUNTIME}
        with tarfile.open(source) as archive:
            members = {name: archive.extractfile(f"package/{name}") for name in RUNTIME}
            return {name: member.read() for name, member in members.items() if member is not None}
    except (OSError, KeyError, tarfile.TarError, EOFError) as error:
        expected = f"the folder or .tgz of the npm package {PACKAGE}, with {', '.join(RUNTIME)}"
        raise InputError(f"cannot read {source}: {one_line(error)}; expected {expected}") from None


@contextmanager
def npm_pack() -> Iterator[Path]:
    """The .tgz of onnxruntime-web, in a folder that is removed. Raises InputError where npm is missing or fails."""
    npm = shutil.which("npm")
    if npm is None:
        raise InputError(
            f"npm is not installed, expected it, or --runtime with the folder of the npm package {PACKAGE}"
        )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [npm, "pack", "--silent", f"{PACKAGE}@1"],
            cwd=folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        archives = list(Path(folder).glob("*.tgz"))
        if done.returncode or not archives:
            reason = one_line(done.stderr or done.stdout or "no file")
            raise InputError(f"npm pack {PACKAGE} failed ({reason}): expected a network, or --runtime DIR")
        yield archives[0]
