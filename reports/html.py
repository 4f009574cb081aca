"""One self-contained page: nothing is fetched, its one script is ours, every text from outside is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reports.candidates import is_searched
from reports.figures import Saved
from reports.forest import ForestRow, forest_svg
from reports.formats import Table
from reports.select import budget
from reports.tables import Context
from reports.templates import own_text, render
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
    """All that the page shows. summary: plain sentences, the first one the headline; forest: the picture under it."""

    title: str
    summary: tuple[str, ...]
    tables: tuple[Table, ...]
    figures: tuple[Saved, ...]
    records: Sequence[TrialRecord]
    context: Context
    tracking_url: str | None = None
    search: SearchPart | None = None
    forest: tuple[ForestRow, ...] = ()


def to_html(page: Page) -> str:
    """The whole page as one string."""
    searched = page.search.tables if page.search else ()
    style, script = own_text("page.css"), own_text("page.js")
    made = render(
        "page.html.j2",
        page=page,
        sections=_sections(page),
        forest=forest_svg(page.forest),
        tiles=_tiles(page),
        how_to_read=HOW_TO_READ.items(),
        notes=numbered((*page.tables, *searched)),
        provenance=_provenance(page),
        linked=(page.tracking_url or "").startswith(("http://", "https://")),  # a database has no page to open
        data_uri=_data_uri,
        style=style,
        script=script,
        policy=_policy(style, script),
    )
    return f"{made.strip()}\n"


def _policy(style: str, script: str) -> str:
    """Content-Security-Policy: our own style and script by their digests, pictures inside the page, nothing else."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _sections(page: Page) -> list[tuple[str, str]]:
    """(anchor, title) of what the page has."""
    known = (
        ("summary", "Summary", True),
        ("tables", "Tables", bool(page.tables)),
        ("figures", "Figures", bool(page.context.blocks)),
        ("search", "Search", page.search is not None),
        ("reading", "How to read it", True),
        ("provenance", "Provenance", True),
    )
    return [(anchor, title) for anchor, title, there in known if there]


def numbered(tables: Iterable[Table]) -> dict[str, int]:
    """Every note of the tables once -> its number, in the order in which they are met."""
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    return {note: number for number, note in enumerate(notes, start=1)}


def _tiles(page: Page) -> list[tuple[str, str]]:
    """(number, what it counts)."""
    arms = [arm for block in page.context.blocks for arm in block.arms]
    spent, searched = budget(page.records), sum(map(is_searched, page.records))
    tiles = [(f"{spent.epochs:,}", "epochs trained"), (duration(spent.seconds), "of training, summed")]
    if searched:
        tiles.insert(0, (f"{searched:,}", "search trials"))
    if arms:
        ok = f"{sum(arm.n_ok for arm in arms)}/{page.context.budget.trials}"
        tiles = [(page.context.n, "replicates an arm"), (ok, "trials with a test result"), *tiles]
    return tiles


def duration(seconds: float) -> str:
    """ "45 s", "18.7 min", "3.2 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _data_uri(svg: Path) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.read_bytes()).decode()


def _provenance(page: Page) -> list[tuple[str, str]]:
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
    return pairs + [(name, shared(values)) for name, values in facts]


def shared(values: Sequence[str]) -> str:
    """ "a" where all agree, else "a (20 trials), b (10 trials)"."""
    counts = Counter(values)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count} trial{'s' * (count > 1)})" for value, count in counts.items())
