"""FILE.py:FACTORY: own helper modules per file, an identity that covers them, global switches restored."""

import gc
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from advgan.classifiers import fingerprint, load_target
from advgan.classifiers.external.base import ExternalClassifier
from advgan.core.errors import InputError

NET = """
import torch
from torch import nn
class Net(nn.Module):
    image_shape = (1, 2, 2)
    def __init__(self, value):
        super().__init__()
        self.value = value
    def forward(self, x):
        f = self.value * (x.mean((1, 2, 3)) - 0.5)
        return torch.stack([-f, f], 1)
"""
BUILD = "{imports}\ndef build():\n    from torch import nn\n    return {name}.Net({name}.VALUE)\n"


def value_of(target: ExternalClassifier) -> float:
    return float(target(torch.ones(1, 1, 2, 2))[0, 1]) * 2


def load(path: Path, factory: str = "build") -> ExternalClassifier:
    target: ExternalClassifier = load_target(f"{path}:{factory}")
    return target


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("imports", "name", "helper"),
    [
        ("import net", "net", "net.py"),
        ("from . import net", "net", "net.py"),
        ("import lib.net as net", "net", "lib/net.py"),  # no __init__.py
        ("from .lib import net", "net", "lib/net.py"),
        ("import importlib\nnet = importlib.import_module('net')", "net", "net.py"),
    ],
)
def test_files_import_their_own_helpers_of_the_same_name(tmp_path: Path, imports: str, name: str, helper: str) -> None:
    before, path = set(sys.modules), list(sys.path)
    for folder, value in (("a", 1.0), ("b", 2.0)):
        text = BUILD.format(imports=imports, name=name)
        write_files(tmp_path / folder, {"mine.py": text, helper: f"{NET}\nVALUE = {value}\n"})
    a, b, again = (load(tmp_path / folder / "mine.py") for folder in ("a", "b", "a"))
    assert (value_of(a), value_of(b), value_of(again)) == (1.0, 2.0, 1.0)
    assert fingerprint(a) == fingerprint(again) != fingerprint(b)
    assert sys.path == path
    assert not [key for key in set(sys.modules) - before if key.startswith(("net", "lib", "advgan_target_"))]


def test_file_in_package_imports_absolutely_and_relatively(tmp_path: Path) -> None:
    for folder, value in (("a", 1.0), ("b", 2.0)):
        write_files(
            tmp_path / folder,
            {
                "pkg/__init__.py": f"VALUE = {value}\n",
                "pkg/nets/__init__.py": "",
                "pkg/nets/net.py": NET,
                "pkg/models/__init__.py": "",
                "pkg/models/mine.py": "from ..nets.net import Net\nfrom .. import VALUE\nimport pkg\n"
                "def build():\n    assert pkg.VALUE == VALUE\n    return Net(VALUE)\n",
            },
        )
    a, b = (load(tmp_path / folder / "pkg/models/mine.py") for folder in ("a", "b"))
    assert (value_of(a), value_of(b)) == (1.0, 2.0)


def test_helper_takes_precedence_over_loaded_module(tmp_path: Path) -> None:
    other = write_files(tmp_path / "other", {"net.py": "VALUE = 9.0\n"})
    sys.path.insert(0, str(other))
    try:
        import net  # type: ignore[import-not-found]

        write_files(
            tmp_path, {"mine.py": BUILD.format(imports="import net", name="net"), "net.py": f"{NET}\nVALUE = 3.0\n"}
        )
        assert value_of(load(tmp_path / "mine.py")) == 3.0
        assert sys.modules["net"] is net
    finally:
        sys.path.remove(str(other))
        sys.modules.pop("net", None)


def test_import_in_forward_uses_own_helper(tmp_path: Path) -> None:
    lazy = NET.replace("        f = ", "        import scale\n        f = scale.SCALE * ")
    for folder, value in (("a", 1.0), ("b", 2.0)):
        text = f"{lazy}\ndef build():\n    return Net(1.0)\n"
        write_files(tmp_path / folder, {"mine.py": text, "scale.py": f"SCALE = {value}\n"})
    a, b = (load(tmp_path / folder / "mine.py") for folder in ("a", "b"))
    assert (value_of(a), value_of(b), value_of(a)) == (1.0, 2.0, 1.0)


