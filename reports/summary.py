"""The headline in honest words: which arm is best on test, by how much, and whether that is more than luck."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from reports.comparisons import Comparison, interval, significance_note
from reports.formats import probability, signed, spread
from reports.select import TEST, Arm, Block
from reports.statistics import ALPHA, mean_sd, smallest_p
from sweeps.service.tracking.records import TrialRecord


def summarise(
    blocks: Sequence[Block], against_base: Sequence[Comparison], variants: Sequence[Comparison]
) -> tuple[str, ...]:
    """Sentences in plain text, block by block; then what failed and what collapsed."""
    sentences = [sentence for block in blocks for sentence in _block(block, blocks, against_base, variants)]
    if against_base and (note := significance_note(against_base)):
        sentences.append(note)
    return (*sentences, *_troubles(blocks))


def _block(
    block: Block, blocks: Sequence[Block], against_base: Sequence[Comparison], variants: Sequence[Comparison]
) -> list[str]:
    where = f"On {block.dataset} with {block.backbone}" if len(blocks) > 1 else "On test"
    ranked = sorted((arm for arm in block.arms if arm.values(TEST)), key=_mean, reverse=True)
    if not ranked:
        return [f"{where}: no trial has finished with a test result yet."]
    best = ranked[0]
    headline = f"{where}, {best.label} has the best mean top-1: {_score(best)} % (n = {len(best.values(TEST))})"
    own = [c for c in against_base if c.block is block and c.n]
    gains = [_gain(c, len(ranked)) for c in own if c.arm == best.label]
    if best.label == block.baseline and len(ranked) > 1:
        gains = [f"No arm beats it; the next is {ranked[1].label} with {_score(ranked[1])} %."]
    return [
        " ".join([f"{headline}.", *gains]),
        *(_variant(c, len(blocks) > 1) for c in variants if c.block is block and c.n),
    ]


def _mean(arm: Arm) -> float:
    return mean_sd(list(arm.values(TEST).values()))[0]


def _score(arm: Arm) -> str:
    mean, sd = mean_sd([100 * number for number in arm.values(TEST).values()])
    return spread(mean, sd, 1)


def _gain(comparison: Comparison, arms: int) -> str:
    c = comparison
    found = f"That is {signed(c.mean, 1)} points over {c.against} in {c.n} pairs"
    if not math.isnan(c.low):
        found += f" (95 % interval {interval(c.low, c.high)})"
    if c.significant:
        return f"{found}, more than luck explains (p = {probability(c.p_holm)} after Holm)."
    luck = "too few to tell it from luck" if smallest_p(c.n) > ALPHA else "which luck may explain"
    return (
        f"{found}, {luck} (p = {probability(c.p_holm)} after Holm); picked as the best of {arms}, it flatters itself."
    )


def _variant(comparison: Comparison, several: bool) -> str:
    c = comparison
    where = f" ({c.block.title})" if several else ""
    verdict = "a real difference" if c.significant else "not told apart"
    return (
        f"{c.arm} against {c.against}{where}: {signed(c.mean, 1)} points over {c.n} pairs, "
        f"{verdict} (p = {probability(c.p_holm)} after Holm)."
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
    if collapsed:
        sentences.append(
            f"In {collapsed} of {len(trials)} trials the weighting collapsed: the base term's weight fell under 0.05."
        )
    return sentences
