"""One self-contained page: nothing is fetched, no script runs, every text from outside is escaped."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from reports.candidates import is_searched
from reports.figures import Saved
from reports.formats import Cell, Rows, Table
from reports.select import budget
from reports.style import CSS
from reports.tables import Context
from sweeps.service.tracking.records import TrialRecord

HOW_TO_READ = {
    "replicate, n": "One seed and fold. Every arm is trained on the same ones, so arms are compared pair by pair.",
    "±": "Sample standard deviation (ddof 1) over the replicates: how much a single run varies, "
    "not how well the mean is known.",
    "test sets, pairs": "Replicates that share their test images share their luck. A claim about new test sets "
    "counts each "
    "distinct set once, its pairs averaged, and needs six of them; with fewer, what is said holds on these test sets.",
    "95 % interval": "Student's t over the units of the claim (test sets, or pairs); of a sequential study a "
    "confidence sequence, which holds however often one looked.",
    "primary, exploratory": "Primary contrasts were written into the plan before anything was trained; Holm's "
    "correction counts them alone. All else is exploratory: reasons for a next study, no evidence yet.",
    "p": "Two-sided sign-flip test: if the arm made no difference, each paired difference could as well have the other "
    "sign. n pairs have 2^n sign patterns, so p can't fall below 2 / 2^n: .25 at n = 3, .0625 at n = 5, "
    ".031 at n = 6. Holm's correction accounts for the number of comparisons in a table.",
    "best of several": "The arm with the highest mean looks better than it is, for luck helped to pick it. "
    "Folds may share training images, so replicates are not fully independent either.",
    "collapsed (†)": "A learned softmax weighting drifts to the smallest loss term. Once the weight of the base term, "
    "which trains the classifier, is under 0.05 the trial is flagged: from then on it hardly learns to classify.",
    "NN-hit, silhouette": "Whether fine classes of one coarse class lie together in the latent space; "
    "higher is better.",
    "rank (¶)": "Over how many directions the variance of the test latents is spread. Under 0.05 of the directions "
    "that so many classes need, the latents have collapsed: classes lie over each other.",
    "correlation": "Whether distances between class centroids follow the distances between the classes' names.",
}


# What a record's provenance repeats of the record itself: one value a trial, and already in the tables.
SHOWN_ELSEWHERE = {"kind", "sweep", "signature", "arm", "subset", "state", "error", "collapsed", "attempts"}


@dataclass(frozen=True)
class SearchPart:
    """What searches tried, told apart from the evidence. text: plain sentences."""

    text: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[Saved, ...]


@dataclass(frozen=True)
class Page:
    """All that the page shows. summary: plain sentences, the first one the headline."""

    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[Saved, ...]
    records: Sequence[TrialRecord]
    context: Context
    tracking_url: str | None = None
    search: SearchPart | None = None


def to_html(page: Page) -> str:
    """The whole page as one string."""
    drawn = "".join(map(_figure, page.figures)) or "<p>No finished trial to draw yet.</p>"
    parts = (
        ("summary", "Summary", _summary(page)),
        ("tables", "Tables", "".join(map(_table, page.tables))),
        ("figures", "Figures", drawn if page.context.blocks else ""),
        ("search", "Search", _search(page.search) if page.search else ""),
        ("reading", "How to read it", _definitions(list(HOW_TO_READ.items()))),
        ("provenance", "Provenance", _provenance(page)),
    )
    sections = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    body = "".join(f'<section id="{anchor}"><h2>{title}</h2>{text}</section>' for anchor, title, text in sections)
    title = escape(page.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head>\n"
        f"<body><nav>{links}</nav><main><h1>{title}</h1>\n{body}</main></body></html>\n"
    )


def _summary(page: Page) -> str:
    headline, *rest = page.summary
    return (
        f'<p class="lead">{escape(headline)}</p>{_tiles(page)}'
        + "<ul>"
        + "".join(f"<li>{escape(sentence)}</li>" for sentence in rest)
        + "</ul>"
    )


def _tiles(page: Page) -> str:
    arms = [arm for block in page.context.blocks for arm in block.arms]
    spent, searched = budget(page.records), sum(map(is_searched, page.records))
    tiles = [(f"{spent.epochs:,}", "epochs trained"), (duration(spent.seconds), "of training, summed")]
    if searched:
        tiles.insert(0, (f"{searched:,}", "search trials"))
    if arms:
        ok = f"{sum(arm.n_ok for arm in arms)}/{page.context.budget.trials}"
        tiles = [(page.context.n, "replicates an arm"), (ok, "trials with a test result"), *tiles]
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{escape(number)}</b><span>{escape(text)}</span></div>" for number, text in tiles)
        + "</div>"
    )


def duration(seconds: float) -> str:
    """ "45 s", "18.7 min", "3.2 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