def test_changed_helper_is_reloaded(tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    write_files(
        tmp_path, {"mine.py": BUILD.format(imports="import net", name="net"), "net.py": f"{NET}\nVALUE = 1.0\n"}
    )
    first = load(mine)
    (tmp_path / "net.py").write_text(f"{NET}\nVALUE = 2.0\n")  # of the same size, in the same second
    second = load(mine)
    assert (value_of(first), value_of(second)) == (1.0, 2.0)
    assert fingerprint(first) != fingerprint(second)


@pytest.mark.parametrize("kind", ["float({})", "torch.tensor({})", "[1, {}]", "{{'t': {}}}"])
def test_fingerprint_covers_values_read_from_files(tmp_path: Path, kind: str) -> None:
    text = "from pathlib import Path\n" + NET.replace("value\n    def", "value\n        self.t = KIND\n    def")
    text = text.replace("KIND", kind.format("float((Path(__file__).parent / 't.txt').read_text())"))
    write_files(tmp_path, {"mine.py": f"{text}\ndef build():\n    return Net(1.0)\n", "t.txt": "1"})
    one = fingerprint(load(tmp_path / "mine.py"))
    assert fingerprint(load(tmp_path / "mine.py")) == one
    (tmp_path / "t.txt").write_text("2")
    assert fingerprint(load(tmp_path / "mine.py")) != one


FROM_OUTSIDE = {
    "constant": "T = float(os.environ['T'])\ndef build(): return Scaled(lambda z: T * z)",
    "array": "T = np.array([float(os.environ['T'])])\ndef build(): return Scaled(lambda z: float(T[0]) * z)",
    "closure": "def build():\n    t = float(os.environ['T'])\n    return Scaled(lambda z: t * z)",
    "default": "def build(): return Scaled(lambda z, t=float(os.environ['T']): t * z)",
    "method": "def build():\n    t = float(os.environ['T'])\n    class My(Scaled):\n        def forward(self, x):\n"
    "            return t * super().forward(x)\n    return My(lambda z: z)",
    "file": "def build():\n    t = Table(json.load(open(HERE / 't.json')))\n    return Scaled(lambda z: t.value * z)",
    "npz": "T = Table(float(np.load(HERE / 't.npz')['t']))\ndef build(): return Scaled(lambda z: T.value * z)",
    "pt": "def build():\n    t = Table(torch.load(HERE / 't.pt'))\n    return Scaled(lambda z: t.value * z)",
    "late file": "def build(): return Scaled(lambda z: json.load(open(HERE / 't.json')) * z)",
    "late module": "def scaled(z):\n    import late\n    return late.T * z\ndef build(): return Scaled(scaled)",
}


@pytest.mark.parametrize("kind", FROM_OUTSIDE)
def test_fingerprint_covers_model_state_in_any_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    text = f"""import json, os
from pathlib import Path
import numpy as np
{NET}
HERE = Path(__file__).parent
PLACE = str(HERE)
class Table:
    def __init__(self, value): self.value = value
class Scaled(Net):
    def __init__(self, scale):
        super().__init__(1.0)
        self.scale = scale
    def forward(self, x):
        return self.scale(super().forward(x))
{FROM_OUTSIDE[kind]}
"""

    def change(folder: Path, value: float) -> Path:
        monkeypatch.setenv("T", str(value))
        write_files(folder, {"mine.py": text, "t.json": str(value), "late.py": f"T = {value}"})
        np.savez(folder / "t.npz", t=value)
        torch.save(torch.tensor(value), folder / "t.pt")
        return folder / "mine.py"

    one = load(change(tmp_path / "a", 1.0))
    moved = load(change(tmp_path / "b", 1.0))
    assert (value_of(one), value_of(moved)) == (1.0, 1.0)
    assert fingerprint(moved) == fingerprint(one)  # where it lies does not matter
    other = load(change(tmp_path / "a", 2.0))
    assert value_of(other) == 2.0
    assert fingerprint(other) != fingerprint(one)


def test_black_box_imports_own_helper_on_query(tmp_path: Path) -> None:
    text = """
import numpy as np
from advgan.classifiers.black_box import BlackBox
def build():
    def predict(x):
        import late
        return np.tile(late.P, (len(x), 1))
    return BlackBox(predict, 2, image_shape=(1, 2, 2))
"""
    for folder, p in (("a", "[1.0, 0.0]"), ("b", "[0.25, 0.75]")):
        write_files(tmp_path / folder, {"mine.py": text, "late.py": f"P = {p}"})
    a, b = (load(tmp_path / folder / "mine.py") for folder in ("a", "b"))
    x = torch.ones(1, 1, 2, 2)
    assert [target(x).exp()[0, 0].item() for target in (a, b, a)] == [1.0, 0.25, 1.0]


SWITCHES = """
import os, random, sys
import numpy as np
import torch
torch.set_grad_enabled(False)
guard = torch.inference_mode(); guard.__enter__()
torch.set_default_dtype(torch.float64)
torch.set_default_device("meta")
torch.use_deterministic_algorithms(True)
torch.backends.cudnn.benchmark = True
torch.manual_seed(0); np.random.seed(0); random.seed(0)
os.chdir("/")
sys.setrecursionlimit(5000)
torch.set_default_device("cpu")
"""


def test_global_switches_are_restored(tmp_path: Path) -> None:
    write_files(
        tmp_path, {"mine.py": f"{SWITCHES}{NET}\ndef build():\n    torch.manual_seed(1)\n    return Net(1.0)\n"}
    )
    folder, limit, benchmark = Path.cwd(), sys.getrecursionlimit(), torch.backends.cudnn.benchmark
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    target = load(tmp_path / "mine.py")
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(1).device.type == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()
    assert (Path.cwd(), sys.getrecursionlimit(), torch.backends.cudnn.benchmark) == (folder, limit, benchmark)
    x = torch.full((1, 1, 2, 2), 0.6, requires_grad=True)
    target(x)[0, 1].backward()
    assert torch.equal(x.grad, torch.full_like(x, 0.25))


def test_switches_that_cannot_be_read_again_are_restored(tmp_path: Path) -> None:
    """A device that is not there, and a working folder that is gone."""
    text = "import os, tempfile, torch\nos.chdir(tempfile.mkdtemp()); os.rmdir(os.getcwd())\n"
    write_files(tmp_path, {"mine.py": f"{text}torch.set_default_device('hpu')\ndef build():\n    torch.zeros(1)\n"})
    folder = Path.cwd()
    with pytest.raises(InputError, match=r"cannot be built: .*mine.py, line 5"):
        load(tmp_path / "mine.py")
    assert (Path.cwd(), torch.zeros(1).device.type) == (folder, "cpu")


def test_weights_created_in_inference_mode_are_normal_tensors(tmp_path: Path) -> None:
    text = f"{NET}\nguard = torch.inference_mode(); guard.__enter__()\ndef build():\n"
    text += (
        "    net = Net(1.0); net.a = net.b = nn.Parameter(torch.tensor(2.0)); net.register_buffer('c', torch.ones(1))\n"
    )
    write_files(tmp_path, {"mine.py": f"{text}    return net\n"})
    model = load(tmp_path / "mine.py")
    assert not torch.is_inference_mode_enabled()
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
    assert model.model.a is model.model.b
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad((model(x) * model.model.a).sum(), x)
    assert gradient.shape == x.shape
    model.model.a.mul_(2)


def test_deleting_inference_guard_keeps_gradients_enabled(tmp_path: Path) -> None:
    write_files(tmp_path, {"mine.py": f"{SWITCHES}{NET}\ndef build():\n    return Net(1.0)\n"})
    target = load(tmp_path / "mine.py")
    del target  # and the file's module with it
    gc.collect()
    assert torch.is_grad_enabled()


def test_switches_are_restored_after_an_error(tmp_path: Path) -> None:
    write_files(tmp_path, {"mine.py": "import torch\ntorch.set_grad_enabled(False)\nimport no_such_module_beside\n"})
    with pytest.raises(InputError, match=r"mine.py, line 3: ModuleNotFoundError: No module named 'no_such_module"):
        load(tmp_path / "mine.py")
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("column", ["", "[:, None]"])
def test_single_logit_is_wrapped_and_sigmoid_refused(tmp_path: Path, column: str) -> None:
    from advgan.classifiers import check_target

    head = NET.replace("return torch.stack([-f, f], 1)", f"return f{column}")
    write_files(tmp_path, {"logit.py": f"{head}\ndef build():\n    return Net(8.0)\n"})
    write_files(
        tmp_path, {"p.py": head.replace("return f", "return f.sigmoid()") + "\ndef build():\n    return Net(8.0)\n"}
    )
    x = torch.stack([torch.full((1, 2, 2), 0.25), torch.full((1, 2, 2), 0.75)])
    target = load(tmp_path / "logit.py")
    assert check_target(target, x, 2) is target
    assert torch.equal(target(x), torch.tensor([[0.0, -2.0], [0.0, 2.0]]))
    with pytest.raises(InputError, match="one probability per image"):
        check_target(load(tmp_path / "p.py"), x, 2)


def test_class_without_init_is_a_factory(tmp_path: Path) -> None:
    text = "from torch import nn\nclass Net(nn.Module):\n    image_shape = (1, 2, 2)\n    def forward(self, x):\n"
    write_files(tmp_path, {"mine.py": f"{text}        return x.flatten(1)[:, :3]\n"})
    assert load(tmp_path / "mine.py", "Net").num_classes == 3


def test_factory_returns_an_exported_program_with_its_logits_and_gradients(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3)).eval()
    x = torch.rand(5, 1, 4, 4)
    program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "model.pt2")
    text = "import torch\nfrom pathlib import Path\nFILE = Path(__file__).with_name('model.pt2')\n"
    text += "def build():\n    return torch.export.unflatten(torch.export.load(FILE))\n"
    target = load_target(f"{write_files(tmp_path, {'mine.py': text}) / 'mine.py'}:build", image_shape=(1, 4, 4))
    leaf = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(target(leaf)[:, 0].sum(), leaf)
    expected = x.clone().requires_grad_(True)
    assert torch.allclose(target(x), model(x), atol=1e-6)
    assert torch.allclose(gradient, torch.autograd.grad(model(expected)[:, 0].sum(), expected)[0], atol=1e-6)
