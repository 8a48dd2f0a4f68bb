"""TensorBoard logs, read by its event reader and served by the program itself."""

import io
import json
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from advgan.report.comparison import Comparison, Plot
from advgan.report.figures import with_caption
from advgan.report.figures.plot_groups import safe
from advgan.report.gallery import gallery
from advgan.report.table import markdown, plots
from advgan.report.tensorboard import command, write_comparison
from advgan.training.validation import ValidationResult, write_validation
from tests.report.test_figures import comparison

ATTACKS = {"noise-sign", "fgsm", "pgd-steps=4", "advgan", "deepfool", "deepfool-linf"}
PICTURES = {
    name: Plot("A title", "How to read it.", np.full((30, 40, 3), shade, dtype=np.uint8))
    for shade, name in enumerate(
        ("curves/a-target linf", "gallery/a-target deepfool", "gallery/a-target linf 0.15 fgsm")
    )
}


def whole() -> Comparison:
    found = comparison()
    check = {"target": "a/target", "check": "noise is beaten", "verdict": "holds", "detail": "2 of 3", "meaning": "-"}
    more = {"targets": [{"label": "a/target"}], "environment": {"date": "2026-01-01"}, "sanity": [check]}
    return Comparison(found.summary | more, found.results, found.x, found.y, found.classes)


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of a comparison written over another one."""
    directory = tmp_path_factory.mktemp("run") / "logs"
    for pictures in ({"old/picture": PICTURES["curves/a-target linf"]}, PICTURES):
        write_comparison(directory / "compare", whole(), pictures)
    return directory


def read(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


# As it is read


def test_images_are_numbered_in_reading_order(logs: Path) -> None:
    events = read(logs / "compare")
    tags = events.Tags()["images"]
    assert tags == sorted(tags)
    tables = [f"01_tables/{safe(title.replace(',', ''))}" for title in plots(whole().summary["rows"])]
    assert len(tables) > 1
    names = [*tables, *(f"0{i}_{name}" for i, name in zip((2, 3, 3), PICTURES, strict=True))]
    assert tags == names
    for name, picture in zip(names[len(tables) :], PICTURES.values(), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(events.Images(name)[0].encoded_image_string)))
        assert (shown == with_caption(picture)).all()


def test_each_attack_is_a_run_with_scalars_per_eps(logs: Path) -> None:
    assert {path.name for path in (logs / "compare").iterdir() if path.is_dir()} == ATTACKS
    rows = [row for row in whole().summary["rows"] if row["attack"] == "fgsm"]
    events = read(logs / "compare" / "fgsm")
    for row in rows:
        for figure in ("asr", "robust_accuracy", "l2_mean", "images_per_second"):
            (point,) = events.Scalars(f"{figure}/a-target linf {row['eps']:g}")
            assert (point.value, point.step) == (pytest.approx(row[figure]), round(1000 * row["eps"]))
    assert len(events.Tags()["scalars"]) == 11 * len(rows)


def test_scalars_are_of_the_first_seed(logs: Path) -> None:
    first, *_ = (row for row in whole().summary["rows"] if row["attack"] == "pgd:steps=4")
    (point,) = read(logs / "compare" / "pgd-steps=4").Scalars("l2_mean/a-target linf 0.05")
    assert point.value == pytest.approx(first["l2_mean"])


def test_texts_are_tables_and_verdicts(logs: Path) -> None:
    events = read(logs / "compare")

    def text(tag: str) -> str:
        return str(events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0].decode())

    assert text("3_tables") == markdown(whole().summary)
    assert text("2_verdicts") == "- ✓ **holds** a/target: noise is beaten: 2 of 3"
    assert '"date": "2026-01-01"' in text("5_environment")
    assert "step is 1000 eps" in text("1_how to read this")


def test_validation_scalars_images_and_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advgan.training.validation.gallery", gallery)
    logits = torch.eye(3)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    figures, counts = {"n": 3.0, "asr": 0.5}, torch.tensor([1.0, 2.0, 0.0])
    judgement = ValidationResult(
        figures, counts, ["it collapsed"], x, 1 - x, torch.arange(3), logits, logits.roll(1, 0)
    )
    with SummaryWriter(str(tmp_path)) as log:
        write_validation(log, judgement, 7, ("a", "b", "c"))
    events = read(tmp_path)
    assert events.Tags()["scalars"] == ["asr/validation"]
    assert events.Scalars("asr/validation")[0].step == 7
    assert events.Images("validation/clean, perturbation, adversarial")[0].width > 200
    assert events.Histograms("validation/predicted classes")[0].histogram_value.sum == 2
    assert events.Tags()["tensors"] == ["warnings/text_summary"]


@pytest.mark.parametrize("path", [None, "/usr/bin/tensorboard"])
def test_command_is_shell_quoted(path: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: path)
    monkeypatch.setattr("sys.executable", "/my envs/bin/python")
    executable = "tensorboard" if path else "/my envs/bin/tensorboard"
    arguments = [executable, "--logdir", "run 1/logs", "--samples_per_plugin", "images=100"]
    assert shlex.split(command(Path("run 1/logs"))) == arguments


# As the program serves it


@pytest.fixture(scope="module")
def address(logs: Path) -> Iterator[str]:
    """Address of a TensorBoard started by `command`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    _, *words = shlex.split(command(logs))
    program = [sys.executable, "-m", "tensorboard.main", *words, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}/data"
        finally:
            process.kill()


