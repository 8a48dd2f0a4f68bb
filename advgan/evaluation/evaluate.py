"""Run one attack on one target: all metrics are recomputed from the returned images."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from advgan.attacks.common import check_classes, check_inputs, frozen_eval
from advgan.attacks.registry import AttackerAccess, AttackFn, AttackKind
from advgan.classifiers import BlackBox
from advgan.classifiers.adapters import check_not_recorded, with_hooks
from advgan.classifiers.checks import BATCH_DEPENDENCE_TOL, check_outputs, in_training, is_random, mode_dependent
from advgan.core.errors import InputError
from advgan.core.inputs import at_least_float32, check_columns, described
from advgan.core.rejection import accepts, can_reject
from advgan.core.threat_model import Threat, check_class
from advgan.core.weights import device_of
from advgan.defenses import Transforms, reseed, unwrap
from advgan.evaluation.metrics import attack_metrics, attack_outcome, clean_metrics, clean_records
from advgan.evaluation.runner import MadeBatches, ThreatModelViolation, run_attack
from advgan.evaluation.verify import nearest_8bit, not_finite, predictions_after

QUERIES = 8  # of a black box, to compare its outputs with those of before
ROW_KEYS = (
    *("target", "attack", "access", "protocol", "attack_norm", "norm", "eps", "targeted", "y_target"),
    *("seed", "batch_size", "n", "n_correct", "n_attacked", "clean_accuracy", "clean_rejected"),
    *("asr", "asr_low", "asr_high", "asr_8bit", "asr_any_norm", "robust_accuracy", "rejected"),
    *("l0_mean", "l2_mean", "l2_median", "l2_median_low", "l2_median_high", "linf_mean", "linf_max", "ssim_mean"),
    *("seconds_per_image", "images_per_second", "forwards_per_image", "backwards_per_image"),
    *("violations", "status"),
)


@dataclass(frozen=True)
class Result:
    """Result of one attack.

    row        `ROW_KEYS` -> plain values, for results.json; None for unknown ones
    records    one entry per image (n,): label, predictions, confidences, norms, success; no columns if it failed
    x_adv      (k, c, h, w) of the first k images, for a gallery; k is 0 if it failed
    """

    row: dict[str, Any]
    records: dict[str, Tensor]
    x_adv: Tensor


@dataclass(frozen=True)
class CleanOutputs:
    """A target's outputs for the clean images, on the CPU.

    logits     (n, k) float32
    accepted   (n,) bool, whether each image is accepted; None: the target cannot reject
    after      "clean after NAME" -> class (n,) after each of the transforms; -1: rejected
    """

    logits: Tensor
    accepted: Tensor | None = None
    after: dict[str, Tensor] = field(default_factory=dict)


def evaluate(
    attack: AttackFn,
    target: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    name: str = "attack",
    target_name: str = "target",
    access: AttackerAccess = "gradients",
    seed: int = 0,
    protocol: AttackKind = "bounded",
    attack_norm: str | None = None,
    y_target: int | None = None,
    batch_size: int = 100,
    clean: CleanOutputs | None = None,
    keep: int = 16,
    progress: Callable[[int], None] = lambda images: None,
    transforms: Transforms | None = None,
    made: MadeBatches | None = None,
) -> Result:
    """Attack images `x` (n, c, h, w) with labels `y` (n,), batch by batch, and verify the adversarial examples.

    attack         (x, y) -> x_adv, on the target's device; called with copies, and twice with some of them, to warm up
    target         in eval mode, no softmax; its forwards and backwards during the attack are counted
    name, target_name, access, seed   of the attack (`Attack.access`, seed of its rng) and the target, for the row
    threat         "bounded": the ball of x_adv; "minimal-norm": the eps up to which a success counts
    attack_norm    the norm that a minimum-norm attack minimises; None: the threat's
    y_target       target class of a targeted attack
    clean          the target's outputs for `x`, where known (`clean_outputs`)
    keep           number of adversarial examples in the result, for a gallery
    progress       called with the number of images after each batch
    transforms     of the written images: records "after NAME" and "clean after NAME" are the predictions (n,) of the
                   adversarial and of the clean images after each; -1: rejected
    made           adversarial images that were made before, by batches; those that are missing are added

    An attack that raises, leaves ball or box, or changes its input or the model is a failed row without metrics; so is
    a target with NaN or infinity among its logits, or a black box without a budget that returns other outputs for the
    first clean images afterwards. Raises InputError for invalid images or labels, a target in training
    mode, with one logit, with probabilities for logits, or whose logits depend on the batch (see `check_target`).
    """
    _check_arguments(target, x, y, threat, y_target=y_target, batch_size=batch_size)
    alone, clean = clean is None, clean or clean_outputs(target, x, batch_size, transforms)
    n_not_finite = _check_logits(target, x, y, clean.logits, y_target=y_target, alone=alone)
    records = clean_records(clean.logits.cpu(), y.cpu(), y_target, clean.accepted)
    row = {"target": target_name, "attack": name, "access": access, "seed": seed, "protocol": protocol}
    row |= {"attack_norm": attack_norm or threat.norm, "norm": threat.norm, "eps": threat.eps}
    row |= {"targeted": threat.targeted, "y_target": y_target, "n": len(x), "batch_size": batch_size, "violations": []}
    row |= clean_metrics(records)
    if reason := _obstacle(n_not_finite, row):
        return _failed(row, reason, [])
    try:
        columns, x_adv, cost = run_attack(
            *(attack, target, x, y, threat if protocol == "bounded" else None),
            batch_size=batch_size,
            keep=keep,
            progress=progress,
            transforms=transforms,
            made=made,
        )
    except ThreatModelViolation as broken:
        return _failed(row, str(broken), broken.violations)
    except Exception as error:
        logging.getLogger(__name__).warning("attack %s failed", name, exc_info=not isinstance(error, InputError))
        return _failed(row, f"{type(error).__name__}: {error}", [])
    if _changed(target, x, clean.logits):
        changed = "the target's outputs for the same clean images changed during the attack"
        return _failed(row, f"{changed} (a service that is random, or was replaced)", [changed])
    records |= columns | attack_outcome(records | columns, threat, protocol, y_target) | clean.after
    row |= attack_metrics(records, protocol) | cost | {"status": "ok"}
    return Result({key: row[key] for key in ROW_KEYS}, records, x_adv)


def _check_logits(target: nn.Module, x: Tensor, y: Tensor, logits: Tensor, *, y_target: int | None, alone: bool) -> int:
    """The number of images with NaN or infinity; where there are none, raise InputError as `check_outputs`.

    Raises InputError for a number of classes that the labels do not fit.
    """
    check_columns(logits)
    check_classes(y, logits)
    check_class(y_target, logits.shape[1])
    n_not_finite = not_finite(logits)
    if not n_not_finite and not isinstance(unwrap(target), BlackBox):
        sample = torch.linspace(0, len(x) - 1, min(8, len(x))).round().long()
        check_outputs(target, x[sample].to(device_of(target)), logits[sample], alone=alone)
    return n_not_finite


def _obstacle(n_not_finite: int, row: dict[str, Any]) -> str | None:
    """Why no attack is possible, with `n_not_finite` images of non-finite logits."""
    if n_not_finite:
        return f"the target returns NaN or infinity for {n_not_finite} of {row['n']} images, expected finite logits"
    if row["n_attacked"]:
        return None
    others = f"all that it classifies correctly are of the target class {row['y_target']}"
    return f"no image to attack, {others if row['n_correct'] else 'the target classifies none correctly'}"


def _changed(target: nn.Module, x: Tensor, logits: Tensor) -> bool:
    """Whether a black box without a budget has other outputs now for the first clean images than `logits` (n, k)."""
    box = unwrap(target)
    if not isinstance(box, BlackBox) or box.max_queries is not None or is_random(target):
        return False
    probabilities = predict(target, x[:QUERIES]).softmax(1)
    return bool((probabilities - logits[:QUERIES].softmax(1)).abs().max() > BATCH_DEPENDENCE_TOL)


def _check_arguments(
    target: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, y_target: int | None, batch_size: int
) -> None:
    """Raise InputError for arguments of `evaluate` that are invalid before the target is called."""
    check_inputs(x, y, threat.eps, threat.norm)
    if threat.targeted != (y_target is not None):
        raise InputError(f"threat.targeted is {threat.targeted}, expected a y_target to match, got {y_target}")
    check_not_recorded(target)
    if with_hooks(unwrap(target)) is not unwrap(target):
        raise InputError(
            "calls of a module with its own __call__ are not counted: model = check_target(model, x, classes)"
        )
    if in_training(target):
        raise InputError(f"the target is in training mode{mode_dependent(target)}, expected target.eval()")
    if not len(x) or batch_size < 1:
        raise InputError(f"expected images and a batch size of at least 1, got {len(x)} and {batch_size}")


def recompute_metrics(result: Result, threat: Threat) -> Result:
    """The metrics of a result's records, under another eps too for a minimum-norm attack."""
    row = result.row | {"norm": threat.norm, "eps": threat.eps}
    if row["status"] != "ok":
        return Result(row, result.records, result.x_adv)
    records = result.records | attack_outcome(result.records, threat, row["protocol"], row["y_target"])
    return Result(row | clean_metrics(records) | attack_metrics(records, row["protocol"]), records, result.x_adv)


