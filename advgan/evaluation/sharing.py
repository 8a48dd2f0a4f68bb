"""Results over several processes: each runs whole attacks, so that a random one draws what it draws in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from advgan.evaluation.evaluate import Result
from advgan.evaluation.result_cache import ResultCache


def distribute(
    cells: ResultCache,
    todo: Sequence[Mapping[str, Any]],
    run: Callable[[Mapping[str, Any]], Result],
    accelerator: Accelerator,
) -> tuple[list[Result], int]:
    """The results of all cells `todo`, in order, in the main process; and how many an earlier call had kept.

    Each cell is what `cells.run` takes, and `run` hands it over. They are dealt to the processes in turn. The main
    process reads the others' from disk, which all machines have to share, and runs one that failed elsewhere again.
    The others get no results.
    """
    names = list(dict.fromkeys(map(cells.name, todo)))
    mine = set(names[accelerator.process_index :: accelerator.num_processes])
    done = {i: run(cell) for i, cell in enumerate(todo) if cells.name(cell) in mine}
    accelerator.wait_for_everyone()
    found = int(accelerator.reduce(torch.tensor(cells.found, device=accelerator.device), reduction="sum").item())
    if not accelerator.is_main_process:
        return [], found
    cells.fresh = False  # what the others have made is fresh
    return [done[i] if i in done else run(cell) for i, cell in enumerate(todo)], found
