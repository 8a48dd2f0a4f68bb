"""The tables of a comparison for a paper's appendix: LaTeX that needs the package booktabs, and no other."""

from __future__ import annotations

import re

from advgan.report.beside import cost, optimality
from advgan.report.page import Summary, Table
from advgan.report.sections import sections

LEFT_OUT = ("8-bit %", "SSIM", "max linf", "mean linf", "mean l0", "fwd+bwd", "alone")  # a page is narrow
SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"},
    **{"±": r"$\pm$", "∞": r"$\infty$", "–": "--", "×": r"$\times$", "→": r"$\to$"},
}
NORMS = {"l0": r"$\ell_0$", "l2": r"$\ell_2$", "linf": r"$\ell_\infty$", "eps": r"$\varepsilon$"}
HEADS = {"images/s": "images/s", "x FGSM": r"$\times$ FGSM", "access": "uses"}
ALONE = re.compile(r"(?<![\w-])(l0|l2|linf|eps)(?![\w-])")


def latex(summary: Summary) -> str:
    r"""A table per section, to be \input; each has a caption that can stand alone."""
    parts = [r"% Needs \usepackage{booktabs} in the preamble. Made by eval/compare.py; change that, not this.", ""]
    parts += [_table(section, section.title + ". " + _how(section)) for section in sections(summary, LEFT_OUT)]
    others = [*optimality(summary), *cost(summary)]
    parts += [_table(section, f"{section.title}. {section.note}") for section in others]
    return "\n".join(parts)


def _how(section: Table) -> str:
    """The caption's explanation of the metrics of a table."""
    sentences = ["Success (ASR) is over the attacked images, in brackets its 95 % Wilson interval."]
    if "robust %" in section.heads:
        sentences.append("Robust: accuracy over all images under the attack.")
    else:
        sentences.append("Norms are over the fooled images; the median counts a failure as infinitely far.")
    if any(line[0].startswith("worst case") for line in section.closing):
        sentences.append("The worst case counts an image as fooled if any of the attacks fools it.")
    if any("±" in cell for line in section.closing for cell in line):
        sentences.append("± is the standard deviation over seeds.")
    return " ".join(sentences)


def _table(section: Table, caption: str) -> str:
    """One floating table: heads, lines, and below a rule what sums them up."""
    head = " & ".join(HEADS.get(each) or symbols(escape(each)) for each in section.heads) + r" \\"
    lines, closing = [_row(line) for line in section.lines], [_row(line) for line in section.closing]
    sides = "l" * section.words + "r" * (len(section.heads) - section.words)
    failures = [f"{why}." for why in section.failures.values()]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{symbols(escape(' '.join([caption, *failures])))}}}",
            rf"\makebox[\linewidth][c]{{\begin{{tabular}}{{@{{}}{sides}@{{}}}}",  # sticks out on both sides alike
            r"\toprule",
            head,
            r"\midrule",
            *lines,
            *([r"\midrule", *closing] if closing else []),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table}",
            "",
        ]
    )


def _row(cells: list[str]) -> str:
    """A line of a table. TeX would take a star or a bracket after the line before for an option of its end."""
    text = " & ".join(map(escape, cells)) + r" \\"
    return "{}" + text if text.startswith(("[", "*")) else text


def escape(text: str) -> str:
    """`text` with every character that means something to TeX made a letter again."""
    return "".join(SPECIAL.get(character, character) for character in text)


def symbols(text: str) -> str:
    """The names of norms, standing alone in escaped text, as mathematics has them."""
    return ALONE.sub(lambda found: NORMS[found[1]], text)
