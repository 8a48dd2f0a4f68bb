"""What every training program needs around its loop: processes, a directory of its own, a state to go on from."""

from advgan.training.query_cache import Told
from advgan.training.runtime.checkpoint import (
    FREE,
    Record,
    State,
    changes,
    clear,
    latest_state,
    lengthenings,
    plain,
    saving,
    unfinished,
)
from advgan.training.runtime.distributed import finish, start, start_alone
from advgan.training.runtime.loop import Stop, check_finite, one_cycle, open_log, progress_bar
from advgan.training.runtime.memory import compile_models, enable_activation_checkpointing
from advgan.training.runtime.output_dir import claim

__all__ = [
    "FREE",
    "Record",
    "State",
    "Stop",
    "Told",
    "changes",
    "check_finite",
    "claim",
    "clear",
    "compile_models",
    "enable_activation_checkpointing",
    "finish",
    "latest_state",
    "lengthenings",
    "one_cycle",
    "open_log",
    "plain",
    "progress_bar",
    "saving",
    "start",
    "start_alone",
    "unfinished",
]  # fmt: skip
