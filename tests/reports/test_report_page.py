"""The whole report: what lies in the folder, what the page says, and that it needs nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution

from laresa.errors import DataError
from reports import Report, build_report, candidates, html, importance
from reports.html import duration, shared
from tests.reports.handmade import FULL, of_version_0_1, record, study

VOID = {"meta", "img", "source", "br", "hr", "wbr"}


class Reader(HTMLParser):
    """Collects attributes that fetch something, checks that tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]
        found = dict(attrs)
        self.links += [found["href"] or ""] if "href" in found else []
        self.ids += [found["id"] or ""] if "id" in found else []
        self.sources += [found[name] or "" for name in ("src", "srcset", "poster", "data") if name in found]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(report: Report) -> tuple[str, Reader]:
    text = report.html.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return text, reader


def nothing(_: object) -> None:
    return None


def test_every_file_it_names_is_there(whole: Report) -> None:
    assert all(path.stat().st_size > 40 for path in whole.files)
    assert {path.suffix for path in whole.tables} == {".md", ".tex", ".csv"}
    names = [
        "top1",
        "comparisons",
        "variants",
        "latents",
        "correlations",
        "epochs",
        "order",
        "plan",
        "failures",
        "appendix",
    ]
    assert [path.stem for path in whole.tables if path.suffix == ".csv"] == names
    drawn = ["top1", "weights", "learned-beta", "latents", "validation"]
    for folder in ("figures", "dark"):
        assert [path.stem for path in whole.figures if (path.suffix, path.parent.name) == (".svg", folder)] == drawn
    assert sorted(whole.html.parent.rglob("*.*")) == sorted(whole.files)


def test_the_page_fetches_nothing_and_its_one_script_is_ours(whole: Report) -> None:
    text, reader = read(whole)
    assert reader.sources
    assert all(source.startswith("data:image/svg+xml;base64,") for source in reader.sources)
    assert not {"link", "iframe", "object", "embed"} & set(reader.tags)
    (style,), (script,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("style", "script"))
    assert script == Path(html.__file__).with_name("page.js").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?:|fetch|import|eval", style + script)
    assert reader.tags.count("script") == 1
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert unescape(policy[1]).startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy[1]


def test_links_outside_open_the_sweep_and_the_trials_of_the_first_picture(whole: Report) -> None:
    _, reader = read(whole)
    sweep = "http://127.0.0.1:5000/#/experiments/1"
    *dots, last = [link for link in reader.links if not link.startswith("#")]
    assert last == sweep
    assert len(dots) == reader.tags.count("circle") == 14  # five arms against ce, of three pairs each; one has failed
    assert all(re.fullmatch(rf"{sweep}/runs/run-\w+", link) for link in dots)


def test_every_link_inside_has_its_target(whole: Report) -> None:
    _, reader = read(whole)
    targets = [link[1:] for link in reader.links if link.startswith("#")]
    assert targets[:5] == ["summary", "tables", "figures", "reading", "provenance"]
    assert set(targets) <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))


def test_every_note_is_said_once_and_tables_point_to_it(whole: Report) -> None:
    text, reader = read(whole)
    said = re.findall(r'<li id="note-(\d+)">(.*?)</li>', text)
    assert [int(number) for number, _ in said] == list(range(1, len(said) + 1))
    assert len({note for _, note in said}) == len(said)
    assert {f"#note-{number}" for number, _ in said} <= set(reader.links)
    assert reader.links.count("#note-1") == 10  # the number of replicates: under every table
    for note in ("n = 2 to 3 replicates an arm.", "Budget: 18 trials, "):
        assert text.count(note) == 1
    kept = [path.read_text(encoding="utf-8") for path in whole.tables if path.suffix == ".md"]
    assert all("n = 2 to 3 replicates an arm." in table for table in kept)


def test_text_from_outside_is_escaped(whole: Report) -> None:
    text, _ = read(whole)
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &#34;q&#34;") == 4  # title twice


def test_the_page_holds_every_table_figure_and_fact(whole: Report) -> None:
    text, reader = read(whole)
    assert reader.tags.count("table") == 10
    assert reader.tags.count("figure") == 1 + 5
    assert reader.tags.count("img") == 5
    for fact in ("0123abc", "node-1 (", "17/18", "best validation epoch", "9f1c77aa20e4", "2.14.1", "not recorded (1"):
        assert fact in text
    assert '<td class="r">3/3</td>' in text
    assert text.count('<td class="r"><b>') >= 4
    assert text.count("n too small: with n = 3") == 3  # in the summary, and over both tables of comparisons
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", text))


def test_the_summary_says_what_n_allows(whole: Report) -> None:
    assert whole.summary[0] == (
        "On test, ce has the best mean top-1: 74.6 ± 0.9 % (n = 3). No arm beats it; the next is ce+triplet+reg with "
        "74.5 ± 0.7 %."
    )
    assert f"{FULL}, shuffled labels against {FULL}: " in whole.summary[1]
    assert any(sentence.startswith("n too small: with n = 3") for sentence in whole.summary)
    assert "1 of 18 trials gave no test result (17 finished, 1 failed)." in whole.summary


def summary(records: list, tmp_path: Path) -> tuple[str, ...]:
    return build_report(records, tmp_path, latents=nothing, title="t").summary


def test_summary_when_ce_wins(tmp_path: Path) -> None:
    records = [record("ce", 0.6, seed=s) for s in (0, 1)] + [record("ce+reg", 0.5, seed=s) for s in (0, 1)]
    assert summary(records, tmp_path)[0] == (
        "On test, ce has the best mean top-1: 60.0 ± 0.0 % (n = 2). No arm beats it; the next is ce+reg with "
        "50.0 ± 0.0 %."
    )


