"""Square attack: random search with squares, by the scores alone (Andriushchenko et al. 2020, arXiv:1912.00049)."""

import torch
from torch import Tensor, nn

from advgan.attacks.active_set import ActiveSet
from advgan.attacks.common import check_at_least, check_inputs, evaluate_state, frozen_eval, uniform
from advgan.attacks.losses import get_loss
from advgan.core.errors import InputError
from advgan.core.threat_model import Norm, Threat

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries, of 10,000, after which p is halved


@torch.no_grad()
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    queries: int = 1000,
    p_init: float = 0.8,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """Random squares of the image are set anew, and kept where the margin grows (algorithm 1).

    linf sets a square to a corner of the ball (algorithm 2); l2 moves the length of one window to another (alg. 3).
    queries   query budget per image, x itself included
    p_init    fraction of the image that the first squares cover; halved as in the paper, stretched to `queries`.
              .8: the paper's value for MNIST, AutoAttack's for all; the paper has .3 for CIFAR-10 and .05 (l2: .1)
              for ImageNet.
    An adversarial image is finished and costs nothing more. The score of a target that can reject is used too.
    x (n, c, h, w) float32 in [0, 1], `eps` in its units; returns x_adv like `x`. Raises InputError.
    """
    threat = check_inputs(x, y, eps, norm, y_target)
    check_at_least(1, queries=queries)
    if not 0 < p_init <= 1:
        raise InputError(f"p_init must be in (0, 1], a fraction of the image, got {p_init}")
    loss_fn = get_loss("margin", targeted=threat.targeted)
    level = torch.bucketize((torch.arange(queries) - 2) * 10_000 // queries, torch.tensor(HALVINGS)).to(x.device)
    sides = _sides(p_init, x, norm)
    windows = torch.stack([_window(int(side), x) for side in sides])
    signs = 2 * (uniform(x.shape, x, rng) < 0.5).to(x) - 1
    first = _stripes(x, signs, threat) if norm == "linf" else _tiles(x, signs, threat)

    best, top, n_queries = x.clone(), x.new_full((len(x),), -torch.inf), torch.zeros_like(y)
    active = ActiveSet(len(x), x.device)
    with frozen_eval(model), torch.no_grad():
        while len(i := active.indices):
            label, target_class = y[i], None if y_target is None else y_target[i]
            stage, halvings = n_queries[i].view(-1, 1, 1, 1), level[n_queries[i]]
            if norm == "linf":
                moved = _paint(best[i], x[i], sides[halvings], threat, rng)
            else:
                moved = _shift(best[i], x[i], sides[halvings], windows[halvings], threat, rng)
            trial = torch.where(stage == 0, x[i], torch.where(stage == 1, first[i], moved))
            _, value, success = evaluate_state(model, trial, label, target_class, loss_fn)
            # The first squares start from the stripes even where these are no better than x, as in the paper.
            better = (value > top[i]) | success | (n_queries[i] == 1)
            best[i[better]], top[i[better]] = trial[better], value[better]
            n_queries[i] += 1
            active.drop(success | (n_queries[i] >= queries))
    return best


def _sides(p_init: float, x: Tensor, norm: Norm) -> Tensor:
    """Side lengths (levels,) int64 of the squares after 0, 1, 2, ... halvings of p; odd and at least 3 for l2."""
    height, width = x.shape[2:]
    sides = [round((p_init / 2**k * height * width) ** 0.5) for k in range(len(HALVINGS) + 1)]
    least = 1
    if norm == "l2":
        sides, least = [side // 2 * 2 + 1 for side in sides], 3
    return torch.tensor(sides, device=x.device).clamp(least).clamp_max(min(height, width))


def _stripes(x: Tensor, signs: Tensor, threat: Threat) -> Tensor:
    """The start for linf: a corner of the ball with vertical stripes, one pixel wide."""
    return threat.project(x + threat.eps * signs[:, :, :1], x)


def _paint(best: Tensor, x: Tensor, side: Tensor, threat: Threat, rng: torch.Generator | None) -> Tensor:
    """One square of `best` (k, c, h, w), `side` (k,) wide, set to x + eps or x - eps, channel by channel."""
    rows, columns = _place(side, x, rng)
    inside = (rows < side.view(-1, 1, 1, 1)) & (columns < side.view(-1, 1, 1, 1))
    step = threat.eps * (2 * (uniform((*x.shape[:2], 1, 1), x, rng) < 0.5).to(x) - 1)
    moved = torch.where(inside, threat.project(x + step, x), best)
    # A query of the very same image would be wasted (for one channel, half of those with small squares).
    same = (moved == best).flatten(1).all(1).view(-1, 1, 1, 1)
    return torch.where(inside & same, threat.project(x - step, x), moved)


def _tiles(x: Tensor, signs: Tensor, threat: Threat) -> Tensor:
    """The start for l2: five by five windows in the middle, of random sign, together as long as eps."""
    side = max(min(x.shape[2:]) // 5, 1)
    rows, columns = (torch.arange(size, device=x.device) - (size - 5 * side) // 2 for size in x.shape[2:])
    rows = rows[:, None]
    covered = (rows >= 0) & (rows < 5 * side) & (columns >= 0) & (columns < 5 * side)
    delta = covered * _window(side, x)[0][rows % side, columns % side] * signs[:, :, rows // side, columns // side]
    return threat.project(x + threat.eps * delta / _length(delta, (1, 2, 3)), x)


def _shift(
    best: Tensor, x: Tensor, side: Tensor, windows: Tensor, threat: Threat, rng: torch.Generator | None
) -> Tensor:
    """The part of delta in one window is taken away, and its length added to another, on top of what is there.

    best, x (k, c, h, w); side (k,); windows (k, 2, h, w), eta of this side and its transpose. The length lost at the
    box is added too, so that delta has length eps.
    """
    delta, wide = best - x, side.view(-1, 1, 1, 1)
    rows, columns = _place(side, x, rng)
    inside = (rows < wide) & (columns < wide)
    from_rows, from_columns = _place(side, x, rng)
    source = (from_rows < wide) & (from_columns < wide)

    turned = (uniform((len(x),), x, rng) < 0.5).long().view(-1, 1, 1, 1)
    image = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    sign = 2 * (uniform((*x.shape[:2], 1, 1), x, rng) < 0.5).to(x) - 1
    window_delta = delta * inside
    fresh = windows[image, turned, rows, columns] * sign + window_delta / _length(window_delta, (2, 3))
    spare = (threat.eps**2 - _length(delta, (1, 2, 3)) ** 2).clamp_min(0) / x.shape[1]
    length_budget = (spare + _length(delta * (inside | source), (2, 3)) ** 2).sqrt()
    delta = torch.where(inside, length_budget * fresh / _length(fresh, (2, 3)), delta * ~source)
    return threat.project(x + threat.eps * delta / _length(delta, (1, 2, 3)), x)


def _place(side: Tensor, x: Tensor, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Rows (k, 1, h, 1) and columns (k, 1, 1, w) counted from a random corner, where a square `side` (k,) wide fits."""
    size = torch.tensor(x.shape[2:], device=x.device)
    corner = (uniform((len(x), 2), x, rng) * (size - side[:, None] + 1)).long()
    rows = (torch.arange(x.shape[2], device=x.device) - corner[:, :1]) % x.shape[2]
    columns = (torch.arange(x.shape[3], device=x.device) - corner[:, 1:]) % x.shape[3]
    return rows[:, None, :, None], columns[:, None, None, :]


def _window(side: int, x: Tensor) -> Tensor:
    """The paper's eta (eq. 2), `side` wide and of length 1, and its transpose, in the corner of two images (2, h, w).

    Two halves, one up and one down, each a pyramid: 1 / k^2 summed from the centre's distance on.
    """
    eta = torch.zeros(side, side, dtype=torch.float32)
    for rows, sign in ((slice(0, side // 2), 1.0), (slice(side // 2, side), -1.0)):
        high, half_side = rows.stop - rows.start, side // 2
        pyramid = (1 / torch.arange(1, half_side + 2).float() ** 2).flip(0).cumsum(0).flip(0)
        from_top, from_left = (torch.arange(high) - high // 2).abs(), (torch.arange(side) - side // 2).abs()
        half = pyramid[torch.maximum(from_top[:, None], from_left)]
        eta[rows] = sign * half / half.norm()
    windows = torch.zeros(2, *x.shape[2:], dtype=torch.float32)
    windows[0, :side, :side], windows[1, :side, :side] = eta / eta.norm(), eta.T / eta.norm()
    return windows.to(x.device)


def _length(delta: Tensor, over: tuple[int, ...]) -> Tensor:
    """Euclidean length over the dimensions `over`, which stay as 1; never zero, to divide by."""
    return delta.square().sum(over, keepdim=True).sqrt().clamp_min(1e-12)
