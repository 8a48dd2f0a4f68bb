"""The classic attacks, one per file, each a function of one shape:

    x_adv = attack(model, x, y, *, eps=..., y_target=None, rng=None)

x (n, c, h, w) float32 in [0, 1]; y (n,) the true labels; y_target (n,) makes it targeted; rng a torch.Generator.
x_adv comes back like x, detached, inside the eps ball and the box, and the model exactly as it was.
"""

from advgan.attacks.deepfool import deepfool
from advgan.attacks.fgsm import fgsm
from advgan.attacks.ifgsm import ifgsm, ifgsm_projected
from advgan.attacks.noise import noise_sign, noise_uniform
from advgan.attacks.registry import ATTACKS, Attack, Bound, Protocol, bind

__all__ = [
    "ATTACKS",
    "Attack",
    "Bound",
    "Protocol",
    "bind",
    "deepfool",
    "fgsm",
    "ifgsm",
    "ifgsm_projected",
    "noise_sign",
    "noise_uniform",
]
