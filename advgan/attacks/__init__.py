"""The attacks, one per file, each a function of one shape:

    x_adv = attack(model, x, y, *, eps, norm="linf", y_target=None, rng=None, ...)

x (n, c, h, w) float32 in [0, 1]; y (n,) the true labels; y_target (n,) makes it targeted; rng a torch.Generator.
Minimum-norm attacks have no eps, deterministic ones no rng. x_adv is like x, detached, inside the eps ball and the box;
the model is left unchanged.

Shared parts: losses (maximised), common (frozen model, gradient, attack state), gradient_ascent (the loop of the
gradient attacks), active_set (images in work). The registry gives them names.
"""

from advgan.attacks.advgan import advgan
from advgan.attacks.apgd import apgd
from advgan.attacks.carlini_wagner import carlini_wagner, carlini_wagner_clipped
from advgan.attacks.deepfool import deepfool
from advgan.attacks.fgsm import fgsm
from advgan.attacks.hopskipjump import hopskipjump
from advgan.attacks.ifgsm import ifgsm, ifgsm_corner, ifgsm_projected
from advgan.attacks.jsma import jsma
from advgan.attacks.lbfgs import lbfgs
from advgan.attacks.mifgsm import mifgsm
from advgan.attacks.noise import noise_gaussian, noise_sign, noise_uniform
from advgan.attacks.pgd import pgd
from advgan.attacks.registry import ATTACKS, Attack, AttackFn, AttackKind, AttackSpec, make_attack, parse_attack
from advgan.attacks.square import square
from advgan.core.lazy import lazy

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackFn",
    "AttackKind",
    "AttackSpec",
    "advgan",
    "apgd",
    "carlini_wagner",
    "carlini_wagner_clipped",
    "deepfool",
    "fgsm",
    "hopskipjump",
    "ifgsm",
    "ifgsm_corner",
    "ifgsm_projected",
    "jsma",
    "lbfgs",
    "make_attack",
    "mifgsm",
    "noise_gaussian",
    "noise_sign",
    "noise_uniform",
    "parse_attack",
    "pgd",
    "square",
]

__getattr__, __dir__ = lazy(__name__, former={"bind": "make_attack"})