def test_summary_when_n_is_too_small_to_tell(tmp_path: Path) -> None:
    records = [record("ce", 0.5, seed=s) for s in range(3)]
    records += [record("ce+reg", 0.5 + 0.01 * (s + 1), seed=s) for s in range(3)]
    assert summary(records, tmp_path)[0] == (
        "On test, ce+reg has the best mean top-1: 52.0 ± 1.0 % (n = 3). That is +2.0 points over ce in 3 pairs on this "
        "one test set (95 % interval −0.5 to +4.5), too few to tell it from luck (p = 0.250 after Holm); picked as "
        "the best of 2, it flatters itself."
    )


def test_summary_when_a_gain_is_more_than_luck(tmp_path: Path) -> None:
    records = [record("ce", 0.5, seed=s) for s in range(8)]
    records += [record("ce+reg", 0.5 + 0.01 * (s + 1), seed=s) for s in range(8)]
    found = summary(records, tmp_path)
    assert "more than luck explains (p = 0.008 after Holm)." in found[0]
    assert "*: p (Holm) at most .05." not in found  # a symbol of the table means nothing here


def test_summary_before_anything_has_finished(tmp_path: Path) -> None:
    found = summary([record("ce", None, state="running")], tmp_path)
    assert found == (
        "On test: no trial has finished with a test result yet.",
        "1 of 1 trials gave no test result (1 running).",
    )


def test_an_empty_study_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to report"):
        build_report([], tmp_path / "out", latents=nothing, title="t")
    assert not (tmp_path / "out").exists()


def test_two_blocks_have_figures_of_their_own(tmp_path: Path) -> None:
    records = study(2, 4, arms=("ce", "ce+anchor")) + study(2, 4, arms=("ce",), dataset="cifar100", backbone="resnet50")
    report = build_report(records, tmp_path, latents=nothing, title="t", tracking_url="sqlite:///x.db")
    stems = [path.stem for path in report.figures if path.suffix == ".png"]
    assert stems == ["top1-1", "weights-1", "learned-beta-1", "validation-1", "top1-2", "validation-2"]
    text, reader = read(report)
    assert "paper-top1" in {path.stem for path in report.tables}
    assert "Validation curves (cifar100, resnet50)" in text
    assert len([link for link in reader.links if not link.startswith("#")]) == 0


def test_the_same_records_give_the_same_report(tmp_path: Path) -> None:
    records = study(6, 4, arms=("ce", "ce+anchor"))
    one, other = (build_report(records, tmp_path / n, latents=nothing, title="t") for n in "ab")
    assert [path.read_bytes() for path in one.files] == [path.read_bytes() for path in other.files]


def test_small_words() -> None:
    assert [duration(s) for s in (45.4, 600, 36_000)] == ["45 s", "10.0 min", "10.0 h"]
    assert shared(["a", "a"]) == "a"
    assert shared(["a", "b", "a"]) == "a (2 trials), b (1 trial)"


WITHOUT_PLUGIN = """
import sys
from dataclasses import replace
from pathlib import Path
from optuna.distributions import FloatDistribution
from reports import build_report
from tests.reports.handmade import read, unheard

searched = [
    replace(read("own_base+unheard", 0.5, **{"unheard.x": x}), arm="search", provenance={"role": "search"})
    for x in (1.25, 0.5)
]
space = {"unheard.x": FloatDistribution(0, 2)}
build_report(unheard() + searched, Path(sys.argv[1]), latents=lambda _: None, title="t", space=space,
             arms=("own_base", "own_base+unheard"), objectives=("val/top1", "val/unheard"))
print(*{"torch", "ray", "mlflow", "umap"} & set(sys.modules))
"""


def test_a_report_needs_no_scheduler_no_torch_and_no_plugin(tmp_path: Path) -> None:
    run = [sys.executable, "-c", WITHOUT_PLUGIN, str(tmp_path)]
    assert subprocess.check_output(run, text=True).strip() == ""
    text = (tmp_path / "report.html").read_text()
    assert "other_base has the best mean top-1: 70.0 ± 0.0 % (n = 2). That is +20.0 points over own_base" in text
    assert "unheard.x 1.25" in text
    assert {"weights", "learned-unheard.scale"} <= {path.stem for path in tmp_path.rglob("*.svg")}


def test_a_sweep_of_0_1_stays_readable(tmp_path: Path) -> None:
    arms = {"ce": 0.5, "ce+triplet": 0.6, FULL: 0.4}
    records = [of_version_0_1(arm, top1, seed=seed) for arm, top1 in arms.items() for seed in (0, 1)]
    made = build_report(records, tmp_path, latents=nothing, title="t", arms=tuple(arms))
    assert made.summary[0].startswith(
        "On test, ce+triplet has the best mean top-1: 60.0 ± 0.0 % (n = 2). That is +10.0"
    )
    assert {"weights", "learned-beta"} <= {path.stem for path in made.figures}


def test_a_search_of_0_1_stays_readable() -> None:
    space = {
        "margin": FloatDistribution(0, 0.8),
        "aux_scale": FloatDistribution(0, 2),
        "alpha_init/ce": FloatDistribution(0, 1),  # of a list: it has no axis of its own any more
    }
    trials = [of_version_0_1("ce", 0.5), of_version_0_1("ce+triplet", 0.6, margin=0.5)]
    study = importance.rebuild("search", trials, space)
    assert [trial.params for trial in study.trials] == [{}, {"margin": 0.5, "aux_scale": 1.0}]
    assert candidates.varied(trials) == ["subset"]  # where the margin has no effect it has no value
    assert candidates.configuration(trials[0], ["margin", "alpha_init", "lr"]) == "lr 0.001"
    assert candidates.configuration(trials[1], ["margin", "alpha_init"]) == "margin 0.5, alpha_init (1, 1, 1, 1)"
