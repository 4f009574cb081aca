"""Records made by hand: a small study whose numbers can be checked on paper, and a large one that looks real."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from laresa.config import SUBSETS, TrialConfig
from laresa.measurement import Measurement
from reports import comparisons, tables
from reports.claims import Design
from reports.formats import Table
from reports.select import BEST_VALIDATION, budget, to_blocks
from sweeps.service.tracking.records import TrialRecord

FULL = "ce+anchor+triplet+reg"
EVIL = "<script>alert('x')</script> & \"q\""


def record(
    arm: str = "ce",
    top1: float | None = 0.5,
    *,
    seed: int = 0,
    state: str = "finished",
    error: str | None = None,
    history: tuple[Measurement, ...] = (),
    metrics: Mapping[str, float] | None = None,
    provenance: Mapping[str, str] | None = None,
    **config: Any,
) -> TrialRecord:
    """One trial; `top1` is its test top-1 (None: it has none)."""
    fields = {"subset": arm.split(",")[0], "seed": seed, "epochs": 10, **config}
    return kept(
        TrialConfig(**fields),
        arm,
        top1,
        metrics,
        state=state,
        error=error,
        history=history,
        provenance=provenance or {},
    )


def kept(
    trial: TrialConfig, arm: str, top1: float | None, metrics: Mapping[str, float] | None = None, **more: Any
) -> TrialRecord:
    """As `record`, of a configuration as it is."""
    measured = {"test/top1": top1, "best/val/top1": top1, "best_epoch": 4.0, "seconds/train": 2.0}
    return TrialRecord(
        sweep="hand",
        signature=trial.signature(),
        run_id=f"run-{trial.signature()}",
        arm=arm,
        config=trial,
        metrics={**({} if top1 is None else measured), **(metrics or {})},
        **{"state": "finished", **more},
    )


READ = {"dataset": "emoji120", "backbone": "test_resnet", "fold": 0, "epochs": 10}  # what every trial has


def read(
    subset: str, top1: float, *, seed: int = 0, metrics: Mapping[str, float] | None = None, **fields: Any
) -> TrialRecord:
    """A record as it comes from the tracker, of components that need not be here. metrics: of each of two epochs."""
    trial = TrialConfig.from_record({**READ, "subset": subset, "seed": seed, **fields})
    history = tuple(Measurement(epoch, {"val/top1": top1, **(metrics or {})}, 1.0) for epoch in (1, 2))
    return kept(trial, subset, top1, history=history)


def unheard() -> list[TrialRecord]:
    """Base terms and a term, all of plugins that nobody has here, with a learned tensor of three numbers."""
    metrics = {"weight/own_base": 0.75, "weight/unheard": 0.25, "weight/entropy": 0.56}
    metrics |= {f"unheard.scale.{index}": 20.0 + index for index in range(3)}
    fields = {"unheard.x": 2.0, "unheard.several": [1, 2]}
    return [
        trial
        for seed in (0, 1)
        for trial in (
            read("other_base", 0.7, seed=seed),
            read("own_base", 0.5, seed=seed),
            read("own_base+unheard", 0.6, seed=seed, metrics=metrics, **fields),
        )
    ]


def of_version_0_1(subset: str, top1: float, seed: int = 0, **fields: Any) -> TrialRecord:
    """A trial as 0.1 wrote it: every field, null where it has no effect, numbers of several terms as one list."""
    several = subset != "ce"
    old = {
        "margin": 0.2 if "triplet" in subset else None,
        "group_reg": False if "reg" in subset else None,
        "weighting": "ce_outside" if several else None,
        "alpha_init": [1.0] * 4 if several else None,
        "beta_init": [1.0, 1.0] if "anchor" in subset else None,
        "aux_scale": 1.0 if several else None,
        "latent_dim": None,
        "lr": 1e-3,
    }
    weights = {"weight/ce": 0.5, "weight/reg": 0.5, "beta/fine": 0.6, "beta/coarse": 0.4} if several else {}
    return read(subset, top1, seed=seed, metrics=weights, **{**old, **fields})


def study(seeds: int = 3, epochs: int = 60, arms: tuple[str, ...] = SUBSETS, **config: Any) -> list[TrialRecord]:
    """Every arm, a shuffled control and a remedy, with curves that look like training; drawn from one generator."""
    rng = np.random.default_rng(7)
    base = {arm: 0.74 + 0.012 * rng.normal() for arm in arms} | {FULL: 0.70}
    rows = [(arm, {}) for arm in arms]
    if FULL in arms:
        rows += [
            (f"{FULL}, shuffled labels", {"shuffle_labels": True}),
            (f"{FULL}, base_outside weights", {"weighting": "base_outside"}),
        ]
    return [
        _drawn(rng, arm, seed, epochs, base.get(arm, 0.69), {**fields, **config})
        for seed in range(seeds)
        for arm, fields in rows
    ]


def _drawn(
    rng: np.random.Generator, arm: str, seed: int, epochs: int, level: float, config: dict[str, Any]
) -> TrialRecord:
    level += 0.01 * math.sin(seed) + 0.008 * rng.normal()
    made = record(arm, level, seed=seed, **{"epochs": epochs, **config})
    length = epochs - int(rng.integers(0, epochs // 4))
    history, collapse = _history(rng, made.config, length, level)
    metrics = {
        "best_epoch": float(np.argmax([m.metrics["val/top1"] for m in history]) + 1),
        "best/val/top1": max(m.metrics["val/top1"] for m in history),
        "test/nn_hit": 0.4 + 0.2 * rng.random(),
        "test/silhouette": 0.05 + 0.1 * rng.random(),
        "test/spearman_fine": 0.3 + 0.1 * rng.random(),
        "test/pearson_fine": 0.3 + 0.1 * rng.random(),
        "test/spearman_coarse": 0.2 + 0.1 * rng.random(),
        "test/pearson_coarse": 0.2 + 0.1 * rng.random(),
        "collapse_step": float(collapse),
        "seconds/train": 0.7 * length,
    }
    provenance = {
        "git_commit": "0123abc",
        "host": "node-1" if seed % 2 else "node-2",
        "torch": "2.14.1",
        "data_fingerprint": "9f1c77aa20e4",
    }
    return kept(made.config, arm, level, history=history, metrics=metrics, provenance=provenance)


def _history(
    rng: np.random.Generator, config: TrialConfig, length: int, level: float
) -> tuple[tuple[Measurement, ...], int]:
    drift = {"ce": -1.0, "anchor": 0.3, "triplet": 1.0, "center": 1.6, "variance": -2.0, "reg": 0.5}
    found, collapse = [], -1
    for epoch in range(1, length + 1):
        logits = np.array([drift[term] for term in config.terms]) * epoch / 20 * (1 + 0.1 * rng.normal())
        weights = np.exp(logits) / np.exp(logits).sum()
        metrics = {f"weight/{term}": float(w) for term, w in zip(config.terms, weights, strict=True)}
        metrics |= {"train/loss": 3 / epoch, "val/top1": level * (1 - math.exp(-epoch / 8)) + 0.01 * rng.normal()}
        if "anchor" in config.parts:
            fine = 1 / (1 + math.exp(-epoch / 30))
            metrics |= {"beta/fine": fine, "beta/coarse": 1 - fine}
        if collapse < 0 and metrics["weight/ce"] < 0.05:
            collapse = epoch * 25
        found.append(Measurement(epoch, metrics, 0.7))
    return tuple(found), collapse


def latents(trial: TrialRecord, n: int = 150, classes: int = 30, groups: int = 6) -> dict[str, np.ndarray]:
    """Test latents in clusters, as latents.npz has them."""
    rng = np.random.default_rng([trial.config.seed, len(trial.arm)])
    parent_C = np.arange(classes) % groups
    centers_KD, offsets_CD = rng.normal(size=(groups, 64)) * 0.7, rng.normal(size=(classes, 64))
    y_N = np.arange(n) % classes
    z_ND = centers_KD[parent_C[y_N]] + offsets_CD[y_N] + 0.9 * rng.normal(size=(n, 64))
    return {
        "z_ND": z_ND.astype(np.float32),
        "y_N": y_N,
        "parent_C": parent_C,
        "fine_names": np.array([f"fine {c}" for c in range(classes)]),
        "coarse_names": np.array(["people", "animals & nature", "food", "travel", "objects", "symbols"][:groups]),
    }


def context(records: list[TrialRecord], order: tuple[str, ...] = ()) -> tables.Context:
    return tables.Context(to_blocks(records, order=order), BEST_VALIDATION, budget(records))


def by_hand() -> list[TrialRecord]:
    """ce 50, 52, 54; ce+anchor 50, 50 and a failure; full 51, 54, 57, two of them collapsed."""
    ce = [record("ce", top1, seed=seed) for seed, top1 in enumerate((0.50, 0.52, 0.54))]
    anchor = [record("ce+anchor", 0.5, seed=0), record("ce+anchor", 0.5, seed=1)]
    failed = record("ce+anchor", None, seed=2, state="failed", error="OSError: disk | full\n  more")
    full = [
        record(FULL, top1, seed=seed, metrics={"collapse_step": step})
        for seed, (top1, step) in enumerate(((0.51, 40.0), (0.54, -1.0), (0.57, 7.0)))
    ]
    return [*ce, *anchor, failed, *full]


def found_against_base(
    records: list[TrialRecord], design: Design | None = None
) -> tuple[tables.Context, list[comparisons.Comparison]]:
    made = context(records)
    return made, comparisons.against_baseline(made.blocks, design or Design(), np.random.default_rng(0))


def column(table: Table, title: str) -> list[str]:
    number = [c.title for c in table.columns].index(title)
    return [row[number].text for block in table.blocks for row in block.rows]
