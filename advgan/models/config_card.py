"""Model cards, and that of a generator whose training is not recorded: what its config.json implies."""

from collections.abc import Mapping
from typing import Any

from advgan.core.errors import listing
from advgan.core.fraction import eps_text
from advgan.core.terminal import printable


def card(title: str, tags: str, *parts: str | Mapping[str, Any]) -> str:
    """Markdown with a title for the Hub: paragraphs, and tables of two columns without the rows whose value is None."""
    texts = [part if isinstance(part, str) else table(part) for part in parts]
    return "\n\n".join([f"---\nlibrary_name: advgan\ntags: [{tags}]\n---\n# {title}", *texts]) + "\n"


def table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


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
    ball = f"{config['norm']} eps {smallest}{eps_text(config['eps'])}"
    size = "of any size" if guide is None else "{1} x {2} pixels".format(*guide["image_shape"])
    rows = {
        "architecture": _code(config["network"]) + " (own)" if custom else config["architecture"],
        **{name: None if custom else config[name] for name in ("patch", "width", "depth", "levels")},
        "noise": config["noise"] or "none",
        "labels as input": f"{config['labels']} classes" if config["labels"] else "no",
        "universal": "yes" if config["universal"] else "no",
        "smoothing of the perturbation": "{0} x {0} pixels".format(config["smoothing"])
        if config.get("smoothing")
        else None,
        "guide": "none" if guide is None else f"{_code(guide['name'])}, {guide['num_classes']} classes",
    }
    return card(
        "A one-pass adversarial attack",
        "adversarial-examples, advgan",
        f"Perturbs images with {config['channels']} channels, {size}, float in [0, 1]: {goal}, within {ball} and the "
        "box [0, 1].",
        "    from advgan import Generator\n"
        f"    generator = Generator.from_pretrained({', '.join(arguments)})\n"
        f"    x_adv = generator.perturb({', '.join(call)})",
        rows,
        "The card is made from the configuration. Success rates depend on the classifier under attack and on the "
        "data:\n`eval/compare.py --generator DIR --target NAME` measures them.",
    )


def _code(name: Any) -> str:
    """A name of anybody's as code in a cell of a table."""
    return f"`{printable(str(name)).replace('`', '').replace('|', '/')}`"
