"""The figures of a comparison, one kind a file."""

from advgan.report.comparison import Comparison, Plot
from advgan.report.figures.confusion import confusion
from advgan.report.figures.curves import curves
from advgan.report.figures.galleries import galleries
from advgan.report.figures.noise import noise
from advgan.report.figures.norms import cumulative, histograms
from advgan.report.figures.same_l2_different_linf import same_l2_different_linf
from advgan.report.figures.speed import speed
from advgan.report.figures.style import with_caption

__all__ = ["plots", "with_caption"]

FIGURES = (curves, speed, noise, same_l2_different_linf, galleries, confusion, cumulative, histograms)


def plots(comparison: Comparison) -> dict[str, Plot]:
    """All figures for which a comparison has data, in the order of the report.

    Names are "curves/mnist-c linf": the kind of figure, then its subject; valid as file names and TensorBoard's tags.
    """
    return {name: plot for draw in FIGURES for name, plot in draw(comparison).items()}
