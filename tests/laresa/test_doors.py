"""What the doors have to carry, each as a user would write it: terms, mixing, loops, data sets, rules, and the rest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from laresa import checkpoint, plugins
from laresa.config import TrialConfig
from laresa.data import Dataset, load
from laresa.data.augment import augment
from laresa.errors import ConfigError
from laresa.methods import Result, start
from laresa.methods.end_to_end import EndToEnd
from laresa.training import fit, train
from tests.laresa.checks import learned

Load = Callable[..., plugins.Plugin]
pytestmark = pytest.mark.usefixtures("one_thread")


def resumed_after(epoch: int, config: TrialConfig, data: Dataset, file: Path) -> Result:
    """A trial that was killed after `epoch` and goes on in a process that has drawn other numbers."""
    for _ in itertools.islice(train(config, dataset=data, save_to=file), epoch):
        pass
    torch.manual_seed(999)
    return fit(config, dataset=data, resume_from=file)


# ---------------------------------------------------------------------- (a) two views of each image
SUPCON = """
    from typing import Annotated
    import torch
    from annotated_types import Gt
    from torch.nn.functional import normalize
    from laresa.fields import Range
    from laresa.terms import Term

    def supcon(batch, *, temperature: Annotated[float, Gt(0), Range(0.05, 1.0, log=True)] = 0.1):
        '''Khosla et al., NeurIPS 2020, Eq. 2, over both views.'''
        z = normalize(torch.cat((batch.z_ND, batch.view_ND)), dim=1)
        y = batch.y_N.repeat(2)
        others = ~torch.eye(len(y), dtype=torch.bool)
        log_p = (z @ z.T / temperature).masked_fill(~others, -torch.inf).log_softmax(1)
        positive = (y[:, None] == y) & others
        loss = -log_p.masked_fill(~positive, 0).sum(1) / positive.sum(1)
        return (loss[: len(batch.y_N)] + loss[len(batch.y_N) :]) / 2

    TERMS = {"supcon": Term(supcon, views=2, labels=False)}
"""


def test_supervised_contrastive_learning_on_two_views(plugin: Load, tiny: Dataset, config: TrialConfig) -> None:
    plugin(SUPCON)
    result = fit(config.replace(subset="ce+supcon"), dataset=tiny)
    loss = [m.metrics["train/loss_supcon"] for m in result.history]
    assert loss[-1] < loss[0]
    assert set(result.history[0].metrics) >= {"weight/supcon", "train/loss_ce"}
    assert TrialConfig(subset="ce+supcon", temperature=0.2).signature() != TrialConfig(subset="ce+supcon").signature()


def test_views_are_augmented_each_by_its_own_draw(plugin: Load, tiny: Dataset, config: TrialConfig) -> None:
    plugin(
        """
        from laresa.terms import Term
        seen = []

        def look(batch):
            seen.append((batch.z_ND.detach(), batch.view_ND.detach()))
            return batch.z_ND.sum() * 0

        TERMS = {"look": Term(look, views=2)}
        AUGMENTATIONS = {"blank": lambda images, y_N, generator: images * 0}
        """
    )
    (module,) = (plugins.module_of(found) for found in plugins.loaded())
    for augmentation, same in (("none", True), ("crop", False), ("blank", True)):
        module.seen.clear()
        next(train(config.replace(subset="ce+look", augment=augmentation), dataset=tiny))
        assert all(torch.allclose(z, view, atol=1e-5) == same for z, view in module.seen)


# ---------------------------------------------------------------------- (b) mixed targets
MIXUP = """
    import torch
    from torch.nn.functional import one_hot

    def mixup(images, y_N, generator, *, alpha: float = 0.4):
        '''Zhang et al., ICLR 2018: the batch and itself in another order.'''
        share = torch.rand(len(images), generator=generator)[:, None] ** (1 / alpha)
        order = torch.randperm(len(images), generator=generator)
        mixed = images * share[..., None, None] + images[order] * (1 - share[..., None, None])
        y_NC = one_hot(y_N).float()
        return mixed, share * y_NC + (1 - share) * y_NC[order]

    def soften(images, y_N, generator):
        return images, one_hot(y_N) * 0.5 + 0.5 / 6

    AUGMENTATIONS = {"mixup": mixup, "soften": soften}
