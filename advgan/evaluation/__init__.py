"""The harness: run an attack, certify what it returns, and say how sure the figures are."""

from advgan.evaluation.environment import environment
from advgan.evaluation.evaluate import ROW_KEYS, Result, evaluate, judged, predict
from advgan.evaluation.result_cache import Cells, Victim
from advgan.evaluation.statistics import wilson

__all__ = ["ROW_KEYS", "Cells", "Result", "Victim", "environment", "evaluate", "judged", "predict", "wilson"]
