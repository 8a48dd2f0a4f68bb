"""A page in the browser to try a generator on: draw a digit or drop a picture, move eps, choose a target class.

    advgan app                                                    the shipped generators of digits
    advgan app --generator RUN                                    a run's generator and classifier
    advgan app --generator RUN --target FILE.py:FACTORY --resize 256

The page shows the adversarial image, the perturbation, the classifier's five most probable classes before and after,
the same after PNG and JPEG, and the time of the pass, of FGSM and of PGD, measured for that image. It is served on this
machine only (127.0.0.1), and nothing is sent anywhere. Ctrl-C ends it.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from advgan.app.attack import Pair, load_shipped
from advgan.app.interface import build_interface
from advgan.cli.attack_images.loading import load_pair
from advgan.cli.attack_images.settings import PairSettings
from advgan.core.config import Real
from advgan.core.errors import InputError
from advgan.core.recipe import PathOrAddress
from advgan.core.shipped import CLASSIFIER_OF, check_shipped
from advgan.data.classes import find_class


@dataclass(frozen=True)
class Settings(PairSettings):
    """Generator, classifier, and the page's port."""

    checkpoint: str | None = None
    """Shipped generator with which the page opens: mnist-c-generator, mnist-c-conditional or mnist5k-generator; None:
    the first"""
    generator: PathOrAddress | None = None
    """An own generator: its folder, a run that holds one, or hf://USER/MODEL; None: the shipped ones"""
    recipe: Path | None = None
    """YAML file of settings, or name of a shipped recipe; flags override it"""
    eps: Real | None = None
    """Radius of the ball at first; None: the largest that the generator was trained for"""
    y_target: str | None = None
    """Target class at first, a number or a name; None: none, or that of the generator"""
    port: int = 7860
    """Port of the page"""


def main(settings: Settings) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
    if not 1024 <= settings.port < 2**16:
        raise InputError(f"port must be from 1024 to {2**16 - 1}, got {settings.port}")
    pairs = choose_pairs(settings)
    y_target = None
    if settings.y_target is not None:
        first = next(iter(pairs.values()))()
        y_target = find_class(settings.y_target, first.classes, len(first.classes))
    page = build_interface(pairs, eps=settings.eps, y_target=y_target)
    try:
        _, url, _ = page.launch(
            server_name="127.0.0.1",
            server_port=settings.port,
            share=False,
            footer_links=[],
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError:
        raise InputError(f"port {settings.port} is in use, expected --port with a free one") from None
    print(f"page         {url} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def choose_pairs(settings: Settings) -> dict[str, Callable[[], Pair]]:
    """Name -> function that loads a generator and its classifier, that with which the page opens first. Raises
    InputError for an unknown checkpoint, and for flags that do not fit."""
    if settings.generator is not None:
        if settings.checkpoint is not None:
            raise InputError(f"--checkpoint is of the shipped ones, expected no --generator, got {settings.generator}")
        pair = load_pair(settings.generator, settings)
        return {pair.name: lambda: pair}
    for name, default in asdict(PairSettings()).items():
        if (value := getattr(settings, name)) != default:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is for a generator of yours, expected --generator, got --{flag} {value} alone")
    first = settings.checkpoint or next(iter(CLASSIFIER_OF))
    check_shipped(first)
    return {name: partial(load_shipped, name) for name in sorted(CLASSIFIER_OF, key=lambda name: name != first)}
