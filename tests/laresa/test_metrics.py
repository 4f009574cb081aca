"""Metrics against scikit-learn, scipy and plain loops; and what degenerate input gives."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, pearsonr, spearmanr
from sklearn.metrics import accuracy_score, silhouette_samples
from torch import Tensor

from laresa import metrics
from laresa.labels import LabelEmbeddings
from laresa.measurement import DECISIONS, SCORES, better
from laresa.taxonomy import Taxonomy

N, D = 60, 7
TREE = Taxonomy.from_paths(
    {
        "oak": ("tree", "plant"),
        "elm": ("tree", "plant"),
        "rose": ("flower", "plant"),
        "crab": ("animal",),
        "owl": ("bird", "animal"),
        "jay": ("bird", "animal"),
    }
)
C, K = len(TREE.names), len(TREE.coarse_names)
few = settings(max_examples=25)
seeds = st.integers(0, 2**31)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def labels(seed: int, count: int = N, classes: int = C) -> Tensor:
    return torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))


def embeddings() -> LabelEmbeddings:
    coarse_KD = draw(21, K, D)
    return LabelEmbeddings((draw(20, C, D), coarse_KD[torch.from_numpy(TREE.parent_C)]), coarse_KD)


def centroid(z: Tensor, y: Tensor, label: int) -> np.ndarray:
    return np.mean([z[n].double().numpy() for n in range(len(y)) if y[n] == label], axis=0)


def naive_correlation_sides(z: Tensor, y: Tensor, e: Tensor) -> tuple[list[float], list[float]]:
    present = sorted({int(label) for label in y})
    latent, semantic = [], []
    for i, j in combinations(present, 2):
        latent.append(math.dist(centroid(z, y, i), centroid(z, y, j)))
        a, b = e[i].double().numpy(), e[j].double().numpy()
        semantic.append(1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)))
    return latent, semantic


# ---------------------------------------------------------------------- accuracy
@pytest.mark.filterwarnings("error")
def test_top1() -> None:
    logits, y = draw(1, N, C), labels(2)
    assert metrics.top1(logits, y) == accuracy_score(y, logits.argmax(1))
    assert metrics.top1(logits.numpy(), y.numpy()) == metrics.top1(logits, y)
    assert metrics.top1(torch.eye(C).bfloat16(), torch.arange(C)) == 1.0
    nodes = torch.zeros(1, len(TREE.parents))
    nodes[0, TREE.parents[0]] = 1  # an internal node on top is no answer
    assert metrics.top1(nodes, torch.tensor([0])) == 0.0
    assert math.isnan(metrics.top1(logits[:0], y[:0]))


def test_sibling_and_level_accuracies() -> None:
    pred, y = labels(3), labels(4)
    siblings = [TREE.parents[p] == TREE.parents[t] for p, t in zip(pred, y, strict=True)]
    assert metrics.sibling_accuracy(pred, y, TREE) == pytest.approx(np.mean(siblings))
    assert metrics.level_accuracies(pred, y, TREE) == naive_levels(pred, y, TREE)
    levels = metrics.level_accuracies(pred, y, TREE)
    assert levels[0] == accuracy_score(y, pred)
    assert levels[0] < levels[1] < levels[2] < 1  # two trees: even the tops can be wrong
    internal = TREE.parents[y.numpy()]  # a parent is no sibling, but right at its level
    assert metrics.sibling_accuracy(internal, y, TREE) == 0
    assert metrics.level_accuracies(internal, y, TREE)[:2] == [0, 1]
    crab, bird = torch.tensor([3]), torch.tensor([TREE.node_names.index("bird")])
    assert TREE.parents[crab] == TREE.parents[bird]
    assert metrics.sibling_accuracy(bird, crab, TREE) == 0  # siblings, but the answer is no class


def naive_levels(pred: Tensor, y: Tensor, tree: Taxonomy) -> list[float]:
    """The class k steps up, or the top where there are fewer steps, stands on the prediction's own path."""
    found = []
    for level in range(max(len(tree.path(leaf)) for leaf in range(tree.leaves))):
        right = [tree.path(int(t))[: level + 1][-1] in tree.path(int(p)) for p, t in zip(pred, y, strict=True)]
        found.append(pytest.approx(np.mean(right)))
    return found


