"""A table as data, and the three ways to write it: Markdown, LaTeX (booktabs), CSV."""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from dataclasses import dataclass

MISSING = "–"
Number = float | int | str | None


@dataclass(frozen=True)
class Column:
    """title: what people read; keys: the columns it has in the CSV file; align: "l", "r", or "wrap" for prose."""

    title: str
    keys: tuple[str, ...]
    align: str = "r"


@dataclass(frozen=True)
class Cell:
    """text: what people read; values: one for each of the column's keys; mark: "best", "second" or ""."""

    text: str
    values: tuple[Number, ...]
    mark: str = ""


@dataclass(frozen=True)
class Rows:
    """The rows of one block. `keys` go in front of each CSV row; sums: how many of the last rows sum up the others."""

    title: str
    keys: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    sums: int = 0


@dataclass(frozen=True)
class Table:
    """name: stem of the files; verdict: what must be read first; notes: what n, the +- and the symbols mean."""

    name: str
    title: str
    columns: tuple[Column, ...]
    blocks: tuple[Rows, ...]
    notes: tuple[str, ...]
    block_keys: tuple[str, ...] = ("dataset", "backbone")
    verdict: str = ""

    def __post_init__(self) -> None:
        for row in (row for block in self.blocks for row in block.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.name!r}: a row of {len(row)} cells under {len(self.columns)} columns")

    @property
    def caption(self) -> str:
        """The title; with one block only, its name too, which then needs no row of its own."""
        return f"{self.title} ({self.blocks[0].title})" if len(self.blocks) == 1 else self.title


# ---------------------------------------------------------------------------------------------------- Markdown
def to_markdown(table: Table) -> str:
    """The caption, a GitHub table, the notes."""
    lines = [f"**{escape_markdown(table.caption)}**", ""]
    lines += [escape_markdown(table.verdict), ""] if table.verdict else []
    lines.append(_pipes([escape_markdown(column.title) for column in table.columns]))
    lines.append(_pipes(["---:" if column.align == "r" else ":---" for column in table.columns]))
    for block in table.blocks:
        if len(table.blocks) > 1:
            lines.append(_pipes([f"*{escape_markdown(block.title)}*"] + [""] * (len(table.columns) - 1)))
        lines += [_pipes([_markdown_cell(cell) for cell in row]) for row in block.rows]
    return "\n".join([*lines, "", *(f"{escape_markdown(note)}  " for note in table.notes)]) + "\n"


def escape_markdown(text: str) -> str:
    """Literal text on one line: no pipe ends a cell; no emphasis, link or tag starts."""
    text = re.sub(r"([\\|*`<]|\](?=\())", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _pipes(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    return {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(cell.mark, text)


# ---------------------------------------------------------------------------------------------------- LaTeX
_LATEX = {
    "\\": r"\textbackslash{}",
    **{char: "\\" + char for char in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after \\ a bare bracket would be read as its argument
    "]": "{]}",
    "*": r"{*}",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "’": "'",
    "“": "``",
    "”": "''",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
    "¶": r"\P{}",
    "²": r"$^2$",
    "→": r"$\rightarrow$",
}
LATEX_HEAD = (
    "\\documentclass{article}\n\\usepackage[T1]{fontenc}\n\\usepackage{textcomp,booktabs}\n"
    "\\usepackage[margin=1.5cm,landscape]{geometry}\n\\begin{document}\n"
)


def to_latex(table: Table) -> str:
    """A `table` environment to \\input; it needs \\usepackage{booktabs} and T1 fonts, nothing else."""
    width = len(table.columns)
    align = "".join("p{0.38\\linewidth}" if column.align == "wrap" else column.align for column in table.columns)
    lines = ["\\begin{table}[htbp]", "\\centering\\small\\setlength{\\tabcolsep}{4pt}"]
    lines.append(f"\\caption{{{escape_latex(table.caption)}}}")
    lines += [f"\\label{{tab:{table.name}}}", f"\\begin{{tabular}}{{{align}}}", "\\toprule"]
    lines += [_ampersands([escape_latex(column.title) for column in table.columns]), "\\midrule"]
    for number, block in enumerate(table.blocks):
        if len(table.blocks) > 1:
            lines += ["\\midrule"] * (number > 0)
            lines.append(f"\\multicolumn{{{width}}}{{l}}{{\\textit{{{escape_latex(block.title)}}}}} \\\\")
        lines += [_ampersands([_latex_cell(cell) for cell in row]) for row in block.rows]
    notes = " ".join(escape_latex(note) for note in (table.verdict, *table.notes))
    lines += ["\\bottomrule", "\\end{tabular}", "", "\\smallskip"]
    lines += [f"\\begin{{minipage}}{{0.95\\linewidth}}\\footnotesize {notes.strip()}\\end{{minipage}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def to_document(names: list[str]) -> str:
    """A LaTeX document of its own that holds every table."""
    return LATEX_HEAD + "".join(f"\\input{{{name}}}\n" for name in names) + "\\end{document}\n"


def escape_latex(text: str) -> str:
    """Literal text for pdflatex: special characters escaped, symbols as mathematics, what no Latin font has as '?'."""
    return "".join(_LATEX.get(char) or _latin(char) for char in " ".join(text.split()))


def _latin(char: str) -> str:
    return char if char < "\u0180" and unicodedata.category(char)[0] != "C" else "?"


def _ampersands(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    return {"best": f"\\textbf{{{text}}}", "second": f"\\underline{{{text}}}"}.get(cell.mark, text)


# ---------------------------------------------------------------------------------------------------- CSV
def to_csv(table: Table) -> str:
    """One header, one line a row, numbers unrounded (six digits), an empty field where there is none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*table.block_keys, *(key for column in table.columns for key in column.keys)])
    for block in table.blocks:
        for row in block.rows:
            writer.writerow([*block.keys, *(_csv_field(value) for cell in row for value in cell.values)])
    return out.getvalue()


def _csv_field(value: Number) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------------------------- numbers
def spread(mean: float, deviation: float, digits: int) -> str:
    """ "74.1 ± 1.2"; without a deviation (one value) the mean alone; without a mean "–"."""
    if math.isnan(mean):
        return MISSING
    text = minus(f"{mean:.{digits}f}")
    return text if math.isnan(deviation) else f"{text} ± {deviation:.{digits}f}"


def signed(number: float, digits: int) -> str:
    return MISSING if math.isnan(number) else minus(f"{number:+.{digits}f}")


def interval(low: float, high: float) -> str:
    """ "-0.2 to +1.3"; nothing where there is none, or it has no end."""
    return f"{signed(low, 1)} to {signed(high, 1)}" if math.isfinite(low) and math.isfinite(high) else MISSING


def probability(p: float) -> str:
    """Three decimals, never "0.000"."""
    if math.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def minus(text: str) -> str:
    """A true minus sign; zero has no sign at all."""
    return text.lstrip("+-") if not text.strip("+-0.") else text.replace("-", "−")