"""


BASES = ("ce", "hace", "hxe", "soft_label", "label_smoothing", "hierarchical_softmax")
AFTER_TARGETS = ("anchor", "cpcc", "tree_anchor", "devise")


@pytest.mark.parametrize("subset", [*BASES, "ce+anchor", "ce+cpcc+tree_anchor+devise", "ce+anchor+triplet+reg"])
def test_mixup_gives_every_base_term_and_the_anchor_soft_targets(
    plugin: Load, tiny: Dataset, config: TrialConfig, subset: str
) -> None:
    plugin(MIXUP)
    config = config.replace(subset=subset, batch_size=64)  # one step, so that nothing but the targets differs
    hard, soft = (next(train(config.replace(augment=a), dataset=tiny)).metrics for a in ("none", "soften"))
    for part in {*config.parts} & {*BASES, *AFTER_TARGETS}:
        assert soft[f"train/loss_{part}"] != hard[f"train/loss_{part}"]
    mixed = next(train(config.replace(augment="crop+mixup"), dataset=tiny)).metrics
    assert all(math.isfinite(value) for value in mixed.values())
    other = config.replace(augment="mixup", **{"mixup.alpha": 0.5})
    assert other.signature() != other.replace(**{"mixup.alpha": 0.4}).signature()


def test_targets_are_widened_to_all_classes_and_mixed_once(plugin: Load, tiny: Dataset, config: TrialConfig) -> None:
    plugin(MIXUP + "\n    AUGMENTATIONS['again'] = lambda x, y, g: mixup(x, y, g)\n")
    plugin(SUPCON, "two")
    images, y_N = tiny.train.images[:3], torch.tensor([0, 2, 2])
    generator = torch.Generator().manual_seed(0)
    _, target_NC = augment(images, y_N, {"mixup": {"alpha": 0.4}}, generator, classes=6)
    assert target_NC.shape == (3, 6)
    assert not target_NC[:, [1, 3, 4, 5]].any()
    torch.testing.assert_close(target_NC.sum(1), torch.ones(3))
    with pytest.raises(ConfigError, match="'again' mixes images that another has mixed already"):
        next(train(config.replace(subset="ce", augment="mixup+again"), dataset=tiny))
    with pytest.raises(ConfigError, match="mixes images: a term with two views can't use it"):
        next(train(config.replace(subset="ce+supcon", augment="mixup"), dataset=tiny))


# ---------------------------------------------------------------------- (c) a parameter, (d) a memory
SCALE = """
    from typing import Annotated
    import torch
    from laresa.fields import Learned

    Kept = Annotated[torch.Tensor, Learned]

    def scaled(batch, *, scale: Kept = 2.0, shift: Kept = (0.1, 0.2)):
        return (1 - batch.cosines("fine") * scale.tanh() + shift.sum()).square()

    TERMS = {"scaled": scaled}
