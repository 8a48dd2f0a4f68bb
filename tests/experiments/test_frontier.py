"""advgan.frontier: success against time of attacks on a model in memory."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import advgan
from advgan import Generator, InputError
from advgan.attacks.fgsm import fgsm
from advgan.core.errors import note
from advgan.evaluation.runner import time_ratios
from advgan.experiments.frontier.frontier import BASELINE_ATTACKS, REFERENCE, baselines_for
from tests.conftest import randomise_conditioning


@pytest.fixture(autouse=True)
def fresh_notes() -> None:
    note.cache_clear()


class Linear(nn.Module):
    """Two classes by the sign of the sum of all pixels above one half."""

    def forward(self, x: Tensor) -> Tensor:
        total = (x - 0.5).flatten(1).sum(1)
        return torch.stack([-total, total], 1)


def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, (x.mean((1, 2, 3)) > 0.5).long()


def test_default_baselines_of_two_classes_are_without_dlr(capsys: pytest.CaptureFixture[str]) -> None:
    model, (x, y) = Linear().eval(), data()
    results = advgan.frontier(model, x[:8], y[:8], eps=0.1, entries=[lambda x, y: x], repeats=1)
    assert {row["status"] for row in results.rows} == {"ok"}
    assert {row["attack"] for row in results.rows[:-1]} == {name for name in BASELINE_ATTACKS if "dlr" not in name}
    assert "without the baselines apgd-dlr:steps=10, apgd-dlr:steps=20: their loss takes 3" in capsys.readouterr().err
    assert baselines_for(BASELINE_ATTACKS, 3) == [REFERENCE, *(b for b in BASELINE_ATTACKS if b != REFERENCE)]
    assert baselines_for(["pgd:loss=dlr"], 2) == [REFERENCE, "pgd:loss=dlr"], "a chosen one fails, by name"


def test_success_and_lead_of_entries_and_baselines(tmp_path: Path) -> None:
    model, (x, y) = Linear().eval(), data()

    def direction(x: Tensor, y: Tensor) -> Tensor:
        """Away from the class: the exact worst case of a linear classifier, without a gradient."""
        sign = (1 - 2 * y.float()).view(-1, 1, 1, 1)
        return (x + 0.2 * sign).clamp(0, 1)

    baselines = ["noise-sign", "pgd:steps=3"]
    y[:3] = 1 - y[:3]
    results = advgan.frontier(
        model, x, y, eps=0.2, entries={"direction": direction}, baselines=baselines, repeats=2, batch_size=20
    )
    rows = {row["attack"]: row for row in results.rows}
    assert list(rows) == ["fgsm", *baselines, "direction"]
    assert rows["direction"]["asr"] == rows["fgsm"]["asr"] == 1.0
    assert rows["noise-sign"]["asr"] < 1.0
    assert {row["n"] for row in results.rows} == {37}, "the three misclassified images are not attacked"
    assert [row["ours"] for row in results.rows] == [False, False, False, True]
    assert all(row["time_low"] <= row["time"] <= row["time_high"] for row in results.rows)
    assert all(part["leads"] == (part["ours"] is not None) for part in results.parts)
    assert "direction" in repr(results)
    results.save(tmp_path)
    saved = json.loads((tmp_path / "frontier.json").read_text())
    assert saved["frontiers"][0]["rows"] == results.rows
    assert {path.name for path in tmp_path.iterdir()} == {
        *("frontier.json", "frontier.md", "frontier.csv", "frontier-eps-0.2.png", "logs"),
    }


def test_unrolled_generator_takes_part_with_each_number_of_iterations() -> None:
    guide = {"name": "mnist-small", "image_shape": [1, 28, 28], "num_classes": 3}
    generator = Generator(eps=0.3, architecture="unrolled", depth=2, width=4, guide=guide).eval()
    x = torch.rand(6, 1, 28, 28)
    model = generator.guide
    y = model(x).argmax(1)
    results = advgan.frontier(model, x, y, eps=0.3, entries=[generator], baselines=[], repeats=1, batch_size=6)
    passes = ["advgan, 1 iteration", "advgan, 2 iterations"]
    followed = [f"advgan, 1 iteration, then {k} step{'s' * (k > 1)}" for k in (1, 2, 3, 5, 8, 10, 20)]
    assert [row["attack"] for row in results.rows] == ["fgsm", *passes, *followed]
    assert all(row["status"] == "ok" for row in results.rows)
    success = {row["attack"]: row["asr"] for row in results.rows}
    assert all(success[name] >= success[passes[0]] for name in followed)


def test_generator_with_labels_takes_part_without_them_too() -> None:
    torch.manual_seed(0)
    generator = Generator(eps=0.2, labels=2, width=4, depth=1).eval()
    randomise_conditioning(generator)
    model, (x, y) = Linear().eval(), data()
    results = advgan.frontier(model, x, y, eps=0.2, entries={"patch": generator}, baselines=[], repeats=1)
    rows = {row["attack"]: row for row in results.rows}
    followed = [f"patch, then {k} step{'s' * (k > 1)}" for k in (1, 2, 3, 5, 8, 10, 20)]
    assert list(rows) == ["fgsm", "patch", "patch, labels unknown", *followed]
    assert rows["patch, then 1 step"]["asr"] == rows["fgsm"]["asr"] == 1.0
    for name, x_adv in (("patch", generator.perturb(x, y)), ("patch, labels unknown", generator.perturb(x))):
        assert rows[name]["asr"] == pytest.approx((model(x_adv).argmax(1) != y).float().mean().item())


def test_failed_entry_has_no_time() -> None:
    model, (x, y) = Linear().eval(), data()

    def outside(x: Tensor, y: Tensor) -> Tensor:
        return x + 1

    results = advgan.frontier(model, x, y, eps=0.1, entries=[outside], baselines=[], repeats=1)
    row = results.rows[-1]
    assert (row["asr"], row["time"]) == (None, None)
    assert row["status"] != "ok"
    assert all(part["ours"] is None for part in results.parts)


def test_results_as_html_and_data_frame_and_not_in_place_of_a_file(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    model, (x, y) = Linear().eval(), data()
    results = advgan.frontier(model, x, y, eps=0.1, entries=["mifgsm"], baselines=[], repeats=1)
    assert "mifgsm" in results._repr_html_()
    assert list(results.to_pandas()["attack"]) == ["fgsm", "mifgsm"]
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="expected a directory for the reports, got the file"):
        results.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_input_errors() -> None:
    model, (x, y) = Linear().eval(), data()
    with pytest.raises(InputError, match="repeats must be at least 1, got 0"):
        advgan.frontier(model, x, y, eps=0.1, entries=["mifgsm"], repeats=0)
    with pytest.raises(InputError, match="expected entries that are not baselines, got 'fgsm'"):
        advgan.frontier(model, x, y, eps=0.1, entries=["fgsm"])


def test_time_ratios_pair_every_attack_with_the_reference() -> None:
    model, (x, y) = Linear().eval(), data()
    calls: list[str] = []

    def reference(x: Tensor, y: Tensor) -> Tensor:
        calls.append("reference")
        return fgsm(model, x, y, eps=0.1)

    def other(x: Tensor, y: Tensor) -> Tensor:
        calls.append("other")
        return fgsm(model, x, y, eps=0.1)

    ratios = time_ratios({"other": other}, reference, x, y, batch_size=20, repeats=3)
    assert len(ratios["other"]) == 3
    assert all(ratio > 0 for ratio in ratios["other"])
    assert calls[:2] == ["reference", "other"]
    assert calls.count("reference") == 4
