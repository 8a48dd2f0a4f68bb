"""Flags that training programs share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunFlags:
    """What becomes of an earlier run, and the threads of this one."""

    resume: bool = False
    """Continue the run in the output directory where it stopped"""
    overwrite: bool = False
    """Replace an earlier run in the output directory"""
    threads: int | None = None
    """CPU threads a process; None shares the cores among the processes"""
