"""Tutorials: each notebook runs, and is committed with the outputs of its sources as they are."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
import nbformat
from nbclient.exceptions import CellExecutionError

from tests import execute_tutorials as tutorials

NOTEBOOKS, TRANSLATIONS = tutorials.tutorials(), tutorials.translations()
MAX_PNG = 60_000  # bytes
# Paths of one machine, in a warning or a traceback.
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|mnt|Users)/|site-packages|[A-Z]:\\")


def output_kinds(cell: Any) -> list[tuple[str, str]]:
    """Type and name of each output, but for warnings, which a training may or may not have."""
    outputs = [(output.output_type, output.get("name", "")) for output in cell.outputs]
    return [kind for kind in outputs if kind != ("stream", "stderr")]


def texts(cell: Any) -> list[str]:
    """All text among the outputs of a cell."""
    found = []
    for output in cell.outputs:
        found.append(output.get("text", ""))
        found += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return found


@pytest.mark.parametrize("path", [*NOTEBOOKS, *TRANSLATIONS], ids=lambda path: path.stem)
def test_committed_outputs_are_those_of_the_sources(path: Path) -> None:
    notebook = tutorials.read(path)
    cells = tutorials.code_cells(notebook)
    assert notebook.metadata["executed_sources"] == tutorials.source_digest(notebook), "stale: run `make tutorials`"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert {"kernelspec", "language_info", "executed_sources"} == set(notebook.metadata)
    for cell in cells:
        assert not any(output.output_type == "error" for output in cell.outputs)
        assert not [text for text in texts(cell) if MACHINE_PATH.search(text)]
        for output in cell.outputs:
            assert len(base64.b64decode(output.get("data", {}).get("image/png", ""))) < MAX_PNG
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell.outputs)


@pytest.fixture(scope="module")
def kernel() -> Iterator[tutorials.Kernel]:
    with tutorials.Kernel() as kernel:
        yield kernel


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, kernel: tutorials.Kernel) -> None:
    committed, again = tutorials.read(path), kernel.execute(path)  # raises for a cell that fails
    for cell, new in zip(tutorials.code_cells(committed), tutorials.code_cells(again), strict=True):
        assert output_kinds(cell) == output_kinds(new), cell.source


@pytest.mark.parametrize("path", TRANSLATIONS, ids=lambda path: path.stem)
def test_translation_has_code_and_outputs_of_its_original(path: Path) -> None:
    cells, original = (tutorials.code_cells(tutorials.read(name)) for name in (path, tutorials.original_of(path)))
    assert [(cell.source, cell.outputs) for cell in cells] == [(cell.source, cell.outputs) for cell in original]


def test_cell_that_fails_is_an_error(tmp_path: Path, kernel: tutorials.Kernel) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("assert 1 > 2, 'flipped'")])
    nbformat.write(notebook, tmp_path / "fails.ipynb")
    with pytest.raises(CellExecutionError, match="flipped"):
        kernel.execute(tmp_path / "fails.ipynb")


def test_index_has_every_tutorial() -> None:
    folder = ROOT / "docs/tutorials"
    assert NOTEBOOKS
    for name, paths in {"README.md": NOTEBOOKS, "README.zh-CN.md": [*NOTEBOOKS, *TRANSLATIONS]}.items():
        listed = re.findall(r"\]\((\d\d-[\w-]+(?:\.zh-CN)?\.ipynb)\)", (folder / name).read_text())
        assert sorted(listed) == sorted(path.name for path in paths)
