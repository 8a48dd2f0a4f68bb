"""The harness: run an attack, verify what it returns, and compute metrics with intervals."""

from advgan.evaluation.environment import environment
from advgan.evaluation.evaluate import ROW_KEYS, Result, evaluate, judged, predict
from advgan.evaluation.loading import TargetModel
from advgan.evaluation.result_cache import ResultCache
from advgan.evaluation.statistics import wilson

__all__ = ["ROW_KEYS", "Result", "ResultCache", "TargetModel", "environment", "evaluate", "judged", "predict", "wilson"]