def _failed(row: dict[str, Any], reason: str, violations: list[str]) -> Result:
    """A row without metrics, with the reason."""
    row |= {"status": "failed: " + " ".join(reason.split())[:300], "violations": violations}
    return Result({key: row.get(key) for key in ROW_KEYS}, {}, torch.empty(0))


@torch.no_grad()
def predict(target: nn.Module, x: Tensor, batch_size: int = 100) -> Tensor:
    """Logits (n, k) on the CPU for images `x` (n, c, h, w), float32, or float64 of a target that computes in it; the
    target is left as found. Raises InputError as `frozen_eval`."""
    device = device_of(target)
    with frozen_eval(target):
        return torch.cat([_logits(target(part.to(device))) for part in x.split(batch_size)])


@torch.no_grad()
def clean_outputs(
    target: nn.Module, x: Tensor, batch_size: int = 100, transforms: Transforms | None = None
) -> CleanOutputs:
    """The target's outputs for images `x` (n, c, h, w); a random one draws the same for each of them."""
    reseed(target, 0)
    logits, device = predict(target, x, batch_size), device_of(target)
    accepted: list[Tensor] = []
    after: dict[str, list[Tensor]] = {}
    if can_reject(target):
        reseed(target, 0)
        with frozen_eval(target):
            accepted = [accepts(target, part.to(device)).cpu() for part in x.split(batch_size)]
    if transforms:
        reseed(target, 0)
        transforms.reseed(0)
        for part in x.split(batch_size):
            for name, classes in predictions_after(target, nearest_8bit(part.to(device)), transforms).items():
                after.setdefault(f"clean {name}", []).append(classes.cpu())
    joined = {name: torch.cat(parts) for name, parts in after.items()}
    return CleanOutputs(logits, torch.cat(accepted) if accepted else None, joined)


def _logits(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise InputError(f"the target must return a tensor of logits, got {described(outputs)}")
    return (at_least_float32(outputs) if outputs.is_floating_point() else outputs).cpu()
