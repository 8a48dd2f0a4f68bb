"""Import of a user's Python file with the modules in its folder, separate from those of other such files; and
torch's global switches, which such a file may change, restored afterwards."""

import gc
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Self

import numpy as np
import torch

from advgan.core.random_state import preserved_random_states

LIBRARIES = tuple({sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")})


class _Source(SourceFileLoader):
    """Compiles the file on disk: a cached one of the same second and size would be used instead."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class ImportFolder:
    """The modules below the folder `root` of a Python file: imported first within `importing`, and removed from
    `sys.modules` afterwards.

    root       the folder of the file; of one in a package (`__init__.py`), the folder of the outermost package
    modules    name -> module, those loaded so far
    opened     paths opened for reading within `importing`
    """

    def __init__(self, file: Path) -> None:
        self.file, self.root = file, file.parent
        while (self.root / "__init__.py").is_file() and self.root.parent != self.root:
            self.root = self.root.parent
        self.package = f"advgan_target_{hashlib.sha256(bytes(file)).hexdigest()[:16]}"
        self.names: set[str] = set()
        self.modules: dict[str, ModuleType] = {}
        self.opened: set[str] = set()

    def __deepcopy__(self, memo: Any) -> Self:
        return self  # modules are not copied

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Imports in the block search the file's folder first; its modules leave sys.modules at the end."""
        folders = list(dict.fromkeys([str(self.file.parent), str(self.root)]))
        neighbours = {entry.name.removesuffix(".py") for folder in folders for entry in Path(folder).iterdir()}
        neighbours -= {"advgan", "__main__", "tests"}
        shadowed = {name: sys.modules[name] for name in list(sys.modules) if name.partition(".")[0] in neighbours}
        shadowed = {name: module for name, module in shadowed.items() if _is_user_module(module)}
        for name in shadowed:
            del sys.modules[name]
        sys.modules.update(self.modules)
        sys.meta_path.insert(0, self)
        sys.path[:0] = folders
        _recording.append(self.opened)
        try:
            yield
        finally:
            _recording.pop()
            for folder in folders:
                if folder in sys.path:
                    sys.path.remove(folder)
            sys.meta_path.remove(self)
            self.modules |= {name: sys.modules.pop(name) for name in self.names if name in sys.modules}
            sys.modules.update(shadowed)

    def load(self) -> ModuleType:
        """The file, run as a module of a package with the other modules in its folder: `from . import net` works."""
        names = [self.package, *self.file.parent.relative_to(self.root).parts]
        top = ModuleType(self.package)
        top.__path__ = [str(self.root)]
        sys.modules[self.package] = top
        self.names.add(self.package)
        for n in range(2, len(names) + 1):
            importlib.import_module(".".join(names[:n]))
        name = ".".join([*names, self.file.stem.replace(".", "_")])
        spec = importlib.util.spec_from_loader(name, _Source(name, str(self.file)))
        assert spec is not None, "every loader has a spec"
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where dataclasses look for their module
        self.names.add(name)
        assert spec.loader is not None, "built with a loader"
        spec.loader.exec_module(module)
        return module

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Hook of the import system: the spec of module `name` if it is in the folder of the file, else None."""
        top = name.partition(".")[0]
        if path is not None and top not in self.names:
            return None  # part of another package
        spec = PathFinder.find_spec(name, path)  # as usual, a folder without __init__.py comes last
        origins = [] if spec is None else [spec.origin] if spec.origin else list(spec.submodule_search_locations or [])
        if spec is None or not origins or not all(self._contains(Path(origin)) for origin in origins):
            return None
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Source(name, str(spec.origin))
        self.names.add(name)
        return spec

    @property
    def named(self) -> dict[str, ModuleType]:
        """The modules loaded so far, by names independent of the path of the file."""
        return {name.replace(self.package, ""): module for name, module in self.modules.items()}

    @property
    def files(self) -> list[Path]:
        """The file, and those in its folder that were imported or read so far, sorted by name."""
        files = [getattr(module, "__file__", None) for module in self.modules.values()]
        paths = {Path(file) for file in files if file}
        paths |= {path for path in map(Path, self.opened) if self._contains(path) and path.is_file()}
        return [self.file, *sorted({path.resolve() for path in paths} - {self.file})]

    def _contains(self, path: Path) -> bool:
        path = path.resolve()
        return path.is_relative_to(self.root) and not _in_library(path)


_recording: list[set[str]] = []  # sets of paths opened for reading, the innermost last


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    """Audit hook: record the path of each file that Python code opens for reading."""
    if event != "open" or not _recording:
        return
    path, mode = arguments[:2]
    if isinstance(path, (str, bytes)) and isinstance(mode, str) and not set(mode) & set("wax+"):
        _recording[-1].add(os.path.abspath(os.fsdecode(path)))


sys.addaudithook(_record)


def _is_user_module(module: Any) -> bool:
    """Whether a loaded module is neither built in nor of a library, so that one in the file's folder replaces it."""
    origin = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", [])), None)
    return origin is not None and not _in_library(Path(origin).resolve())


def _in_library(path: Path) -> bool:
    return any(path.is_relative_to(Path(folder).resolve()) for folder in LIBRARIES) or bool(
        {"site-packages", "dist-packages"} & set(path.parts)
    )


_GUARDS: list[Any] = []  # kept alive: their destructors would set the gradient mode later


# Reads and sets a switch: torch's, NumPy's, Python's.
SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    # Not torch.get_default_device(), which fails below two devices in torch < 2.10.
    (lambda: torch.empty(0).device, lambda device: torch.set_default_device(None if device.type == "cpu" else device)),
    (
        lambda: [torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()],
        lambda modes: torch.use_deterministic_algorithms(modes[0], warn_only=modes[1]),
    ),
    *(
        (partial(getattr, torch.backends.cudnn, key), partial(setattr, torch.backends.cudnn, key))
        for key in ("enabled", "benchmark", "deterministic", "allow_tf32")
    ),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_num_threads, lambda n: None if n == torch.get_num_threads() else torch.set_num_threads(n)),
    (os.getcwd, os.chdir),
    (np.geterr, lambda errors: np.seterr(**errors)),
    (sys.getrecursionlimit, sys.setrecursionlimit),
)


