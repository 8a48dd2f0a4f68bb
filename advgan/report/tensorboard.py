"""A comparison in TensorBoard: table, scalars, figures."""

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
from advgan.core.fraction import eps_text
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.escaping import in_markdown
from advgan.report.figures import with_caption
from advgan.report.figures.plot_groups import PlotGroup, plot_groups, safe
from advgan.report.table import SIGNS, describe_check, markdown
from advgan.report.table import plots as table_plots

# Metrics that are scalars, by chapter of the custom layout.
METRICS_BY_CHAPTER = {
    "Success and accuracy": ("asr", "robust_accuracy", "asr_8bit", "asr_any_norm"),
    "Norms and similarity": ("l2_median", "l2_mean", "linf_mean", "ssim_mean"),
    "Speed and cost": ("images_per_second", "forwards_per_image", "backwards_per_image"),
}
STEPS_PER_EPS = 1000  # of eps 1: TensorBoard counts in whole steps
ABOUT = f"""\
**Images**: the cards are in reading order. `01_tables` has the main metrics of every attack; each of the
others has an explanation below the plot.

**Scalars**: one chart per metric, target, norm and eps, in which each attack is a run. TensorBoard has integer steps
only, so **the step is {STEPS_PER_EPS} eps**: an attack at eps 0.3 is at step {round(0.3 * STEPS_PER_EPS)}. The
*Custom scalars* tab has all eps of a metric in one chart, and the charts in chapters: success, norms, speed. The points
are not joined, because TensorBoard would smooth the lines; the curves are among the images.

**Text**: the tables, the checks of validity, and the environment.
"""


def write_comparison(directory: Path, comparison: Comparison, plots: Mapping[str, Plot]) -> None:
    """Write event files to `directory`, replacing earlier ones: one run of its own, and one per attack.

    plots   name -> figure, in reading order; TensorBoard sorts cards by name, so each kind of figure is numbered

    Scalars are "metric/target norm eps" at step STEPS_PER_EPS * eps. The attack is their run: only runs have colours
    and a legend. A tag has one point: TensorBoard smooths several. Of several seeds the first one is written.
    """
    groups, summary = plot_groups(comparison), comparison.summary

    def write(folder: Path) -> None:
        with SummaryWriter(str(folder)) as log:
            for title, image in table_plots(summary["rows"]).items():
                log.add_image(f"01_tables/{safe(title.replace(',', ''))}", image, dataformats="HWC")
            kinds = list(dict.fromkeys(name.partition("/")[0] for name in plots))
            for name, drawn_plot in plots.items():
                number = kinds.index(name.partition("/")[0]) + 2
                log.add_image(f"{number:02}_{name}", with_caption(drawn_plot), dataformats="HWC")
            for tag, text in _texts(comparison).items():
                log.add_text(tag, text)
            log.add_custom_scalars(_layout(groups))
        for attack in dict.fromkeys(attack for group in groups for attack in group.attacks):
            with SummaryWriter(str(folder / safe(attack))) as log:
                for group in groups:
                    _scalars(log, group, group.attacks.get(attack, ()))

    atomic_write_dir(directory, write)


def _scalars(log: SummaryWriter, group: PlotGroup, results: Iterable[Result]) -> None:
    for result, metrics in product(results, METRICS_BY_CHAPTER.values()):
        eps = result.row["eps"]
        for metric in metrics:
            if result.row[metric] is not None:
                log.add_scalar(
                    f"{metric}/{group.name} {safe(eps_text(eps))}", result.row[metric], round(eps * STEPS_PER_EPS)
                )


def _layout(groups: list[PlotGroup]) -> dict[str, dict[str, list[Any]]]:
    """Charts by chapter: one per metric and group, with the points of all attacks at all eps."""
    return {
        chapter: {
            f"{metric}: {group.title} (step is {STEPS_PER_EPS} eps)": [
                "Multiline",
                [f"^{re.escape(f'{metric}/{group.name}')} [^ ]*$"],
            ]
            for group, metric in product(groups, metrics)
        }
        for chapter, metrics in METRICS_BY_CHAPTER.items()
    }


def _texts(comparison: Comparison) -> dict[str, str]:
    """Tag -> Markdown."""
    summary = comparison.summary
    verdicts = [
        f"- {SIGNS[check['verdict']]} **{check['verdict']}** {in_markdown(describe_check(check))}"
        for check in summary.get("sanity", ())
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
    """The shell command that shows `logs`; with the path of this environment's TensorBoard if it is not on the PATH."""
    program = "tensorboard" if shutil.which("tensorboard") else str(Path(sys.executable).with_name("tensorboard"))
    return f"{shlex.quote(program)} --logdir {shlex.quote(str(logs))} --samples_per_plugin images=100"


def _as_code(value: Any) -> str:
    """JSON as a Markdown code block."""
    return "\n".join(f"    {line}" for line in json.dumps(value, indent=2).splitlines())