def fetch_json(address: str, **arguments: object) -> Any:
    """The response of TensorBoard once it responds; it starts empty and reads the logs meanwhile."""
    url = address + ("?" + urlencode(arguments) if arguments else "")
    for _ in range(200):
        try:
            with urlopen(url, timeout=20) as reply:
                body = reply.read()
            if body[:4] == b"\x89PNG":
                return body
            if answer := json.loads(body):
                return answer
        except URLError:
            pass
        time.sleep(0.1)
    pytest.fail(f"no answer from {url}")


@pytest.mark.program
def test_tensorboard_serves_the_logs(address: str) -> None:
    for _ in range(100):
        runs = fetch_json(f"{address}/runs")
        if len(runs) == 1 + len(ATTACKS):
            break
        time.sleep(0.1)
    assert set(runs) == {"compare", *(f"compare/{attack}" for attack in ATTACKS)}

    scalars = fetch_json(f"{address}/plugin/scalars/tags")
    row = next(row for row in whole().summary["rows"] if row["attack"] == "fgsm")
    tag = "asr/a-target linf 0.05"
    assert tag in scalars["compare/fgsm"]
    ((_, step, value),) = fetch_json(f"{address}/plugin/scalars/scalars", tag=tag, run="compare/fgsm")
    assert (step, value) == (50, pytest.approx(row["asr"]))

    images = fetch_json(f"{address}/plugin/images/tags")["compare"]
    assert len(images) == len(plots(whole().summary["rows"])) + len(PICTURES)
    name = "03_gallery/a-target deepfool"
    (entry,) = fetch_json(f"{address}/plugin/images/images", tag=name, run="compare", sample=0)
    body = fetch_json(f"{address}/plugin/images/individualImage?{entry['query']}")
    assert (np.asarray(Image.open(io.BytesIO(body))) == with_caption(PICTURES["gallery/a-target deepfool"])).all()

    assert len(fetch_json(f"{address}/plugin/text/tags")["compare"]) == 5
    (tables,) = fetch_json(f"{address}/plugin/text/text", run="compare", tag="3_tables/text_summary")
    assert "<table>" in tables["text"]

    chapters = fetch_json(f"{address}/plugin/custom_scalars/layout")["category"]
    assert [chapter["title"] for chapter in chapters] == [
        "Success and accuracy",
        "Norms and similarity",
        "Speed and cost",
    ]
    for chapter in chapters:
        for chart in chapter["chart"]:
            (pattern,) = chart["multiline"]["tag"]
            assert sum(bool(re.search(pattern, tag)) for tag in scalars["compare/fgsm"]) == 2
