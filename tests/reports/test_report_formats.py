"""Markdown, LaTeX and CSV: text stays literal, LaTeX is parsed and compiled."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports import beside, comparison_tables, failures, formats, paper_tables, tables
from reports.formats import Cell, Column, Rows, Table, to_csv, to_document, to_latex, to_markdown
from tests.reports.handmade import FULL, by_hand, found_against_base, study

NASTY = r"50% of_a & b #1 {x} $y$ ~^\ <u> | [z] *s* 日本 é “q” – −"


def nasty() -> Table:
    cells = (Cell(NASTY, (NASTY,), "best"), Cell("1", (1,)))
    return Table(
        "nasty", NASTY, (Column(NASTY, ("a",), "wrap"), Column("b", ("b",))), (Rows("t", (), (cells,)),), (NASTY,), ()
    )


def test_markdown_keeps_text_literal() -> None:
    assert formats.escape_markdown("a|b *c* _d_ e_f <g> [h](i) `j`\nk") == (
        r"a\|b \*c\* \_d\_ e_f \<g> [h\](i) \`j\` k"
    )
    header, _, row = to_markdown(nasty()).splitlines()[2:5]
    assert len(re.findall(r"(?<!\\)\|", header)) == len(re.findall(r"(?<!\\)\|", row)) == 3


def test_csv_reads_back() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(nasty()))))
    assert rows == [["a", "b"], [NASTY, "1"]]


def test_a_row_that_does_not_fit_its_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells under 2 columns"):
        Table("t", "t", nasty().columns, (Rows("", (), ((Cell("x", ("x",)),),)),), ())


@pytest.mark.parametrize(
    ("number", "text"), [(0.0, "0.0"), (-0.04, "0.0"), (0.04, "0.0"), (-1.25, "−1.2"), (2.0, "+2.0"), (math.nan, "–")]
)
def test_signed(number: float, text: str) -> None:
    assert formats.signed(number, 1) == text


def all_tables() -> list[Table]:
    made, found = found_against_base(
        [*by_hand(), *study(2, 4, arms=("ce", FULL), dataset="cifar100", backbone="resnet50")]
    )
    candidates = [
        tables.top1_table(made),
        failures.table(made),
        tables.latent_table(made),
        tables.correlation_table(made),
        comparison_tables.baseline_table(made, found),
        *paper_tables.made(made, found),
        beside.plan_table(made, {NASTY: (1, 2)}),
        nasty(),
    ]
    return [table for table in candidates if table is not None]


def unescaped(text: str) -> str:
    r"""The text without `\\`, `\{` and the like, so that what is left of braces and ampersands is syntax."""
    return re.sub(r"\\[\\{}&%$#_]", "", text)


@pytest.mark.parametrize("table", all_tables(), ids=lambda table: table.name)
def test_latex_is_balanced_and_every_row_has_all_columns(table: Table) -> None:
    tex = to_latex(table)
    depth = 0
    for char in unescaped(tex):
        depth += (char == "{") - (char == "}")
        assert depth >= 0
    assert depth == 0
    assert unescaped(tex).count("$") % 2 == 0
    assert re.findall(r"\\begin\{(\w+)\}", tex) == ["table", "tabular", "minipage"]
    assert sorted(re.findall(r"\\end\{(\w+)\}", tex)) == ["minipage", "table", "tabular"]
    spec = re.search(r"\\begin\{tabular\}\{((?:p\{[^}]*\}|[lr])+)\}", tex)
    assert spec is not None
    width = len(re.sub(r"p\{[^}]*\}", "p", spec[1]))
    rows = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + sum(len(b.rows) + (len(table.blocks) > 1) for b in table.blocks)
    for row in rows:
        if row.startswith(r"\multicolumn"):
            assert row.startswith(rf"\multicolumn{{{width}}}{{l}}")
        else:
            assert unescaped(row).count("&") == width - 1


def test_latex_compiles(tmp_path: Path) -> None:
    engine = next((name for name in ("tectonic", "pdflatex") if shutil.which(name)), None)
    if engine is None:
        pytest.skip("neither tectonic nor pdflatex is installed")
    made = all_tables()
    for table in made:
        (tmp_path / f"{table.name}.tex").write_text(to_latex(table), encoding="utf-8")
    (tmp_path / "all.tex").write_text(to_document([table.name for table in made]), encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if engine == "pdflatex" else []
    done = subprocess.run([engine, *options, "all.tex"], cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
