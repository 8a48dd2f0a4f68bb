"""Tables and plot of success against time: which attack is the strongest at each time budget."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from advgan.core.fraction import eps_text
from advgan.report import cells
from advgan.report.comparison import Plot
from advgan.report.figures import style
from advgan.report.figures.plot_groups import safe
from advgan.report.page import ResultRow, Summary, Table
from advgan.report.study import StudyReport, eps_scalars

COLUMNS = (
    *("target", "norm", "eps", "attack", "ours", "time", "time_low", "time_high", "asr", "asr_low", "asr_high", "n"),
    "status",
)
ATTACKS = (
    "ASR over the images that the classifier classifies correctly, with 95 % Wilson interval. Time: in units of FGSM "
    "on the same batch, run right before; median of the rounds, with their range."
)
BUDGETS = (
    "A budget is the time that an attack may take, in units of FGSM on the same batch. Of the attacks that fit the "
    "budget the one of the highest ASR counts. Ours: the entries, generators alone or followed by gradient steps. "
    "Leads: ours is at or above the best baseline; the share is measured on a logarithmic axis. Budgets at which none "
    "has any success are left out."
)
CAPTION = (
    "Attack success rate against time, in units of FGSM on the same batch (paired, median of the rounds; logarithmic). "
    "Vermilion stars: our entries; those that are the best of ours at some budget are large, numbered and joined. "
    "Curves: each family of baselines with a growing number of steps. Shaded green: budgets at which the best of our "
    "entries that fits is at or above the best baseline that fits; red: a baseline is stronger. "
    "Bars: 95 % Wilson intervals."
)
LEAD, BEHIND = "#009E73", "#D55E00"


def report(summary: Summary) -> StudyReport:
    """frontier.json, .md, .csv and a plot for each eps: for each the best attacks by budget, then all by time.

    `summary` has "environment", "targets" (the classifier), "generators" and "frontiers", of `measure_frontier`.
    """
    frontiers = [{**frontier, "targets": summary["targets"]} for frontier in summary["frontiers"]]
    rows = [
        {"target": summary["targets"][0]["label"], "norm": frontier["norm"], "eps": frontier["eps"], **row}
        for frontier in frontiers
        for row in frontier["rows"]
    ]
    return StudyReport(
        name="frontier",
        title=f"Success against time on {summary['targets'][0]['label']}",
        summary=summary,
        rows=rows,
        tables=[table for frontier in frontiers for table in (budget_table(frontier), attack_table(frontier))],
        figures={f"frontier-eps-{safe(eps_text(part['eps']))}.png": frontier_plot(part) for part in frontiers},
        columns=COLUMNS,
        csv_rows=rows,
        scalars=list(eps_scalars(rows, {"asr": "asr", "time over FGSM": "time"})),
    )


def budget_table(summary: Summary) -> Table:
    share = "–" if summary["lead"] is None else f"{summary['lead']:.1%}"
    title = f"{_title(summary)}: ours leads on {share} of the budgets"
    columns = {
        "budget, x FGSM": lambda part: f"{part['low']:.3g} to {part['high']:.3g}",
        "ours": lambda part: part["ours"] or "–",
        "ASR %": cells.percent("ours_asr"),
        "best baseline": lambda part: part["baseline"] or "–",
        "ASR % ": cells.percent("baseline_asr"),
        "leads": lambda part: "yes" if part["leads"] else "no",
    }
    return Table.of(title, summary["parts"], columns, BUDGETS)


def attack_table(summary: Summary) -> Table:
    rows = sorted(summary["rows"], key=lambda row: (row["time"] is None, row["time"] or 0.0))
    columns = {
        "attack (* ours)": lambda row: f"{row['attack']} *" if row["ours"] else row["attack"],
        "time, x FGSM": cells.number("time", ".3g"),
        "range": lambda row: "–" if row["time"] is None else f"{row['time_low']:.3g}-{row['time_high']:.3g}",
        "ASR % (95 %)": cells.interval("asr", missing="–"),
        "n": cells.number("n"),
    }
    failed = {i: f"{row['attack']}: {row['status']}" for i, row in enumerate(rows) if row["status"] != "ok"}
    return Table.of(f"All attacks by time, {_title(summary)}", rows, columns, ATTACKS, failures=failed)


def _title(summary: Summary) -> str:
    return f"{summary['targets'][0]['label']}, {summary['norm']} eps {eps_text(summary['eps'])}"


def frontier_plot(summary: Summary) -> Plot:
    """One classifier at one eps; `summary` as in frontier.json."""
    figure = style.new_figure(9.4, 5.4)
    axes = figure.subplots()
    rows = [row for row in summary["rows"] if row["time"] is not None and row["asr"] is not None]
    low, high = summary["budgets"]
    for part in summary["parts"]:
        axes.axvspan(part["low"], part["high"], color=LEAD if part["leads"] else BEHIND, alpha=0.08, linewidth=0)
    for color, text in ((LEAD, "ours leads"), (BEHIND, "a baseline leads")):
        axes.scatter([], [], marker="s", s=80, color=color, alpha=0.2, label=text)
    families: dict[str, list[ResultRow]] = {}
    for row in rows:
        if not row["ours"]:
            families.setdefault(family(row["attack"]), []).append(row)
    for i, (name, points) in enumerate(families.items()):
        look = style.Style(style.COLOURS[i % len(style.COLOURS)], style.MARKERS[i % len(style.MARKERS)])
        _curve(axes, points, name, look)
    star = style.BY_ACCESS["generator"][0][0]
    names = {part["ours"] for part in summary["parts"]}
    best, others = (
        [row for row in rows if row["ours"] and (row["attack"] in names) == leads] for leads in (True, False)
    )
    axes.plot(
        [row["time"] for row in others],
        [row["asr"] for row in others],
        color=star,
        marker="*",
        markersize=5,
        linestyle="",
        alpha=0.5,
    )
    if best:
        _curve(axes, best, None, style.Style(star, "*"))
    for i, row in enumerate(best, start=1):
        place = (row["time"], row["asr"])
        axes.annotate(str(i), place, (-8, 6), textcoords="offset points", fontsize=8, color=star)
        axes.plot([], [], label=f"{i}  {row['attack']}", color=star, marker="*", markersize=10, linestyle="")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(min([low, *(row["time"] for row in rows)]) * 0.8, max([high, *(row["time"] for row in rows)]) * 1.25)
    highest = max([0.01, *(row["asr_high"] for row in rows)])
    style.percent_axis(axes, label="ASR").set(xlabel="time, in units of FGSM", ylim=(-0.02 * highest, 1.06 * highest))
    style.legend(figure)
    return style.to_plot(figure, f"Success against time on {_title(summary)}", CAPTION)


def family(attack: str) -> str:
    """The curve of a baseline: its name without the number of steps."""
    name, *settings = attack.split(":")
    kept = [setting for setting in settings if not setting.startswith(("steps=", "queries="))]
    return ":".join([name, *kept])


def _curve(axes: Axes, rows: Sequence[ResultRow], label: str | None, look: style.Style) -> None:
    points = sorted(rows, key=lambda row: row["time"])
    x, y = [row["time"] for row in points], [row["asr"] for row in points]
    errors = [[row["asr"] - row["asr_low"] for row in points], [row["asr_high"] - row["asr"] for row in points]]
    size, drawn = (13, "steps-post") if look.marker == "*" else (6, "default")
    settings: dict[str, Any] = {"markersize": size, "elinewidth": 0.8, "drawstyle": drawn}
    axes.errorbar(x, y, errors, label=label, color=look.color, marker=look.marker, **settings)
