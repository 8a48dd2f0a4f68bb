"""Reports: tables and files contain the measured metrics."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from rich.console import Console

from advgan.core.threat_model import Threat
from advgan.evaluation import ROW_KEYS, Result
from advgan.evaluation.metrics import attack_metrics, attack_outcome, clean_metrics, clean_records
from advgan.report.comparison import Comparison
from advgan.report.files import file_names, write_report
from advgan.report.html import headlines
from advgan.report.latex import escape, latex
from advgan.report.sections import sections
from advgan.report.table import markdown, plots, terminal
from tests.conftest import ROOT

N, CLASSES = 40, ("zero", "one", "two", "three")
SHARES = {"noise-sign": 0.1, "fgsm": 0.6, "advgan": 0.9, "pgd:steps=40": 0.95, "deepfool": 1.0}
ACCESS = {"noise-sign": "nothing", "advgan": "generator"}
SCHEMA = ROOT / "advgan" / "evaluation" / "results.schema.json"


def result_of(attack: str, **changes: Any) -> Result:
    """A result of `attack` that succeeds on the first images by a perturbation of about eps."""
    row: dict[str, Any] = {
        **{"target": "mnist-c", "attack": attack, "access": ACCESS.get(attack, "gradients"), "protocol": "bounded"},
        **{"norm": "linf", "eps": 0.3, "y_target": None, "seed": 0, "batch_size": 100, "n": N},
        **{"seconds_per_image": 0.001, "images_per_second": 1000.0, "forwards_per_image": 1.0},
        **{"backwards_per_image": 1.0, "violations": [], "status": "ok"},
    }
    if attack == "deepfool":
        row |= {"protocol": "minimal-norm", "attack_norm": "l2", "images_per_second": 50.0}
    share = changes.pop("share", SHARES[attack])
    row |= changes
    row |= {"attack_norm": row.get("attack_norm", row["norm"]), "targeted": row["y_target"] is not None}
    y = torch.arange(N) % len(CLASSES)
    logits = 4.0 * torch.eye(len(CLASSES))[y]
    logits[-1] = logits[-1].roll(1)  # one is wrong from the start
    records = clean_records(logits, y, row["y_target"])
    fooled = records["counts"] & (records["counts"].cumsum(0) <= share * int(records["counts"].sum()))
    goal = (y + 1) % len(CLASSES) if row["y_target"] is None else torch.full_like(y, row["y_target"])
    prediction = torch.where(fooled, goal, records["clean_prediction"])
    rng = torch.Generator().manual_seed(len(attack))
    sizes = {"linf": torch.full((N,), row["eps"]), "l2": 2 + torch.rand(N, generator=rng), "l0": torch.full((N,), 60.0)}
    if attack == "deepfool":
        sizes["linf"] = torch.linspace(row["eps"] / 8, 2 * row["eps"], N)
    records |= {"prediction": prediction, "confidence": 0.5 + 0.4 * torch.rand(N, generator=rng), **sizes}
    records |= {"prediction_8bit": prediction, **{f"{norm}_8bit": size for norm, size in sizes.items()}}
    records |= {"ssim": torch.full((N,), 0.8), "queries": torch.ones(N)}
    records |= attack_outcome(records, Threat(row["norm"], row["eps"]), row["protocol"], row["y_target"])
    row |= clean_metrics(records) | attack_metrics(records, row["protocol"])
    noise = torch.rand(8, 1, 12, 12, generator=rng)
    return Result({key: row[key] for key in ROW_KEYS}, records, (images() + 0.3 * noise.round() - 0.15).clamp(0, 1))


def images() -> torch.Tensor:
    return torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def failed(attack: str, reason: str) -> Result:
    """A result without metrics."""
    row = result_of(attack).row
    known = {key: row[key] for key in (*ROW_KEYS[: ROW_KEYS.index("clean_accuracy") + 1], "violations", "status")}
    known |= {"violations": [reason], "status": f"failed: {reason}"}
    return Result({key: known.get(key) for key in ROW_KEYS}, {}, torch.empty(0))


def comparison() -> Comparison:
    """Two targets; bounded, minimum-norm and failed attacks; two seeds; another eps; a target class."""
    cheat = failed("fgsm", "linf 0.4 exceeds eps 0.3")
    results = [
        *(result_of("deepfool"), result_of("noise-sign"), result_of("fgsm")),
        result_of("advgan", images_per_second=8000.0, forwards_per_image=0.0, backwards_per_image=0.0),
        *(result_of("pgd:steps=40"), result_of("pgd:steps=40", seed=1, share=0.9)),
        replace(cheat, row=cheat.row | {"attack": "cheat_50%|x"}),
        *(result_of("fgsm", eps=0.1, share=0.2), result_of("fgsm", y_target=3, share=0.3)),
        result_of("fgsm", target="<b>& mnist_a</b>"),
    ]
    group = {"target": "mnist-c", "norm": "linf", "eps": 0.3, "y_target": None}
    target = {"label": "mnist-c", "name": "mnist-c", "weights": "runs/a b", "sha256": "0" * 64, "dataset": "mnist5k"}
    other = target | {"label": "<b>& mnist_a</b>", "name": "mnist-a"}
    environment = {
        **{"date": "2026-01-01T00:00:00+00:00", "command": ["compare.py", "--eps", "0.3"], "commit": None},
        **{"settings": {"eps": [0.3]}, "python": "3.12", "packages": {"torch": "2.15", "numpy": None}},
        **{"platform": "Linux", "cpu": "a cpu", "cores": 2, "threads": 2, "gpu": None},
    }
    check = {"target": "mnist-c", "detail": "2 of 3", "meaning": "the gradients are masked"}
    summary = {
        "environment": environment,
        "target": target,
        "targets": [target, other],
        "generators": [
            {
                "path": "runs/g",
                "target": "mnist-c",
                "parameters": 66_000,
                "sha256": "1" * 64,
                "eps": 8 / 255,
                "norm": "linf",
            }
            | {"y_target": None, "training_seconds": 146.0}
        ],
        "rows": [result.row for result in results],
        "worst_case": [
            {**group, "attacks": ["deepfool", "noise-sign", "fgsm", "advgan", "pgd:steps=40"], "n": N, "n_attacked": 39}
            | {
                "asr": 0.975,
                "asr_low": 0.87,
                "asr_high": 0.996,
                "robust_accuracy": 0.025,
                "needed": {"pgd:steps=40": 2},
            }
        ],
        "mcnemar": [{**group, "a": "fgsm", "b": "advgan", "only_a": 0, "only_b": 12, "p": 0.00049}],
        "sanity": [
            {**check, "check": "the strongest is at least FGSM", "verdict": "holds"},
            {**check, "check": "no gradients do no better", "verdict": "violated"},
            {**check, "check": "transfer does no better", "verdict": "not tested"},
        ],
        "optimality": [
            {
                "target": "mnist-c",
                "norm": "linf",
                "y_target": None,
                "attack": "fgsm",
                "optimality": 0.61,
                "eps_max": 0.3,
            }
        ],
        "cost": [
            {**group, "generator": "runs/g", "training_seconds": 146.0, "attack": "pgd:steps=40", "images": 12_345},
            {**group, "generator": "runs/g", "training_seconds": 146.0, "attack": "fgsm", "images": None},
        ],
        "seeds": [{**group, "attack": "pgd:steps=40", "seeds": 2, "asr_mean": 0.91, "asr_sd": 0.025}],
    }
    return Comparison(summary, results, images(), torch.arange(8) % len(CLASSES), CLASSES)


SUMMARY = comparison().summary


def shown(width: int, styles: bool = False, checks: bool = False, summary: dict[str, Any] = SUMMARY) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(terminal(summary, width, checks=checks))
    return console.export_text(styles=styles)


# Tables


def test_bounded_and_minimum_norm_attacks_have_separate_tables() -> None:
    tables = {table.title.split(":")[0]: table for table in sections(SUMMARY)}
    assert list(tables) == [
        "Bounded attacks on mnist-c, linf eps 0.1",
        "Bounded attacks on mnist-c, linf eps 0.3",
        "Minimum-norm attacks on mnist-c, linf eps 0.3",
        "Bounded attacks on mnist-c, linf eps 0.3, toward class 3",
        "Bounded attacks on <b>& mnist_a</b>, linf eps 0.3",
    ]
    bounded, minimal = list(tables.values())[1:3]
    assert [line[0] for line in bounded.rows] == [
        *("noise-sign", "fgsm", "advgan", "pgd:steps=40", "pgd:steps=40", "cheat_50%|x")
    ]
    assert [line[0] for line in minimal.rows] == ["deepfool"]
    assert "median l2 [95 %]" not in bounded.headers
    assert "robust %" not in minimal.headers


def test_minimum_norm_attacks_at_several_eps_share_one_table() -> None:
    results = [result_of("deepfool", eps=eps, share=share) for eps, share in ((0.1, 0.5), (8 / 255, 0.25))]
    (table,) = sections({"rows": [result.row for result in results]})
    assert table.title.startswith("Minimum-norm attacks on mnist-c, linf: 39 of 40")
    assert [line[0] for line in table.rows] == ["deepfool"]
    shown = dict(zip(table.headers, table.rows[0], strict=True))
    low, high = sorted((result.row for result in results), key=lambda row: row["eps"])
    for row, text in ((low, "8/255"), (high, "0.1")):
        assert shown[f"ASR % at {text} [95 %]"].startswith(f"{100 * row['asr']:.1f} ")
    assert "ASR % [95 %]" not in table.headers


def test_headline_without_success() -> None:
    rows = [result_of("fgsm", share=0.0).row, result_of("advgan", share=0.0).row]
    assert [*headlines({"rows": rows, "worst_case": []})] == [
        "mnist-c, linf eps 0.3: none of 2 attacks fools the classifier on any of 39 images."
    ]
    (aimed,) = headlines({"rows": [result_of("fgsm", share=0.0, y_target=3).row], "worst_case": []})
    assert aimed.startswith("mnist-c, linf eps 0.3, toward class 3: fgsm gets its class for none of ")


def test_table_values_match_rows() -> None:
    table = sections(SUMMARY)[1]
    cells = dict(zip(table.headers, table.rows[2], strict=True))
    row = SUMMARY["rows"][3]
    l2 = f"{row['l2_mean']:.2f}"
    assert cells == {
        **{"attack": "advgan", "access": "generator", "seed": "0", "ASR % [95 %]": "89.7 [76.4, 95.9]"},
        **{"8-bit %": "89.7", "robust %": "10.0", "mean l2": l2, "max linf": "0.3000", "SSIM": "0.800"},
        **{"images/s": "8,000", "speed vs FGSM": "8", "forwards + backwards": "0+0", "unique": "–"},
    }
    assert dict(zip(table.headers, table.rows[3], strict=True))["unique"] == "2"
    assert table.failures == {5: "cheat_50%|x failed: linf 0.4 exceeds eps 0.3"}
    assert set(table.rows[5][3:]) == {"failed"}


def test_summary_rows_are_at_the_end() -> None:
    table = sections(SUMMARY)[1]
    seeds, worst = (dict(zip(table.headers, line, strict=True)) for line in table.summary_rows)
    assert (seeds["attack"], seeds["seed"], seeds["ASR % [95 %]"]) == ("pgd:steps=40", "2 seeds", "91.0 ± 2.5")
    assert (worst["attack"], worst["ASR % [95 %]"]) == ("worst case of 5 attacks", "97.5 [87.0, 99.6]")
    assert worst["robust %"] == "2.5"
    assert [bool(other.summary_rows) for other in sections(SUMMARY)] == [False, True, False, False, False]


def test_speed_is_relative_to_fgsm_where_it_was_measured() -> None:
    for rows, expected in ((SUMMARY["rows"], "0.05"), (SUMMARY["rows"][:2], None)):
        minimal = next(table for table in sections({"rows": rows}) if "Minimum" in table.title)
        assert dict(zip(minimal.headers, minimal.rows[0], strict=True)).get("speed vs FGSM") == expected


def test_infinite_median() -> None:
    rows = [result_of("deepfool", share=0.3).row]
    table = sections({"rows": rows})[0]
    assert rows[0]["l2_median"] is None
    assert dict(zip(table.headers, table.rows[0], strict=True))["median l2 [95 %]"] == "∞"


@pytest.mark.parametrize("width", [80, 120, 200])
def test_terminal_tables_are_not_truncated(width: int) -> None:
    text = shown(width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for expected in ("89.7 [76.4, 95.9]", "8,000", "cheat_50%|x", "deepfool", "91.0 ± 2.5"):
        assert expected in text
    assert ("+ backwards" in text) == (width > 80)


def test_success_of_rounded_images_is_kept_on_a_terminal_where_it_differs() -> None:
    assert "8-bit" not in shown(100)
    lossy = [row | ({"asr_8bit": row["asr"] - 0.1} if row["attack"] == "advgan" else {}) for row in SUMMARY["rows"]]
    assert "8-bit" in shown(100, summary=SUMMARY | {"rows": lossy})


def test_violated_check_is_red_with_explanation() -> None:
    lines = [line for line in shown(120, styles=True, checks=True).splitlines() if "✗" in line or "○" in line]
    assert [line.split("m")[0] for line in lines] == ["\x1b[1;31", "\x1b[2"]
    assert "It usually means: the gradients are masked" in " ".join(shown(120).split())


def test_terminal_leaves_to_the_report_what_nobody_has_to_act_on() -> None:
    text = " ".join(shown(120).split())
    assert text.startswith("mnist-c, linf eps 0.3: pgd:steps=40 fools the classifier on 94.9% of 39 images")
    assert "✗ violated" in text
    assert "✓" not in text
    assert "○" not in text
    assert "12,345" not in text
    assert (
        "In the report: checks of validity (1 violated, 1 holds, 1 not tested), local optimality, the number of images "
        "from which on a generator is cheaper, pairs of attacks on the same images (McNemar's test), the meaning of "
        "the columns"
    ) in text


def test_markdown_has_all_tables_and_explanations() -> None:
    text = markdown(SUMMARY)
    assert text.count("\n|---|") == 8
    assert "| advgan | generator | 0 | 89.7 [76.4, 95.9] |" in text
    assert "| cheat_50%\\|x |" in text
    assert "- cheat_50%|x failed: linf 0.4 exceeds eps 0.3" in text
    assert "**violated: mnist-c: no gradients do no better: 2 of 3** It usually means: the gradients are masked" in text
    assert "*worst case of 5 attacks*" in text
    for line in (line for line in text.splitlines() if line.startswith("| advgan")):
        assert line.count("|") == text.split("| attack | access | seed")[1].splitlines()[0].count("|") + 3


def test_tables_as_images() -> None:
    images = plots(SUMMARY["rows"])
    assert list(images) == [table.title.split(": ")[0] for table in sections(SUMMARY) if "attacks on" in table.title]
    assert "Bounded attacks on mnist-c, linf eps 0.1" in images
    for image in images.values():
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        assert image.shape[1] > image.shape[0] > 100
        assert (image < 128).any()


# LaTeX


def test_latex_is_balanced_and_escaped() -> None:
    text = latex(SUMMARY)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 7
    bare = re.sub(r"^%.*$|\$[^$]*\$|\\[^a-z]|\\[a-z]+", "", text, flags=re.M)  # no comments, mathematics and commands
    assert bare.count("{") == bare.count("}")
    assert not set(bare) & set("%#~^<>|_$")
    for body in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.S):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1
    assert r"cheat\_50\%\textbar{}x" in text
    assert r"$\ell_\infty$ $\varepsilon$ 0.3" in text
    assert r"91.0 $\pm$ 2.5" in text
    assert escape(r"a\b{c}$") == r"a\textbackslash{}b\{c\}\$"


def test_latex_compiles(tmp_path: Path) -> None:
    if (program := shutil.which("pdflatex")) is None:
        pytest.skip("there is no pdflatex on this machine")
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "a.tex").write_text(head + latex(SUMMARY) + "\\end{document}\n")
    done = subprocess.run([program, "-interaction=nonstopmode", "-halt-on-error", "a.tex"], cwd=tmp_path, timeout=60)
    assert done.returncode == 0


# Files


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("results")
    whole = comparison()
    first = replace(whole, results=whole.results[2:3], summary=whole.summary | {"rows": whole.summary["rows"][2:3]})
    with patch.object(FigureCanvasAgg, "draw", FigureCanvasAgg.get_renderer):
        write_report(directory, first)
    write_report(directory, whole)
    return directory


def test_report_replaces_older_files(written: Path) -> None:
    assert json.loads((written / "results.json").read_text()) == SUMMARY
    made = ["figures", "logs", "records", "report.html", "report.md", "report.tex", "results.csv", "results.json"]
    assert sorted(path.name for path in written.iterdir()) == made
    assert len(list((written / "logs").iterdir())) == 1


def test_records_have_one_line_per_image(written: Path) -> None:
    names = [path.name for path in (written / "records").iterdir()]
    assert len(names) == len(SUMMARY["rows"]) - 1
    assert "mnist-c_pgd-steps=40_linf_0.3_seed-1.csv" in names
    assert "mnist-c_fgsm_linf_0.3_toward-3_seed-0.csv" in names
    with (written / "records" / "mnist-c_fgsm_linf_0.3_seed-0.csv").open(newline="") as file:
        heads, first, *_, last = csv.reader(file)
    assert heads[:5] == ["id", "label", "clean_prediction", "clean_confidence", "counts"]
    assert {"confidence", "l0", "l2", "linf", "ssim", "fooled", "within", "success_8bit", "queries"} < set(heads)
    read = dict(zip(heads, first, strict=True))
    assert (read["id"], read["label"], read["prediction"], read["linf"], read["success"]) == (
        "0",
        "0",
        "1",
        "0.3",
        "True",
    )
    assert last[0] == str(N - 1)


def test_csv_has_one_line_per_row(written: Path) -> None:
    with (written / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == ROW_KEYS
    assert [line["attack"] for line in lines] == [row["attack"] for row in SUMMARY["rows"]]
    assert float(lines[3]["asr"]) == SUMMARY["rows"][3]["asr"]
    assert (lines[6]["asr"], lines[6]["violations"]) == ("", "linf 0.4 exceeds eps 0.3")


def test_report_contains_tables_and_figures(written: Path) -> None:
    text = (written / "report.md").read_text()
    assert text.startswith("# Attacks on mnist-c, &lt;b>&amp; mnist_a&lt;/b> (mnist5k)")
    assert "| advgan | generator" in text
    assert (written / "report.tex").read_text() == latex(SUMMARY)
    shown = re.findall(r"\]\(<figures/(.+?)>\)", text)
    assert sorted(shown) == sorted(path.name for path in (written / "figures").iterdir())
    assert shown
    for name in shown:
        assert np.asarray(Image.open(written / "figures" / name)).shape[2] == 3


def test_nan_in_results_raises(tmp_path: Path) -> None:
    whole = comparison()
    whole.summary["rows"][0]["l2_mean"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path, whole)
    assert list(tmp_path.iterdir()) == []


def test_file_names_are_safe_and_unique() -> None:
    names = file_names(["a/b", "a:b", "A b", "../..", "", "x" * 400])
    assert names[:5] == ["a-b", "a-b-2", "A-b-3", "unnamed", "unnamed-2"]
    assert len(names[5]) == 150


# Schema


def test_results_follow_the_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the extra dev")
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in check.iter_errors(SUMMARY)] == []
    assert set(schema["$defs"]["row"]["properties"]) == set(ROW_KEYS)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("rows.0.asr", 1.2),
        ("rows.0.asr", None),
        ("rows.0.norm", "l3"),
        ("rows.0.status", "fine"),
        ("rows.0.more", 1),
        ("rows.0.eps", 0),
        ("rows.0.targeted", True),
        ("rows.0.violations", ["linf"]),
        ("rows.6.asr", 0.0),
        ("rows", None),
        ("sanity.0.verdict", "maybe"),
        ("worst_case.0.needed.fgsm", -1),
        ("mcnemar.0.p", "0.1"),
        ("cost.0.images", 1.5),
        ("seeds.0.seeds", [0, 1]),
        ("target.sha256", "abc"),
        ("environment.threads", 0),
        ("another", {}),
    ],
)
def test_schema_rejects_invalid_values(where: str, value: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is in the extra dev")
    bad = json.loads(json.dumps(SUMMARY))
    *path, last = where.split(".")
    place = bad
    for step in path:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    assert list(jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).iter_errors(bad))
