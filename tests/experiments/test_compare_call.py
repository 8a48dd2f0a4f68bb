"""advgan.compare: the rows of `evaluate`, labels, failures, reports on disk."""

import copy
import json
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import advgan
from advgan import Generator, InputError, Threat
from advgan.attacks import fgsm, make_attack
from advgan.classifiers.checkpoint import fingerprint
from advgan.core.config import run
from advgan.evaluation import evaluate
from advgan.experiments.comparison import run as compare
from tests.conftest import ROOT

SCHEMA = ROOT / "advgan" / "evaluation" / "results.schema.json"
TIMES = {"seconds", "images_per_second", "seed"}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A linear classifier of the brightest of three bands of an image."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, bias=False)).eval()
    with torch.no_grad():
        weights = torch.zeros(3, 6, 6)
        for band in range(3):
            weights[band, 2 * band : 2 * band + 2] = 1
        net[1].weight.copy_(weights.flatten(1))
    return net


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    y = torch.arange(3).repeat(4)
    x = 0.3 + 0.1 * torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    for image, band in zip(x, y.tolist(), strict=True):
        image[:, 2 * band : 2 * band + 2] += 0.2
    return x, y


def brighter(x: Tensor, y: Tensor) -> Tensor:
    return (x + 0.1).clamp(0, 1)


def outside(x: Tensor, y: Tensor) -> Tensor:
    return x + 2


