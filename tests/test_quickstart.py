"""The quickstart example and its figure."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from tests.conftest import ROOT, Run


def test_quickstart(script: Run, tmp_path: Path) -> None:
    done = script("examples/quickstart.py", tmp_path / "picture.png")
    assert "one pass changed 100 images, by 0.30 at most" in done.stdout
    lines = re.findall(r"^(shipped|mine) +(\S.*?) +([\d.]+)  \[([\d.]+), ([\d.]+)\] .* (\d+)$", done.stdout, re.M)
    asr = {(name, attack): float(rate) for name, attack, rate, *_ in lines}
    assert all(float(low) <= float(rate) <= float(high) for _, _, rate, low, high, _ in lines)
    gradients = [0, 1, 10, 0, 2]
    assert [int(words[-1]) for words in lines] == 2 * gradients, "noise, FGSM, PGD, one pass, a pass and two steps"
    for name in ("shipped", "mine"):
        assert asr[name, "sign noise"] < asr[name, "FGSM"] <= asr[name, "PGD, 10 steps"]
        assert asr[name, "AdvGAN, one pass"] <= asr[name, "and two steps"]
    assert asr["shipped", "AdvGAN, one pass"] > 95 > asr["mine", "AdvGAN, one pass"] > asr["mine", "sign noise"]

    kept = ROOT / "docs/figures/result.png"
    assert kept.stat().st_size < 200_000
    drawn, shown = (np.asarray(Image.open(path), dtype=float) for path in (tmp_path / "picture.png", kept))
    assert drawn.shape == shown.shape
    assert np.abs(drawn - shown).mean() < 2, "docs/figures/result.png is what the quickstart draws, but for fonts"
