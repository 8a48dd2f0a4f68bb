"""A comparison in TensorBoard: table, scalars, figures."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from advgan.core.files import atomic_write_dir
from advgan.core.threat_model import eps_text
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.escaping import in_markdown
from advgan.report.figures import with_caption
from advgan.report.figures.cases import Case, cases, safe
from advgan.report.table import SIGNS, markdown, plot, told

# What becomes a scalar, by the chapter of the custom layout in which it stands.
CHAPTERS = {
    "Success and accuracy": ("asr", "robust_accuracy", "asr_8bit", "asr_any_norm"),
    "Size of the changes": ("l2_median", "l2_mean", "linf_mean", "ssim_mean"),
    "Speed and cost": ("images_per_second", "forwards_per_image", "backwards_per_image"),
}
STEPS = 1000  # of eps 1: TensorBoard counts in whole steps
ABOUT = f"""\
**Images**: the cards stand in the order in which to look at them. `01_table` has the figures of every attack; each of
the others says below the plot how to read it.

**Scalars**: one chart per figure, target, norm and eps, in which each attack is a run. TensorBoard knows only whole
steps, so **the step is {STEPS} eps**: an attack at eps 0.3 stands at step {round(0.3 * STEPS)}. The *Custom scalars*
tab has all eps of a figure in one chart, and the charts in chapters: success, size of the changes, speed. The points
are not joined, because TensorBoard would smooth the lines; the curves are among the images.

**Text**: the tables, the verdicts on whether the figures can be trusted, and where they come from.
"""


def write_comparison(directory: Path, comparison: Comparison, plots: Mapping[str, Plot]) -> None:
    """Write event files to `directory`, in place of what stood there: one run of its own, and one per attack.

    plots   name -> figure, in the order to look at them; TensorBoard sorts cards by name, so each story is numbered

    Scalars are "figure/target norm eps" at step STEPS * eps. The attack is their run: only runs have colours and a
    legend. A tag has one point: TensorBoard smooths whatever has several. Of several seeds the first one is written.
    """
    found, summary = cases(comparison), comparison.summary

    def write(folder: Path) -> None:
        with SummaryWriter(str(folder)) as log:
            log.add_image("01_table/comparison", plot(summary["rows"]), dataformats="HWC")
            stories = list(dict.fromkeys(name.partition("/")[0] for name in plots))
            for name, each in plots.items():
                number = stories.index(name.partition("/")[0]) + 2
                log.add_image(f"{number:02}_{name}", with_caption(each), dataformats="HWC")
            for tag, text in _texts(comparison).items():
                log.add_text(tag, text)
            log.add_custom_scalars(_layout(found))
        for attack in dict.fromkeys(attack for case in found for attack in case.attacks):
            with SummaryWriter(str(folder / safe(attack))) as log:
                for case in found:
                    _scalars(log, case, case.attacks.get(attack, ()))

    atomic_write_dir(directory, write)


def _scalars(log: SummaryWriter, case: Case, results: Iterable[Result]) -> None:
    for result, figures in product(results, CHAPTERS.values()):
        eps = result.row["eps"]
        for figure in figures:
            if result.row[figure] is not None:
                log.add_scalar(f"{figure}/{case.name} {safe(eps_text(eps))}", result.row[figure], round(eps * STEPS))


def _layout(found: list[Case]) -> dict[str, dict[str, list[Any]]]:
    """Charts by chapter: one per figure and case, with the points of all attacks at all eps."""
    return {
        chapter: {
            f"{figure}: {case.words} (step is {STEPS} eps)": [
                "Multiline",
                [f"^{re.escape(f'{figure}/{case.name}')} [^ ]*$"],
            ]
            for case, figure in product(found, figures)
        }
        for chapter, figures in CHAPTERS.items()
    }


def _texts(comparison: Comparison) -> dict[str, str]:
    """Tag -> Markdown."""
    summary = comparison.summary
    verdicts = [
        f"- {SIGNS[each['verdict']]} **{each['verdict']}** {in_markdown(told(each))}"
        for each in summary.get("sanity", ())
    ]
    texts = {
        "1_how to read this": ABOUT,
        "2_verdicts": "\n".join(verdicts),
        "3_tables": markdown(summary),
        "4_targets": _as_code({key: summary[key] for key in ("targets", "generators") if summary.get(key)}),
        "5_environment": _as_code(summary["environment"]),
    }
    return {tag: text for tag, text in texts.items() if text}


def command(logs: Path) -> str:
    """What to type to look at `logs`; with the path of this environment's TensorBoard if the shell would find none."""
    program = "tensorboard" if shutil.which("tensorboard") else str(Path(sys.executable).with_name("tensorboard"))
    return f"{shlex.quote(program)} --logdir {shlex.quote(str(logs))} --samples_per_plugin images=100"


def _as_code(value: Any) -> str:
    """JSON as a Markdown code block."""
    return "\n".join(f"    {line}" for line in json.dumps(value, indent=2).splitlines())
