"""HopSkipJump: to the nearest boundary by decisions alone (Chen, Jordan & Wainwright 2020, arXiv:1904.02144)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from advgan.attacks.boundary import clearance
from advgan.attacks.common import (
    check_at_least,
    check_classes,
    check_inputs,
    frozen_eval,
    normal,
    rejects,
    steepest_ascent_direction,
    uniform,
)
from advgan.core.threat_model import Norm, delta_norms

BLENDS = 50  # queries at most for a start: x blended with more and more noise
LEAPS = 25  # halvings of a step at most: then it is float32's smallest


def hopskipjump(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm = "l2",
    steps: int = 64,
    initial_queries: int = 100,
    max_queries: int = 5000,
    eps: float | None = None,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The smallest delta in `norm` that changes the decision, found from the target's decisions only (algorithm 2).

    From an image beyond the boundary, bisected down to it, step t = 1, 2, ..., `steps`: the normal of the boundary is
    estimated from `initial_queries` sqrt(t) decisions close by (eq. 16); a step of distance / sqrt(t) is taken along
    it, halved until it lands beyond; and from there it is bisected back. The nearest of these points is the answer.

    initial_queries   decisions of the first estimate
    max_queries       of one image in all, x itself included: no step begins that could take more
    The first image beyond is x blended with uniform noise, more and more of it; where that leads nowhere, or with
    `y_target`, the nearest image of the batch that the target puts beyond. An image without a start comes back
    unchanged, and so does one that is misclassified already. x (n, c, h, w) float32 in [0, 1]; returns x_adv like `x`,
    as far from it as it takes: `eps`, part of every attack's call, has no say. Raises InputError.
    """
    check_inputs(x, y, 1.0, norm, y_target)
    check_at_least(1, steps=steps, initial_queries=initial_queries)
    check_at_least(100, max_queries=max_queries)
    if not len(x):
        return x.clone()
    d = x[0].numel()
    halvings = math.ceil(math.log2(d) * (1.5 if norm == "l2" else 2))  # to d^-3/2 of the way, for linf to d^-2
    with frozen_eval(model), torch.no_grad():
        oracle = Oracle(model, x, y, y_target)
        here, started = _start(oracle, rng)
        if not len(started):
            return here
        live = started
        here[live] = _to_boundary(oracle, here[live], live, norm, halvings)
        nearest = here.clone()
        for t in range(1, steps + 1):
            draws = int(initial_queries * math.sqrt(t))
            live = live[oracle.asked[live] + draws + LEAPS + halvings < max_queries]
            if not len(live):
                break
            distance = delta_norms(here[live] - x[live])[norm].view(-1, 1, 1, 1)
            radius = torch.full_like(distance, 0.1) if t == 1 else distance / d
            outward = _outward(oracle, here[live], live, radius, draws, norm, rng)
            there = _leap(oracle, here[live], live, distance / math.sqrt(t) * outward)
            here[live] = there = _to_boundary(oracle, there, live, norm, halvings)
            nearer = delta_norms(there - x[live])[norm] < delta_norms(nearest[live] - x[live])[norm]
            nearest[live[nearer]] = there[nearer]
        # On the boundary itself a batch of another size, whose sums round otherwise, may be decided otherwise.
        delta = (nearest - x)[started]
        further = (nearest[started] + clearance(x[started], delta, norm).view(-1, 1, 1, 1) * delta).clamp(0, 1)
        beyond = oracle(further, started)
        nearest[started[beyond]] = further[beyond]
    return nearest


