"""The model card of a generator whose training is not recorded: what its config.json implies, and how to load it."""

from collections.abc import Mapping
from typing import Any

from advgan.core.errors import listing
from advgan.core.fraction import eps_text
from advgan.core.terminal import printable

CARD = """---
library_name: advgan
tags: [adversarial-examples, advgan]
---
# A one-pass adversarial attack

Perturbs images with {channels} channels, {size}, float in [0, 1]: {goal}, within {norm} {radius} and the box [0, 1].

    from advgan import Generator
    generator = Generator.from_pretrained({arguments})
    x_adv = generator.perturb({call})

| | |
|---|---|
{rows}

The card is made from the configuration. Success rates depend on the classifier under attack and on the data:
`eval/compare.py --generator DIR --target NAME` measures them.
"""


def config_card(config: Mapping[str, Any]) -> str:
    """Markdown for a generator with this config.json."""
    guide, custom = config["guide"], "network" in config
    external = guide is not None and "sha256" in guide
    arguments = ["DIR", *(["guide=MODEL"] if external else []), *(["network=MODULE"] if custom else [])]
    targets = config.get("target_classes", [])
    call = [
        "x",
        *(["y"] if config["labels"] else []),
        *([f"y_target={(targets or [3])[0]}"] if config["classes"] else []),
        *(["eps=EPS"] if config["eps_min"] else []),
    ]
    goal = "untargeted" if config["y_target"] is None else f"targeted at class {config['y_target']}"
    toward = f"one of the classes {listing(targets, 20)}" if targets else "any class"
    goal = f"targeted at {toward}, or untargeted" if config["classes"] else goal
    smallest = "" if config["eps_min"] is None else f"{eps_text(config['eps_min'])} to "
    size = "of any size" if guide is None else "{1} x {2} pixels".format(*guide["image_shape"])
    rows = {"architecture": _code(config["network"]) + " (own)" if custom else config["architecture"]}
    sizes = () if custom else ("patch", "width", "depth", "levels")
    rows |= {name: config[name] for name in sizes} | {"noise": config["noise"] or "none"}
    rows["labels as input"] = f"{config['labels']} classes" if config["labels"] else "no"
    rows["universal"] = "yes" if config["universal"] else "no"
    if config.get("smoothing"):
        rows["smoothing of the perturbation"] = "{0} x {0} pixels".format(config["smoothing"])
    rows["guide"] = "none" if guide is None else f"{_code(guide['name'])}, {guide['num_classes']} classes"
    return CARD.format(
        channels=config["channels"],
        size=size,
        goal=goal,
        norm=config["norm"],
        radius=f"eps {smallest}{eps_text(config['eps'])}",
        arguments=", ".join(arguments),
        call=", ".join(call),
        rows="\n".join(f"| {name} | {value} |" for name, value in rows.items()),
    )


def _code(name: Any) -> str:
    """A name of anybody's as code in a cell of a table."""
    return f"`{printable(str(name)).replace('`', '').replace('|', '/')}`"