"""


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_parameter_of_a_term_is_learned_shown_kept_and_resumed(
    plugin: Load, tiny: Dataset, config: TrialConfig, tmp_path: Path, killed_after: int
) -> None:
    plugin(SCALE)
    config = config.replace(subset="ce+scaled")
    result = fit(config, dataset=tiny)
    for name, begin in (("scaled.scale", 2.0), ("scaled.shift.0", 0.1), ("scaled.shift.1", 0.2)):
        values = [m.metrics[name] for m in result.history]
        assert len({begin, *values}) == 5
    file = tmp_path / "checkpoint"
    assert learned(resumed_after(killed_after, config, tiny, file)) == learned(result)
    tensors, _ = checkpoint.load(file)
    assert tensors["objective/scaled/scale"].item() == result.history[killed_after - 1].metrics["scaled.scale"]
    kept = fit(config.replace(**{"scaled.scale_learned": False, "scaled.scale": 3.0}), dataset=tiny)
    assert {m.metrics["scaled.scale"] for m in kept.history} == {3.0}
    assert kept.history[-1].metrics["scaled.shift.0"] != pytest.approx(0.1, abs=1e-6)


MEMORY = """
    from typing import Annotated
    import torch
    from laresa.fields import Memory

    def drift(batch, *, mean: Annotated[torch.Tensor, Memory] = (0.0,), steps: Annotated[torch.Tensor, Memory] = 0.0):
        '''How far the batch's mean length is from its running mean.'''
        length = batch.z_ND.norm(dim=1).mean()
        return (length - mean).square().sum() + 0.01 * steps, {"mean": 0.9 * mean + 0.1 * length, "steps": steps + 1}

    TERMS = {"drift": drift}
"""


def test_a_memory_is_kept_from_step_to_step_and_resumed(
    plugin: Load, tiny: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    plugin(MEMORY)
    config = config.replace(subset="ce+drift")
    assert not config.values("drift")  # what it remembers is no field
    file = tmp_path / "checkpoint"
    assert learned(resumed_after(2, config, tiny, file)) == learned(fit(config, dataset=tiny))
    tensors, _ = checkpoint.load(file)
    assert tensors["objective/drift/steps"].item() == 2 * 4  # two epochs of four batches
    assert tensors["objective/drift/mean"].shape == (1,)
    assert tensors["objective/drift/mean"].item() > 0


PROTOTYPES = """
    from typing import Annotated
    import torch
    from laresa.fields import Learned, Memory

    def corners(tree, width):
        return torch.eye(len(tree.parents), width)

    def pulled(
        batch,
        *,
        home_VD: Annotated[torch.Tensor, Learned(corners)] = "tree",
        seen_C: Annotated[torch.Tensor, Memory(lambda tree, width: torch.zeros(tree.leaves))] = "tree",
    ):
        loss_N = (batch.z_ND - home_VD[batch.y_N]).square().sum(1)
        return loss_N, {"seen_C": seen_C + batch.target_NC.sum(0)}

    TERMS = {"pulled": pulled}