class Oracle:
    """All that the attack sees of the target: is this image beyond the boundary? It counts what each image asks.

    `label` (n,) is what the target says of the images `x` (n, c, h, w) themselves, `asked` (n,) the questions so far. A
    rejected image has label -1, and is not beyond.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, y_target: Tensor | None) -> None:
        self.model, self.x, self.y, self.y_target = model, x, y, y_target
        # Points in one forward: what a CPU's cache likes, elsewhere what 64 MB hold.
        self.points = 64 if x.device.type == "cpu" else max(2**24 // x[0].numel(), 1)
        self.label, self.asked = self._decide(x), torch.ones_like(y)

    def __call__(self, points: Tensor, i: Tensor) -> Tensor:
        """Which `points` (m, c, h, w), asked about for the images numbered `i` (m,), are beyond: (m,) bool."""
        self.asked += i.bincount(minlength=len(self.asked))
        return self.beyond(self._decide(points), i)

    def beyond(self, label: Tensor, i: Tensor) -> Tensor:
        """Whether decisions `label` are where the attacker wants the images numbered `i`."""
        return (label != self.y[i]) & (label >= 0) if self.y_target is None else label == self.y_target[i]

    def _decide(self, points: Tensor) -> Tensor:
        labels = []
        for part in points.split(self.points):
            logits = self.model(part)
            check_classes(self.y if self.y_target is None else torch.maximum(self.y, self.y_target), logits)
            labels.append(logits.argmax(1).masked_fill(rejects(self.model, part), -1))
        return torch.cat(labels)


def _start(oracle: Oracle, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """An image beyond the boundary for each that has one (n, c, h, w), and the numbers of those that start there."""
    here, numbers = oracle.x.clone(), torch.arange(len(oracle.x), device=oracle.x.device)
    inside = lost = numbers[~oracle.beyond(oracle.label, numbers)]
    if oracle.y_target is not None:
        lost = _from_batch(oracle, here, lost)
    lost = _from_noise(oracle, here, lost, rng)
    if oracle.y_target is None:
        lost = _from_batch(oracle, here, lost)
    return here, inside[~torch.isin(inside, lost)]


def _from_noise(oracle: Oracle, here: Tensor, lost: Tensor, rng: torch.Generator | None) -> Tensor:
    """Put noisy images that are beyond into `here` for those numbered `lost`; the numbers that have none."""
    for t in range(1, BLENDS + 1):
        if not len(lost):
            break
        x = oracle.x[lost]
        trial = x.lerp(uniform(x.shape, x, rng), t / BLENDS)
        beyond = oracle(trial, lost)
        here[lost[beyond]], lost = trial[beyond], lost[~beyond]
    return lost


def _from_batch(oracle: Oracle, here: Tensor, lost: Tensor) -> Tensor:
    """The same with the nearest images of the batch that are beyond, which costs no question."""
    if not len(lost):
        return lost
    beyond = oracle.beyond(oracle.label, lost[:, None])
    distance = torch.cdist(oracle.x[lost].flatten(1), oracle.x.flatten(1)).masked_fill(~beyond, torch.inf)
    found = beyond.any(1)
    here[lost[found]] = oracle.x[distance.argmin(1)[found]]
    return lost[~found]


def _to_boundary(oracle: Oracle, beyond: Tensor, i: Tensor, norm: Norm, halvings: int) -> Tensor:
    """Bisect from `beyond` (k, c, h, w) towards the images numbered `i` (k,): the last point that is beyond.

    l2 goes along the line; linf cuts delta off at a fraction of its largest entry.
    """
    x, delta = oracle.x[i], beyond - oracle.x[i]
    reach = delta_norms(delta)["linf"].view(-1, 1, 1, 1)
    low, high, nearest = torch.zeros_like(reach), torch.ones_like(reach), beyond
    for _ in range(halvings):
        middle = (low + high) / 2
        part = middle * delta if norm == "l2" else delta.clamp(-middle * reach, middle * reach)
        trial = (x + part).clamp(0, 1)
        hit = oracle(trial, i).view(-1, 1, 1, 1)
        low, high, nearest = low.where(hit, middle), middle.where(hit, high), trial.where(hit, nearest)
    return nearest


def _outward(
    oracle: Oracle, here: Tensor, i: Tensor, radius: Tensor, draws: int, norm: Norm, rng: torch.Generator | None
) -> Tensor:
    """The steepest step away from x at `here` (k, c, h, w), from `draws` decisions at distance `radius` (k, 1, 1, 1).

    sum (phi_b - mean phi) u_b, phi_b = 1 where here + radius u_b is beyond, else -1, u_b random of length 1 (eq. 16).
    """
    row = torch.arange(len(i), device=i.device)
    weighted = plain = torch.zeros_like(here).flatten(1)
    balance = here.new_zeros(len(i), 1)
    for whose in row.repeat_interleave(draws).split(oracle.points):
        shape = (len(whose), *here.shape[1:])
        u = steepest_ascent_direction(
            normal(shape, here, rng) if norm == "l2" else 2 * uniform(shape, here, rng) - 1, "l2"
        )
        points = (here[whose] + radius[whose] * u).clamp(0, 1)
        u = ((points - here[whose]) / radius[whose]).flatten(1)  # what the box has left of it
        phi = 2 * oracle(points, i[whose]).to(u)[:, None] - 1
        pick = (row[:, None] == whose).to(u)  # sums per image as a product: index_add_ differs from run to run on a GPU
        weighted, plain, balance = weighted + pick @ (phi * u), plain + pick @ u, balance + pick @ phi
    mean = balance / draws
    mean = mean.where(mean.abs() < 1, 0)  # all alike: their plain average says which way
    return steepest_ascent_direction((weighted - mean * plain).view_as(here), norm)


def _leap(oracle: Oracle, here: Tensor, i: Tensor, step: Tensor) -> Tensor:
    """`here` + step, + step / 2, + step / 4, ...: the first of these beyond the boundary; `here`, if none is."""
    there, left = here.clone(), torch.arange(len(i), device=i.device)
    for _ in range(LEAPS):
        if not len(left):
            break
        trial = (here[left] + step[left]).clamp(0, 1)
        beyond = oracle(trial, i[left])
        there[left[beyond]], left, step = trial[beyond], left[~beyond], step / 2
    return there
