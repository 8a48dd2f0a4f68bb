"""The page of `advgan app`: what its functions return, and the page itself in Chromium."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from advgan.app.attack import load_shipped
from advgan.app.interface import (
    UNTARGETED,
    Page,
    build_interface,
    class_label,
    first_picture,
    goals,
    radius_of,
    slider,
)
from advgan.app.sketch import data_uri, example_pixels
from advgan.core.errors import InputError
from tests.app.conftest import draw_two

BEYOND = """Array.from(document.querySelectorAll('.advgan *')).filter(element => {
  const text = document.createRange();
  text.selectNodeContents(element);
  const end = (element.closest('figure') || document.documentElement).getBoundingClientRect().right;
  return Math.max(element.getBoundingClientRect().right, text.getBoundingClientRect().right) > end + 1;
}).map(element => element.outerHTML)"""


def test_page_returns_the_result_or_the_error() -> None:
    page = Page({"fast": lambda: load_shipped("mnist-c-generator")})
    uri = data_uri(example_pixels()[7:8])
    assert "<b>7 &rarr; " in page.run("fast", uri, 0.3, UNTARGETED)
    assert page.run("fast", None, 0.3, UNTARGETED).count("Drop a picture") == 1
    assert "this picture cannot be read" in page.run("fast", "data:,x", 0.3, UNTARGETED)
    assert "this generator was trained untargeted, got y_target 3" in page.run("fast", uri, 0.3, 3)


def test_controls_follow_the_generator() -> None:
    fast, conditional = load_shipped("mnist-c-generator"), load_shipped("mnist-c-conditional")
    untargeted = ("any other class (untargeted)", UNTARGETED)
    assert goals(fast)["choices"] == [untargeted]
    assert not goals(fast)["interactive"]
    assert goals(conditional, 3) | {"label": ""} == {
        **{"choices": [untargeted, *((str(i), i) for i in range(10))], "value": 3, "interactive": True, "label": ""},
    }
    assert (slider(fast)["maximum"], slider(fast, 0.1)["value"]) == (0.3, 0.1)
    assert radius_of(fast, 0.30000001) == 0.3
    assert [class_label(("crane", "gull", "crane"), i) for i in range(3)] == ["crane (0)", "gull", "crane (2)"]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"eps": 0.4}, r"trained for eps 0\.3, got the larger 0\.4"),
        ({"eps": -1.0}, r"eps must be in \(0, 1\]"),
        ({"y_target": 3}, "trained untargeted, got y_target 3"),
        ({"y_target": 10}, "y_target must be a class from 0 to 9, got 10"),
    ],
)
def test_bad_start_is_an_error_before_any_page(start: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_interface({"fast": lambda: load_shipped("mnist-c-generator")}, **start)


def test_page_draws_attacks_and_shows_the_prediction(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also: no connection to another machine, by the server or by the page."""
    pytest.importorskip("gradio", reason="gradio is not installed (pip install 'advgan[app]')")
    connect, addresses = socket.socket.connect, []

    def recorded(self: socket.socket, address: Any) -> None:
        addresses.append(address)
        connect(self, address)

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(socket.socket, "connect", recorded)
    page = build_interface()
    try:
        _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, footer_links=[])
        tab.goto(url)
        tab.wait_for_selector("#result .verdict")
        assert "7 →" in tab.inner_text("#result .verdict")
        draw_two(tab)
        tab.wait_for_function("document.querySelector('#result .verdict').innerText.includes('2 →')")
        fast = load_shipped("mnist-c-generator")
        assert tab.inner_text("#result table td") == "2"
        assert tab.locator("#result figure").count() == 3
        if figure := os.environ.get("ADVGAN_APP_FIGURE"):
            tab.screenshot(path=figure)
        tab.get_by_role("textbox", name="number input").or_(tab.locator("#eps input[type=number]")).first.fill("0.01")
        tab.keyboard.press("Enter")
        tab.wait_for_function("document.querySelector('#result .verdict').innerText.includes('2 → 2')")
        for width in (420, 360):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate(BEYOND) == [], "nothing is cut off on a phone"
    finally:
        page.close()
    assert tab.foreign == []
    assert {address[0] for address in addresses if isinstance(address, tuple)} <= {"127.0.0.1"}
    assert first_picture(fast) is not None


def test_error_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(InputError, match=r"gradio is not installed, .*advgan\[app\]"):
        build_interface({"fast": lambda: load_shipped("mnist-c-generator")})


def test_space_uses_the_library() -> None:
    text = (Path(__file__).parents[2] / "examples/space/app.py").read_text()
    assert "build_interface()" in text