"""


def test_a_tensor_may_take_its_shape_from_the_tree(
    plugin: Load, tiny: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    plugin(PROTOTYPES)
    config = config.replace(subset="ce+pulled", latent_dim=7)
    assert config.values("pulled") == {"home_VD": "tree", "home_VD_learned": True}
    result, file = fit(config, dataset=tiny), tmp_path / "checkpoint"
    assert learned(resumed_after(2, config, tiny, file)) == learned(result)
    assert not any(name.startswith("pulled") for name in result.history[0].metrics)  # a matrix is no curve
    tensors, _ = checkpoint.load(file)
    home_VD = tensors["objective/pulled/home_VD"]
    assert home_VD.shape == (len(tiny.taxonomy.parents), 7)
    leaves = tiny.taxonomy.leaves
    assert (home_VD[:leaves] != torch.eye(len(home_VD), 7)[:leaves]).any(1).all()
    assert tensors["objective/pulled/seen_C"].sum() == 2 * len(tiny.train.labels)
    with pytest.raises(ConfigError, match=r"pulled.home_VD=\[1.0\]: expected"):
        config.replace(**{"pulled.home_VD": [1.0]})


# ---------------------------------------------------------------------- a base term of one's own
def test_a_base_term_brings_its_head(plugin: Load, tiny: Dataset, config: TrialConfig) -> None:
    """Two logits a class, the greater counts."""
    plugin(
        """
        import torch
        from torch.nn.functional import cross_entropy
        from laresa.terms import Head, Term

        def best(logits, tree):
            return logits.unflatten(-1, (tree.leaves, 2)).amax(-1).log_softmax(-1)

        def prototypes(batch):
            return -(best(batch.logits, batch.tree) * batch.target_NC).sum(-1)

        def build(width, outputs):
            return torch.nn.Linear(width, outputs, bias=False)

        TERMS = {"prototypes": Term(prototypes, base=Head(lambda tree: 2 * tree.leaves, best, build))}
        """
    )
    result = fit(config.replace(subset="prototypes", epochs=8, patience=8, augment="none"), dataset=tiny)
    assert result.weights["classifier.weight"].shape[0] == 12
    assert "classifier.bias" not in result.weights
    assert result.metrics["test/top1"] > 0.5


# ---------------------------------------------------------------------- loops
LOOP = """
    import torch
    from torch.nn.functional import cross_entropy
    from laresa.methods.loop import Loop

    class Linear(Loop):
        '''Logistic regression on pixels.'''

        def __init__(self, config, data, device, *, hidden: int = 0):
            super().__init__(config, data, device)
            pixels, classes = data.train.images[0].numel() * 4, data.taxonomy.leaves  # from 16 to 32 pixels a side
            layers = [torch.nn.Linear(pixels, hidden), torch.nn.ReLU()] if hidden else []
            self.model = torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(hidden or pixels, classes))
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr, momentum=0.9)

        def train_epoch(self, number):
            losses = []
            for images, y_N in self.batches(number):
                loss = cross_entropy(self.model(images), y_N)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                losses.append(loss.detach())
            return {"train/loss": torch.stack(losses).mean()}

        def predict(self, images):
            return self.model(images)

    METHODS = {"linear": Linear}
"""


def test_a_user_s_loop_in_25_lines_trains_resumes_and_reports(
    plugin: Load, tiny: Dataset, config: TrialConfig, tmp_path: Path
) -> None:
    plugin(LOOP)
    config = config.replace(method="linear", hidden=8, lr=0.01)
    assert config.values("linear") == {"hidden": 8}
    result = fit(config, dataset=tiny)
    assert result.latents is None
    assert "test/nn_hit" not in result.metrics
    assert {"test/top1", "test/mistake_severity", "best/val/top1"} <= set(result.metrics)
    assert set(result.history[0].metrics) == {"train/loss", "val/top1", "val/loss"}
    assert isinstance(result.history[0].metrics["train/loss"], float)
    assert learned(resumed_after(2, config, tiny, tmp_path / "checkpoint")) == learned(result)
    with pytest.raises(ConfigError, match="method='linear' trains one configuration at a time, not 2"):
        start((config, config), tiny, "cpu")


@pytest.mark.parametrize("change", ["group['lr'] *= 0.5", "torch.optim.lr_scheduler.StepLR(self.optimizer, 1)"])
def test_a_loop_that_changes_its_learning_rate_resumes_or_is_refused(
    plugin: Load, tiny: Dataset, config: TrialConfig, tmp_path: Path, change: str
) -> None:
    by_hand = "for group in self.optimizer.param_groups: " + change
    source = LOOP.replace("losses = []", by_hand if "group" in change else f"losses, self.steps = [], {change}")
    plugin(source.replace(by_hand, f"losses = []\n            {by_hand}"))
    config, file = config.replace(method="linear", lr=0.01), tmp_path / "checkpoint"
    if "group" in change:
        assert learned(resumed_after(2, config, tiny, file)) == learned(fit(config, dataset=tiny))
    else:
        with pytest.raises(ConfigError, match=r"method='linear': steps is a StepLR, which no checkpoint keeps"):
            next(train(config, dataset=tiny, save_to=file))


OWN = """
    import json
    import torch
    from laresa.measurement import Measurement
    from laresa.methods import Result

    class Prior:
        '''Guesses the class that is most frequent in training; no model, no Loop.'''

        def __init__(self, config, data, device):
            self.config, self.data, self.history = config, data, []

        @property
        def finished(self):
            return len(self.history) >= self.config.epochs

        def epoch(self):
            guess = self.data.train.labels.bincount().argmax()
            top1 = (self.data.val.labels == guess).double().mean().item()
            self.history.append(Measurement(len(self.history) + 1, {"val/top1": top1}, 0.0))
            return self.history[-1]

        def save(self, path):
            path.write_text(json.dumps([m.to_dict() for m in self.history]))

        def restore(self, path):
            self.history = [Measurement.from_dict(m) for m in json.loads(path.read_text())]

        def result(self):
            metrics = {"test/top1": self.history[-1].metrics["val/top1"]}
            return Result(self.config, tuple(self.history), 1, metrics, {}, None)

    METHODS = {"prior": Prior}
