"""The harness: run an attack, certify what it returns, and say how sure the figures are."""

from advgan.evaluation.environment import environment
from advgan.evaluation.harness import ROW_KEYS, Result, evaluate, predict
from advgan.evaluation.statistics import wilson

__all__ = ["ROW_KEYS", "Result", "environment", "evaluate", "predict", "wilson"]
