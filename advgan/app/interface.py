"""The page of `advgan app`, in gradio: draw, choose or drop an image, and see the attack of one pass at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from html import escape
from typing import Any

from advgan.app.attack import UNTARGETED, Pair, attack_image, load_shipped, shipped_label
from advgan.app.panel import panel
from advgan.app.sketch import FIRST, asset, data_uri, decode_uri, example_pixels, sketch_html
from advgan.core.errors import InputError
from advgan.core.optional import require_package
from advgan.core.shipped import CLASSIFIER_OF
from advgan.core.threat_model import check_class, check_eps

TITLE = """<div class="advgan"><h1>Adversarial examples in one forward pass</h1>
A trained network, the generator, changes every pixel a little, and the classifier errs. All is computed when you draw,
on the machine that serves this page.</div>"""
RUN_SCRIPT = "createSketch(element, (url, finished) => { if (finished) trigger('submit', { image: url }); });"


def build_interface(
    pairs: Mapping[str, Callable[[], Pair]] | None = None, *, eps: float | None = None, y_target: int | None = None
) -> Any:
    """The page as `gradio.Blocks`, for its method `launch`. It opens with the first of `pairs`.

    pairs           name -> function that loads a classifier and a generator, called once; None: the shipped ones
    eps, y_target   at first; None: the generator's largest, and untargeted or the generator's class

    Raises InputError where gradio is not installed, and for a first pair, `eps` or class that do not fit.
    """
    page = Page(pairs or {name: partial(load_shipped, name) for name in CLASSIFIER_OF})
    pair = page.pair(page.first)
    check_start(pair, eps, y_target)
    gradio = require_package("gradio", "app")
    with gradio.Blocks(title="advgan", analytics_enabled=False) as blocks:
        gradio.HTML(f"<style>{asset('page.css')}</style>{TITLE}")
        picture = gradio.State(first_picture(pair))
        with gradio.Row():
            with gradio.Column(scale=2, min_width=310):
                sketch = gradio.HTML(
                    html_template=sketch_html(pair.takes_digits),
                    js_on_load=f"{asset('sketch.js')}\n{RUN_SCRIPT}",
                    elem_id="sketch",
                )
                choices = [(shipped_label(name), name) for name in page.names]
                name = gradio.Dropdown(choices, value=page.first, label="Generator", elem_id="generator")
                radius = gradio.Slider(**slider(pair, eps), elem_id="eps")
                goal = gradio.Dropdown(**goals(pair, y_target), elem_id="goal")
            with gradio.Column(scale=5, min_width=520):
                output = gradio.HTML(elem_id="result")
        inputs = {"inputs": [name, picture, radius, goal], "outputs": output, "show_progress": "hidden"}
        connect(gradio, page, sketch, inputs)
        blocks.load(page.run, **inputs)
    return blocks


def connect(gradio: Any, page: Page, sketch: Any, inputs: Mapping[str, Any]) -> None:
    """Run the attack when image, generator, eps or goal change."""
    name, picture, radius, goal = inputs["inputs"]

    def take(event: Any) -> str:
        return str(event.image)

    take.__annotations__["event"] = gradio.EventData  # by which gradio passes the event
    sketch.submit(take, None, picture).then(page.run, **inputs)
    # The result of the former generator goes first: another one may take seconds.
    clear = name.change(lambda: message("Computing ..."), None, inputs["outputs"], show_progress="hidden")
    clear.then(page.switch, name, [radius, goal]).then(page.run, **inputs)
    for component in (radius, goal):
        component.input(page.run, **inputs, trigger_mode="always_last")


class Page:
    """The functions behind the page: they take and return the values of its components."""

    def __init__(self, pairs: Mapping[str, Callable[[], Pair]]) -> None:
        self.names = list(pairs)
        self.first = self.names[0]
        self.pair = cache(lambda name: pairs[name]())

    def run(self, name: str, picture: str | None, radius: float, goal: int) -> str:
        """The result as HTML, or what is wrong with the input; `goal`: the target class, or UNTARGETED."""
        if picture is None:
            return message("Drop a picture, or choose a file.")
        try:
            pair = self.pair(name)
            x, steps = pair.prepare(decode_uri(picture))
            y_target = None if goal == UNTARGETED else goal
            return panel(pair, attack_image(pair, x, radius_of(pair, radius), y_target), steps)
        except InputError as error:
            return message(str(error))

    def switch(self, name: str) -> list[Any]:
        """The slider and the goals of another generator."""
        gradio, pair = require_package("gradio", "app"), self.pair(name)
        return [gradio.Slider(**slider(pair)), gradio.Dropdown(**goals(pair))]


def check_start(pair: Pair, eps: float | None, y_target: int | None) -> None:
    """Raise InputError for an eps or a target class that the generator of a pair was not trained for."""
    check_class(y_target, len(pair.classes))
    aim = pair.generator.y_target if y_target is None else y_target
    if eps is not None:
        check_eps(eps, pair.generator.threat.norm)
    if reason := pair.generator.incompatibility(eps=0.0 if eps is None else eps, y_target=aim):
        raise InputError(reason)


def first_picture(pair: Pair) -> str | None:
    """The URI of the image with which the page opens: an example, or none."""
    return data_uri(example_pixels()[FIRST : FIRST + 1]) if pair.takes_digits else None


def slider(pair: Pair, eps: float | None = None) -> dict[str, Any]:
    """Range, step and value of the slider of eps, in its units."""
    threat = pair.generator.threat
    value = threat.eps if eps is None else eps
    if pair.in_levels:
        ends = {"minimum": 1, "maximum": round(255 * threat.eps), "step": 1, "value": round(255 * value)}
        return {**ends, "label": "eps: largest change of a pixel, of 255 grey levels"}
    step = 10.0 ** math.floor(math.log10(threat.eps) - 1)
    what = "largest change of a pixel (black 0, white 1)" if threat.norm == "linf" else "l2 norm of the change"
    return {"minimum": step, "maximum": threat.eps, "step": step, "value": value, "label": f"eps: {what}"}


def radius_of(pair: Pair, value: float) -> float:
    """eps of a value of the slider, at most the generator's largest."""
    return min(value / 255 if pair.in_levels else value, pair.generator.threat.eps)


def goals(pair: Pair, y_target: int | None = None) -> dict[str, Any]:
    """Choices of the goal, and the first one; a single one cannot be changed."""
    targets = pair.y_targets
    choices = [
        ("any other class (untargeted)", UNTARGETED) if target is None else (class_label(pair.classes, target), target)
        for target in targets
    ]
    chosen = targets.index(y_target) if y_target in targets else 0
    label = "The classifier should predict" + ("" if len(choices) > 1 else " (fixed: this generator's training)")
    return {"choices": choices, "value": choices[chosen][1], "interactive": len(choices) > 1, "label": label}


def class_label(classes: Sequence[str], target: int) -> str:
    """The name of a class; with its number where another class has the same name, as two of ImageNet's have."""
    name = classes[target]
    return f"{name} ({target})" if classes.count(name) > 1 else name


def message(text: str) -> str:
    """A sentence in place of a result."""
    return f'<div class="advgan"><p class="verdict">{escape(text)}</p></div>'
