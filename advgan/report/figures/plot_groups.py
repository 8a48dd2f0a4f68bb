"""The results of a plot: one target model, norm and target class, by attack and growing eps."""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from advgan.analysis.groups import first_seeds
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

    def last(self, protocol: str) -> list[Result]:
        """Of each attack of a protocol, the result at its largest eps; those of a minimum-norm attack are all alike."""
        results = [results[-1] for results in self.attacks.values()]
        return [result for result in results if result.row["protocol"] == protocol]

    def smallest(self) -> Tensor:
        """(n,) in the group's norm, the norm of the smallest successful perturbation of any attack; inf without one.

        The empirical best attack of AttackBench (Cina et al. 2025), image by image.
        """
        return torch.stack(
            [adversarial_distance(result) for results in self.attacks.values() for result in results]
        ).amin(0)

    def smallest_error(self) -> Tensor:
        """(n,) the same for any misclassification: in a targeted attack accuracy falls with other classes too."""
        return torch.stack([error_distance(result) for results in self.attacks.values() for result in results]).amin(0)


def plot_groups(comparison: Comparison) -> list[PlotGroup]:
    """The plot groups of a comparison, of results with metrics; of several seeds the first one.

    A threat with less than a quarter of the attacks of the largest one is left out: a single attack in another ball,
    like PGD at eps 0.5 in eval/compare.py, is a check and no comparison.
    """
    order = {label: i for i, label in enumerate(dict.fromkeys(r.row["attack"] for r in comparison.results))}
    groups = {group: first_seeds(results) for group, results in comparison.groups()}
    most_attacks = max(map(len, groups.values()), default=0)
    by_threat: dict[tuple[str, str, int | None], dict[str, list[Result]]] = {}
    for group, results in groups.items():
        if 4 * len(results) >= most_attacks:
            attacks = by_threat.setdefault((group.target, group.norm, group.y_target), {})
            for result in results:
                attacks.setdefault(result.row["attack"], []).append(result)
    return [
        PlotGroup(*key, {label: attacks[label] for label in sorted(attacks, key=order.__getitem__)})
        for key, attacks in by_threat.items()
    ]


def adversarial_distance(result: Result) -> Tensor:
    """(n,) the norm of the successful perturbation; inf without success."""
    return _size(result).masked_fill(~result.records["fooled"], torch.inf)


def error_distance(result: Result) -> Tensor:
    """(n,) the norm of the perturbation with any misclassification; inf without one."""
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