@few
@given(seed=seeds)
def test_crm_is_the_least_expected_height(seed: int) -> None:
    logits = draw(seed, 5, C)
    p = logits.double().softmax(1)
    for row, chosen in zip(p, metrics.crm_predict(logits, TREE), strict=True):
        cost = [sum(TREE.lca_height(k, j) * float(row[j]) for j in range(C)) for k in range(C)]
        assert cost[chosen] == pytest.approx(min(cost))


def test_crm_hedges_and_survives_great_logits() -> None:
    p = torch.tensor([[0.0, 0.0, 0.34, 0.0, 0.33, 0.33]])  # rose is likeliest, but a bird is the safer guess
    assert metrics.crm_predict(torch.log(p + 1e-9), TREE)[0] in (4, 5)
    assert metrics.crm_predict(1e4 * torch.eye(C), TREE).tolist() == list(range(C))


@few
@given(seed=seeds, nodes=st.booleans())
def test_what_is_measured_of_ranks_is_the_naive_loop(seed: int, nodes: bool) -> None:
    """Of one logit a class or a node, plainly and by CRM."""
    wide = len(TREE.parents) if nodes else C
    logits, y = draw(seed, 12, wide), labels(seed, 12)
    p = logits[:, :C].double().softmax(1)
    lca = [[TREE.lca_height(k, j) for j in range(C)] for k in range(C)]
    cost = torch.tensor([[sum(lca[k][j] * row[j] for j in range(C)) for k in range(C)] for row in p.tolist()])
    scores = metrics.evaluate(logits, None, y, TREE, None)
    for values, end in ((logits, ""), (-cost, "_crm")):
        ranks = [sorted(range(values.shape[1]), key=lambda k, row=row: -row[k]) for row in values.tolist()]
        truth = y.tolist()
        first = torch.tensor([rank[0] for rank in ranks])
        assert scores[f"top1{end}"] == pytest.approx(np.mean([r[0] == t for r, t in zip(ranks, truth, strict=True)]))
        assert scores[f"top5{end}"] == pytest.approx(np.mean([t in r[:5] for r, t in zip(ranks, truth, strict=True)]))
        for k, name in ((1, ""), (5, "_at5"), (20, "_at20")):  # 20 is more than there are
            far = [np.mean([TREE.lca_height(c, t) for c in r[:k]]) for r, t in zip(ranks, truth, strict=True)]
            assert scores[f"hierarchical_distance{name}{end}"] == pytest.approx(np.mean(far)), (k, end)
        wrong = [TREE.lca_height(r[0], t) for r, t in zip(ranks, truth, strict=True) if r[0] != t]
        assert scores[f"mistake_severity{end}"] == pytest.approx(np.mean(wrong))
        levels = naive_levels(first, y, TREE)
        assert [scores[f"top1_level{level}{end}"] for level in (1, 2)] == levels[1:]
    assert metrics.top5(logits, y) == scores["top5"]


def test_among_equals_the_first_is_the_prediction() -> None:
    logits, y = torch.zeros(3, C), torch.tensor([0, 1, 5])
    scores = metrics.evaluate(logits, None, y, TREE, None)
    assert scores["top1"] == pytest.approx(1 / 3)
    three = Taxonomy.from_groups({"a": ["x", "y"], "b": ["z"]})
    assert metrics.evaluate(torch.eye(3), None, torch.tensor([2, 0, 1]), three, None)["top5"] == 1.0


def test_the_root_has_no_accuracy_of_its_own() -> None:
    rooted = Taxonomy.from_paths({"oak": ("tree", "all"), "rose": ("flower", "plant", "all"), "owl": ("all",)})
    names = set(metrics.evaluate(torch.eye(3), None, torch.arange(3), rooted, None))
    assert {name for name in names if "level" in name} == {
        *("top1_level1", "top1_level1_crm", "top1_level2", "top1_level2_crm")
    }


# ---------------------------------------------------------------------- mistakes
@pytest.mark.filterwarnings("error")
def test_mistake_severity_and_hierarchical_distance() -> None:
    pred, y = labels(5), labels(6)
    heights = [TREE.lca_height(p, t) for p, t in zip(pred, y, strict=True)]
    wrong = [height for height, p, t in zip(heights, pred, y, strict=True) if p != t]
    assert metrics.hierarchical_distance(pred, y, TREE) == pytest.approx(sum(heights) / N)
    assert metrics.mistake_severity(pred, y, TREE) == pytest.approx(sum(wrong) / len(wrong))
    assert metrics.hierarchical_distance(y, y, TREE) == 0.0
    assert math.isnan(metrics.mistake_severity(y, y, TREE))
    assert math.isnan(metrics.hierarchical_distance(y[:0], y[:0], TREE))


