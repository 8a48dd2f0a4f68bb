"""Models that return their logits in a container, functions and exported modules are attacked like any other."""

import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advgan
from advgan import Generator, InputError
from advgan.attacks import fgsm
from advgan.classifiers import check_target, fingerprint
from advgan.classifiers.adapters import OutputAdapter, classes_of

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
    with pytest.raises(InputError, match=r"must return a tensor of logits, got dict with \['out'\] \(8, 3\)$"):
        check_target(Colour(lambda z: {"out": z}).eval(), X[:8])
    with pytest.raises(InputError, match=r"must return a tensor of logits, got tuple with \[0\] \(8, 3\), \[1\]"):
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


class Named(nn.Module):
    """A user's model, whose attributes have names that this library reads, with values of another kind."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 4)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


@pytest.mark.parametrize(
    "attributes",
    [
        {"classes": 3, "image_shape": 4, "rejection_score": 0.5, "num_classes": 1000},
        {"classes": torch.arange(4), "identity": nn.Identity(), "adaptive": nn.AdaptiveAvgPool2d(1)},
        {"classes": np.array(["a", "b", "c", "d"]), "identity": 3, "adaptive": True, "random": random.Random(0)},
        {"classes": lambda: 3, "rejection_score": nn.Identity(), "spec_name": "x", "settings": {}},
    ],
)
def test_attributes_of_a_model_with_other_values_are_its_own(attributes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = Named(**attributes).eval(), torch.rand(60, 1, 4, 4)
    y = model(x).argmax(1)
    assert advgan.compare(model, x, y, ["fgsm", "torchattacks:APGDT:steps=2"], eps=0.1).rows[1]["status"] == "ok"
    assert advgan.check_model(model, x).ok
    generator = advgan.fit(model, (x, y), eps=0.1, width=4, depth=1, max_steps=2, batch_size=8, progress=False)
    assert generator.labels in (0, 4)
    assert fingerprint(model) != fingerprint(Named(**attributes))


def test_names_are_read_from_a_config_as_transformers_has_it() -> None:
    """A model of transformers from the caller's own code: the order of its classes is in its config alone."""
    for names, expected in (({0: "dog", 1: "cat"}, ("dog", "cat")), ({0: "LABEL_0", 1: "LABEL_1"}, None), ({}, None)):
        model = Named(config=SimpleNamespace(id2label=names))
        assert classes_of(model) == classes_of(OutputAdapter(model)) == expected
    assert classes_of(Named(config=SimpleNamespace(id2label={0: "a", 1: "b"}), classes=["x", "y"])) == ("x", "y")
    assert classes_of(Named(config={"id2label": {0: "a"}})) is None


def test_names_of_another_number_than_the_logits_are_refused() -> None:
    model, x = Named(classes=["a", "b"]).eval(), torch.rand(20, 1, 4, 4)
    with pytest.raises(InputError, match="classes of the model must be as many as its 4 logits, got 2"):
        advgan.fit(model, x, eps=0.1, max_steps=2, progress=False)


class OwnCall(Named):
    """A model of a class whose `__call__` runs no hooks, and which changes its images in place."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.linear(x.sub_(0.5).flatten(1))


def test_calls_of_a_model_with_a_call_of_its_own_are_counted_and_get_copies() -> None:
    torch.manual_seed(0)
    model, x = OwnCall().eval(), torch.rand(60, 1, 4, 4)
    y, kept = model(x.clone()).argmax(1), x.clone()
    row = advgan.compare(model, x, y, "pgd:steps=3", eps=0.1).rows[0]
    assert (row["status"], row["forwards_per_image"], row["backwards_per_image"]) == ("ok", 3.0, 3.0)
    advgan.fit(model, (x, y), eps=0.1, width=4, depth=1, max_steps=2, batch_size=8, progress=False)
    assert torch.equal(x, kept)
