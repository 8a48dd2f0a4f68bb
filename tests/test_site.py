"""The site of `make docs`: navigation, reference, pages of other files; a strict build where MkDocs is installed."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import advgan
from advgan import attacks
from tests.conftest import ROOT
from tests.test_docs import LINK, resolve

DOCS = ROOT / "docs"


class Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without MkDocs: its Python objects are None."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)


def load_hooks() -> Any:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site/hooks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load_hooks()
NOTEBOOKS = sorted(DOCS.glob("tutorials/*.ipynb"))


def nav_pages(entries: Any) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    return [page for entry in entries for page in nav_pages(entry if isinstance(entries, list) else entries[entry])]


def test_nav_names_existing_files_and_every_page() -> None:
    entries = nav_pages(CONFIG["nav"])
    pages = {page for entry in entries for page in ([entry] if "*" not in entry else hooks.expand(entry))}
    made = set(hooks.ROOT_PAGES.values()) | {hooks.page_of(str(path.relative_to(ROOT))) for path in NOTEBOOKS}
    assert {page for page in pages if not (DOCS / page).exists()} <= made
    assert pages == made | {str(path.relative_to(DOCS)) for path in DOCS.glob("**/*.md")}


def test_reference_names_exist() -> None:
    names = hooks.references()
    assert len(names) == len(set(names))
    for name in names:
        resolve(name)


def test_reference_is_complete() -> None:
    functions = {f"advgan.attacks.{name}" for name in attacks.__all__ if name.islower()}
    public = {f"advgan.{name}" for name in advgan.__all__ if name != "__version__"}
    assert not {name for name in functions | public if not hooks.find_reference(name, hooks.references())}


def test_find_reference() -> None:
    identifiers = ["advgan.attacks.fgsm.fgsm", "advgan.models.generator.Generator", "advgan.models.losses"]
    assert hooks.find_reference("advgan.attacks.fgsm", identifiers) == "advgan.attacks.fgsm.fgsm"
    assert hooks.find_reference("advgan.Generator.perturb", identifiers) == "advgan.models.generator.Generator.perturb"
    assert hooks.find_reference("advgan.models.losses.margin", identifiers) == "advgan.models.losses.margin"
    assert hooks.find_reference("advgan.attacks.pgd", identifiers) == ""


def test_page_paths() -> None:
    assert hooks.page_of("docs/tutorials/01-fgsm.ipynb") == "tutorials/01-fgsm.md"
    assert hooks.page_of("CONTRIBUTING.md") == "contributing.md"
    assert hooks.page_of("CITATION.cff") == "repository/CITATION.cff"
    assert hooks.source("overview.md") == "README.md"
    assert hooks.source("reference/1-advgan.md") == "docs/reference/1-advgan.md"
    assert hooks.link_targets("[a](../README.md#b) [c](http://d) [e](none.md)", "docs/results.md") == {"README.md"}


def test_notebook_page(tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "name": "stderr", "text": ["progress"]},
        {"output_type": "stream", "name": "stdout", "text": ["3\n"]},
        {"output_type": "display_data", "data": {"image/png": "AB\nC=", "text/plain": ["<Figure>"]}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {"cell_type": "code", "source": ["1 + 2"], "outputs": outputs},
    ]
    path = tmp_path / "01.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    title, download, text, code, *out = hooks.notebook_page(path).split("\n\n")
    assert (title, text.strip(), code) == ("# Title", "Text.", "```python\n1 + 2\n```")
    assert "(01.ipynb)" in download
    assert out == [
        "``` { .text .output }\n3\n```",
        '<img class="output" alt="output" src="data:image/png;base64,ABC=">',
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_notebooks_resolve(path: Path) -> None:
    for link in LINK.findall(hooks.notebook_page(path)):
        assert "://" in link or link.startswith("#") or (path.parent / link.partition("#")[0]).exists(), link


def test_strict_build(tmp_path: Path) -> None:
    """Ten seconds: the whole site, with equations, links into the reference, and files of the repository."""
    for module in ("material", "mkdocstrings_handlers.python", "latex2mathml"):
        pytest.importorskip(module, reason="the extra 'docs' is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True))
    concepts = (tmp_path / "concepts.html").read_text()
    assert "<math" in concepts
    assert "arithmatex" not in concepts
    assert 'href="reference/1-advgan.html#advgan.fit"' in concepts
    assert (tmp_path / "repository/CITATION.cff").exists()
    assert 'id="attacks-that-optimise-each-image"' in concepts
