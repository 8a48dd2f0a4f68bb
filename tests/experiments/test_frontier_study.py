"""eval/frontier.py as a user runs it, and the figures behind it on cases that can be counted."""

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan import Generator
from advgan.attacks.noise import noise_sign
from advgan.attacks.registry import make_attack
from advgan.classifiers import load_target
from advgan.core.config import run
from advgan.core.errors import note
from advgan.core.threat_model import Threat
from advgan.data import load_data
from advgan.evaluation import evaluate
from advgan.evaluation.statistics import paired_ratio
from advgan.experiments.frontier.analysis import (
    any_attack_success,
    compare_success,
    diversity,
    evals_to_fraction,
    evals_to_level,
    finding,
)
from advgan.experiments.frontier.frontier import WARM_STEPS
from tests.analysis.test_statistics import result
from tests.conftest import Run, randomise_conditioning

program = importlib.import_module("advgan.experiments.frontier.run")
Call = Callable[..., dict[str, Any]]
CONDITIONAL = {"classes": 3, "noise": 2, "eps_min": 0.1, "eps": 0.4}


@pytest.fixture(scope="module")
def generators(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained generators by name, each in a run directory; the conditional one heeds what it is asked for."""
    directory = tmp_path_factory.mktemp("generators")
    kinds = {"plain": {"eps": 0.2}, "any": CONDITIONAL, "to-1": {"y_target": 1}, "rgb": {"channels": 3}}
    for name, settings in kinds.items():
        torch.manual_seed(0)
        generator = Generator(**{"width": 8, "depth": 1, **settings})
        randomise_conditioning(generator)
        generator.save_pretrained(directory / name / "generator")
    return directory


@pytest.fixture
def basics(digits: Path, classifier: Path) -> list[object]:
    words = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--target-weights", classifier]
    return [*words, "--threads", 1, "--steps", 1, 2, "--baselines", "noise-sign", "ifgsm", "--repeats", 1]


@pytest.fixture
def call(basics: list[object], tmp_path: Path, undrawn: None) -> Call:
    """Run it in this process, on the bars, and read what it wrote."""

    def run_it(*words: object) -> dict[str, Any]:
        argv = [str(word) for word in (*basics, "--output-dir", tmp_path / "out", *words)]
        run(program.main, program.Settings, argv)
        return json.loads((tmp_path / "out" / "frontier.json").read_text())

    return run_it


def test_curves_of_two_classes_are_without_dlr() -> None:
    grids = [program.attack_grid(5, Threat("linf", 0.1), classes) for classes in (2, 3)]
    assert [grid["APGD"] for grid in grids] == [["apgd-ce:steps=5"], ["apgd-ce:steps=5", "apgd-dlr:steps=5"]]


def test_settings_without_effect_are_noted(capsys: pytest.CaptureFixture[str]) -> None:
    note.cache_clear()
    unused = program.Settings(steps=(1,), curve_samples=0, targeted_samples=9, diversity_samples=9)
    program.note_unused(unused, [])
    program.note_unused(program.Settings(targeted=True, targeted_samples=9, steps=(1,)), [])
    assert capsys.readouterr().err.splitlines() == [
        "note: steps does nothing without curve_samples above 0, got (1,)",
        "note: targeted_samples does nothing without targeted, got 9",
        "note: diversity_samples does nothing without a generator with noise, got 9",
        "note: targeted does nothing without a generator that is conditional on the class, got True",
    ]


def test_as_a_user_runs_it(script: Run, basics: list[object], generators: Path, tmp_path: Path) -> None:
    out = tmp_path / "with space"
    words = ("--generator", generators / "plain", generators / "any", "--eps", 0.2, 0.4, "--max-samples", 12)
    few = ("--targeted", "--curve-samples", 6, "--targeted-samples", 4, "--diversity-samples", 6)
    done = script("eval/frontier.py", *basics, *words, *few, "--output-dir", out)
    results = json.loads((out / "frontier.json").read_text())
    assert {row["status"] for row in results["rows"]} == {"ok"}
    classics = ["FGSM", "I-FGSM-10", "PGD-40"]
    assert [(row["eps"], row["attack"]) for row in results["table"]] == [
        *((0.2, name) for name in (*classics, "plain", "any")),
        *((0.4, name) for name in (*classics, "any")),  # plain was made for 0.2
    ]
    best = {row["eps"]: row for row in results["table"] if row["attack"] == "PGD-40"}
    for row in results["table"]:
        top = best[row["eps"]]
        assert row["n"] == top["n"]
        assert row["fooled"] == top["fooled"] + row["only_here"] - row["only_reference"]
        if row["attack"] == "PGD-40":
            assert (row["ratio"], row["ratio_low"], row["ratio_high"], row["only_here"]) in (
                (1, 1, 1, 0),
                (*[None] * 3, 0),
            )
    for row in results["rows"]:
        if row["attack"].startswith("pgd:steps=40:step_size") and not row["targeted"]:
            assert row["asr"] <= best[row["eps"]]["asr"], "the union holds each of its members"
    assert [(each["name"], each["guided"]) for each in results["generators"]] == [("plain", False), ("any", False)]
    assert best[0.4]["asr"] > 0.9, "or the test shows nothing"

    for eps in (0.2, 0.4):
        points = [row for row in results["curves"] if row["eps"] == eps]
        families = ("warm start", "PGD", "APGD")
        assert sorted((row["family"], row["evaluations"]) for row in points) == sorted(
            (family, k) for family in families for k in (0, 1, 2)
        )
        assert all(row["asr"] == max(row["choices"].values()) for row in points)
        assert {row["asr"] for row in points if row["evaluations"] == 0 and row["family"] != "warm start"} == {0}
    assert [row["share"] for row in results["reach"]] == [0.9, 0.95, 0.99] * 2
    assert [row["y_target"] for row in results["targeted"]] == [0, 1, 2] * 2
    assert all(row["n"] <= 12 and row["few_n"] <= 4 for row in results["targeted"])
    assert all(list(row["union"]) == ["1", "4", "16"] for row in results["diversity"])

    with (out / "frontier.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    flat = [row for frontier in results["frontiers"] for row in frontier["rows"]]
    assert len(lines) == len(flat) + sum(len(results[part]) for part in ("table", "curves", "targeted"))
    baselines = ["fgsm", "noise-sign", "ifgsm"]
    plain, any_class = (
        [name, *(f"{name}, then {k} step{'s' * (k > 1)}" for k in WARM_STEPS)] for name in ("plain", "any")
    )
    assert [row["attack"] for row in flat] == [*baselines, *plain, *any_class, *baselines, *any_class]
    one_pass = {(row["eps"], row["attack"]): row["asr"] for row in results["table"]}
    for frontier in results["frontiers"]:
        assert frontier["parts"]
        for row in frontier["rows"]:
            name, then, _ = row["attack"].partition(", then ")
            if row["ours"] and then:
                assert row["asr"] >= one_pass[frontier["eps"], name], "where the pass succeeds it stays"
            elif row["ours"]:
                assert row["asr"] == one_pass[frontier["eps"], name]
    assert {path.name for path in out.glob("frontier-eps-*.png")} == {"frontier-eps-0.2.png", "frontier-eps-0.4.png"}
    assert sorted(path.name for path in (out / "warm-start").iterdir()) == ["eps-0.2.png", "eps-0.4.png"]
    page = (out / "frontier.md").read_text()
    assert all(f"![{title}" in page for title in ("One pass and 40 steps of PGD", "Warm start, linf eps 0.4"))
    assert "One pass and PGD-40 on mnist-small, linf" in done.stdout
    events = EventAccumulator(str(out / "logs" / "frontier" / "PGD"))
    events.Reload()
    assert [each.step for each in events.Scalars("asr at eps 0.4 (step: gradient evaluations)")] == [0, 1, 2]


def test_a_line_is_what_evaluate_gives(call: Call, generators: Path, digits: Path, classifier: Path) -> None:
    words = ("--generator", generators / "plain", "--eps", 0.2, "--max-samples", 12, "--curve-samples", 0)
    table = {row["attack"]: row for row in call(*words)["table"]}
    model = load_target("mnist-small", classifier, image_shape=(1, 28, 28), num_classes=3).eval()
    x, y = next(load_data("folder", digits).test.first(12).batches(12))
    generator = Generator.from_pretrained(generators / "plain")
    for name, word in {"FGSM": "fgsm", "I-FGSM-10": "ifgsm", "plain": "advgan"}.items():
        threat = Threat("linf", 0.2)
        assert (
            table[name]["asr"]
            == evaluate(make_attack(word, model, threat, generator=generator), model, x, y, threat).row["asr"]
        )
    assert table["plain"]["gradients"] == 0


def test_pass_of_unrolled_network_costs_its_iterations(call: Call, classifier: Path, tmp_path: Path) -> None:
    target = load_target("mnist-small", classifier)
    generator = Generator(eps=0.4, architecture="unrolled", width=4, depth=3, guide=target)
    generator.save_pretrained(tmp_path / "unrolled")
    found = call("--generator", tmp_path / "unrolled", "--eps", 0.4, "--max-samples", 6, "--curve-samples", 6)
    assert next(row["gradients"] for row in found["table"] if row["attack"] == "unrolled") == 3
    points = {(row["family"], row["evaluations"]): row["asr"] for row in found["curves"]}
    assert {k for family, k in points if family == "unrolled"} == {1, 2}
    assert {k for family, k in points if family == "warm start"} == {3, 4, 5}
    assert [each["family"] for each in found["findings"]] == ["unrolled", "warm start"]
    assert points["unrolled", 2] > 0, "or the test shows nothing"


def test_a_second_call_runs_nothing_and_says_the_same(
    call: Call, generators: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "--generator",
        generators / "any",
        "--eps",
        0.4,
        "--max-samples",
        6,
        "--targeted",
        "--diversity-samples",
        6,
    )
    first = call(*words)
    assert "are cached from an earlier run" not in capsys.readouterr().out

    def never(*words: Any, **settings: Any) -> None:
        raise AssertionError("a cell was run again")

    monkeypatch.setattr("advgan.evaluation.result_cache.evaluate", never)
    second = call(*words)
    assert f"{len(first['rows']) - 16} results are cached" in capsys.readouterr().out  # all but the 16 draws
    for part in set(program.PARTS) - {"frontiers"}:  # which holds times
        assert second[part] == first[part]


def test_between_measured_points_a_line_and_no_fall_after_the_best() -> None:
    curve = {k: 1 - 0.5**k for k in (0, 1, 2, 3, 5)}
    for k in curve:
        assert evals_to_level(curve, curve[k]) == k
    assert evals_to_level(curve, (curve[3] + curve[5]) / 2) == 4
    assert evals_to_level(curve, 0.99) is None
    assert evals_to_level({0: 0.2, 1: 0.6, 2: 0.5, 4: 0.8}, 0.7) == pytest.approx(3)
    assert evals_to_level({}, 0.5) is None


def test_what_pays() -> None:
    pgd = {k: 1 - 0.5**k for k in range(9)}
    twice = {k: 1 - 0.25**k for k in range(5)}  # the same, at half of the evaluations
    rows = evals_to_fraction({"warm start": twice, "PGD": pgd}, 1 - 0.5**8, shares=[pgd[2] / pgd[8], pgd[4] / pgd[8]])
    assert [(row["warm start"], row["PGD"], row["warm start of PGD"], row["APGD"]) for row in rows] == [
        (pytest.approx(1), pytest.approx(2), pytest.approx(0.5), None),
        (pytest.approx(2), pytest.approx(4), pytest.approx(0.5), None),
    ]
    ends = [row | {"warm start": row["PGD"] * share} for row, share in zip(rows, (0.4, 0.6), strict=True)]
    ends = [row | {"share": share} for row, share in zip(ends, (0.9, 0.95), strict=True)]
    assert finding(ends[:1]).startswith("pays: at most half of PGD's evaluations for 90 %")
    assert finding(ends[1:]).startswith("does not pay: more than half")
    assert finding(ends) == "pays for 90 % of PGD-40's success (at most half of PGD's evaluations), not for 95 %"
    alone = evals_to_fraction({"warm start": {0: 0.95, 1: 1.0}, "PGD": {0: 0.0, 1: 0.5}}, 1.0)
    assert finding(alone).startswith("pays: at most half of PGD's evaluations for 90, 95 and 99 %")
    assert finding(evals_to_fraction({"PGD": pgd}, 1.0)).startswith("does not pay")
    assert all(row["warm start of PGD"] is None for row in evals_to_fraction({"warm start": twice, "PGD": pgd}, 0.0))


def test_a_union_holds_each_member_and_counts_what_counts() -> None:
    counts = [1, 1, 1, 1, 0]
    a, b = result("a", "10010", counts), result("b", "01010", counts)
    whole = any_attack_success([a, b])
    assert whole is not None
    assert whole.tolist() == [True, True, False, True]
    assert any_attack_success([a, b], first=2).tolist() == [True, True]  # type: ignore[union-attr]
    assert any_attack_success([a, result("c", "1", status="failed: no luck")]) is None
    row = compare_success(any_attack_success([a]), whole)
    assert (row["n"], row["fooled"], row["asr"], row["ratio"]) == (4, 2, 0.5, 2 / 3)
    assert (row["only_here"], row["only_reference"]) == (0, 1)
    assert set(compare_success(None, whole).values()) == {None}


def test_a_paired_ratio() -> None:
    rng = torch.Generator().manual_seed(0)
    b = torch.rand(400, generator=rng) < 0.3
    a = b & (torch.rand(400, generator=rng) < 0.9)  # fools nine in ten of those, and nothing else
    assert paired_ratio(b, b) == (1, 1, 1)
    ratio, low, high = paired_ratio(a, b)
    assert ratio == int(a.sum()) / int(b.sum())
    assert low is not None
    assert high is not None
    assert low < ratio < high <= 1, "what b alone decides moves both"
    # Among b's successes a is a coin: the interval is that of its share, not of two independent rates (0.2 wide).
    assert high - low < 0.13
    assert paired_ratio(a, b) == (ratio, low, high)
    assert paired_ratio(a, torch.zeros(400, dtype=torch.bool)) == (None, None, None)
    assert paired_ratio([1], [1]) == (1, None, None)


def test_diversity_of_one_attack_many_times_and_of_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.full((3, 1, 20, 20), 0.5), torch.tensor([0, 1, 2])
    draws = torch.stack([noise_sign(None, x, y, eps=0.1, rng=rng) for _ in range(18)])
    said = torch.tensor([[1, 0, 0], [0, 1, 2], [1, 1, 2], [2, 1, 2]]).repeat(4, 1)
    same = diversity(
        draws[:1].expand(16, -1, -1, -1, -1), said[:1].repeat(16, 1) != y, said[:1].repeat(16, 1), draws[16:]
    )
    assert (same["distance"], same["classes"]) == (0, 1)
    assert {any_attack_success[0] for any_attack_success in same["union"].values()} == {1}
    apart = diversity(draws[:16], said != y, said, draws[16:])
    assert apart["distance"] == pytest.approx(1, abs=0.05)
    assert apart["classes"] == pytest.approx((3 + 2 + 2) / 3)
    assert [apart["union"][k][0] for k in ("1", "4", "16")] == [1, 1, 1]
    later = diversity(draws[:16], said.roll(-1, 0) != y, said.roll(-1, 0), draws[16:])
    assert [later["union"][k][0] for k in ("1", "4")] == [0, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --generator, at least one trained generator's folder, got none"),
        (["--generator", "plain", "--eps", "0.3"], "plain: this generator was trained for eps 0.2"),
        (["--generator", "plain", "--norm", "l2"], "trained for norm linf, got l2"),
        (["--generator", "to-1"], "to-1: this generator was trained for class 1"),
        (["--generator", "plain", "plain"], "expected generators in runs of different names, got plain, plain"),
        (["--generator", "rgb"], "this generator expects float images (n, 3, h, w)"),
        (["--generator", "plain", "--eps", "0"], "expected an eps above 0, got none"),
        (["--generator", "plain", "--steps", "0"], "steps must be numbers from 1 on, got 0"),
        (["--generator", "plain", "--curve-samples", "-1"], "curve_samples must be 0 or more, got -1"),
        (["--generator", "plain", "--targeted-samples", "0"], "targeted_samples must be at least 1, got 0"),
    ],
)
def test_what_it_says_when_it_cannot_run(
    words: list[str], message: str, call: Call, generators: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        call(*(generators / word if word in ("plain", "to-1", "rgb") else word for word in words))
    assert stop.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
