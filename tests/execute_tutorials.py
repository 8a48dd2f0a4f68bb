"""Executes the tutorials and saves them with their outputs: `make tutorials`, or with the names of some of them.

python tests/execute_tutorials.py [NOTEBOOK.ipynb ...]

A translation (NAME.zh-CN.ipynb) has the code of its original, and gets the outputs of that. A saved notebook has the
digest of its sources at the time of the execution; what differs from one execution to the next (times, the kernel's
version, numbers of the process) is not saved.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[1] / "docs/tutorials"
TRANSLATED = ".zh-CN.ipynb"
TIMEOUT = 1800  # seconds a cell may take, on a loaded machine
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "COLUMNS": "100",  # of tables
    "PYTHONWARNINGS": "ignore:IProgress not found",  # of tqdm, which huggingface_hub imports
}
# Before each notebook: no names, random numbers, notes and count of the one before.
RESET = """\
import random, numpy, torch
from advgan.core.errors import note
random.seed(0), numpy.random.seed(0), torch.manual_seed(0), note.cache_clear()
get_ipython().reset()
get_ipython().execution_count = 0"""


class RunningInterpreter(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=40"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def tutorials() -> list[Path]:
    """All but translations."""
    return sorted(path for path in FOLDER.glob("*.ipynb") if not path.name.endswith(TRANSLATED))


def translations() -> list[Path]:
    return sorted(FOLDER.glob(f"*{TRANSLATED}"))


def original_of(path: Path) -> Path:
    """The notebook that `path` translates."""
    return path.with_name(path.name.replace(TRANSLATED, ".ipynb"))


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def source_digest(notebook: NotebookNode) -> str:
    """SHA-256 of the sources of all code cells."""
    return hashlib.sha256("\n\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()


class Kernel:
    """A kernel for several notebooks, one after the other: it starts, and imports PyTorch, once."""

    def __init__(self) -> None:
        self._client = NotebookClient(
            nbformat.v4.new_notebook(),
            kernel_manager_class=RunningInterpreter,
            timeout=TIMEOUT,
            record_timing=False,
            resources={"metadata": {"path": str(FOLDER)}},
        )

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self._client._cleanup_kernel()

    def execute(self, path: Path) -> NotebookNode:
        """The notebook with new outputs, executed in FOLDER. Raises CellExecutionError for a cell that fails."""
        notebook = read(path)
        for part in (nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(RESET)]), notebook):
            self._client.nb = part
            self._client.execute(env=os.environ | ENVIRONMENT, cleanup_kc=False)
        return clean(notebook)


def clean(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what changes at each execution, and with the digest of its sources."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}, "executed_sources": source_digest(notebook)}
    notebook.metadata = nbformat.from_dict(metadata)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
    return notebook


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """The outputs, with parts of one stream, which arrive in parts by chance, as one."""
    result: list[NotebookNode] = []
    for output in outputs:
        if result and output.output_type == "stream" == result[-1].output_type and output.name == result[-1].name:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def with_outputs_of_original(path: Path) -> NotebookNode:
    """A translation with the code cells of its original, which its own stand for, and their outputs."""
    notebook, original = read(path), read(original_of(path))
    for cell, done in zip(code_cells(notebook), code_cells(original), strict=True):
        cell.source, cell.outputs, cell.execution_count = done.source, done.outputs, done.execution_count
    return clean(notebook)


def main(names: list[str]) -> None:
    for path in [Path(name).resolve() for name in names] or tutorials() + translations():
        start = time.perf_counter()
        if path.name.endswith(TRANSLATED):
            notebook = with_outputs_of_original(path)
        else:
            with Kernel() as kernel:
                notebook = kernel.execute(path)
        nbformat.write(notebook, path)
        print(f"{path.name:<40} {time.perf_counter() - start:6.1f} s {path.stat().st_size / 1000:7.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
