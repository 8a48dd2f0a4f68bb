"""Comparable results: those of one target under one threat model."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from advgan.attacks.registry import AttackSpec, parse_attack
from advgan.core.errors import InputError
from advgan.evaluation.evaluate import Result

Scenario = tuple[str, str, int | None]  # target, norm, y_target


class Group(NamedTuple):
    """Results that may be compared: one target model under one threat model. `y_target` None is untargeted."""

    target: str
    norm: str
    eps: float
    y_target: int | None

    @property
    def scenario(self) -> Scenario:
        """What results at several eps have in common."""
        return self.target, self.norm, self.y_target


def sort_key(group: Group) -> tuple[str, str, float, int]:
    """The order of groups in reports."""
    target, norm, eps, y_target = group
    return target, norm, eps, -1 if y_target is None else y_target


def group_of(row: Mapping[str, Any]) -> Group:
    """The group of a row, or of any other entry of results.json that names one."""
    return Group(*(row[name] for name in Group._fields))


def groups(results: Iterable[Result]) -> dict[Group, list[Result]]:
    """The results with metrics, by (target, norm, eps, y_target), in their order."""
    by_group: dict[Group, list[Result]] = {}
    for result in results:
        if result.row["status"] == "ok":
            by_group.setdefault(group_of(result.row), []).append(result)
    return by_group


def by_attack(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each attack of a group, label -> one per seed."""
    results_by_attack: dict[str, list[Result]] = {}
    for result in results:
        results_by_attack.setdefault(result.row["attack"], []).append(result)
    return results_by_attack


def first_seeds(results: Iterable[Result]) -> list[Result]:
    """One result per attack of a group, that of its first seed, so that no attack has the best of many runs."""
    return [runs[0] for runs in by_attack(results).values()]


def compared(results: Iterable[Result]) -> dict[Group, list[Result]]:
    """`groups` with the first seed of each attack, without those of less than a quarter of the attacks of the largest
    one: a single attack in another ball, like PGD at eps 0.5 in eval/compare.py, is a check and no comparison."""
    by_group = {group: first_seeds(members) for group, members in groups(results).items()}
    most = max(map(len, by_group.values()), default=0)
    return {group: members for group, members in by_group.items() if 4 * len(members) >= most}


def spec_of(result: Result) -> AttackSpec | None:
    """The attack of a row's label; None for a label that `parse_attack` rejects, such as that of a transfer."""
    try:
        return parse_attack(result.row["attack"])
    except InputError:
        return None
