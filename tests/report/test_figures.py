"""Figures: their data equal the measured metrics, for comparisons of every kind."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from advgan.attacks.registry import make_attack, parse_attack
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat, delta_norms
from advgan.evaluation import Result, evaluate
from advgan.evaluation.evaluate import recompute_metrics
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures import plots, with_caption
from advgan.report.figures.confusion import counts, occurring
from advgan.report.figures.curves import curves
from advgan.report.figures.galleries import galleries
from advgan.report.figures.noise import NoiseExample, find_noise_example, noise
from advgan.report.figures.norms import cumulative, histograms
from advgan.report.figures.plot_groups import adversarial_distance, plot_groups, safe
from advgan.report.figures.same_l2_different_linf import same_l2_different_linf, square
from advgan.report.figures.speed import pareto, speed
from advgan.report.figures.style import new_figure, styles, to_plot
from advgan.report.gallery import gallery, magnifications, prediction_text

CLASSES = ("cat", "dog", "a rather long name", "$x_1$")
FIGURES = ["curves", "speed", "noise", "same l2", "gallery", "confusion", "norms"]


@cache
def comparison(channels: int = 1, norm: str = "linf") -> Comparison:
    """Six attacks at two eps on a linear classifier; one more failed, one has two seeds and a check at eps 0.5."""
    rng = torch.Generator().manual_seed(0)
    shape = (channels, 10, 10)
    patterns = torch.randn(len(CLASSES), *shape, generator=rng).sign()
    y = torch.arange(40) % len(CLASSES)
    x = (0.5 + 0.1 * patterns[y] + 0.15 * torch.randn(40, *shape, generator=rng)).clamp(0, 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(patterns[0].numel(), len(CLASSES), bias=False)).eval()
    model[1].weight.data = 0.3 * patterns.flatten(1)  # type: ignore[union-attr]
    radii = {"linf": (0.05, 0.15), "l2": (0.8, 2.0)}[norm]
    results: list[Result] = []

    def run(label: str, eps: float, seed: int = 0, access: str | None = None) -> Result:
        spec = parse_attack(label)
        threat = Threat(norm, eps)  # type: ignore[arg-type]
        return evaluate(
            make_attack(spec, model, threat, None, torch.Generator().manual_seed(seed)),
            *(model, x, y, threat),
            name=label if access is None else "advgan",
            target_name="a/target",
            access=access or spec.access,  # type: ignore[arg-type]
            seed=seed,
            protocol=spec.attack.kind,
            attack_norm=spec.attack.norm,
            keep=6,
        )

    for eps in radii:
        threat = Threat(norm, eps)  # type: ignore[arg-type]
        results += [run("noise-sign" if norm == "linf" else "noise-uniform", eps), run("fgsm", eps)]
        results += [run("pgd:steps=4", eps, seed) for seed in (0, 1)]
        results += [run("ifgsm:steps=2", eps, access="generator")]
        results += [recompute_metrics(run(label, 0.5), threat) for label in ("deepfool", "deepfool-linf")]
    results.append(run("pgd:steps=4", 0.5))  # as eval/compare.py checks: no comparison
    broken = {"attack": "broken", "status": "failed: it crashed", "asr": None}
    results.append(Result(results[0].row | broken, {}, torch.empty(0)))
    return Comparison({"rows": [result.row for result in results]}, results, x[:6], y[:6], CLASSES)


def only(whole: Comparison, *attacks: str) -> Comparison:
    return replace(whole, results=[result for result in whole.results if result.row["attack"] in attacks])


# What is shown


def test_plot_group_has_one_target_norm_and_seed() -> None:
    (case,) = plot_groups(comparison())
    assert case.name == "a-target linf"
    assert case.eps == [0.05, 0.15], "the check at 0.5 is no comparison"
    assert list(case.attacks) == ["noise-sign", "fgsm", "pgd:steps=4", "advgan", "deepfool", "deepfool-linf"]
    assert [result.row["seed"] for result in case.attacks["pgd:steps=4"]] == [0, 0]
    minimum_norm = [name for name, runs in case.attacks.items() if runs[-1].row["protocol"] == "minimal-norm"]
    assert minimum_norm == ["deepfool", "deepfool-linf"]


def test_plot_group_of_single_attack() -> None:
    (case,) = plot_groups(only(comparison(), "fgsm"))
    assert [(result.row["attack"], result.row["eps"]) for result in case.at(0.15)] == [("fgsm", 0.15)]


def test_smallest_perturbation_per_image() -> None:
    (case,) = plot_groups(comparison())
    smallest = case.smallest(adversarial_distance)
    every = [result for results in case.attacks.values() for result in results]
    for result in every:
        fooled = result.records["success"]
        assert (smallest[fooled] <= result.row["eps"]).all()
        assert (smallest <= adversarial_distance(result)).all()
    assert (smallest.isinf() == torch.stack([~result.records["fooled"] for result in every]).all(0)).all()
    assert 0 < smallest[smallest.isfinite()].min() < 0.05


@pytest.mark.parametrize(
    ("name", "file"), [("pgd:steps=4", "pgd-steps=4"), ("a/b c", "a-b c"), ("noise:m=8/255", "noise-m=8-255")]
)
def test_names_are_safe_for_files(name: str, file: str) -> None:
    assert safe(name) == file


def test_styles_are_consistent_and_distinct() -> None:
    drawn_styles = styles(comparison())
    assert drawn_styles == styles(comparison())
    assert len(set(drawn_styles.values())) == len(drawn_styles) == 7
    assert drawn_styles["advgan"] == ("#D55E00", "*", "-")
    assert drawn_styles["noise-sign"].color == "#777777"
    row = comparison().results[1].row
    many = [Result(row | {"attack": str(i)}, {}, torch.empty(0)) for i in range(30)]
    drawn = styles(replace(comparison(), results=many)).values()
    assert len(set(drawn)) == 30
    assert len({(style.color, style.line) for style in drawn}) == 30, "lines have no markers"


# All figures


@pytest.mark.parametrize(("channels", "norm"), [(1, "linf"), (3, "l2")])
def test_every_kind_of_figure_is_drawn(channels: int, norm: str) -> None:
    figures = plots(comparison(channels, norm))
    assert list(dict.fromkeys(name.split("/")[0] for name in figures)) == FIGURES
    for name, picture in figures.items():
        assert name.count("/") == 1
        assert not set(name) & set(':\\*?"<>|')
        assert picture.image.dtype == np.uint8
        assert picture.image.ndim == picture.image.shape[2] == 3
        assert min(picture.image.shape[:2]) > 200
        assert picture.image.std() > 10
        assert "a/target" in picture.title
        assert len(picture.caption) > 80


@pytest.mark.parametrize("attacks", [("fgsm",), ("deepfool",), ("noise-sign",), ("broken",), ()])
def test_figures_of_few_attacks(attacks: tuple[str, ...]) -> None:
    stories = {name.split("/")[0] for name in plots(only(comparison(), *attacks))}
    expected = {"curves", "speed", "same l2", "gallery", "confusion", "norms"}
    missing = {"deepfool": {"confusion"}, "noise-sign": {"same l2", "confusion"}, "broken": expected}
    assert stories == (expected - missing.get(attacks[0], set()) if attacks else set())


def test_minimum_norm_attack_without_success_is_drawn() -> None:
    result = only(comparison(), "deepfool").results[-1]
    nothing = torch.zeros(len(result.records["label"]), dtype=torch.bool)
    records = result.records | {"fooled": nothing, "success": nothing}
    row = result.row | {"asr": 0.0, "asr_low": 0.0, "asr_high": 0.1, "l2_median": None}
    figures = plots(replace(comparison(), results=[Result(row, records, result.x_adv)]))
    assert "median l2 none" in figures["gallery/a-target deepfool"].title


def test_caption_is_below_image() -> None:
    small = Plot("title", "How to read it, at some length. " * 10, np.zeros((40, 50, 3), np.uint8))
    whole = with_caption(small)
    assert whole.shape[0] > 80
    assert whole.shape[1] >= 600
    assert not whole[:40, :50].any()
    assert whole[:40, 50:].min() == 255
    assert whole[40:].min() < 100


# One by one


def test_figure_names_contain_norm_and_eps() -> None:
    whole = comparison()
    assert list(curves(whole)) == ["curves/a-target linf"]
    assert list(speed(whole)) == ["speed/a-target linf 0.05", "speed/a-target linf 0.15"]
    assert [*cumulative(whole), *histograms(whole)] == ["norms/a-target minimum-norm", "norms/a-target linf 0.15"]
    assert list(galleries(whole))[-3:] == [
        "gallery/a-target linf 0.15 advgan",
        "gallery/a-target deepfool",
        "gallery/a-target deepfool-linf",
    ]


def test_pareto_front() -> None:
    points = [(10.0, 0.9), (100.0, 0.5), (50.0, 0.4), (1.0, 0.9), (100.0, 0.2), (1000.0, 0.0)]
    assert pareto(points) == [0, 1]
    assert pareto([]) == []


def test_confusion_counts_successes() -> None:
    (case,) = plot_groups(comparison())
    result = case.at(0.15)[1]
    table, records = counts(result, np.arange(len(CLASSES))), result.records
    assert table.sum() == records["success"].sum() > 0
    assert not table.diagonal().any()
    for true, predicted in ((0, 1), (2, 3)):
        pair = (records["label"] == true) & (records["prediction"] == predicted) & records["success"]
        assert table[true, predicted] == pair.sum()


def test_confusion_of_many_classes_keeps_occurring_ones() -> None:
    (case,) = plot_groups(comparison())
    result = case.at(0.15)[1]
    records = dict(result.records)
    for name in ("label", "prediction"):
        records[name] = records[name] * 100 + 7
    far = replace(result, records=records)
    met = occurring([far], 1000)
    hit = records["success"]
    assert set(met) == {*records["label"][hit].tolist(), *records["prediction"][hit].tolist()}
    whole = counts(result, np.arange(len(CLASSES)))
    few = (met - 7) // 100
    assert np.array_equal(counts(far, met), whole[np.ix_(few, few)])
    assert occurring([far], 20).tolist() == list(range(20))


def test_noise_figure_pairs_attack_with_larger_noise() -> None:
    (case,) = plot_groups(comparison())
    example = find_noise_example(case, 6)
    assert example is not None
    assert example == NoiseExample(0.05, example.image, "advgan", "noise-sign")
    for result in case.attacks["noise-sign"]:
        assert result.records["prediction"][example.image] == result.records["label"][example.image]
    assert case.attacks["advgan"][0].records["success"][example.image]
    assert noise(only(comparison(), "noise-sign", "deepfool")) == {}
    assert noise(only(comparison(), "advgan", "fgsm")) == {}


@pytest.mark.parametrize(("channels", "length"), [(1, 0.5), (1, 3.0), (3, 1.0), (3, 6.0)])
def test_square_has_given_norm_in_box(channels: int, length: float) -> None:
    x = 0.2 * torch.rand(channels, 12, 9, generator=torch.Generator().manual_seed(0))
    drawn = square(x, length)
    assert drawn is not None
    assert 0 <= drawn.min() <= drawn.max() <= 1
    size = delta_norms((drawn - x)[None])
    assert size["l2"].item() == pytest.approx(length, rel=1e-5)
    side = round(size["l0"].item() ** 0.5)
    assert size["linf"].item() == pytest.approx(length / (side * channels**0.5), rel=1e-5)


def test_square_dark_or_impossible() -> None:
    dark = square(torch.ones(1, 4, 4), 1.0)
    assert dark is not None
    assert dark.min() == 0
    assert square(torch.full((1, 4, 4), 0.5), 2.1) is None


def test_two_changes_figure_prefers_a_pair_of_attacks() -> None:
    assert "No two attacks" in same_l2_different_linf(only(comparison(), "fgsm"))["same l2/a-target"].caption
    first, *_ = only(comparison(), "fgsm").results
    i = int(first.records["success"][:6].nonzero()[0])
    louder = first.records["linf"].clone()
    louder[i] *= 3
    other = Result(first.row | {"attack": "other"}, first.records | {"linf": louder}, first.x_adv)
    (picture,) = same_l2_different_linf(replace(comparison(), results=[first, other])).values()
    assert "No two attacks" not in picture.caption


# Galleries


def gallery_inputs(n: int, channels: int = 1, size: int = 12) -> tuple[Any, ...]:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(n, channels, size, size, generator=rng)
    x_adv = (x + 0.1 * torch.randn(x.shape, generator=rng)).clamp(0, 1)
    clean, adversarial = ((torch.randint(3, (n,), generator=rng), torch.rand(n, generator=rng)) for _ in range(2))
    return x, x_adv, torch.arange(n) % 3, clean, adversarial


@pytest.mark.parametrize(("n", "channels", "size"), [(1, 1, 12), (3, 3, 12), (9, 1, 28), (2, 3, 300)])
def test_gallery_is_an_rgb_image(n: int, channels: int, size: int) -> None:
    image = gallery(*gallery_inputs(n, channels, size), classes=CLASSES, title="FGSM")
    assert image.dtype == np.uint8
    assert image.ndim == image.shape[2] == 3
    assert image.shape[0] >= 3 * min(size, 112)
    assert len(np.unique(image)) > 50


def test_gallery_shows_images_and_magnified_perturbation() -> None:
    x = torch.full((1, 3, 8, 8), 0.25)
    x_adv = x + torch.tensor([0.02, 0.0, -0.02]).view(1, 3, 1, 1)
    prediction = torch.tensor([0]), torch.tensor([0.9])
    image = gallery(x, x_adv, torch.tensor([0]), prediction, prediction, magnify=(10, 5))
    colours = np.unique(image.reshape(-1, 3), axis=0).astype(float)
    for expected in ([0.25] * 3, [0.27, 0.25, 0.23], [0.7, 0.5, 0.3], [0.6, 0.5, 0.4]):
        assert (np.abs(colours - 255 * np.array(expected)).max(1) <= 1).any()


FOOLED_COLOUR = (0xB0, 0x30, 0x00)


@pytest.mark.parametrize(
    ("before", "after", "success", "bold"),
    [(0, 1, None, True), (1, 2, None, False), (1, 0, None, False), (0, 0, None, False), (0, 1, False, False),
     (1, 2, True, True)],
)  # fmt: skip
def test_gallery_highlights_successes_only(before: int, after: int, success: bool | None, bold: bool) -> None:
    x, sure = torch.full((1, 1, 12, 12), 0.5), torch.ones(1)
    given = None if success is None else torch.tensor([success])
    image = gallery(
        *(x, x, torch.tensor([0]), (torch.tensor([before]), sure), (torch.tensor([after]), sure)), success=given
    )
    assert (image == FOOLED_COLOUR).all(2).any() == bold


def test_long_title_is_not_cropped() -> None:
    x, prediction = torch.full((1, 1, 12, 12), 0.5), (torch.tensor([0]), torch.ones(1))
    long = gallery(
        x, x, torch.tensor([0]), prediction, prediction, title="a long title of an attack on one single image " * 3
    )
    assert (long[:, [0, 1, -2, -1]] == 255).all(), "nothing is written over the edge"
    picture = to_plot(
        new_figure(4, 3), "mnist-c, linf: noise-uniform and pgd:steps=40 of the same size, toward class 3", ""
    )
    assert (picture.image[:, [0, 1, -2, -1]] == 255).all()


def test_gallery_rows_and_column_wrap() -> None:
    x, x_adv, *rest = gallery_inputs(4)
    one, two = (gallery(x, x_adv, *rest, columns=columns) for columns in (4, 2))
    assert two.shape[0] > 1.8 * one.shape[0]
    assert two.shape[1] < one.shape[1]
    small = gallery(x, x + 0.1 * (x_adv - x), *rest, columns=4)
    assert small.shape[0] > 1.2 * one.shape[0]


@pytest.mark.parametrize(
    ("largest", "factors"), [(8 / 255, (10, 50)), (0.05, (10, 50)), (0.1, (5,)), (0.2, (2,)), (0.3, (1,)), (1.0, (1,))]
)
def test_magnification_factors(largest: float, factors: tuple[int, ...]) -> None:
    assert magnifications(largest) == factors


def test_prediction_labels_are_short() -> None:
    answers = torch.tensor([1, 2]), torch.tensor([0.874, 1.0])
    assert prediction_text(answers, 0, ["3", "7", "9"]) == "7 .87"
    assert prediction_text(answers, 1) == "2 1.00"
    assert prediction_text(answers, 1, CLASSES) == "a rather lo… 1.00"


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 2, 8, 8)])
def test_invalid_gallery_raises(shape: tuple[int, ...]) -> None:
    x, none = torch.zeros(shape), torch.zeros(shape[0], dtype=torch.long)
    with pytest.raises(InputError, match="a gallery needs at least one image of 1 or 3 channels"):
        gallery(x, x, none, (none, none.float()), (none, none.float()))
