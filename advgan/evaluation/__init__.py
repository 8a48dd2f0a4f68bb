"""Evaluation: run an attack, verify its adversarial examples, and compute metrics with intervals."""

from advgan.core.lazy import lazy
from advgan.evaluation.environment import environment
from advgan.evaluation.evaluate import ROW_KEYS, Result, evaluate, predict, recompute_metrics
from advgan.evaluation.loading import TargetModel
from advgan.evaluation.result_cache import GridPoint, ResultCache
from advgan.evaluation.statistics import wilson

__all__ = [
    "ROW_KEYS",
    "GridPoint",
    "Result",
    "ResultCache",
    "TargetModel",
    "environment",
    "evaluate",
    "predict",
    "recompute_metrics",
    "wilson",
]

__getattr__, __dir__ = lazy(__name__)
