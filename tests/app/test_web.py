"""advgan export --format web: the files of the page, and the page itself in Chromium, opened from file://."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from advgan.app import web
from advgan.app.attack import Pair, load_shipped
from advgan.app.digits import example_digits
from advgan.app.sketch import decode_uri
from advgan.app.web import read_runtime, write_page
from advgan.classifiers import BlackBox
from advgan.classifiers.export import export_classifier
from advgan.cli.main import main
from advgan.core.errors import InputError
from tests.app.conftest import draw_two

X = example_digits()[2:4]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_shipped("mnist-c-generator")


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of the npm package."""
    folder = tmp_path_factory.mktemp("onnxruntime-web")
    (folder / "dist").mkdir()
    for name in web.RUNTIME:
        (folder / name).write_text('{"version": "1.2.3"}')
    return folder


@pytest.fixture(scope="module")
def page(pair: Pair, stub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "page"
    write_page(pair, folder, stub)
    return folder


def constant(page: Path, name: str) -> Any:
    match = re.search(rf"^const {name} = (.*);$", (page / "models.js").read_text(), re.M)
    assert match
    return json.loads(match[1])


def session(page: Path, name: str) -> Any:
    content = gzip.decompress(base64.b64decode(constant(page, "FILES")[name]))
    return onnxruntime.InferenceSession(content)


def test_networks_of_the_page_are_those_of_pytorch(pair: Pair, page: Path) -> None:
    (logits,) = session(page, "classifier").run(None, {"x": X.numpy()})
    assert np.allclose(logits, pair.classifier(X).numpy(), atol=1e-4)
    for eps in (0.1, 0.3):
        given = {"x": X.numpy(), "eps": np.full(2, eps, np.float32)}
        (x_adv,) = session(page, "generator").run(None, given)
        assert np.allclose(x_adv, pair.generator.perturb(X, eps=eps).numpy(), atol=1e-5)


def test_files_of_the_page(page: Path) -> None:
    names = {"index.html", "page.css", "sketch.js", "image.js", "page.js", "models.js", "runtime.js", "onnxruntime.js"}
    assert {entry.name for entry in page.iterdir()} == names
    index = (page / "index.html").read_text()
    assert "onnxruntime-web 1.2.3" in index
    assert "{{" not in index
    assert set(re.findall(r'(?:src|href)="([^"]*)"', re.sub(r'"data:[^"]*"', '"x"', index))) - {"x"} < names
    settings = constant(page, "SETTINGS")
    expected = {"shape": [1, 28, 28], "eps": 0.3, "targets": [-1], "digits": True, "resize": None, "z": []}
    assert settings | expected == settings


def test_errors(pair: Pair, stub: Path, page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"cannot read .*: .*; expected the folder or \.tgz of the npm package"):
        read_runtime(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot read"):
        read_runtime(page / "index.html")
    with pytest.raises(InputError, match="holds other files, expected a new or empty folder"):
        write_page(pair, stub, stub)
    with pytest.raises(InputError, match="is a file, expected a folder"):
        write_page(pair, page / "index.html", stub)
    with pytest.raises(InputError, match=r"cannot write in .*index\.html: Not a directory"):
        write_page(pair, page / "index.html" / "below", stub)
    box = BlackBox.from_model(pair.classifier, 10)
    box.image_shape = (1, 28, 28)
    with pytest.raises(InputError, match="needs the network of the classifier, expected no black box"):
        write_page(replace(pair, classifier=box), tmp_path / "page", stub)
    failed = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setattr(web.subprocess, "run", lambda *_, **__: failed)
    monkeypatch.setattr(web.shutil, "which", lambda name: name)
    with pytest.raises(InputError, match=r"npm pack onnxruntime-web failed \(no network\)"):
        read_runtime(None)
    monkeypatch.setattr(web.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="npm is not installed, expected it, or --runtime"):
        read_runtime(None)


def test_runtime_from_an_archive(stub: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        archive.add(stub, "package")
    assert read_runtime(tmp_path / "package.tgz") == read_runtime(stub)


def test_a_classifier_that_cannot_be_traced(tmp_path: Path) -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, : 2 if x.sum() > 0 else 3]

    with pytest.raises(InputError, match="the classifier cannot be exported to ONNX"):
        export_classifier(Branches(), (1, 4, 4), tmp_path / "it.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--target", "mnist-c", "target is for format web, expected none, got mnist-c"),
        ("--target-weights", "w.safetensors", "target_weights is for format web, expected none, got w.safetensors"),
    ],
)
def test_flags_of_a_page_are_for_that_format(
    flag: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["export", "checkpoints/mnist-c-generator", flag, value])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_page_in_the_browser(pair: Pair, page: Path, tab: Any, tmp_path: Path) -> None:
    """From file://, without a network: the predictions are PyTorch's, and drawings are prepared as in Python."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, and onnxruntime-web comes from it")
    shutil.copytree(page, tmp_path / "page")
    try:
        package = read_runtime(None)
    except InputError as error:
        pytest.skip(f"no onnxruntime-web: {error}")
    for name, text in web.page_files(pair, constant(page, "FILES"), package).items():
        (tmp_path / "page" / name).write_text(text)
    tab.context.set_offline(True)
    tab.goto(f"file://{tmp_path}/page/index.html")
    tab.wait_for_function("window.advgan !== undefined")
    assert "7 →" in tab.inner_text("#verdict")
    script = "x => advgan.attack(x, 0.2, -1).then((r) => [r.before, Array.from(r.adversarial), r.after])"
    result = tab.evaluate(script, X[0].flatten().tolist())
    x_adv = pair.generator.perturb(X[:1], eps=0.2)
    expected = [pair.classifier(X[:1]), x_adv, pair.classifier(x_adv)]
    for values, tensor in zip(result, expected, strict=True):
        assert np.allclose(values, tensor.flatten().numpy(), atol=1e-4)
    draw_two(tab)
    tab.wait_for_function("document.querySelector('#verdict').innerText.includes('2 →')")
    url = tab.evaluate("document.querySelector('canvas').toDataURL()")
    x, steps = tab.evaluate("url => advgan.modelInput(url, SETTINGS).then(([x, s]) => [Array.from(x), s])", url)
    prepared, its_steps = pair.prepare(decode_uri(url))
    assert np.allclose(x, prepared.flatten().numpy(), atol=1e-6)
    assert steps == its_steps
    tab.wait_for_function("document.querySelector('#speed').innerText.includes('passes a second')")
    if figure := os.environ.get("ADVGAN_WEB_FIGURE"):
        tab.screenshot(path=figure)
    assert tab.foreign == []
