"""A gallery for each attack: adversarial examples of the first images, and their predictions."""

from advgan.core.fraction import eps_text
from advgan.evaluation.evaluate import Result
from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.plot_groups import PlotGroup, plot_groups, safe
from advgan.report.gallery import gallery

CAPTION = (
    "Top: the clean image under its true class. Middle: the perturbation, enlarged as written. Bottom: the adversarial "
    "image under the predictions and their confidences before and after the attack; bold for a success on an eligible "
    "image: one classified correctly before, and not of the target class."
)


def galleries(comparison: Comparison) -> dict[str, Plot]:
    """For each target, norm and aim, each attack at its largest eps; minimum-norm attacks once."""
    plots: dict[str, Plot] = {}
    for group in plot_groups(comparison):
        for attack, results in group.attacks.items():
            result = results[-1]
            if result.row["protocol"] == "bounded":
                plots[f"gallery/{group.name} {safe(eps_text(result.row['eps']))} {safe(attack)}"] = _gallery(
                    comparison, group, result
                )
            elif (name := f"gallery/{group.subject} {safe(attack)}") not in plots:
                plots[name] = _gallery(comparison, group, result)
    return plots


def _gallery(comparison: Comparison, group: PlotGroup, result: Result) -> Plot:
    row, records, k = result.row, result.records, len(result.x_adv)
    if row["protocol"] == "bounded":
        rate = f"ASR {row['asr']:.1%} of {row['n_attacked']}"
        title = f"{row['attack']} on {group.title} eps {eps_text(row['eps'])}: {rate}"
    else:
        median = "none" if row["l2_median"] is None else f"{row['l2_median']:.2f}"
        title = f"{row['attack']} (minimum {row['attack_norm']}) on {group.target}{group.toward}: median l2 {median}"
    image = gallery(
        comparison.x[:k],
        result.x_adv,
        comparison.y[:k],
        (records["clean_prediction"][:k], records["clean_confidence"][:k]),
        (records["prediction"][:k], records["confidence"][:k]),
        comparison.classes,
        title=title,
        success=records["fooled"][:k],
    )
    return Plot(title, CAPTION, image)
