"""The card beside a generator's weights: what it is worth, and where it comes from."""

from __future__ import annotations

from typing import Any

CARD = """---
library_name: advgan
tags: [adversarial-examples, advgan]
---
# A one-pass attack on {target} ({dataset})

Perturbs images {goal}, within {norm} {radius} and the box [0, 1], in one forward pass:

    from advgan import Generator
    x_adv = Generator.from_pretrained(DIR).perturb(x)

| | |
|---|---|
| attack success rate on {n_correct:.0f} correctly classified validation images (it was chosen on them) | {asr:.2%} |
| mean l2 of the perturbation | {l2:.3f} |
| loss | {loss} |
| images with an active hinge (l2 above c) | {hinge_active:.1%} |
| discriminator's accuracy | {d_accuracy:.1%} |
| trained | {step:.0f} steps of {batch_size} images, {seconds:.0f} s, seed {seed} |

Made by `{command}`.

Test images were not seen: `eval/compare.py` reports on them. The success rate holds for this target and this data; it
says nothing about other classifiers.
"""


def generator_card(settings: dict[str, Any], figures: dict[str, float], c: float) -> str:
    """Markdown for a generator: `settings` of train/advgan.py, `figures` of its chosen validation, hinge length `c`."""
    s = settings
    goal = "away from their class" if s["y_target"] is None else f"toward class {s['y_target']}"
    if s.get("any_class"):
        goal = "toward any class that is asked for, or away from their own"
    smallest = "" if s.get("eps_min") is None else f"{s['eps_min']:.6g} to "
    radius = f"eps {smallest}{s['eps']:.6g}"
    kappa = f", kappa {s['kappa']:g}" if s["adversarial"] == "margin" else ""
    loss = (
        f"L_adv ({s['adversarial']}{kappa}) + {s['alpha']:g} L_GAN ({s['gan']}) + {s['beta']:g} L_hinge (c = {c:.4g})"
    )
    given = {
        f"--{name.replace('_', '-')}": value for name, value in s.items() if value is not None and value is not False
    }
    flags = [flag if value is True else f"{flag} {value}" for flag, value in given.items()]
    values = {
        **s,
        **figures,
        "goal": goal,
        "radius": radius,
        "loss": loss,
        "command": " ".join(["train/advgan.py", *flags]),
    }
    return CARD.format(**values)
