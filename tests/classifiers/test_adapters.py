"""Models that return their logits in a container, functions and exported modules are attacked like any other."""

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advgan
from advgan import Generator, InputError
from advgan.attacks import fgsm
from advgan.classifiers import check_target
from advgan.classifiers.adapters import OutputAdapter

Y = torch.arange(3).repeat(8)
X = 0.4 + 0.1 * torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
X[torch.arange(24), Y] += 0.2
Pair = namedtuple("Pair", ["logits", "features"])


@dataclass
class Output:
    logits: Tensor


class Colour(nn.Module):
    """The brightest channel; `form` makes the output of the logits (n, 3)."""

    def __init__(self, form: Callable[[Tensor], Any] = lambda z: z) -> None:
        super().__init__()
        self.scale, self.form = nn.Parameter(torch.tensor(40.0)), form

    def forward(self, x: Tensor) -> Any:
        return self.form(self.scale * (x.mean((2, 3)) - 0.5))


def exported() -> Any:
    batch = {0: torch.export.Dim("n")}
    return torch.export.export(Colour().eval(), (X[:4],), dynamic_shapes=({**batch},)).module()


MODELS: dict[str, Callable[[], Any]] = {
    "dataclass": lambda: Colour(lambda z: Output(z)).eval(),
    "dict": lambda: Colour(lambda z: {"logits": z, "loss": None}).eval(),
    "named tuple": lambda: Colour(lambda z: Pair(z, z)).eval(),
    "tuple of one": lambda: Colour(lambda z: (z,)).eval(),
    "function": lambda: Colour().eval().forward,
    "torch.export": exported,
}


@pytest.mark.parametrize("kind", MODELS)
def test_every_form_has_the_results_of_the_plain_model(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = advgan.compare(Colour().eval(), X, Y, ["fgsm", "pgd:steps=3"], eps=0.1)
    model = MODELS[kind]()
    compared = advgan.compare(model, X, Y, ["fgsm", "pgd:steps=3"], eps=0.1)
    for row, expected in zip(compared.rows, plain.rows, strict=True):
        assert row["status"] == "ok"
        assert {k: row[k] for k in ("asr", "l2_mean", "clean_accuracy")} == {
            k: expected[k] for k in ("asr", "l2_mean", "clean_accuracy")
        }
    assert advgan.check_model(model, X, Y).ok
    generator = advgan.fit(model, (X, Y), eps=0.1, max_steps=1, width=4, depth=1, progress=False)
    assert generator.perturb(X).shape == X.shape
    assert "training mode" not in capsys.readouterr().err


def test_an_exported_module_needs_check_target() -> None:
    with pytest.raises(InputError, match=r"torch.export .*: model = check_target\(model, x, classes\)"):
        fgsm(exported(), X, Y, eps=0.1)
    x_adv = fgsm(check_target(exported(), X[:8], 3), X, Y, eps=0.1)
    assert torch.equal(x_adv, fgsm(Colour(), X, Y, eps=0.1))


def test_other_containers_are_refused() -> None:
    with pytest.raises(InputError, match="must return a tensor of logits, got dict"):
        check_target(Colour(lambda z: {"out": z}).eval(), X[:8])
    with pytest.raises(InputError, match="must return a tensor of logits, got tuple"):
        check_target(Colour(lambda z: (z, z)).eval(), X[:8])


@pytest.mark.parametrize(
    ("form", "y"),
    [(lambda z: z[:, :1] - z[:, 1:2], (Y == 0).long()), (lambda z: {"logits": z}, Y)],
    ids=["one logit", "dict"],
)
def test_a_generator_guided_by_an_adapted_model_is_loaded_with_that_model(form: Any, y: Tensor, tmp_path: Path) -> None:
    model = Colour(form).eval()
    settings: dict[str, Any] = {"max_steps": 1, "width": 4, "depth": 1, "progress": False}
    generator = advgan.fit(model, (X, y), eps=0.1, guide=True, **settings)
    assert not isinstance(generator.guide.model, OutputAdapter)
    generator.save(tmp_path)
    assert torch.equal(Generator.from_pretrained(tmp_path, guide=model).perturb(X), generator.perturb(X))
