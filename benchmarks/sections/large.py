"""The default generator at 224 x 224 against ten gradient steps on a ResNet-50: time alone, without training."""

from dataclasses import replace
from functools import partial

import torch
from torchvision.models import resnet50

from advgan.attacks import AttackFn, pgd
from advgan.core.threat_model import Threat
from advgan.evaluation import predict
from advgan.models.generator import Generator
from benchmarks.libraries import load_attacks
from benchmarks.sections.attacks import PASS, forward, skipped
from benchmarks.timing import BenchmarkRow, BenchmarkSetup, compare_attacks

IMAGES = {"cpu": 8, "cuda": 128}  # in each round, in one batch
TIMES = ("side", "status", "batch_size", "rounds", "seconds", "images_per_second", "times")


def large(setup: BenchmarkSetup, generator: Generator | None) -> list[BenchmarkRow]:
    """Random weights, so no success and no norms; random images with the predictions as labels."""
    device, threat = setup.x.device, Threat("linf", 8 / 255)
    n = IMAGES[device.type]
    torch.manual_seed(0)
    model = resnet50(weights=None).to(device).eval().requires_grad_(False)
    generator_224 = Generator(channels=3, eps=threat.eps).to(device).eval()
    x = torch.rand(n, 3, 224, 224, device=device)
    logits = predict(model, x, n)
    large_setup = replace(setup, model=model, x=x, y=logits.argmax(1).to(device), logits=logits, batch_sizes=[n])
    contenders: dict[str, AttackFn] = {
        PASS: lambda x, y: generator_224.perturb(x),
        "pgd, 10 steps": partial(pgd, model, eps=threat.eps, steps=10),
        "target forward alone": lambda x, y: forward(model, x),
    }
    library_attacks, missing = load_attacks(["torchattacks"], "pgd10", model, threat)
    contenders |= {f"{title}, pgd, 10 steps": attack for title, attack in library_attacks.items()}
    rows = compare_attacks(large_setup, contenders, [PASS], threat)
    return [{key: row[key] for key in TIMES if key in row} for row in rows] + skipped(missing)