# ---------------------------------------------------------------------------------------------------- tables
def _table(table: Table) -> str:
    kinds = [column.align for column in table.columns]
    head = "".join(
        f'<th scope="col" class="{k}">{escape(c.title)}</th>' for c, k in zip(table.columns, kinds, strict=True)
    )
    body = "".join(_block(block, kinds, named=len(table.blocks) > 1) for block in table.blocks)
    verdict = f"<p>{escape(table.verdict)}</p>" if table.verdict else ""
    notes = " ".join(escape(note) for note in table.notes)
    return (
        f'<article id="table-{escape(table.name)}"><h3>{escape(table.caption)}</h3>{verdict}<div class="wide"><table>'
        f'<thead><tr>{head}</tr></thead>{body}</table></div><p class="notes">{notes}</p></article>'
    )


def _block(block: Rows, kinds: Sequence[str], *, named: bool) -> str:
    title = f'<tr class="block"><th colspan="{len(kinds)}">{escape(block.title)}</th></tr>' if named else ""
    rows = ("".join(_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)) for row in block.rows)
    return f"<tbody>{title}{''.join(f'<tr>{row}</tr>' for row in rows)}</tbody>"


def _cell(cell: Cell, kind: str) -> str:
    text = escape(cell.text)
    text = {"best": f"<b>{text}</b>", "second": f"<u>{text}</u>"}.get(cell.mark, text)
    return f'<td class="{kind}">{text}</td>'


# ---------------------------------------------------------------------------------------------------- figures
def _figure(saved: Saved) -> str:
    drawing = saved.drawing
    return (
        f'<figure id="figure-{escape(drawing.name)}"><h3>{escape(drawing.title)}</h3><div class="wide">'
        f'<img src="{_data_uri(saved.svg)}" alt="{escape(drawing.alt)}"></div>'
        f"<figcaption>{escape(drawing.caption)}</figcaption></figure>"
    )


def _data_uri(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def _search(part: SearchPart) -> str:
    text = "".join(f"<p>{escape(sentence)}</p>" for sentence in part.text)
    return text + "".join(map(_table, part.tables)) + "".join(map(_figure, part.figures))


# ---------------------------------------------------------------------------------------------------- the rest
def _definitions(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in pairs) + "</dl>"


def _provenance(page: Page) -> str:
    """Where the numbers come from; a value that not all trials share is shown with the number of those that do."""
    configs = [trial.config for trial in page.records]
    facts: list[tuple[str, list[str]]] = [
        ("sweep", [trial.sweep for trial in page.records]),
        ("data set", [config.dataset for config in configs]),
        ("backbone", [config.backbone for config in configs]),
        ("seeds", [str(config.seed) for config in configs]),
        ("folds", [str(config.fold) for config in configs]),
    ]
    names = dict.fromkeys(n for trial in page.records for n in sorted(trial.provenance) if n not in SHOWN_ELSEWHERE)
    facts += [(name, [trial.provenance.get(name, "not recorded") for trial in page.records]) for name in names]
    rule = page.context.rule
    pairs = [("selection rule", f"{rule.name}: {rule.text}"), ("budget", budget(page.records).text)]
    pairs += [(name, shared(values)) for name, values in facts]
    return _definitions(pairs) + _tracking(page.tracking_url)


def shared(values: Sequence[str]) -> str:
    """ "a" where all agree, else "a (20 trials), b (10 trials)"."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count} trial{'s' * (count > 1)})" for value, count in counts.items())


def _tracking(url: str | None) -> str:
    if url is None:
        return ""
    is_link = url.startswith(("http://", "https://"))  # a file or database has no page to open
    text = f'<a href="{escape(url)}">{escape(url)}</a>' if is_link else escape(url)
    return f"<p>Every trial with its curves and files: {text}</p>"
