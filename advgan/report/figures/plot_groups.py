"""The results of a plot: one target model, norm and target class, by attack and growing eps."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from advgan.analysis.groups import Scenario, compared, sort_key
from advgan.core.threat_model import toward_text
from advgan.evaluation.evaluate import Result
from advgan.evaluation.metrics import misclassified
from advgan.report.comparison import Comparison


@dataclass(frozen=True)
class PlotGroup:
    """`attacks`: label -> results by growing eps, one seed of each, in the order of the report."""

    target: str
    norm: str
    y_target: int | None
    attacks: dict[str, list[Result]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For file names and tags: "mnist-c linf", "mnist-c linf to 3"."""
        return safe(f"{self.target} {self.norm}" + ("" if self.y_target is None else f" to {self.y_target}"))

    @property
    def subject(self) -> str:
        """The same without the norm, for plots of several norms, or of none: "mnist-c", "mnist-c to 3"."""
        return self.name.replace(f" {self.norm}", "", 1)

    @property
    def title(self) -> str:
        """For titles."""
        return f"{self.target}, {self.norm}{self.toward}"

    @property
    def toward(self) -> str:
        """The aim of the attacks, for titles."""
        return toward_text(next(results[0].row for results in self.attacks.values()))

    @property
    def eps(self) -> list[float]:
        return sorted({result.row["eps"] for results in self.attacks.values() for result in results})

    @property
    def n(self) -> int:
        return int(self.at(self.eps[-1])[0].row["n"])

    @property
    def n_attacked(self) -> int:
        return int(self.at(self.eps[-1])[0].row["n_attacked"])

    def at(self, eps: float) -> list[Result]:
        """The results at `eps`, one per attack that has one."""
        return [result for results in self.attacks.values() for result in results if result.row["eps"] == eps]

    def smallest(self, distance: Callable[[Result], Tensor]) -> Tensor:
        """(n,) the smallest `distance` of any attack: of `adversarial_distance` the empirical best attack of
        AttackBench (Cina et al. 2025), image by image."""
        return torch.stack([distance(result) for results in self.attacks.values() for result in results]).amin(0)


def plot_groups(comparison: Comparison) -> list[PlotGroup]:
    """The plot groups of a comparison, of the results that are `compared`."""
    order = {label: i for i, label in enumerate(dict.fromkeys(r.row["attack"] for r in comparison.results))}
    groups, by_threat = compared(comparison.results), dict[Scenario, dict[str, list[Result]]]()
    for group in sorted(groups, key=sort_key):
        attacks = by_threat.setdefault(group.scenario, {})
        for result in groups[group]:
            attacks.setdefault(result.row["attack"], []).append(result)
    return [
        PlotGroup(*key, {label: attacks[label] for label in sorted(attacks, key=order.__getitem__)})
        for key, attacks in by_threat.items()
    ]


def adversarial_distance(result: Result) -> Tensor:
    """(n,) the norm of the successful perturbation; inf without success."""
    return _size(result).masked_fill(~result.records["fooled"], torch.inf)


def error_distance(result: Result) -> Tensor:
    """(n,) the norm of the perturbation with any misclassification, of another class than the target's too; inf
    without one."""
    anywhere = result.records | {"within": torch.ones_like(result.records["within"])}
    return _size(result).masked_fill(~misclassified(anywhere), torch.inf)


def _size(result: Result) -> Tensor:
    size = result.records[result.row["norm"]].float()
    if result.row["protocol"] == "bounded":
        size = size.clamp(max=result.row["eps"])  # the verification tolerates rounding errors
    return size


def safe(name: str) -> str:
    """The name of a target or an attack for a file or a tag: without slashes, colons and the like."""
    return re.sub(r"[^\w.=+ -]+", "-", name).strip(" -")