"""


def test_a_method_that_is_no_loop(plugin: Load, tiny: Dataset, config: TrialConfig, tmp_path: Path) -> None:
    plugin(OWN)
    config = config.replace(method="prior", epochs=3)
    result = fit(config, dataset=tiny)
    assert result.metrics["test/top1"] == pytest.approx(1 / 6)
    again = resumed_after(2, config, tiny, tmp_path / "checkpoint")
    assert again.history == result.history


def test_a_method_that_takes_a_group_is_given_all(plugin: Load, tiny: Dataset, config: TrialConfig) -> None:
    plugin(
        """
        class Group:
            @staticmethod
            def group_key(config):
                return config.fold

            def __init__(self, configs, data, device, at_once):
                self.configs, self.at_once = configs, at_once

        METHODS = {"group": Group}
        """
    )
    configs = tuple(config.replace(method="group", seed=seed) for seed in (1, 2))
    assert start(configs, tiny, "cpu").configs == configs
    assert start(configs, tiny, "cpu", at_once=3).at_once == 3
    with pytest.raises(ConfigError, match="method='group' can't train these 2 together: group"):
        start((configs[0].replace(fold=0), configs[1].replace(fold=1)), tiny, "cpu")


# ---------------------------------------------------------------------- the other doors
def test_a_data_set_of_one_s_own_which_is_flat(plugin: Load, config: TrialConfig) -> None:
    plugin(
        """
        import torch
        from laresa.data.dataset import DataSource, make_dataset
        from laresa.taxonomy import Taxonomy

        def stripes(fold, split_seed, image_size, *, classes: int = 3):
            size, tree = image_size or 16, Taxonomy.from_names([f"stripe {i}" for i in range(classes)])
            def part(count, seed):
                y = torch.arange(count) % classes
                x = torch.randint(0, 99, (count, 3, size, size), generator=torch.Generator().manual_seed(seed + fold))
                x[torch.arange(count), :, y] = 255
                return x.to(torch.uint8), y
            return make_dataset("stripes", tree, train=part(30, 0), val=part(12, 1), test=part(12, 2))

        DATASETS = {"stripes": DataSource(stripes, folds=2)}
        """
    )
    config = config.replace(dataset="stripes", subset="ce+triplet", **{"stripes.classes": 4})
    data = load(config)
    assert data.taxonomy.leaves == 4
    assert load("stripes").taxonomy.leaves == 3
    assert data.fingerprint != load(config, fold=1).fingerprint
    with pytest.raises(ValueError, match=r"fold=2: stripes has 2 folds, 0 to 1"):
        load(config.replace(fold=2))
    metrics = fit(config.replace(epochs=2)).metrics
    assert metrics["test/top1"] > 0
    assert not math.isnan(metrics["test/spearman_fine"])
    for name in ("nn_hit", "silhouette", "spearman_coarse", "mistake_severity", "sibling_accuracy"):
        assert math.isnan(metrics[f"test/{name}"])
    for subset in ("ce+anchor", "hace", "hxe+triplet", "soft_label"):
        (named,) = set(subset.split("+")) & {"anchor", "hace", "hxe", "soft_label"}
        with pytest.raises(ConfigError, match=f"{named} needs a tree over the classes, and the data set is flat"):
            next(train(config.replace(subset=subset)))


BACKBONE = """
    import torch

    def small(input_size, pretrained, *, width: int = 8):
        return torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

    BACKBONES = {"small": small}
