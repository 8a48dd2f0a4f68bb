"""advgan export: what other runtimes answer is what PyTorch answers, in ball and box, for any batch and size."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from advgan import Generator
from advgan.classifiers import fingerprint
from advgan.cli.main import main
from advgan.core.errors import InputError
from advgan.core.threat_model import Threat
from advgan.models import export
from advgan.models.export import Format, export_generator, read_onnx
from tests.conftest import ROOT

SMALL = {"width": 4, "depth": 1}


def made(**kind: Any) -> Generator:
    """Untrained, but nothing in it is zero."""
    torch.manual_seed(0)
    generator = Generator(**(SMALL | kind)).eval()
    with torch.no_grad():
        for parameter in generator.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return generator


GUIDE = {"name": "mnist-small", "image_shape": [1, 28, 28], "num_classes": 3}
COLOURED, POOLED = GUIDE | {"image_shape": [3, 28, 28]}, GUIDE | {"name": "mnist-tutorial"}
KINDS: list[tuple[dict[str, Any], Format]] = [
    ({"norm": "l2", "eps": 2.0, "universal": True, "noise": 3, "classes": 4, "eps_min": 0.5}, "onnx"),
    ({"norm": "l2", "eps": 2.0, "noise": 3, "labels": 4, "classes": 4, "eps_min": 0.5}, "pt2"),
    ({"architecture": "unet", "patch": 2, "levels": 1, "labels": 3, "guide": GUIDE}, "onnx"),
    ({"architecture": "unrolled", "guide": POOLED, "eps_min": 0.1, "classes": 3}, "onnx"),
    ({"architecture": "unrolled", "norm": "l2", "eps": 2.0, "depth": 2, "channels": 3, "guide": COLOURED}, "pt2"),
]


@pytest.mark.parametrize(("kind", "form"), KINDS, ids=lambda each: each if isinstance(each, str) else "-".join(each))
def test_every_kind_answers_the_same_at_every_size(kind: dict[str, Any], form: Format, tmp_path: Path) -> None:
    generator, path = made(**kind), tmp_path / f"generator.{form}"
    checks = export_generator(generator, path, form)
    assert len({check.shape[0] for check in checks}) == 3
    assert len({check.shape[2:] for check in checks}) == (1 if "guide" in kind else 4)
    assert max(check.difference for check in checks) < 1e-5
    assert not any(check.violations for check in checks)
    # And once more, without its help: images that are 0 and 1 where digits are, and a size it did not try.
    told = {"generator.json": ""}
    run: Any = read_onnx(path) if form == "onnx" else torch.export.load(path, extra_files=told).module()
    assert form == "onnx" or json.loads(told["generator.json"])["sha256"] == fingerprint(generator)
    size = (28, 28) if "guide" in kind else (33, 20)
    x = (torch.rand(60, generator.channels, *size) > 0.5).float()
    given = export.inputs(generator, x, torch.Generator().manual_seed(1))
    answer = run(given) if form == "onnx" else run(**given)
    assert torch.allclose(answer, generator(**given), atol=1e-5)
    for i, radius in enumerate(given.get("eps", torch.full((60,), generator.threat.eps)).tolist()):
        assert Threat(generator.threat.norm, radius).violations(answer[i : i + 1], x[i : i + 1]) == []
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert str(ROOT).encode() not in path.read_bytes()


def test_a_larger_eps_than_the_trained_one_is_that_one() -> None:
    generator, x = made(eps=0.2, eps_min=0.05), torch.rand(2, 1, 28, 28)
    exportable = export.Exportable(generator)
    assert torch.allclose(exportable(x, eps=torch.tensor([0.9, 0.2])), generator(x), atol=1e-5)
    assert torch.equal(exportable(x, eps=torch.tensor([-1.0, 0.0])), x)


def test_exported_file_describes_the_generator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = made(architecture="paper", channels=3, eps=0.25)
    source, path = tmp_path / "generator", tmp_path / "out/it.onnx"
    generator.save_pretrained(source)
    main(["export", str(source), "--output", str(path)])
    shown = capsys.readouterr().out
    assert "7 x 3 x 64 x 96" in shown
    assert f"exported     {path}" in shown
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["advgan.sha256"] == fingerprint(generator)
    assert [metadata[f"advgan.{key}"] for key in ("eps", "norm", "classes")] == ["0.25", '"linf"', "0"]
    (images,) = onnx.load(path).graph.input
    assert [size.dim_param or size.dim_value for size in images.type.tensor_type.shape.dim] == ["n", 3, "h", "w"]


def test_nothing_is_left_where_the_answers_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "it.onnx"
    path.write_bytes(b"what was there before")
    monkeypatch.setattr(export, "_onnx_bytes", lambda *_: b"another")
    monkeypatch.setattr(export, "read_onnx", lambda aside: lambda given: given["x"])
    with pytest.raises(
        InputError, match=r"images \(1, 1, 16, 16\) differ from PyTorch's, nothing was written: .* in the ball"
    ):
        export_generator(made(), path, "onnx")
    assert path.read_bytes() == b"what was there before"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_name_must_be_the_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    with pytest.raises(SystemExit) as done:
        main(["export", str(tmp_path), "--output", str(weights)])
    assert done.value.code == 2
    assert "a file in format onnx must be called something.onnx, got" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "nowhere")])
    assert "no generator in" in capsys.readouterr().err


def test_the_format_is_the_outputs_and_the_hub_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def written(generator: object, path: Path, kind: str) -> list[export.Check]:
        path.write_text(f"{generator} {kind}")
        return []

    monkeypatch.setattr(Generator, "from_pretrained", lambda source, guide: source)
    monkeypatch.setattr("advgan.cli.export.export_generator", written)
    with pytest.raises(SystemExit):
        main(["export", "hf://user/model"])
    assert "hf://user/model is no folder to write to, expected --output FILE" in capsys.readouterr().err
    main(["export", "hf://user/model", "--output", str(tmp_path / "g.pt2")])
    assert (tmp_path / "g.pt2").read_text() == "hf://user/model pt2"
    main(["export", str(tmp_path)])
    assert (tmp_path / "generator.onnx").read_text() == f"{tmp_path} onnx"


def test_speed_puts_onnxruntime_beside_pytorch(digits: Path, classifier: Path, tmp_path: Path) -> None:
    from benchmarks import speed

    made().save_pretrained(tmp_path / "generator")
    words = ["--dataset", "folder", "--data-dir", digits, "--target", "mnist-small", "--target-weights", classifier]
    words += ["--generator", tmp_path, "--sections", "onnx", "--rounds", 2, "--images", 9, "--threads", 1]
    speed.run(speed.main, speed.Settings, [str(word) for word in (*words, "--output-dir", tmp_path / "out")])
    rows = json.loads((tmp_path / "out/speed.json").read_text())["rows"]
    assert [(row["side"], row["status"]) for row in rows] == [("onnxruntime", "ok"), ("PyTorch", "ok")]
    assert list(rows[0]["seconds"]) == ["1", "8", "9"]
    assert list(rows[1]["times"]) == [f"onnxruntime, batch {size}" for size in (1, 8, 9)]
    assert rows[0]["difference"] < 1e-5
