"""The environment of a result, for its reproduction: versions, machine, commit, settings."""

import ast
import dataclasses
import hashlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from advgan.core.json_files import as_json

BRIDGED = ("foolbox", "torchattacks", "adversarial-robustness-toolbox")  # libraries with a bridge
COMPUTING = ("attacks", "bridges", "classifiers", "defenses", "evaluation", "models")  # packages that affect a result
PACKAGES = ("torch", "torchvision", "accelerate", "numpy", "scipy", "tensorboard")


def environment(settings: Any) -> dict[str, Any]:
    """Versions, machine, threads, commit (None outside a checkout), date and a dataclass of `settings`, for JSON."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": as_json([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "settings": {name: as_json(value) for name, value in dataclasses.asdict(settings).items()},
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in ("advgan", *PACKAGES)},
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def cache_version() -> dict[str, Any]:
    """The part of a result's cache key beside the settings: code, versions of packages, machine, threads.

    Comments, docstrings and formatting of the code do not count, nor do reports, studies, trainings and commands.
    """
    return _installed() | {"threads": torch.get_num_threads()}


@cache
def _installed() -> dict[str, Any]:
    """The part of `cache_version` that is constant within a process."""
    library = Path(__file__).parents[1]
    files = [library / "core/threat_model.py", *(f for room in COMPUTING for f in (library / room).rglob("*.py"))]
    code = hashlib.sha256()
    for file in sorted(files):
        code.update(code_digest(file.read_text(encoding="utf-8")).encode())
    versions = {name: _version(name) for name in ("torch", "scipy", *BRIDGED)}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"cpu": _cpu(), "gpu": gpu}
    return {"python": platform.python_version(), "sources": code.hexdigest(), **versions, **machine}


def code_digest(source: str) -> str:
    """SHA-256 of the syntax tree of Python `source` without its docstrings: the same for another comment."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            body[0] = ast.Pass()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor's name from /proc/cpuinfo, else from `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _commit() -> str | None:
    """The commit of the checkout this library lies in, with -dirty after it where files differ; None for an install."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
