"""The HTML page in a browser: no script errors, sortable tables, all images embedded, nothing loaded."""

import base64
import html as stdlib_html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advgan.report.comparison import Plot
from advgan.report.html import MAX_CHARACTERS, headlines, html
from tests.report.test_reports import comparison, result_of

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHART = Plot("Success & speed", "Right is <faster>.", np.full((40, 60, 3), 200, dtype=np.uint8))

# What a visitor does, and what is then seen, written where --dump-dom shows it.
VISIT = """<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
</script>"""
REPORT = """<script>
window.addEventListener("load", () => {
  const images = [...document.images];
  const missing = images.filter((image) => !image.naturalWidth).length;
  const table = [...document.querySelectorAll("table.sortable")].find((each) => each.tFoot);
  const column = (name) => [...table.tHead.rows[0].cells].findIndex((head) => head.textContent.trim() === name);
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const click = (name) => {
    const head = table.tHead.rows[0].cells[column(name)];
    head.querySelector("button").click();
    return [head.getAttribute("aria-sort"), order()];
  };
  const speed = click("images/s"), slower = click("images/s"), names = click("attack"), last = table.tFoot.rows[1];
  const selects = [...document.querySelectorAll("select")];
  const panels = () => [...document.querySelectorAll(".panel")].map((panel) => panel.querySelectorAll("img").length);
  selects[1].value = selects[1].options[2].value;
  selects[1].dispatchEvent(new Event("change"));
  const wanted = document.getElementById(selects[1].value).innerHTML;
  const seen = {
    errors, speed, slower, names, panels: panels(),
    foot: last.cells[0].textContent,
    chosen: document.querySelectorAll(".panel")[1].innerHTML === wanted,
    options: selects[0].options.length,
    images: images.length,
    missing,
    unnamed: images.filter((image) => !image.alt).length,
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    loaded: performance.getEntriesByType("resource").filter((each) => !each.name.startsWith("data:")).length,
  };
  document.body.setAttribute("data-seen", JSON.stringify(seen));
});
</script>"""


@pytest.fixture(scope="module")
def page() -> str:
    return html(comparison(), {"speed/mnist-c": CHART, "gallery/mnist-c": CHART})


def visit(page: str, folder: Path, size: str) -> dict[str, Any]:
    """Observations of a browser with a window of `size`."""
    if BROWSER is None:
        pytest.skip("there is no Chromium on this machine")
    file = folder / "page.html"
    file.write_text(page.replace("<body>", "<body>" + VISIT).replace("</body>", REPORT + "</body>"))
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--enable-logging=stderr",
    ]
    flags += [f"--window-size={size}", "--virtual-time-budget=10000", "--dump-dom"]
    done = subprocess.run([BROWSER, *flags, file.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = re.search(r'data-seen="(.*?)"', done.stdout)
    assert seen, done.stdout[-2000:]
    return json.loads(stdlib_html.unescape(seen[1]))


def test_browser_renders_sorts_and_compares(page: str, tmp_path: Path) -> None:
    seen = visit(page, tmp_path, "1280,900")
    assert seen["errors"] == []
    assert (seen["missing"], seen["unnamed"], seen["loaded"], seen["wide"]) == (0, 0, 0, False)
    down, order = seen["speed"]
    assert (down, order[0], order[-1]) == ("descending", "advgan", "cheat_50%|x")
    up, order = seen["slower"]
    assert (up, order[-2], order[-1]) == ("ascending", "advgan", "cheat_50%|x")  # a failure stays last
    assert seen["names"] == ["ascending", sorted(order)]
    assert seen["foot"] == "worst case of 5 attacks"
    assert seen["options"] == 9
    assert seen["panels"] == [24, 24]
    assert seen["chosen"]
    assert seen["images"] == 1 + 9 * 24 + 2 * 24


def test_page_fits_narrow_screens(page: str, tmp_path: Path) -> None:
    assert not visit(page, tmp_path, "500,900")["wide"]


def test_page_loads_no_external_resources(page: str) -> None:
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "@import" not in page
    assert "fetch(" not in page


def test_labels_are_escaped(page: str) -> None:
    assert "<b>& mnist_a</b>" not in page
    assert "&lt;b&gt;&amp; mnist_a&lt;/b&gt;" in page
    assert "Right is &lt;faster&gt;." in page


def test_page_shows_settings_checks_and_costs(page: str) -> None:
    for words in (
        "runs/a b",
        "compare.py --eps 0.3",
        "66,000",
        "linf eps 8/255",
        "✗ violated",
        "the gradients are masked",
        "12,345",
        "never",
        "Checks of validity (1 violated, 1 holds, 1 not tested)",
        "<summary>Not tested (1)</summary>",
    ):
        assert words in page
    sections = re.findall(r'<section id="(\w+)"', page)
    assert sections == ["images", "tables", "figures", "verdicts", "attacked"]
    assert page.index('<p class="concern">') < page.index('<section id="images"')
    assert page.count('<figure class="chart">') == 1  # the page draws galleries of its own
    assert page.count('<table class="sortable"') == 8


def test_headlines_name_strongest_attack() -> None:
    summary = comparison().summary
    lines = list(headlines(summary))
    assert len(lines) == 4
    assert lines[0].startswith("mnist-c, linf eps 0.3: pgd:steps=40 fools the classifier on 94.9% of 39 images")
    assert "more than any other of 5 attacks; all together 97.5%" in lines[0]
    assert lines[0].endswith(" One pass of advgan: 89.7%.")
    assert lines[2] == "mnist-c, linf eps 0.3, toward class 3: fgsm gets its class for 30.0% of 30 images."


@pytest.mark.parametrize(("channels", "size", "kind", "most"), [(3, 32, "png", 8), (3, 224, "jpeg", 7)])
def test_size_of_embedded_images_is_bounded(channels: int, size: int, kind: str, most: int) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(8, channels, size, size, generator=rng)
    whole, answers = comparison(), []
    for result in [result_of("fgsm"), result_of("advgan"), result_of("pgd:steps=40")]:
        answers.append(replace(result, x_adv=(x + 0.1 * (torch.rand(x.shape, generator=rng) - 0.5)).clamp(0, 1)))
    page = html(replace(whole, results=answers, x=x), {})
    sources = re.findall(rf'src="data:image/{kind};base64,(.*?)"', page)
    assert len(sources) % 9 == 0
    assert 9 <= len(sources) <= 9 * most
    assert sum(map(len, sources)) <= MAX_CHARACTERS
    image = Image.open(io.BytesIO(base64.b64decode(sources[0])))
    assert image.size == (size, size)
    if kind == "png":
        assert np.array_equal(np.asarray(image), (255 * x[0].permute(1, 2, 0)).round().byte().numpy())


def test_page_of_failed_comparison() -> None:
    whole = comparison()
    rows = [row for row in whole.summary["rows"] if row["status"] != "ok"]
    empty = {key: [] for key in ("worst_case", "mcnemar", "sanity", "optimality", "cost", "seeds", "generators")}
    lost = [result for result in whole.results if not result.records]
    page = html(replace(whole, summary=whole.summary | empty | {"rows": rows}, results=lost), {})
    assert "linf 0.4 exceeds eps 0.3" in page
    assert "<select" not in page
