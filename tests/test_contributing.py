"""The worked examples of CONTRIBUTING.md, executed in a copy of the library."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from advgan import __version__
from tests.conftest import ROOT, environment

BLOCK = re.compile(r"^```python\n# (\S+)\n(.*?)^```$", re.M | re.S)
NEW = {"brightness", "mnist-linear", "stretch"}


def add(there: str, block: str) -> str:
    """Writes or extends a file by a block: imports before the first of ours, lines below the one shown."""
    imports = re.findall(r"^from .*\n", block, re.M)
    opening, lines = re.fullmatch(r"(?:from .*\n)*(\S.*[{(]\n)((?:    .*\n)+)", block).groups()
    assert there.count(opening) == 1, f"{opening!r} is to be in the file once"
    first = "from advgan" if imports else opening
    return there.replace(first, "".join(imports) + first, 1).replace(opening, opening + lines)


def test_worked_examples(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())
    folders = {str(Path(name).parent) for name, _ in blocks}
    rooms = ("attacks", "classifiers", "defenses")
    assert folders == {f"{root}/{room}" for root in ("advgan", "tests") for room in rooms}
    for folder in ("advgan", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    written = [name for name, _ in blocks if not (tmp_path / name).exists()]
    for name, block in blocks:
        file = tmp_path / name
        file.write_text(block if name in written else add(file.read_text(), block))
    own = [name for name in written if name.startswith("tests/")]
    words = [*own, *(f"tests/{kind}/test_{kind}.py" for kind in rooms)]
    which = " or ".join([*NEW, *(Path(name).stem for name in own)])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, "-k", which],
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) >= len(own) + 12, "each also joins the tests of its kind"
    for command in (["check"], ["format", "--check"]):
        form = [sys.executable, "-m", "ruff", *command, *written]
        done = subprocess.run(form, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout


def test_citation_has_the_version_of_the_package_and_the_changelog_an_entry_of_it() -> None:
    assert re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.M) == [__version__]
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == __version__
