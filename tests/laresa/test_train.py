"""Training: repeats by seed, resumes to the bit, keeps the best epoch, and says what went wrong."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from laresa import checkpoint
from laresa.config import TrialConfig
from laresa.data import Dataset
from laresa.data.dataset import IMAGENET_MEAN, IMAGENET_STD
from laresa.errors import CheckpointError, ConfigError, NonFiniteLossError, StorageError
from laresa.methods import Result, end_to_end
from laresa.methods.end_to_end import EndToEnd
from laresa.model import build_model
from laresa.training import fit, train
from tests.laresa.checks import learned

pytestmark = pytest.mark.usefixtures("one_thread")


def run_to_end(trainer: EndToEnd) -> Result:
    while not trainer.finished:
        trainer.epoch()
    return trainer.result()


def test_it_learns_and_reports_every_metric(tiny: Dataset, config: TrialConfig):
    result = fit(config.replace(subset="ce", augment="none", epochs=12, patience=12), dataset=tiny)
    assert result.metrics["test/top1"] > 0.6  # chance is 1/6
    assert len(result.history) == 12
    first = result.history[0].metrics
    assert {"train/loss", "train/loss_ce", "weight/ce", "val/top1", "val/loss"} <= set(first)
    assert first["train/loss"] == pytest.approx(first["train/loss_ce"], rel=1e-6)
    names = ("nn_hit", "silhouette", "spearman_fine", "pearson_fine", "spearman_coarse", "pearson_coarse")
    assert {f"test/{name}" for name in names} <= set(result.metrics)
    assert result.latents["z_ND"].shape == (24, 384)
    assert list(result.latents["coarse_names"]) == ["pet", "vehicle", "fruit"]


def test_generator_yields_one_measurement_an_epoch(tiny: Dataset, config: TrialConfig):
    assert [m.epoch for m in train(config, dataset=tiny)] == [1, 2, 3, 4]


@pytest.mark.parametrize("weighting", ["softmax", "normalised"])
@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
def test_resume_is_equal_to_the_bit(
    tiny: Dataset, config: TrialConfig, tmp_path: Path, killed_after: int, weighting: str
):
    config = config.replace(weighting=weighting)
    undisturbed = fit(config, dataset=tiny)
    file = tmp_path / "attempt-1" / "checkpoint.safetensors"
    for measurement in train(config, dataset=tiny, save_to=file):
        if measurement.epoch == killed_after:
            break
    torch.manual_seed(999)  # whatever the next process has drawn before
    resumed = fit(config, dataset=tiny, resume_from=file)
    assert learned(resumed) == learned(undisturbed)


def test_resume_with_channels_last_and_bf16_is_equal_to_the_bit(tiny: Dataset, config: TrialConfig, tmp_path: Path):
    config = config.replace(backbone="test_resnet", channels_last=True, precision="bf16", epochs=3)
    undisturbed = fit(config, dataset=tiny)
    file = tmp_path / "checkpoint.safetensors"
    next(train(config, dataset=tiny, save_to=file))
    assert learned(fit(config, dataset=tiny, resume_from=file)) == learned(undisturbed)
    assert all(value.is_contiguous() for value in undisturbed.weights.values())  # safetensors takes no other


def test_one_seed_repeats_and_two_differ(tiny: Dataset, config: TrialConfig):
    assert learned(fit(config, dataset=tiny)) == learned(fit(config, dataset=tiny))
    assert learned(fit(config.replace(seed=2), dataset=tiny)) != learned(fit(config, dataset=tiny))


def test_shuffled_labels_change_learning_and_not_the_yardstick(tiny: Dataset, config: TrialConfig):
    trainer = EndToEnd(config, tiny, "cpu")
    control = EndToEnd(config.replace(shuffle_labels=True), tiny, "cpu")
    assert torch.equal(trainer.labels.fine_CD, control.labels.fine_CD)
    assert not torch.equal(trainer.objective.level_0, control.objective.level_0)


def test_early_stopping_keeps_the_best_epoch(tiny: Dataset, config: TrialConfig):
    trainer = EndToEnd(config.replace(patience=2, epochs=50), tiny, "cpu")
    result = run_to_end(trainer)
    top1 = [m.metrics["val/top1"] for m in result.history]
    assert result.best_epoch == top1.index(max(top1)) + 1
    assert len(top1) == min(50, result.best_epoch + 2)
    assert result.metrics["best/val/top1"] == max(top1)
    model = trainer.model
    model.load_state_dict(dict(result.weights))
    logits, _ = trainer.forward(tiny.test)
    assert (logits.argmax(1) == tiny.test.labels).float().mean().item() == pytest.approx(result.metrics["test/top1"])


def test_cosine_schedule_ends_low_and_changes_learning(tiny: Dataset, config: TrialConfig):
    trainer = EndToEnd(config.replace(schedule="cosine"), tiny, "cpu")
    rates = []
    while not trainer.finished:
        trainer.epoch()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 0.5e-3 * (1 + 2**-0.5), 0.5e-3, 0.5e-3 * (1 - 2**-0.5)])


def test_non_finite_loss_names_step_and_term(tiny: Dataset, config: TrialConfig):
    trainer = EndToEnd(config.replace(lr=1e30), tiny, "cpu")
    with pytest.raises(NonFiniteLossError, match=r"at step [234] of epoch 1: .*(ce|variance|center) = (nan|inf)"):
        run_to_end(trainer)


def test_full_disk_leaves_the_checkpoint_before_it_intact(
    tiny: Dataset, config: TrialConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "checkpoint.safetensors"
    trainer = EndToEnd(config, tiny, "cpu")
    trainer.epoch()
    trainer.save(file)
    before = file.read_bytes()
    trainer.epoch()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half a fi")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(StorageError, match="No space left on device"):
        trainer.save(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_checkpoint_of_another_trial_or_data_set_is_refused(tiny: Dataset, config: TrialConfig, tmp_path: Path):
    file = tmp_path / "checkpoint.safetensors"
    trainer = EndToEnd(config, tiny, "cpu")
    trainer.epoch()
    trainer.save(file)
    with pytest.raises(CheckpointError, match="signature"):
        EndToEnd(config.replace(lr=0.5), tiny, "cpu").restore(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="can't be read"):
        trainer.restore(file)


def test_every_image_is_seen_once_an_epoch_and_no_batch_has_one_image(tiny: Dataset, config: TrialConfig):
    trainer = EndToEnd(config.replace(batch_size=49), tiny, "cpu")  # 50 images: 49 + 1 would break norm
    batches = list(trainer.batches(1))
    assert [len(images) for images, _ in batches] == [25, 25]
    seen = torch.cat([y_N for _, y_N in batches])
    assert torch.equal(seen.bincount(), tiny.train.labels.bincount())


def test_unknown_backbone_and_size_that_does_not_fit(tiny: Dataset, config: TrialConfig):
    with pytest.raises(ConfigError, match="did you mean 'resnet50'"):
        build_model("resnet5O", pretrained=False, input_size=32, latent_dim=8, outputs=2)
    with pytest.raises(ConfigError, match=r"33 px.*input_size"):
        build_model("test_vit", pretrained=False, input_size=33, latent_dim=8, outputs=2)


def test_pretrained_weights_that_cant_be_had_are_explained(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="no pretrained weights of 'test_vit'"):
        build_model("test_vit", pretrained=True, input_size=32, latent_dim=8, outputs=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_it_learns_repeats_and_resumes(tiny: Dataset, config: TrialConfig, tmp_path: Path, precision: str):
    config = config.replace(precision=precision, backbone="test_resnet", subset="ce+anchor+triplet+reg")
    file = tmp_path / "checkpoint.safetensors"
    undisturbed = fit(config, dataset=tiny, device="cuda")
    for measurement in train(config, dataset=tiny, device="cuda", save_to=file):
        if measurement.epoch == 2:
            break
    assert learned(fit(config, dataset=tiny, device="cuda", resume_from=file)) == learned(undisturbed)
    assert learned(fit(config, dataset=tiny, device="cuda")) == learned(undisturbed)
    assert undisturbed.history[-1].metrics["train/loss_ce"] < undisturbed.history[0].metrics["train/loss_ce"]


def test_pretrained_weights_are_fed_as_they_expect_unless_the_configuration_says_otherwise(
    tiny: Dataset, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
):
    """Of a backbone that names its own mean and deviation; no weights are fetched."""
    made = end_to_end.build_model
    monkeypatch.setattr(end_to_end, "build_model", lambda name, **named: made(name, **{**named, "pretrained": False}))
    monkeypatch.setattr(end_to_end, "input_statistics", lambda model: ((0.4,) * 3, (0.3,) * 3))
    fed = {
        name: EndToEnd(config.replace(pretrained=True, normalisation=name), tiny, "cpu").mean
        for name in ("auto", "none", "data")
    }
    assert fed == {"auto": (0.4,) * 3, "none": (0.0,) * 3, "data": tiny.mean}


def test_channels_are_normalised_as_the_configuration_says(tiny: Dataset, config: TrialConfig):
    seen = {}
    for name in ("auto", "none", "imagenet", "data"):
        trainer = EndToEnd(config.replace(normalisation=name), tiny, "cpu")
        seen[name] = (tuple(trainer.mean), tuple(trainer.std))
    assert seen["none"] == ((0.0,) * 3, (1.0,) * 3)
    assert seen["imagenet"] == (IMAGENET_MEAN, IMAGENET_STD)
    assert seen["auto"] == seen["data"] == (tiny.mean, tiny.std)
    plain = next(iter(EndToEnd(config.replace(normalisation="none", augment="none"), tiny, "cpu").batches(1)))[0]
    assert plain.min() >= 0
    assert plain.max() <= 1
    assert config.signature() == config.replace(normalisation="auto").signature()
