"""The headline in honest words: what was asked in advance, which arm is best on test, and whether it is luck."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports.comparison_tables import significance_note, smallest_of
from reports.comparisons import Comparison
from reports.diagnosis import harm
from reports.formats import MISSING, interval, probability, signed, spread
from reports.select import TEST, Arm, Block
from reports.statistics import ALPHA, mean_sd
from sweeps.service.tracking.records import TrialRecord


def summarise(
    blocks: Sequence[Block],
    primary: Sequence[Comparison],
    against_base: Sequence[Comparison],
    variants: Sequence[Comparison],
) -> tuple[str, ...]:
    """Sentences in plain text, the first the headline: what was asked in advance, where the study named it.

    Then what stands out, block by block, what harms, what failed and what collapsed.
    """
    asked = [_verdict(c, blocks) for c in primary if c.n]
    best = [_best(block, blocks, against_base) for block in blocks]
    others = [_verdict(c, blocks) for c in variants if c.n and not c.primary]
    notes = [note for note in (significance_note(primary or against_base),) if note and against_base]
    return (
        *([" ".join(asked)] if asked else []),
        *best,
        *others,
        *notes,
        *harm(blocks, against_base),
        *_troubles(blocks),
    )


def _verdict(c: Comparison, blocks: Sequence[Block]) -> str:
    """What the comparison allows to say, over how much, with its interval and p."""
    block = f" ({c.block.title})" if len(blocks) > 1 else ""
    exploratory = " (exploratory)" if c.design.contrasts and not c.primary else ""
    found = f"{c.arm} against {c.against}{block}: {signed(c.mean, 1)} points over {c.where}"
    if (span := interval(c.main.low, c.main.high)) != MISSING:
        found += f" (95 % interval {span})"
    apart = c.p_holm <= ALPHA
    verdict = "more than luck explains" if apart else "not told apart"
    if not apart and all(c.beyond_margin):
        verdict = f"equivalent within {c.design.margin:g} point{'s' * (c.design.margin != 1)}"
    return f"{found}, {verdict} (p = {probability(c.p_holm)} after Holm){exploratory}."


def _best(block: Block, blocks: Sequence[Block], against_base: Sequence[Comparison]) -> str:
    where = f"On {block.dataset} with {block.backbone}" if len(blocks) > 1 else "On test"
    ranked = sorted((arm for arm in block.arms if arm.values(TEST)), key=_mean, reverse=True)
    if not ranked:
        return f"{where}: no trial has finished with a test result yet."
    best = ranked[0]
    headline = f"{where}, {best.label} has the best mean top-1: {_score(best)} % (n = {len(best.values(TEST))})."
    if best.label == block.baseline and len(ranked) > 1:
        return f"{headline} No arm beats it; the next is {ranked[1].label} with {_score(ranked[1])} %."
    gains = [_gain(c, len(ranked)) for c in against_base if c.block is block and c.n and c.arm == best.label]
    return " ".join([headline, *gains])


def _mean(arm: Arm) -> float:
    return mean_sd(list(arm.values(TEST).values()))[0]


def _score(arm: Arm) -> str:
    mean, sd = mean_sd([100 * number for number in arm.values(TEST).values()])
    return spread(mean, sd, 1)


def _gain(c: Comparison, arms: int) -> str:
    found = f"That is {signed(c.mean, 1)} points over {c.against} in {c.where}"
    if (span := interval(c.main.low, c.main.high)) != MISSING:
        found += f" (95 % interval {span})"
    if c.significant:
        return f"{found}, more than luck explains (p = {probability(c.p_holm)} after Holm)."
    luck = "too few to tell it from luck" if smallest_of(c.main, c.design) > ALPHA else "which luck may explain"
    return (
        f"{found}, {luck} (p = {probability(c.p_holm)} after Holm); picked as the best of {arms}, it flatters itself."
    )


def code_note(records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """What of other code than the sweep's last was accepted; nothing where all is of one."""
    accepted = sum("code_accepted" in record.provenance for record in records)
    return (f"{accepted} of {len(records)} trials were learned by other code (accepted).",) if accepted else ()


def _troubles(blocks: Sequence[Block]) -> list[str]:
    """What did not end well; a sentence each, none where all is well."""
    arms = [arm for block in blocks for arm in block.arms]
    trials = [trial for arm in arms for trial in arm.trials]
    lost = len(trials) - sum(arm.n_ok for arm in arms)
    collapsed = sum(arm.collapsed for arm in arms)
    sentences = []
    if lost:
        states = Counter(trial.state for trial in trials)
        listed = ", ".join(f"{count} {state}" for state, count in states.items())
        sentences.append(f"{lost} of {len(trials)} trials gave no test result ({listed}).")
    if ranks := sum(arm.rank_collapsed for arm in arms):
        sentences.append(f"In {ranks} of {len(trials)} trials the latents collapsed onto a few directions (¶).")
    if collapsed:
        sentences.append(
            f"In {collapsed} of {len(trials)} trials the weighting collapsed: the base term's weight fell under 0.05."
        )
    return sentences