@contextmanager
def preserve_global_state() -> Iterator[None]:
    """Restore torch's global switches, random number generators and the working folder after the block."""
    before = [get() for get, _ in SWITCHES]
    try:
        with preserved_random_states(), torch.inference_mode(False), torch.enable_grad():
            try:
                yield
            finally:
                if torch.is_inference_mode_enabled():  # entered and not left
                    _GUARDS.extend(guard for guard in gc.get_objects() if type(guard) is torch.inference_mode)
    finally:
        for (_, put), value in zip(SWITCHES, before, strict=True):  # not read again: a broken device, no folder
            put(value)


def attributes_digest(model: torch.nn.Module, modules: dict[str, ModuleType]) -> str:
    """SHA-256 of the values that a model's output depends on beside its weights: plain attributes of its layers
    (numbers, texts, arrays, tensors, lists of them: a temperature, a mean that is no buffer); the code of TorchScript;
    and constants, defaults and closures of the Python `modules` by name and of the layers' functions, if they are
    numbers, arrays or tensors (a text may be a path or a device).
    """
    digest, usual = hashlib.sha256(), vars(torch.nn.Module()).keys()
    module_names = {python.__name__ for python in modules.values()}
    for name, module in model.named_modules():
        values = dict(vars(module))
        if isinstance(module, torch.jit.ScriptModule):
            values["code"] = getattr(module, "code", None)
        for key, value in sorted(values.items()):
            if key not in usual and _is_plain(value):
                digest.update(f"{name}.{key}=".encode())
                _update_digest(digest, value)
        for _, function in sorted({**vars(type(module)), **vars(module)}.items()):
            if isinstance(function, FunctionType) and function.__module__ in module_names:
                _update_digest(digest, [value for value in _captured_values(function) if _is_plain(value, texts=False)])
    for name, python in sorted(modules.items()):
        for key, value in sorted(vars(python).items()):
            if not key.startswith("__") and _is_plain(value, texts=False):
                digest.update(f"{name}:{key}=".encode())
                _update_digest(digest, value)
    return digest.hexdigest()


def _captured_values(function: FunctionType) -> Iterator[Any]:
    """The defaults of a function, and the values in its closure."""
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue


def _is_plain(value: Any, *, texts: bool = True) -> bool:
    """Whether a value is a number, a tensor, an array (with `texts`, a text or None), or a list or dict of such."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part, texts=texts) for part in value)
    if isinstance(value, dict):
        return all(_is_plain(key) and _is_plain(part, texts=texts) for key, part in value.items())
    if isinstance(value, (str, bytes)) or value is None:
        return texts
    return isinstance(value, (bool, int, float, complex, torch.Tensor, np.ndarray))


def _update_digest(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        value = value.detach().cpu()
        value = (value.int_repr() if value.is_quantized else value).contiguous().flatten()
        digest.update(value.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif isinstance(value, (list, tuple, dict)):
        for part in value.items() if isinstance(value, dict) else value:
            _update_digest(digest, part)
        digest.update(b";")
    else:
        digest.update(f"{value!r};".encode())
