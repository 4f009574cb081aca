"""What the texts of a taxonomy promise before training: do they tell classes apart, do they know the tree?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from laresa.errors import ConfigError, DataError
from laresa.labels import at_hand, embed
from laresa.taxonomy import TEXT_KINDS, Taxonomy

ENCODER = "all-MiniLM-L6-v2"
CLOSE = 0.9  # cosine from which two names are hard to tell apart
PAIRS = 3  # that are told at least


def equal_texts(tree: Taxonomy) -> list[str]:
    """A sentence for each kind of text that some classes share: no loss of texts can tell those apart."""
    found = []
    for kind in kinds(tree):
        classes: dict[str, list[str]] = {}
        for name, text in zip(tree.names, tree.texts(kind), strict=False):
            classes.setdefault(text, []).append(name)
        same = [" = ".join(map(repr, names)) for names in classes.values() if len(names) > 1]
        found += [f"{kind}s are read as equal texts: {'; '.join(same[:8])}"] if same else []
    return found


def remarks(tree: Taxonomy) -> list[str]:
    """What the texts are like, for each kind that every class has; why that can't be said where no encoder is here."""
    if not at_hand(ENCODER):
        return [f"texts were not judged: {ENCODER} is not here; pip install laresa-sweeps[offline]"]
    try:
        return [sentence for kind in kinds(tree) for sentence in _of_kind(tree, kind)]
    except (ConfigError, DataError) as error:
        return [f"texts were not judged: {error}"]


def kinds(tree: Taxonomy) -> tuple[str, ...]:
    """The kinds of text that every class has."""
    described = set(tree.names) <= set(tree.descriptions)
    return TEXT_KINDS if described else TEXT_KINDS[:1]


def nearest_hit(cosine_CC: NDArray[np.float64], tree: Taxonomy) -> tuple[float, float]:
    """(share of classes whose nearest other text is of their group, the same by chance)."""
    same_CC = tree.parent_C[:, None] == tree.parent_C
    others = _others(cosine_CC)
    hits_C = same_CC[np.arange(tree.leaves), others.argmax(1)]
    return float(hits_C.mean()), float((same_CC.sum() - tree.leaves) / (tree.leaves * (tree.leaves - 1)))


def closest(cosine_CC: NDArray[np.float64], names: tuple[str, ...]) -> list[tuple[str, str, float]]:
    """Pairs with a cosine above CLOSE, and at least the PAIRS closest; the closest first."""
    first, second = np.triu_indices(len(names), 1)
    cosine_P = cosine_CC[first, second]
    order = np.argsort(-cosine_P, kind="stable")
    count = max(PAIRS, int((cosine_P > CLOSE).sum()))
    return [(names[first[p]], names[second[p]], float(cosine_P[p])) for p in order[:count]]


def agreement(cosine_CC: NDArray[np.float64], tree: Taxonomy) -> float:
    """Spearman's correlation of the texts' cosine distance with the tree's, over all pairs of classes; nan where all
    are equally far apart.
    """
    pairs = np.triu_indices(tree.leaves, 1)
    text_P, tree_P = 1 - cosine_CC[pairs], tree.distance_CC[pairs]
    return float(spearmanr(text_P, tree_P).statistic) if np.ptp(text_P) and np.ptp(tree_P) else math.nan


def _others(cosine_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.eye(len(cosine_CC), dtype=bool), -np.inf, cosine_CC)


def _of_kind(tree: Taxonomy, kind: str) -> list[str]:
    rows_CD = embed(tree.texts(kind), ENCODER)[: tree.leaves].double().numpy()
    cosine_CC, which = rows_CD @ rows_CD.T, f"texts ({kind}s, {ENCODER})"
    pairs = closest(cosine_CC, tree.names)
    shown = "; ".join(f"{one!r} and {other!r} {cosine:.2f}" for one, other, cosine in pairs[:8])
    more = f" and {len(pairs) - 8} pairs more" if len(pairs) > 8 else ""
    found = [f"{which}: the closest by cosine are {shown}{more}"]
    if not tree.flat:
        hit, chance = nearest_hit(cosine_CC, tree)
        found.append(f"{which}: the nearest is of the same group for {hit:.0%} of the classes (by chance {chance:.0%})")
        if math.isfinite(agrees := agreement(cosine_CC, tree)):
            found.append(f"{which}: Spearman correlation of their distances with the tree's {agrees:.2f}")
    return found
