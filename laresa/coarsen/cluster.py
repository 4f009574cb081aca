"""Groups from the embeddings of the class names: agglomerative clustering, no network."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from laresa.coarsen import Coarse, check_groups
from laresa.coarsen.check import LARGE
from laresa.coarsen.names import NAMINGS, Naming
from laresa.errors import ConfigError, nearest
from laresa.labels import embed
from laresa.taxonomy import Taxonomy

LINKAGES = ("complete", "average")


def cluster(tree: Taxonomy, *, count: int | None = None, linkage: str = "complete", names: str = "medoid") -> Coarse:
    """Groups of the classes of `tree` by the cosine distance of their names' embeddings.

    count: of groups; default: the one of the best silhouette, see `best_count`. linkage: complete makes even groups;
    average keeps odd classes apart and may leave one group very large. names: a key of NAMINGS. ConfigError: a
    count that can't be, an unknown linkage or naming, a naming that isn't installed.
    """
    for what, given, known in (("--linkage", linkage, LINKAGES), ("--names", names, NAMINGS)):
        if given not in known:
            raise ConfigError(f"{what} {given!r}{nearest(given, known)}")
    if count is not None and not 1 <= count <= tree.leaves:
        raise ConfigError(f"--groups {count}: expected 1 to {tree.leaves}, the number of classes")
    naming: Naming = NAMINGS[names]()  # what isn't installed is said before anything is embedded
    rows_CD = np.asarray(embed(tree.texts()[: tree.leaves]).numpy(), dtype=np.float64)
    labels_C = _cut(rows_CD, count, linkage) if count else best_count(rows_CD, linkage)
    parts = [np.flatnonzero(labels_C == label) for label in dict.fromkeys(labels_C.tolist())]
    members = [tuple(tree.names[i] for i in part) for part in parts]
    medoids = [tree.names[part[medoid(rows_CD[part])]] for part in parts]
    groups = dict(zip(naming(members, medoids, tree.names), members, strict=True))
    chosen = "as asked" if count else "chosen by silhouette"
    note = (
        f"{len(groups)} groups ({chosen}) by agglomerative clustering ({linkage} linkage, cosine) of the class names' "
        f"embeddings (all-MiniLM-L6-v2), named by {names}; made by `laresa data coarsen`"
    )
    warnings = check_groups(groups, tree.names)
    if linkage == "average" and max(map(len, members)) > LARGE * tree.leaves and len(members) > 1 / LARGE:
        warnings.append("average linkage has left one group very large: --linkage complete makes more even ones")
    return Coarse(groups, (note,), tuple(warnings))


def best_count(rows_CD: NDArray[np.float64], linkage: str = "complete") -> NDArray[np.int64]:
    """int64 [C], the cut of the greatest silhouette from sqrt(C) groups to 2 sqrt(C), of 2 to C / 2.

    Without these bounds the silhouette of names is greatest at either end: one odd class against all others (emoji120:
    1 and 119), or pairs (TinyImageNet: 98 groups of 200 classes). The paper's own mappings have about 2 sqrt(C).
    """
    from sklearn.metrics import silhouette_score

    classes = len(rows_CD)
    least, most = max(2, round(math.sqrt(classes))), min(classes // 2, round(2 * math.sqrt(classes)))
    cuts = [_cut(rows_CD, count, linkage) for count in range(least, most + 1)]
    if not cuts:  # two or three classes
        return _cut(rows_CD, min(2, classes - 1), linkage)
    return max(cuts, key=lambda labels_C: float(silhouette_score(rows_CD, labels_C, metric="cosine")))


def medoid(rows_ND: NDArray[np.float64]) -> int:
    """The row that is nearest to all others: the first of equals."""
    return int(np.argmax(rows_ND @ rows_ND.sum(0)))


def _cut(rows_CD: NDArray[np.float64], count: int, linkage: str) -> NDArray[np.int64]:
    from sklearn.cluster import AgglomerativeClustering

    found = AgglomerativeClustering(n_clusters=count, metric="cosine", linkage=linkage).fit_predict(rows_CD)
    labels: NDArray[np.int64] = np.asarray(found, dtype=np.int64)
    return labels
