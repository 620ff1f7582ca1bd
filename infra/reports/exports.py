"""The measures of editors as files for a paper: CSV with a row for each number, LaTeX tables."""

import csv
import io
from collections.abc import Sequence

from infra.reports.data import EditorsReportData, Measure
from infra.reports.measures import MEASURES

_HEADS = "editor num_edits measure protocol value low high num_samples".split()
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def to_csv(measures: Sequence[Measure]) -> str:
    """A row for each measure; fractions are written as they are, not in percent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADS)
    for item in measures:
        low, high = (item.interval.low, item.interval.high) if item.interval else (None, None)
        numbers = ["" if value is None else f"{value:.6g}" for value in (item.value, low, high)]
        counted = item.num_samples or ""
        writer.writerow([item.editor, item.num_edits, item.name, item.protocol, *numbers, counted])
    return text.getvalue()


def latex_table(
    data: EditorsReportData, names: Sequence[str], protocol: str, *, caption: str, label: str
) -> str:
    """A table of measures in percent with their intervals: editors below each other at each number
    of edits, the best of each in bold; "" if none was measured."""
    found = {
        (item.num_edits, item.editor, item.name): item
        for item in data.measures
        if item.protocol == protocol and item.name in names
    }
    shown = [name for name in names if any(key[2] == name for key in found)]
    if not shown:
        return ""
    lines = [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{rl{'r' * len(shown)}}}",
        r"\toprule",
        " & ".join(["$N$", "editor", *(escape(MEASURES[name].title) for name in shown)]) + r" \\",
    ]
    for size in data.sizes:
        rows = [e for e in data.editors if any((size, e, name) in found for name in shown)]
        if rows:
            lines.append(r"\midrule")
        for row, editor in enumerate(rows):
            cells = [
                _cell(
                    found.get((size, editor, name)),
                    [item for e in rows if (item := found.get((size, e, name)))],
                    data.reference,
                )
                for name in shown
            ]
            head = f"{size:,}".replace(",", "{,}") if row == 0 else ""
            lines.append(" & ".join([head, escape(editor), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _cell(item: Measure | None, all_items: Sequence[Measure], reference: str) -> str:
    """ "98.0 {\\scriptsize [95, 99]}"; the best of all but the reference is bold."""
    if item is None:
        return "--"
    sign = -1 if MEASURES[item.name].is_better_low else 1
    values = [
        sign * round(100 * other.value, 1) for other in all_items if other.editor != reference
    ]
    is_best = item.editor != reference and sign * round(100 * item.value, 1) == max(values)
    text = f"{100 * item.value:.1f}".replace("-", "$-$")
    text = rf"\textbf{{{text}}}" if is_best else text
    if item.interval is None:
        return text
    low, high = (
        f"{100 * end:.0f}".replace("-0", "0").replace("-", "$-$")
        for end in (item.interval.low, item.interval.high)
    )
    return rf"{text} {{\scriptsize [{low}, {high}]}}"


def escape(text: str) -> str:
    """A text without meaning for LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in text)