def test_rows_equal_those_of_evaluate(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    results = advgan.compare(model, x.numpy(), np.asarray(y), ["fgsm", brighter], eps=0.15)
    threat = Threat("linf", 0.15)
    expected = evaluate(make_attack("fgsm", model, threat), model, x, y, threat, name="fgsm", target_name="model").row
    row = {k: v for k, v in results.rows[0].items() if not any(t in k for t in TIMES)}
    assert row == {k: v for k, v in expected.items() if not any(t in k for t in TIMES)}
    assert row["asr"] == 1  # the margin is below 2 * 0.15 a pixel
    assert (results.rows[1]["attack"], results.rows[1]["access"], results.rows[1]["asr"]) == ("brighter", "nothing", 0)


def test_generators_and_labels(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    generators = [Generator(eps=eps, width=8, depth=1) for eps in (0.15, 0.2)]
    x, y = images
    rows = advgan.compare(model, x, y, [*generators, brighter, brighter], eps=0.15).rows
    assert [row["attack"] for row in rows] == ["advgan", "advgan (2)", "brighter", "brighter (2)"]
    assert [row["access"] for row in rows[:2]] == ["generator", "generator"]
    assert all(row["status"] == "ok" and row["linf_max"] <= 0.15 + 1e-6 for row in rows)
    (row,) = advgan.compare(model, x, y, {"mine": generators[0]}, eps=0.15).rows
    assert row["attack"] == "mine"


def test_warm_start_of_the_only_generator(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    generator, other = (Generator(eps=0.15, width=8, depth=1) for _ in range(2))
    one_pass, warm = advgan.compare(model, *images, [generator, "advgan:steps=2"], eps=0.15).rows
    assert (warm["attack"], warm["status"], warm["backwards_per_image"]) == ("advgan:steps=2", "ok", 2)
    assert warm["asr"] > one_pass["asr"]
    with pytest.raises(InputError, match="in Python one Generator among the attacks"):
        advgan.compare(model, *images, [generator, other, "advgan:steps=2"], eps=0.15)


def test_functions_of_a_model_get_the_threat(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    seen: dict[str, object] = {}

    def mine(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, y_target: Tensor | None = None) -> Tensor:
        seen.update(eps=eps, y_target=y_target)
        return fgsm(model, x, y, eps=eps, y_target=y_target)

    rows = advgan.compare(model, x, y, {"name": "fgsm", "own": fgsm, "mine": mine}, eps=0.15).rows
    assert [(row["status"], row["asr"], row["l2_mean"]) for row in rows] == [("ok", 1, rows[0]["l2_mean"])] * 3
    assert seen == {"eps": 0.15, "y_target": None}
    advgan.compare(model, x, y, [mine], eps=0.15, y_target=2)
    assert isinstance(seen["y_target"], Tensor)
    assert set(seen["y_target"].tolist()) == {2}


def test_functions_get_the_settings_that_they_have_an_argument_for(
    model: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    class Bound:
        def __call__(self, x: Tensor, y: Tensor, norm: str = "l2", *, eps: float = 0.01) -> Tensor:
            return fgsm(model, x, y, eps=eps, norm=norm)  # type: ignore[arg-type]

    def textbook(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        nn.functional.cross_entropy(model(x), y).backward()
        assert x.grad is not None
        return (x + 0.15 * x.grad.sign()).clamp(0, 1).detach()

    class Module(nn.Module):
        def forward(self, x: Tensor, y: Tensor, eps: float = 0.01) -> Tensor:
            return fgsm(model, x, y, eps=eps)

    attacks: dict[str, Any] = {
        "name": "fgsm",
        "keyword": lambda x, y, *, eps: fgsm(model, x, y, eps=eps),
        "first": lambda eps, x, y: fgsm(model, x, y, eps=eps),
        "between": lambda model, eps, x, norm, y: fgsm(model, x, y, eps=eps, norm=norm),
        "partial": partial(fgsm, model),
        "object": Bound(),
        "own options": lambda model, x, y=None, steps=1, eps=0.01: fgsm(model, x, y, eps=eps),
        "module": Module(),
        "textbook": textbook,
        "any": lambda *inputs, **options: fgsm(model, *inputs, eps=0.15),
        "any options": lambda model, x, y, **options: fgsm(model, x, y, eps=options["eps"], norm=options["norm"]),
    }
    rows = advgan.compare(model, *images, attacks, eps=0.15).rows
    assert [(row["status"], row["l2_mean"]) for row in rows] == [("ok", rows[0]["l2_mean"])] * len(attacks)
    assert all(parameter.grad is None for parameter in model.parameters())
    targeted: dict[str, Any] = {"own class": lambda x, y: x, "a class": lambda x, y, y_target: x + 0 * y_target.sum()}
    assert {row["status"] for row in advgan.compare(model, *images, targeted, eps=0.1, y_target=1).rows} == {"ok"}


@pytest.mark.parametrize(
    "attack",
    [lambda x: x, lambda model, x: x, lambda model, x, y, steps: x, lambda eps: eps, lambda x, y, *, epsilons: x],
)
def test_functions_of_other_arguments_are_refused(attack: Any, model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match=r"expected \(x, y\) or \(model, x, y\)"):
        advgan.compare(model, *images, {"own": attack}, eps=0.1)


def test_an_attack_that_raises_is_a_failed_row(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    def broken(x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("boom")

    rows = advgan.compare(model, *images, [broken, "fgsm"], eps=0.15).rows
    assert [row["status"] for row in rows] == ["failed: RuntimeError: boom", "ok"]


def test_an_attack_outside_the_ball_is_a_failed_row(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    results = advgan.compare(model, *images, ["fgsm", outside], eps=0.15)
    assert [row["status"].partition(":")[0] for row in results.rows] == ["ok", "failed"]
    assert results.rows[1]["asr"] is None
    assert "outside failed" in repr(results)
    assert "fgsm" in results._repr_html_()


def test_saved_reports_are_those_of_the_program(
    model: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    results = advgan.compare(model, *images, ["fgsm", "noise-sign"], eps=0.15, classes=("low", "mid", "high"))
    results.save(tmp_path / "report")
    names = {path.name for path in (tmp_path / "report").iterdir()}
    assert names == {
        *("report.html", "report.md", "report.tex", "results.json", "results.csv", "records", "figures", "logs"),
    }
    assert json.loads((tmp_path / "report/results.json").read_text())["rows"] == results.rows


def test_rows_as_a_data_frame(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("pandas")
    frame = advgan.compare(model, *images, ["fgsm"], eps=0.15).to_pandas()
    assert frame.loc[0, "attack"] == "fgsm"


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ([], "expected attacks: names, generators or functions"),
        (["fgms"], "unknown attack 'fgms'"),
        (["fgsm", "pgd:steps=0"], "steps must be at least 1, got 0"),
        ([3], "expected an attack name, a Generator or a function"),
        (
            [torch.compile(Generator(width=8, depth=1))],
            "OptimizedModule must not be a OptimizedModule around a Generator",
        ),
        ([nn.DataParallel(Generator(width=8, depth=1))], "pass the Generator itself"),
        ([nn.Conv2d(1, 1, 1)], r"attack Conv2d has the arguments \(input\), expected \(x, y\)"),
        ([Generator(classes=5, eps=0.1, width=8, depth=1)], "the generator has 5 target classes, expected 3"),
    ],
)
def test_attacks_that_cannot_be_used_are_refused(
    attacks: list[object], message: str, model: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(InputError, match=message):
        advgan.compare(model, *images, attacks, eps=0.1)  # type: ignore[arg-type]


def test_nothing_is_attacked_before_all_is_checked(
    model: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    x, y = images
    calls: list[int] = []

    def counted(x: Tensor, y: Tensor) -> Tensor:
        calls.append(len(x))
        return x

    def untargeted(model: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> Tensor:
        return x

    with pytest.raises(InputError, match="attack deepfool has no targeted form"):
        advgan.compare(model, x, y, [counted, "deepfool"], eps=0.1, y_target=1)
    with pytest.raises(InputError, match="attack untargeted has no argument y_target"):
        advgan.compare(model, x, y, [counted, untargeted], eps=0.1, y_target=1)
    with pytest.raises(InputError, match="expected names of 3 classes, got 1"):
        advgan.compare(model, x, y, [counted], eps=0.1, classes=("low",))
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        advgan.compare(model, x, y, [counted], eps=0.1, batch_size=0)
    with pytest.raises(InputError, match=r"model must be a torch\.nn\.Module or a function .*, got int"):
        advgan.compare(3, x, y, [counted], eps=0.1)  # type: ignore[arg-type]
    assert calls == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="expected a directory for the reports"):
        advgan.compare(model, x, y, [counted], eps=0.1).save(tmp_path / "file")


# Success after transforms of the written images


def test_success_after_transforms(
    model: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path, undrawn: None
) -> None:
    """A blank image is of the class of the largest bias, attacked or not; a file is what the 8-bit metrics are of."""
    x, y = images

    def blank(x: Tensor) -> Tensor:
        return 0 * x

    def nothing(x: Tensor, y: Tensor) -> Tensor:
        return x

    results = advgan.compare(model, x, y, ["fgsm", nothing], eps=0.15, survive=("png", "jpeg:90", blank))
    entries = {(entry["attack"], entry["transform"]): entry for entry in results.comparison.summary["survival"]}
    assert [name for _, name in entries] == ["png", "jpeg:90", "blank"] * 2
    row, png = results.rows[0], entries["fgsm", "png"]
    assert (png["asr"], png["n"], png["clean"], png["kept"]) == (row["asr_8bit"], row["n_attacked"], 0, 1)
    predicted, of_blank = model(x).argmax(1), int(model(torch.zeros_like(x[:1])).argmax())
    changed = (y[predicted == y] != of_blank).float().mean().item()
    for attack in ("fgsm", "nothing"):
        assert entries[attack, "blank"]["asr"] == entries[attack, "blank"]["clean"] == pytest.approx(changed)
    assert entries["nothing", "png"]["kept"] is None
    results.save(tmp_path)
    for file in ("report.md", "report.html", "report.tex"):
        assert "no attack" in (tmp_path / file).read_text()
    assert "survival" not in advgan.compare(model, x, y, ["fgsm"], eps=0.15).comparison.summary


def test_program_reports_success_after_the_usual_transforms(
    digits: Path, classifier: Path, tmp_path: Path, undrawn: None
) -> None:
    def entries(*words: str) -> list[dict[str, Any]]:
        basics = ["--dataset", "folder", "--data-dir", str(digits), "--target", "mnist-small", "--threads", "1"]
        basics += ["--target-weights", str(classifier), "--output-dir", str(tmp_path), "--attacks", "fgsm", "deepfool"]
        run(compare.main, compare.Settings, [*basics, "--eps", "0.1", "0.2", *words])
        summary = json.loads((tmp_path / "results.json").read_text())
        jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the extra dev")
        assert not list(jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(summary))
        found: list[dict[str, Any]] = summary.get("survival", [])
        return found

    assert entries() == []
    first = entries("--survive", "all")
    assert {entry["transform"] for entry in first} == {"png", "jpeg:90", "jpeg:75"}  # 28 pixels: no resize-crop
    assert len(first) == 2 * 2 * 3
    assert all(0 <= entry["asr_low"] <= entry["asr"] <= entry["asr_high"] <= 1 for entry in first)
    by_eps = {(e["eps"], e["transform"]): e["asr"] for e in first if e["attack"] == "deepfool"}
    assert by_eps[0.1, "png"] <= by_eps[0.2, "png"]
    assert entries("--survive", "all") == first  # from stored results
    assert {entry["transform"] for entry in entries("--survive", "crop", "gaussian:0.7")} == {"crop", "gaussian:0.7"}
    with pytest.raises(SystemExit):
        entries("--survive", "jpg")


def test_logits_too_close_for_float32_probabilities_are_told_apart(
    model: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    """A scale changes no decision; the probabilities of logits scaled by 1e-20 are 1/3 to every digit of float32."""
    x, y = images
    scaled = nn.Sequential(model, Scale(1e-20)).eval()
    rates = [
        [(row["clean_accuracy"], row["asr"]) for row in advgan.compare(m, x, y, ["fgsm:loss=margin"], eps=0.15).rows]
        for m in (model, scaled)
    ]
    assert rates[0] == rates[1]
    assert rates[0][0] == (1.0, 1.0)


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, z: Tensor) -> Tensor:
        return self.factor * z


def changed(model: nn.Module, output: Callable[[Tensor], Tensor]) -> nn.Module:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return output(self.model(x))

    return Changed().eval()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raise_unprintable(z: Tensor) -> Tensor:
    raise Unprintable


MODELS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "an error of any kind": (lambda m: changed(m, lambda z: {}["logits"]), "cannot take images of shape .* KeyError"),
    "an exit": (lambda m: changed(m, lambda z: sys.exit(0)), "cannot take images of shape .* SystemExit: 0"),
    "an error without text": (lambda m: changed(m, raise_unprintable), "cannot take images of shape .*: Unprintable"),
    "a batch of one squeezed": (
        lambda m: changed(m, torch.squeeze),
        r"logits of shape \(3,\) for one image, expected \(1, 3\)",
    ),
    "a lazy layer": (lambda m: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "no weights yet in 1.weight"),
    "no values": (
        lambda m: nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).to("meta"),
        "model's weights are on the device meta",
    ),
    "no logits at all": (lambda m: changed(m, lambda z: z[:, :0]), r"of shape \(n, classes\), got \(8, 0\)"),
    "other weights": (lambda m: copy.deepcopy(m).double(), "weights are torch.float64, expected .* model.float()"),
    "other weights of a convolution": (
        lambda m: nn.Sequential(nn.Conv2d(1, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double(),
        "weights are torch.float64, expected .* model.float()",
    ),
    "one value per image": (
        lambda m: changed(m, lambda z: z[:, 0]),
        "numbered 0 to 1, got 2|labels up to 2, expected 0 to 1",
    ),
    "[0, 255] expected": (
        lambda m: nn.Sequential(Scale(1 / 255), changed(m, lambda z: z - torch.tensor([0.2, 0.1, 0]))),
        r"has accuracy 33%.* and 100% after \[0, 255\] normalisation",
    ),
}


@pytest.mark.parametrize("call", [advgan.compare, advgan.fit, advgan.check_model])
def test_meta_as_default_device_is_named(call: Any, model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    arguments = (model, (x, y)) if call is advgan.fit else (model, x, y)
    more = {advgan.fit: {"eps": 0.1}, advgan.compare: {"attacks": ["fgsm"], "eps": 0.1}}.get(call, {})
    with torch.device("meta"):
        for run in (
            lambda: call(*arguments, **more),
            lambda: Generator.from_pretrained("checkpoints/mnist-c-generator"),
        ):
            with pytest.raises(InputError, match=r"default device is meta, .*: torch.set_default_device\('cpu'\)"):
                run()


@pytest.mark.parametrize("layout", ["coo", "csr", "nested"])
def test_buffers_of_other_layouts_are_compared_and_hashed(
    layout: str, model: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    def buffer(value: float) -> Tensor:
        if layout == "nested":
            return torch.nested.nested_tensor([torch.ones(2), torch.full((3,), value)])
        return (value * torch.eye(3)).to_sparse(layout=getattr(torch, f"sparse_{layout}"))

    digests = []
    for value in (1.0, 1.0, 2.0):
        with_buffer = nn.Sequential(copy.deepcopy(model)).eval()
        with_buffer.register_buffer("more", buffer(value))
        assert not [problem for problem in advgan.check_model(with_buffer, *images).problems if "state" in problem.name]
        (row,) = advgan.compare(with_buffer, *images, ["fgsm"], eps=0.1).rows
        assert row["status"] == "ok"
        digests.append(fingerprint(with_buffer))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("call", ["compare", "fit"])
def test_models_that_cannot_be_attacked_are_refused(
    kind: str, call: str, model: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = (part.repeat(3, *[1] * (part.ndim - 1)) for part in images)
    make, message = MODELS[kind]
    attack = {
        "compare": lambda: advgan.compare(make(model).eval(), x, y, ["fgsm"], eps=0.1),
        "fit": lambda: advgan.fit(make(model), (x, y), eps=0.1, max_steps=1, progress=False),
    }[call]
    with pytest.raises(InputError, match=message):
        attack()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"attacks": {1: "fgsm"}}, "labels of attacks must be texts, got 1"),
        ({"y": np.array(["a"] * 12)}, "y must be numbers, got an array of <U1"),
        ({"name": None}, "name must be a text, got None"),
        ({"survive": 3}, "expected transforms, names or functions of images, got 3"),
        ({"classes": "abc"}, "classes must be a list of names, got the text 'abc'"),
        ({"classes": {"a", "b", "c"}}, "classes must be a list of names in their order, got a set, which has none"),
        ({"classes": {1: "a", 2: "b", 3: "c"}}, "classes must have names of 0 to 2, got none of 0"),
        ({"x": torch.zeros(12, 1, 6, 6).to_sparse()}, "got torch.sparse_coo: images.to_dense()"),
        ({"x": torch.nested.nested_tensor([torch.zeros(1, 6, 6)] * 12)}, "a nested tensor: torch.stack(x.unbind())"),
        ({"x": torch.zeros(12, 1, 6, 6, device="meta")}, "on the device meta, which holds no values"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(
    change: dict[str, Any], message: str, model: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images
    with pytest.raises(InputError, match=re.escape(message)):
        advgan.compare(**{"model": model, "x": x, "y": y, "attacks": ["fgsm"], "eps": 0.1, **change})


def test_images_and_labels_as_fit_takes_them(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    grey = (images[0] * 255).round().to(torch.uint8)
    x, y = grey.float() / 255, images[1]
    expected = advgan.compare(model, x, y, ["fgsm"], eps=0.125).rows[0]["l2_mean"]
    for other, labels in ((grey, y.int()), (x.double().numpy(), y.tolist()), (x, y.numpy().astype(np.int32))):
        assert advgan.compare(model, other, labels, "fgsm", eps=0.125).rows[0]["l2_mean"] == expected


def test_a_function_as_the_model_and_one_as_the_attacks(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    (row,) = advgan.compare(lambda x: model(x), *images, brighter, eps=0.125).rows
    assert (row["attack"], row["status"], row["clean_accuracy"]) == ("brighter", "ok", 1.0)


def test_class_names_of_a_mapping(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    named = advgan.compare(model, *images, "fgsm", eps=0.125, classes={2: "low", 0: "top", 1: "mid"})
    assert named.comparison.classes == ("top", "mid", "low")
    numbered = advgan.compare(model, *images, "fgsm", eps=0.125, classes=[7, 8, 9])  # type: ignore[list-item]
    assert numbered.comparison.classes == ("7", "8", "9")


def test_an_accuracy_near_chance_is_a_warning(
    model: nn.Module, images: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = images[0].repeat(3, 1, 1, 1), images[1].repeat(3)
    advgan.compare(model, x, y, "fgsm", eps=0.125)
    advgan.compare(model, x[:1].expand(12, -1, -1, -1), y[:12], "fgsm", eps=0.125)  # too few to say so
    assert "chance" not in capsys.readouterr().err
    advgan.compare(model, x[y == 0].repeat(3, 1, 1, 1), y, "fgsm", eps=0.125)
    assert "classifies 33% of 36 images of y as labelled, chance is 33%: advgan.check_model" in capsys.readouterr().err


def test_numbers_and_arrays_of_any_kind(model: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """eps of NumPy or a tensor; arrays with strides below 0 or of another byte order; TorchScript."""
    x, y = images
    expected = advgan.compare(model, x, y, ["fgsm"], eps=0.125).rows[0]["asr"]
    backwards = np.ascontiguousarray(x.numpy()[:, :, :, ::-1])[:, :, :, ::-1]
    for change in (
        {"eps": np.float32(0.125)},
        {"eps": torch.tensor(0.125)},
        {"x": backwards},
        {"x": x.numpy().astype(">f4")},
        {"model": torch.jit.trace(model, x[:2])},
        {"batch_size": np.int64(5), "seed": np.int64(3)},
    ):
        arguments = {"model": model, "x": x, "y": y, "attacks": ["fgsm"], "eps": 0.125, **change}
        results = advgan.compare(**arguments)
        assert results.rows[0]["asr"] == expected, change
    results = advgan.compare(model, x, y, ["fgsm"], eps=0.125, y_target=np.int64(1), seed=np.int64(3))
    results.save(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["rows"][0]["y_target"] == 1


def test_reports_replace_no_folders_of_other_files(
    model: nn.Module, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    results = advgan.compare(model, *images, ["fgsm"], eps=0.1)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "mine.png").touch()
    with pytest.raises(InputError, match=r"a report would replace .*figures, which holds other"):
        results.save(tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == ["figures", "mine.png"]
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "logs").touch()
    with pytest.raises(InputError, match=r"file/logs is in the way of a folder"):
        results.save(tmp_path / "file")
    (tmp_path / "folder" / "report.md").mkdir(parents=True)
    with pytest.raises(InputError, match=r"folder/report.md is a folder, expected a file or nothing"):
        results.save(tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").rglob("*")] == ["report.md"]
    for _ in range(2):
        results.save(tmp_path / "report")


def test_results_are_the_same_under_a_default_of_float64(model: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    def metrics() -> list[Any]:
        rows = advgan.compare(model, *images, ["fgsm", "carlini-wagner:steps=5"], eps=0.1).rows
        return [[row[key] for key in ("status", "asr", "l2_mean", "ssim_mean")] for row in rows]

    expected = metrics()
    torch.set_default_dtype(torch.float64)
    try:
        assert metrics() == expected
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_targeted_generator_is_compared_toward_its_class_alone() -> None:
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), torch.rand(6, 1, 8, 8)
    generator, y = Generator(width=8, depth=1, eps=0.3, y_target=1), model(x).argmax(1)
    for call in (lambda: advgan.compare(model, x, y, [generator], eps=0.3),
                 lambda: advgan.frontier(model, x, y, eps=0.3, entries=[generator], baselines=[])):  # fmt: skip
        with pytest.raises(InputError, match="advgan: this generator was trained for class 1, got y_target None"):
            call()
    assert len(advgan.compare(model, x, y, [generator], eps=0.3, y_target=1).rows) == 1
    for settings, message in (
        ({"eps": 0.4, "y_target": 1}, "got the larger 0.4"),
        ({"eps": 0.3, "y_target": 2}, "class 1"),
    ):
        with pytest.raises(InputError, match=message):  # before any other attack
            advgan.compare(model, x, y, {"fgsm": "fgsm", "mine": generator}, **settings)  # type: ignore[arg-type]


def test_printing_results_in_a_notebook_displays_nothing_else(
    model: nn.Module, images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = advgan.compare(model, *images, ["fgsm"], eps=0.15)
    text, displayed = repr(results), []
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *arguments: displayed.append(arguments))
    assert repr(results) == text
    assert "fgsm" in results._repr_html_()
    assert not displayed


def test_a_long_comparison_and_frontier_print_lines_without_a_terminal(
    model: nn.Module,
    images: tuple[Tensor, Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("FIRST_LINE_SECONDS", "LINE_SECONDS"):
        monkeypatch.setattr(f"advgan.core.progress.{name}", 0)
    advgan.compare(model, *images, ["fgsm"], eps=0.15, progress=False)
    assert capsys.readouterr().err == ""
    advgan.frontier(model, *images, eps=0.15, entries="mifgsm", baselines=[], repeats=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("total: 0 of 2 results")
    assert any(line.endswith("  time, eps 0.15 4/4") for line in lines)
