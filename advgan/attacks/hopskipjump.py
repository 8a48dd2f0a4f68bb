"""HopSkipJump: the nearest boundary by decisions alone (Chen, Jordan & Wainwright 2020, arXiv:1904.02144)."""

import math

import torch
from torch import Tensor, nn

from advgan.attacks.boundary import clearance
from advgan.attacks.common import (
    batch_view,
    check_at_least,
    check_classes,
    check_inputs,
    frozen_eval,
    normal,
    steepest_ascent_direction,
    uniform,
)
from advgan.core.rejection import accepts
from advgan.core.threat_model import Norm, delta_norms

MAX_INIT_QUERIES = 50  # for a start: x blended with more and more noise
MAX_STEP_HALVINGS = 25  # then the step is float32's smallest


@torch.no_grad()
def hopskipjump(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm = "l2",
    steps: int = 64,
    initial_queries: int = 100,
    max_queries: int = 5000,
    y_target: Tensor | None = None,
    rng: torch.Generator | None = None,
) -> Tensor:
    """The smallest delta in `norm` that changes the decision, by the target's decisions only (algorithm 2).

    From an image beyond the boundary, bisected down to it, step t = 1, 2, ..., `steps`: the normal of the boundary is
    estimated from `initial_queries` sqrt(t) decisions close by (eq. 16); a step of distance / sqrt(t) is taken along
    it, halved until it lands beyond; and from there it is bisected back. The nearest of these points is returned.

    initial_queries   queries of the first estimate
    max_queries       per image, x itself included: no step begins that could exceed it
    The first image beyond is x blended with uniform noise, more and more of it; where that leads nowhere, or with
    `y_target`, the nearest image of the batch beyond the boundary. An image without a start comes back
    unchanged, and so does one that is misclassified already. x (n, c, h, w) float32 in [0, 1]; returns x_adv like `x`,
    at any distance. Raises InputError.
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
        x_adv, started = _start(oracle, rng)
        if not len(started):
            return x_adv
        live = started
        x_adv[live] = _to_boundary(oracle, x_adv[live], live, norm, halvings)
        nearest = x_adv.clone()
        for t in range(1, steps + 1):
            draws = int(initial_queries * math.sqrt(t))
            live = live[oracle.queries[live] + draws + MAX_STEP_HALVINGS + halvings < max_queries]
            if not len(live):
                break
            distance = batch_view(delta_norms(x_adv[live] - x[live])[norm])
            radius = torch.full_like(distance, 0.1) if t == 1 else distance / d
            normals = _boundary_normal(oracle, x_adv[live], live, radius, draws=draws, norm=norm, rng=rng)
            candidates = _geometric_step(oracle, x_adv[live], live, distance / math.sqrt(t) * normals)
            x_adv[live] = candidates = _to_boundary(oracle, candidates, live, norm, halvings)
            nearer = delta_norms(candidates - x[live])[norm] < delta_norms(nearest[live] - x[live])[norm]
            nearest[live[nearer]] = candidates[nearer]
        # On the boundary itself a batch of another size may be decided otherwise, by rounding.
        delta = (nearest - x)[started]
        further = (nearest[started] + batch_view(clearance(x[started], delta, norm)) * delta).clamp(0, 1)
        beyond = oracle(further, started)
        nearest[started[beyond]] = further[beyond]
    return nearest


class Oracle:
    """Decisions of the target: whether a point is beyond the boundary of its image, with queries counted per image.

    `label` (n,) is the prediction of the images `x` (n, c, h, w), `queries` (n,) the count. A rejected image has label
    -1, and is not beyond.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, y_target: Tensor | None) -> None:
        self.model, self.x, self.y, self.y_target = model, x, y, y_target
        # Points in one forward: fastest for a CPU's cache; elsewhere 64 MB.
        self.points = 64 if x.device.type == "cpu" else max(2**24 // x[0].numel(), 1)
        self.label, self.queries = self._decide(x), torch.ones_like(y)

    def __call__(self, points: Tensor, i: Tensor) -> Tensor:
        """Whether each of `points` (m, c, h, w), queried for images `i` (m,), is beyond: (m,) bool."""
        self.queries += i.bincount(minlength=len(self.queries))
        return self.beyond(self._decide(points), i)

    def beyond(self, label: Tensor, i: Tensor) -> Tensor:
        """Whether decisions `label` are adversarial for images `i`."""
        return (label != self.y[i]) & (label >= 0) if self.y_target is None else label == self.y_target[i]

    def _decide(self, points: Tensor) -> Tensor:
        labels = []
        for part in points.split(self.points):
            logits = self.model(part)
            check_classes(self.y if self.y_target is None else torch.maximum(self.y, self.y_target), logits)
            labels.append(logits.argmax(1).where(accepts(self.model, part), -1))
        return torch.cat(labels)


def _start(oracle: Oracle, rng: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """An image beyond the boundary for each that has one (n, c, h, w), and the numbers of those that start there."""
    points, numbers = oracle.x.clone(), torch.arange(len(oracle.x), device=oracle.x.device)
    inside = without_start = numbers[~oracle.beyond(oracle.label, numbers)]
    if oracle.y_target is not None:
        without_start = _from_batch(oracle, points, without_start)
    without_start = _from_noise(oracle, points, without_start, rng)
    if oracle.y_target is None:
        without_start = _from_batch(oracle, points, without_start)
    return points, inside[~torch.isin(inside, without_start)]


def _from_noise(oracle: Oracle, points: Tensor, without_start: Tensor, rng: torch.Generator | None) -> Tensor:
    """Put noisy images that are beyond into `points` for those numbered `lost`; the numbers that have none."""
    for t in range(1, MAX_INIT_QUERIES + 1):
        if not len(without_start):
            break
        x = oracle.x[without_start]
        trial = x.lerp(uniform(x.shape, x, rng), t / MAX_INIT_QUERIES)
        beyond = oracle(trial, without_start)
        points[without_start[beyond]], without_start = trial[beyond], without_start[~beyond]
    return without_start


def _from_batch(oracle: Oracle, points: Tensor, without_start: Tensor) -> Tensor:
    """The same with the nearest images of the batch that are beyond, without further queries."""
    if not len(without_start):
        return without_start
    beyond = oracle.beyond(oracle.label, without_start[:, None])
    distance = torch.cdist(oracle.x[without_start].flatten(1), oracle.x.flatten(1)).masked_fill(~beyond, torch.inf)
    has_start = beyond.any(1)
    points[without_start[has_start]] = oracle.x[distance.argmin(1)[has_start]]
    return without_start[~has_start]


def _to_boundary(oracle: Oracle, beyond: Tensor, i: Tensor, norm: Norm, halvings: int) -> Tensor:
    """Bisect from `beyond` (k, c, h, w) towards the images numbered `i` (k,): the last point that is beyond.

    l2 goes along the line; linf cuts delta off at a fraction of its largest entry.
    """
    x, delta = oracle.x[i], beyond - oracle.x[i]
    largest = batch_view(delta_norms(delta)["linf"])
    low, high, nearest = torch.zeros_like(largest), torch.ones_like(largest), beyond
    for _ in range(halvings):
        middle = (low + high) / 2
        part = middle * delta if norm == "l2" else delta.clamp(-middle * largest, middle * largest)
        trial = (x + part).clamp(0, 1)
        hit = batch_view(oracle(trial, i))
        low, high, nearest = low.where(hit, middle), middle.where(hit, high), trial.where(hit, nearest)
    return nearest


def _boundary_normal(
    oracle: Oracle, points: Tensor, i: Tensor, radius: Tensor, *, draws: int, norm: Norm, rng: torch.Generator | None
) -> Tensor:
    """The steepest step away from x at `points` (k, c, h, w), by `draws` decisions at distance `radius` (k, 1, 1, 1).

    sum (phi_b - mean phi) u_b, phi_b = 1 where point + radius u_b is beyond, else -1; u_b random, length 1 (eq. 16).
    """
    row = torch.arange(len(i), device=i.device)
    weighted = unweighted = torch.zeros_like(points).flatten(1)
    balance = points.new_zeros(len(i), 1)
    for owner in row.repeat_interleave(draws).split(oracle.points):
        shape = (len(owner), *points.shape[1:])
        u = steepest_ascent_direction(
            normal(shape, points, rng) if norm == "l2" else 2 * uniform(shape, points, rng) - 1, "l2"
        )
        samples = (points[owner] + radius[owner] * u).clamp(0, 1)
        u = ((samples - points[owner]) / radius[owner]).flatten(1)  # inside the box
        phi = 2 * oracle(samples, i[owner]).to(u)[:, None] - 1
        pick = (row[:, None] == owner).to(u)  # sums per image as a product: index_add_ differs from run to run on a GPU
        weighted, unweighted, balance = weighted + pick @ (phi * u), unweighted + pick @ u, balance + pick @ phi
    mean = balance / draws
    mean = mean.where(mean.abs() < 1, 0)  # all equal: their plain average is the direction
    return steepest_ascent_direction((weighted - mean * unweighted).view_as(points), norm)


def _geometric_step(oracle: Oracle, points: Tensor, i: Tensor, step: Tensor) -> Tensor:
    """`points` + step, + step / 2, + step / 4, ...: the first of these beyond the boundary; `points`, if none is."""
    result, remaining = points.clone(), torch.arange(len(i), device=i.device)
    for _ in range(MAX_STEP_HALVINGS):
        if not len(remaining):
            break
        trial = (points[remaining] + step[remaining]).clamp(0, 1)
        beyond = oracle(trial, i[remaining])
        result[remaining[beyond]], remaining, step = trial[beyond], remaining[~beyond], step / 2
    return result