def test_severity_by_hand() -> None:
    oak, elm, rose, crab = (torch.tensor([i]) for i in range(4))
    assert metrics.mistake_severity(oak, elm, TREE) == 1
    assert metrics.mistake_severity(oak, rose, TREE) == 2
    assert metrics.mistake_severity(oak, crab, TREE) == 3  # they meet above both trees


# ---------------------------------------------------------------------- latent space
def test_centroids_leave_out_classes_without_samples() -> None:
    z, y = draw(7, N, D), labels(8)
    y[y == 2] = 3
    centroids, present = metrics.class_centroids(z, y)
    assert present.tolist() == [0, 1, 3, 4, 5]
    for row, label in zip(centroids, present, strict=True):
        np.testing.assert_allclose(row, centroid(z, y, label), rtol=1e-12)


@few
@given(seed=seeds)
def test_nn_hit_is_the_naive_loop(seed: int) -> None:
    z, y, parent = draw(seed, N, D), labels(seed), TREE.parent_C
    y[y == seed % C] = (seed + 1) % C  # one class is missing
    present = sorted({int(label) for label in y})
    hits = 0
    for i in present:
        near = min((j for j in present if j != i), key=lambda j: math.dist(centroid(z, y, i), centroid(z, y, j)))
        hits += int(parent[i] == parent[near])
    assert metrics.nn_hit(z, y, parent) == pytest.approx(hits / len(present))


@few
@given(seed=seeds)
def test_nn_hit_of_predicted_classes_is_the_naive_loop(seed: int) -> None:
    z, logits, parent = draw(seed, N, D), draw(seed + 1, N, C), TREE.parent_C
    logits[:, seed % C] = -99.0  # one class is never predicted
    predicted = [max(range(C), key=lambda c: float(row[c])) for row in logits]
    present, hits = sorted(set(predicted)), 0
    means = {c: z[[i for i in range(N) if predicted[i] == c]].double().mean(0).tolist() for c in present}
    for i in present:
        near = min((j for j in present if j != i), key=lambda j: math.dist(means[i], means[j]))
        hits += int(parent[i] == parent[near])
    assert seed % C not in present
    assert metrics.nn_hit_predicted(z, logits, parent) == pytest.approx(hits / len(present))
    nodes = torch.cat([logits, torch.full((N, 3), 100.0)], dim=1)  # internal nodes are no classes
    assert metrics.nn_hit_predicted(z, nodes, parent) == metrics.nn_hit_predicted(z, logits, parent)


def test_nn_hit_of_predicted_classes_by_hand() -> None:
    z = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    right = torch.eye(4)
    assert metrics.nn_hit_predicted(z, right, [0, 0, 1, 1]) == metrics.nn_hit(z, torch.arange(4), [0, 0, 1, 1]) == 1.0
    # 1 and 2 are taken for each other: 0 lies next to "2", 3 next to "1".
    assert metrics.nn_hit_predicted(z, right[[0, 2, 1, 3]], [0, 0, 1, 1]) == 0.0
    assert math.isnan(metrics.nn_hit_predicted(z, right[[0, 0, 0, 0]], [0, 0, 1, 1]))
    assert math.isnan(metrics.nn_hit_predicted(z[:0], right[:0], [0, 0, 1, 1]))


def test_nn_hit_by_hand() -> None:
    z = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    y = torch.arange(4)
    assert metrics.nn_hit(z, y, [0, 0, 1, 1]) == 1.0
    assert metrics.nn_hit(z, y, [0, 1, 0, 1]) == 0.0
    assert metrics.nn_hit(z[:3], y[:3], [0, 0, 1, 1]) == pytest.approx(2 / 3)
    assert math.isnan(metrics.nn_hit(z[:1], y[:1], [0, 0, 1, 1]))


