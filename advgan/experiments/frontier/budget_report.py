"""Tables and files of success against time: which attack is the strongest at each time budget."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from advgan.core.threat_model import eps_text
from advgan.experiments.frontier.budget_plot import frontier_plot
from advgan.report.comparison import Plot
from advgan.report.figures.plot_groups import safe
from advgan.report.page import Table, number, percent, with_interval
from advgan.report.study import Scalar, StudyReport, eps_scalars

Summary = Mapping[str, Any]  # of one classifier at one eps
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
    "budget the one of the highest ASR counts. Leads: ours is at or above the best baseline. Budgets at which none has "
    "any success are left out."
)


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """For each summary the best attacks by budget, then all attacks by time."""
    return [table for summary in summaries for table in (budget_table(summary), attack_table(summary))]


def budget_table(summary: Summary) -> Table:
    table_rows = [
        [
            f"{part['low']:.3g} to {part['high']:.3g}",
            *(part["ours"] or "–", percent(part["ours_asr"], "–")),
            *(part["baseline"] or "–", percent(part["baseline_asr"], "–")),
            "yes" if part["leads"] else "no",
        ]
        for part in summary["parts"]
    ]
    headers = ["budget, x FGSM", "ours", "ASR %", "best baseline", "ASR % ", "leads"]
    share = "–" if summary["lead"] is None else f"{percent(summary['lead'])} %"
    return Table(f"{title(summary)}: ours leads on {share} of the budgets", headers, table_rows, BUDGETS)


def attack_table(summary: Summary) -> Table:
    rows = sorted(summary["rows"], key=lambda row: (row["time"] is None, row["time"] or 0.0))
    table_rows = [
        [
            f"{row['attack']} *" if row["ours"] else row["attack"],
            number(row["time"], ".3g"),
            "–" if row["time"] is None else f"{row['time_low']:.3g}-{row['time_high']:.3g}",
            *(with_interval(row, "asr", missing="–"), number(row["n"])),
        ]
        for row in rows
    ]
    headers = ["attack (* ours)", "time, x FGSM", "range", "ASR % (95 %)", "n"]
    failed = {i: f"{row['attack']}: {row['status']}" for i, row in enumerate(rows) if row["status"] != "ok"}
    return Table(f"All attacks by time, {title(summary)}", headers, table_rows, ATTACKS, failures=failed)


def title(summary: Summary) -> str:
    return f"{summary['targets'][0]['label']}, {summary['norm']} eps {eps_text(summary['eps'])}"


def report(summaries: Sequence[Summary]) -> StudyReport:
    """frontier.json, .md, .csv and a plot for each eps; `summaries` of one classifier, one for each eps."""
    first, rows = summaries[0], flat_rows(summaries)
    shared = {key: first[key] for key in ("environment", "targets", "generators")}
    return StudyReport(
        name="frontier",
        title=f"Success against time on {first['targets'][0]['label']}",
        summary={
            **shared,
            "frontiers": [{k: v for k, v in summary.items() if k not in shared} for summary in summaries],
        },
        rows=rows,
        tables=tables(summaries),
        figures=budget_plots(summaries),
        columns=COLUMNS,
        csv_rows=rows,
        scalars=list(budget_scalars(rows)),
    )


def flat_rows(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """The attacks of all summaries, each with classifier and ball."""
    return [
        {"target": summary["targets"][0]["label"], "norm": summary["norm"], "eps": summary["eps"], **row}
        for summary in summaries
        for row in summary["rows"]
    ]


def budget_plots(summaries: Sequence[Summary]) -> dict[str, Plot]:
    """File name -> plot, one for each eps."""
    return {f"frontier-eps-{safe(eps_text(summary['eps']))}.png": frontier_plot(summary) for summary in summaries}


def budget_scalars(rows: Sequence[Mapping[str, Any]]) -> Iterator[Scalar]:
    return eps_scalars(rows, {"asr": "asr", "time over FGSM": "time"})