"""
METRIC = """
    import numpy as np

    def confidence(logits_NC, z_ND, y_N, tree):
        assert z_ND.shape == (len(y_N), 384)
        return np.exp(logits_NC).max(1).mean()

    METRICS = {"confidence": confidence}
"""
OPTIMIZER = """
    import torch

    def rms(groups, *, decay: float = 0.9):
        return torch.optim.RMSprop(groups, alpha=decay)

    OPTIMIZERS = {"rms": rms}
"""
SCHEDULE = """
    def warm(done, *, share: float = 0.5):
        return min(1.0, (done + 0.1) / share)

    LR_SCHEDULES = {"warm": warm}
"""
WEIGHTING = """
    import torch
    from laresa.weighting import Rule

    def last(losses_T, alpha_T, memory, *, power: float = 1.0):
        '''Weights by the losses of the step before.'''
        share_T = (memory["before"] ** power * alpha_T.exp()).softmax(0)
        return (share_T * losses_T).sum(), share_T, {"before": losses_T.detach()}

    WEIGHTINGS = {"last": Rule(last, memory=lambda terms: {"before": torch.ones(terms)})}
"""
AUGMENTATION = """
    def darker(images, y_N, generator, *, by: float = 0.5):
        return (images * by).to(images.dtype)

    AUGMENTATIONS = {"darker": darker}
"""


@pytest.mark.parametrize(
    ("source", "fields", "field", "other"),
    [
        (BACKBONE, {"backbone": "small"}, "small.width", 4),
        (OPTIMIZER, {"optimizer": "rms"}, "decay", 0.5),
        (SCHEDULE, {"schedule": "warm"}, "share", 0.7),
        (WEIGHTING, {"weighting": "last"}, "power", 2.0),
        (AUGMENTATION, {"augment": "flip+darker"}, "by", 0.25),
    ],
    ids=["backbone", "optimizer", "schedule", "weighting", "augmentation"],
)
def test_a_component_trains_resumes_to_the_bit_and_its_field_counts(
    plugin: Load,
    tiny: Dataset,
    config: TrialConfig,
    tmp_path: Path,
    source: str,
    fields: dict[str, Any],
    field: str,
    other: Any,
) -> None:
    plugin(source)
    config = config.replace(epochs=3, **fields)
    result = fit(config, dataset=tiny)
    assert learned(resumed_after(1, config, tiny, tmp_path / "checkpoint")) == learned(result)
    changed = config.replace(**{field: other})
    assert changed.signature() != config.signature()
    assert learned(fit(changed, dataset=tiny)) != learned(result)


def test_a_metric_stands_beside_ours(plugin: Load, tiny: Dataset, config: TrialConfig) -> None:
    plugin(METRIC)
    metrics = fit(config.replace(epochs=1), dataset=tiny).metrics
    assert 1 / 6 < metrics["test/confidence"] < 1
    assert "best/val/confidence" in metrics


def test_the_loss_of_a_plain_network_is_cross_entropy(tiny: Dataset, config: TrialConfig) -> None:
    """The first step of `ce`, by hand: the same network, the same images, F.cross_entropy."""
    trial = EndToEnd(config.replace(subset="ce", batch_size=64), tiny, "cpu")
    (sample,) = trial.samples(1)
    expected = cross_entropy(trial.model.train()(sample.images)[0], sample.y_N)
    assert trial.epoch().metrics["train/loss"] == pytest.approx(expected.item(), rel=1e-6)