def test_silhouette() -> None:
    z, group = draw(9, N, D), labels(10, classes=4)
    assert metrics.silhouette(z, group) == pytest.approx(silhouette_samples(z.double(), group).mean(), abs=1e-5)
    i = 0
    within = np.mean([math.dist(z[i], z[j]) for j in range(N) if group[j] == group[i] and j != i])
    between = min(
        np.mean([math.dist(z[i], z[j]) for j in range(N) if group[j] == g]) for g in range(4) if g != group[i]
    )
    sample = (between - within) / max(between, within)
    assert silhouette_samples(z.double(), group)[i] == pytest.approx(sample)
    assert metrics.silhouette(torch.tensor([[0.0], [0.1], [9.0], [9.1]]), torch.tensor([0, 0, 1, 1])) > 0.98


@few
@given(seed=seeds)
def test_semantic_correlation_is_the_naive_loop(seed: int) -> None:
    z, y, e = draw(seed, N, D), labels(seed), draw(seed + 1, C, D)
    y[y == seed % C] = (seed + 1) % C
    latent, semantic = naive_correlation_sides(z, y, e)
    spearman, pearson = metrics.semantic_correlation(z, y, e)
    assert pearson == pytest.approx(np.corrcoef(latent, semantic)[0, 1])
    ranks = [np.argsort(np.argsort(side)) for side in (latent, semantic)]
    assert spearman == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert (spearman, pearson) == pytest.approx(
        (spearmanr(latent, semantic).statistic, pearsonr(latent, semantic).statistic)
    )


@few
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_correlation_ignores_scale_and_place_of_the_latents(seed: int, scale: float) -> None:
    z, y, e = draw(seed, N, D).double(), labels(seed), draw(seed + 1, C, D)
    assert metrics.semantic_correlation(scale * z + 3, y, e) == pytest.approx(metrics.semantic_correlation(z, y, e))


def test_latents_that_are_the_embeddings_correlate() -> None:
    e = torch.nn.functional.normalize(draw(11, 30, D).double(), dim=1)
    spearman, pearson = metrics.semantic_correlation(e, torch.arange(30), e)
    assert spearman == pytest.approx(1.0)
    assert pearson > 0.95  # Euclidean against cosine: the same order, not the same scale
    assert kendalltau(*naive_correlation_sides(e, torch.arange(30), e)).statistic > 0.999


@few
@given(seed=seeds, scale=st.floats(0.01, 100))
def test_effective_rank_is_its_definition(seed: int, scale: float) -> None:
    for z in (draw(seed, 9, D).double(), draw(seed, D - 2, D).double()):
        square = [s * s for s in torch.linalg.svdvals(z - z.mean(0)).tolist()]
        shares = [s / sum(square) for s in square]
        expected = math.exp(-sum(p * math.log(p) for p in shares if p > 0))
        assert metrics.effective_rank(scale * z + 3) == pytest.approx(expected)


def test_effective_rank_by_hand() -> None:
    cross = torch.cat((torch.eye(3), -torch.eye(3)))
    assert metrics.effective_rank(cross) == pytest.approx(3)
    assert metrics.effective_rank(1e200 * cross.double()) == pytest.approx(3)
    assert metrics.effective_rank(torch.eye(4)) == pytest.approx(3)  # centred, four points span three directions
    assert metrics.effective_rank(torch.tensor([[1.0, 5], [2, 5], [3, 5]])) == pytest.approx(1)
    uneven = cross * torch.tensor([3**0.5, 1, 0])  # shares of the variance: 3/4 and 1/4
    assert metrics.effective_rank(uneven) == pytest.approx(4 / 3**0.75)
    for nothing in (torch.zeros(3, 2), torch.ones(5, 3), torch.zeros(0, 2), torch.tensor([[math.nan, 1.0]])):
        assert math.isnan(metrics.effective_rank(nothing))


# ---------------------------------------------------------------------- what is not defined
@pytest.mark.filterwarnings("error")
def test_degenerate_input_gives_nan() -> None:
    z, y, e = draw(12, N, D), labels(13), draw(14, C, D)
    one, two = torch.zeros_like(y), y % 2
    rotated = torch.linalg.qr(draw(22, D, D).double())[0][:C]  # all distances equal, but for rounding
    broken = z.clone()
    broken[0, 0] = torch.nan
    for value in (
        metrics.silhouette(z, one),
        metrics.silhouette(z[:5], torch.arange(5)),
        metrics.silhouette(broken, y),
        metrics.silhouette(z[:0], y[:0]),
        metrics.nn_hit(z, one, TREE.parent_C),
        metrics.nn_hit(broken, y, TREE.parent_C),
        *metrics.semantic_correlation(z, one, e),
        *metrics.semantic_correlation(z, two, e),
        *metrics.semantic_correlation(torch.zeros_like(z), y, e),
        *metrics.semantic_correlation(z, y, torch.ones_like(e)),
        *metrics.semantic_correlation(z, y, torch.zeros_like(e)),
        *metrics.semantic_correlation(broken, y, e),
        *metrics.semantic_correlation(rotated, torch.arange(C), e),
        *metrics.semantic_correlation(z, y, rotated),
    ):
        assert math.isnan(value)


