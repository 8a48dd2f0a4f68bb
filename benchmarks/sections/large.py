"""The default generator at 224 x 224 against ten gradient steps on a ResNet-50: time alone, nobody is trained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torchvision.models import resnet50

from advgan.attacks import AttackFn, pgd
from advgan.core.threat_model import Threat
from advgan.evaluation import predict
from advgan.models.generator import Generator
from benchmarks.libraries import invite
from benchmarks.race import Bench, Row, compete
from benchmarks.sections.attacks import PASS, forward, skipped

IMAGES = {"cpu": 8, "cuda": 128}  # in each round, in one batch
TIMES = ("side", "status", "batch_size", "rounds", "seconds", "images_per_second", "times")


def large(bench: Bench, generator: Generator | None) -> list[Row]:
    """Random weights on both sides, so no success and no norms; random images, whose labels the target made up."""
    device, threat = bench.x.device, Threat("linf", 8 / 255)
    n = IMAGES[device.type]
    torch.manual_seed(0)
    model = resnet50(weights=None).to(device).eval().requires_grad_(False)
    writer = Generator(channels=3, eps=threat.eps).to(device).eval()
    x = torch.rand(n, 3, 224, 224, device=device)
    logits = predict(model, x, n)
    own = replace(bench, model=model, x=x, y=logits.argmax(1).to(device), logits=logits, batch_sizes=[n])
    sides: dict[str, AttackFn] = {
        PASS: lambda x, y: writer.perturb(x),
        "pgd, 10 steps": partial(pgd, model, eps=threat.eps, steps=10),
        "target forward alone": lambda x, y: forward(model, x),
    }
    theirs, missing = invite(["torchattacks"], "pgd10", model, threat)
    sides |= {f"{title}, pgd, 10 steps": attack for title, attack in theirs.items()}
    rows = compete(own, sides, [PASS], threat)
    return [{key: row[key] for key in TIMES if key in row} for row in rows] + skipped(missing)
