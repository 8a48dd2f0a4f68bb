"""The tables of a comparison for a paper's appendix: LaTeX that needs the package booktabs, and no other."""

import re

from advgan.core.terminal import printable
from advgan.report.page import Summary, Table
from advgan.report.sections import further_tables, sections

# A page is narrow.
OMITTED_COLUMNS = ("8-bit %", "SSIM", "max linf", "mean linf", "mean l0", "forwards + backwards", "unique")
SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''"},
    **{"±": r"$\pm$", "∞": r"$\infty$", "–": "--", "×": r"$\times$", "→": r"$\to$"},
}
NORMS = {"l0": r"$\ell_0$", "l2": r"$\ell_2$", "linf": r"$\ell_\infty$", "eps": r"$\varepsilon$"}
HEADERS = {"images/s": "images/s", "speed vs FGSM": r"speed vs FGSM", "access": "uses"}
STANDALONE_NORM = re.compile(r"(?<![\w-])(l0|l2|linf|eps)(?![\w-])")


def latex(summary: Summary) -> str:
    r"""A table per section, for \input, with self-contained captions."""
    parts = [r"% Needs \usepackage{booktabs} in the preamble. Made by eval/compare.py; change that, not this.", ""]
    parts += [
        _table(section, section.title + ". " + _explanation(section)) for section in sections(summary, OMITTED_COLUMNS)
    ]
    parts += [_table(section, f"{section.title}. {section.note}") for section in further_tables(summary)]
    return "\n".join(parts)


def _explanation(section: Table) -> str:
    """The caption's explanation of the metrics of a table."""
    sentences = ["Success (ASR) is over the attacked images, in brackets its 95 % Wilson interval."]
    if "robust %" in section.headers:
        sentences.append("Robust: accuracy over all images under the attack.")
    else:
        sentences.append("Norms are over the successes; the median counts a failure as infinite.")
    if any(line[0].startswith("worst case") for line in section.summary_rows):
        sentences.append("The worst case counts an image as a success if any of the attacks succeeds.")
    if any("±" in cell for line in section.summary_rows for cell in line):
        sentences.append("± is the standard deviation over seeds.")
    return " ".join(sentences)


def _table(section: Table, caption: str) -> str:
    """One floating table: headers, rows, and summary rows below a rule."""
    head = " & ".join(HEADERS.get(header) or symbols(escape(header)) for header in section.headers) + r" \\"
    lines, closing = [_row(line) for line in section.rows], [_row(line) for line in section.summary_rows]
    alignment = "l" * section.n_text_columns + "r" * (len(section.headers) - section.n_text_columns)
    failures = [f"{reason}." for reason in section.failures.values()]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{symbols(escape(' '.join([caption, *failures])))}}}",
            rf"\makebox[\linewidth][c]{{\begin{{tabular}}{{@{{}}{alignment}@{{}}}}",  # sticks out on both sides alike
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


def _row(texts: list[str]) -> str:
    """A row of a table. TeX parses a star or a bracket after the previous row as an option of its end."""
    text = " & ".join(map(escape, texts)) + r" \\"
    return "{}" + text if text.startswith(("[", "*")) else text


def escape(text: str) -> str:
    """`text` with the special characters of TeX escaped, and without control characters."""
    return "".join(SPECIAL.get(character, character) for character in printable(text))


def symbols(text: str) -> str:
    """The names of norms in escaped text as formulas."""
    return STANDALONE_NORM.sub(lambda match: NORMS[match[1]], text)