# ---------------------------------------------------------------------- evaluate
def test_evaluate_gathers_every_metric() -> None:
    logits, z, y, e = draw(15, N, C), draw(16, N, D), labels(17), embeddings()
    y[y == 1] = 0
    parent, pred = torch.from_numpy(TREE.parent_C), logits.argmax(1)
    fine, coarse = (
        metrics.semantic_correlation(z, y, e.fine_CD),
        metrics.semantic_correlation(z, parent[y], e.coarse_KD),
    )
    scores = metrics.evaluate(logits, z, y, TREE, e)
    by_crm = {name: scores.pop(name) for name in tuple(scores) if name.endswith("_crm")}
    far = metrics._ranked(logits.numpy())
    assert scores == {
        "top1": metrics.top1(logits, y),
        "top5": metrics.top5(logits, y),
        "nn_hit": metrics.nn_hit(z, y, parent),
        "nn_hit_predicted": metrics.nn_hit_predicted(z, logits, parent),
        "silhouette": metrics.silhouette(z, parent[y]),
        "effective_rank": metrics.effective_rank(z),
        "rank_share": metrics.effective_rank(z) / min(C - 1, D),
        "spearman_fine": fine[0],
        "pearson_fine": fine[1],
        "spearman_coarse": coarse[0],
        "pearson_coarse": coarse[1],
        "classes_without_samples": 1.0,
        "mistake_severity": metrics.mistake_severity(pred, y, TREE),
        "hierarchical_distance": metrics.hierarchical_distance(pred, y, TREE),
        "hierarchical_distance_at5": metrics.hierarchical_distance(far[:, :5], y[:, None], TREE),
        "hierarchical_distance_at20": metrics.hierarchical_distance(far, y[:, None], TREE),
        "sibling_accuracy": metrics.sibling_accuracy(pred, y, TREE),
        "top1_level1": metrics.level_accuracies(pred, y, TREE)[1],
        "top1_level2": metrics.level_accuracies(pred, y, TREE)[2],
    }
    crm = metrics.crm_predict(logits, TREE)
    assert by_crm["top1_crm"] == np.mean(crm == y.numpy())
    assert by_crm["mistake_severity_crm"] == metrics.mistake_severity(crm, y, TREE)
    assert set(by_crm) == {f"{name}_crm" for name in (*DECISIONS, "top1_level1", "top1_level2")}


@pytest.mark.filterwarnings("error")
def test_evaluate_one_sample() -> None:
    scores = metrics.evaluate(draw(18, 1, C), draw(19, 1, D), torch.tensor([2]), TREE, embeddings())
    assert tuple(scores)[: len(SCORES)] == SCORES  # what a search may name as its objective
    assert scores["classes_without_samples"] == C - 1
    assert math.isnan(scores["silhouette"])
    assert scores["top1"] in (0.0, 1.0)


@pytest.mark.filterwarnings("error")
def test_what_needs_a_tree_is_nan_where_there_is_none() -> None:
    flat = Taxonomy.from_names(TREE.names)
    logits, z, y, e = draw(15, N, C), draw(16, N, D), labels(17), LabelEmbeddings((draw(20, C, D),), draw(20, C, D))
    scores = metrics.evaluate(logits, z, y, flat, e)
    assert tuple(scores) == SCORES
    assert {name for name, value in scores.items() if not math.isnan(value)} == {
        *("top1", "top5", "effective_rank", "rank_share"),
        *("spearman_fine", "pearson_fine", "classes_without_samples"),
    }
    assert scores["spearman_fine"] == metrics.semantic_correlation(z, y, e.fine_CD)[0]


def test_which_way_is_better() -> None:
    low = {name for name in SCORES if better(f"test/{name}") == "min"}
    assert low == {name for name in SCORES if "distance" in name or "severity" in name or "without" in name}
