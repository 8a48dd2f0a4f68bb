"""The fast gradient sign method: one step as far as the ball allows (Goodfellow et al. 2015, arXiv:1412.6572)."""

import torch
from torch import Tensor, nn

from advgan.attacks.ifgsm import ifgsm
from advgan.attacks.losses import Loss
from advgan.core.threat_model import Norm


@torch.no_grad()
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    loss: Loss = "cross-entropy",
    y_target: Tensor | None = None,
) -> Tensor:
    """x_adv = x + eps sign(grad_x L(x, y)), cut at the box; for l2 x + eps grad / ||grad||_2 (Miyato et al. 2016).

    L is cross-entropy, or the `loss` of `losses.get_loss`; with `y_target` (n,) the step goes toward that
    class. x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`. Raises InputError.
    """
    return ifgsm(model, x, y, eps=eps, steps=1, norm=norm, loss=loss, y_target=y_target)
