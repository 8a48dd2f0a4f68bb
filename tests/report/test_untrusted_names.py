"""Untrusted names of classes, files and attacks are plain text in every report."""

import csv
import io
import re
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest
from markdown_it import MarkdownIt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from advgan.core.terminal import utf8
from advgan.core.threat_model import toward_text
from advgan.report.comparison import Comparison
from advgan.report.escaping import code, csv_path, csv_text, in_markdown, in_table
from advgan.report.files import write_report
from advgan.report.gallery import pixels
from advgan.report.latex import escape
from tests.report.test_reports import comparison

NAMES = (
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "$\\frac{1}$ | [x](javascript:alert(1))",
    "![x](http://tracker/x.png) `rm -rf` <img src=x>",
)
CONTROL = "\x1b[31m\u202e"
PATH = "runs/`x` <b onclick=alert(1)> | [y](http://tracker/y)\n# A heading"


def hostile() -> Comparison:
    """A comparison whose classes, targets and files have names that try to break out of a page."""
    original = comparison()
    target = original.summary["target"] | {"label": NAMES[0], "name": NAMES[3], "weights": PATH}
    others = {"mnist-c": NAMES[0], "<b>& mnist_a</b>": NAMES[2] + CONTROL}
    results = [
        replace(result, row=result.row | {"target": others[result.row["target"]]}) for result in original.results
    ]
    renamed = {
        key: [each | {"target": others.get(each["target"], each["target"])} for each in value]
        for key, value in original.summary.items()
        if isinstance(value, list) and value and "target" in value[0]
    }
    summary = original.summary | renamed | {"rows": [result.row for result in results]}
    summary |= {"target": target, "targets": [target, target | {"label": NAMES[2] + CONTROL}]}
    summary |= {"environment": summary["environment"] | {"command": ["compare", f"--target {PATH}{CONTROL}"]}}
    return replace(original, summary=summary, results=results, classes=tuple(f"{name}{CONTROL}" for name in NAMES))


class Page(HTMLParser):
    """Elements of a page, and those attributes on which a browser acts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.acts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        links = [value or "" for name, value in attributes if name in ("href", "src")]
        self.acts += [name for name, _ in attributes if name.startswith("on")]
        self.acts += [link for link in links if re.match(r"(javascript|http)", link)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("hostile")
    with patch.object(FigureCanvasAgg, "draw", FigureCanvasAgg.get_renderer):  # named and placed, not drawn
        write_report(directory, hostile())
    return directory


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.tex"])
def test_reports_have_no_control_characters(written: Path, name: str) -> None:
    assert not {"\x1b", "\u202e"} & {*(written / name).read_text()}


def test_figures_have_no_control_characters() -> None:
    figure = Figure()
    figure.text(0, 0, f"a\n{CONTROL}")
    with warnings.catch_warnings(action="error"):  # of a glyph that the font lacks
        pixels(figure)
    assert figure.texts[0].get_text() == "a\n\\x1b[31m\\u202e"
    assert toward_text({"y_target": 1, "y_target_name": CONTROL}) == ", toward class 1 (\\x1b[31m\\u202e)"


def test_html_has_no_injected_element(written: Path) -> None:
    text = (written / "report.html").read_text()
    page = Page(text)
    assert page.acts == []
    assert page.tags.count("script") == 1, "its own"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in (written / "report.html").read_text()


def test_markdown_has_no_injected_element(written: Path) -> None:
    text = (written / "report.md").read_text()
    page = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
    assert page.acts == []
    assert not {"script", "b", "a"} & {*page.tags}
    assert page.tags.count("img") == len(list((written / "figures").iterdir()))
    assert "A heading" not in re.findall(r"^# (.*)$", text, re.M)


def test_latex_has_no_injected_command(written: Path) -> None:
    text = (written / "report.tex").read_text()
    assert escape(NAMES[0]) in text
    assert "\\frac" not in text


def test_tensorboard_has_no_injected_element(written: Path) -> None:
    log = EventAccumulator(str(written / "logs" / "compare"), size_guidance={"tensors": 0})
    log.Reload()
    texts = [log.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in log.Tags()["tensors"] if "text" in tag]
    assert len(texts) >= 4
    for text in texts:
        page = Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))
        assert page.acts == []
        assert not {"script", "b", "a", "img"} & {*page.tags}


def test_file_names_have_no_special_characters(written: Path) -> None:
    for path in written.rglob("*"):
        assert not {"`", "<", "|"} & {*path.name}
    assert {path.name for path in written.iterdir()} == {
        *("figures", "records", "logs", "report.md", "report.tex", "report.html", "results.csv", "results.json")
    }


@pytest.mark.parametrize("name", [*NAMES, PATH, "a\\|b", "[x]: http://tracker", "a_b*c", "``"])
def test_escaped_name_renders_unchanged(name: str) -> None:
    """The text of every rendered form is the name."""
    plain = " ".join(name.split())
    for text in (in_markdown(name), code(name)):
        (inline,) = (token for token in MarkdownIt().parse(f"it is {text} so") if token.type == "inline")
        shown = "".join(child.content for child in inline.children or [] if child.type != "html_inline")
        assert shown.replace("  ", " ") == f"it is {plain} so".replace("  ", " ")
    table = MarkdownIt().enable("table").parse(f"| a | b |\n|---|---|\n| {in_table(name)} | 1 |\n")
    assert sum(token.type == "td_open" for token in table) == 2


def test_csv_escapes_formulas() -> None:
    names = ["=1+1", "+cmd", "@x", "-2.5", "a,b", 'say "x"', "-x"]
    text = csv_text(["name", "value"], [[name, -1.5] for name in names])
    read = [row[0] for row in csv.reader(io.StringIO(text))][1:]
    assert read == ["'=1+1", "'+cmd", "'@x", "-2.5", "a,b", 'say "x"', "'-x"]
    assert {row[1] for row in csv.reader(io.StringIO(text))} == {"value", "-1.5"}


def test_paths_in_csv_stay_paths() -> None:
    """'-dash.png is no file."""
    paths = ["-dash.png", "=1.png", "a/-b.png", "plain.png"]
    cells = [row[0] for row in csv.reader(io.StringIO(csv_text(["output"], [[csv_path(path)] for path in paths])))][1:]
    assert cells == ["./-dash.png", "./=1.png", "a/-b.png", "plain.png"]
    assert list(map(Path, cells)) == list(map(Path, paths))
    assert csv_path(None) is None


def test_utf8_keeps_names_that_were_not_decoded():
    name = "\u4e2d.png".encode().decode("ascii", "surrogateescape")  # as in the C locale
    assert utf8(name) == "\u4e2d.png"
    assert utf8("\udcff.png") == "\\xff.png"
    assert utf8("\ud800") == "\\ud800"
