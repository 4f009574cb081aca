"""`laresa plugin check` on plugins that are right, and on each way to be wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from laresa import plugins
from laresa.config import TrialConfig
from laresa.data import Dataset
from laresa.errors import ConfigError
from laresa.plugin_check import check_plugin
from laresa.term_check import check_term, check_terms

START = """
from typing import Annotated
import torch
from torch import Tensor
from laresa.fields import Learned, Memory, Range
from laresa.terms import Term
from laresa.weighting import Rule
"""


@pytest.fixture
def findings(tmp_path: Path) -> Iterator:
    """What is wrong with a plugin of these lines, as "component: check: what"."""

    def of(lines: str) -> list[str]:
        path = tmp_path / "mine.py"
        path.write_text(START + lines)
        found = list(check_plugin(plugins.load(str(path))))
        assert found
        return [f"{f.component}: {f.check}: {f.wrong}" for f in found if f.wrong]

    with plugins.isolated():
        yield of


RIGHT = """
def pull(batch, *, gamma: Annotated[float, Range(.5, 8)] = 2., scale: Annotated[Tensor, Learned] = 1.,
         m: Annotated[Tensor, Memory] = (0.,)):
    loss_N = scale * (1 - batch.cosines("fine")) ** gamma
    return loss_N, {"m": m.lerp(loss_N.detach().mean().to(m.dtype), 0.1)}

def views(batch):
    return (batch.z_ND - batch.view_ND).square().sum(1)

def drawn(batch):
    return batch.uniform(batch.y_N.shape) * batch.z_ND.square().sum(1)

def even(losses_T, alpha_T, memory):
    return losses_T.mean(), torch.full_like(losses_T, 1 / len(losses_T)), memory

def dim(images, y_N, generator, *, most: float = 0.5):
    keep = 1 - most * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (images * keep).to(torch.uint8)

def mix(images, y_N, generator):
    return images, torch.nn.functional.one_hot(y_N).float()

def steps(done, *, factor: float = 0.1):
    return 1.0 if done < 0.5 else factor

def entropy(logits_NC, z_ND, y_N, tree):
    return float(abs(logits_NC).mean())

def plain(groups):
    return torch.optim.SGD(groups, momentum=0.0)

TERMS = {"pull": pull, "views_pull": Term(views, views=2, labels=False), "drawn": drawn}
TERM_GROUPS = {"both": ("pull", "drawn")}
WEIGHTINGS = {"even": Rule(even, logits="none")}
AUGMENTATIONS = {"dim": dim, "mix": mix}
LR_SCHEDULES = {"steps": steps}
METRICS = {"entropy": entropy}
OPTIMIZERS = {"plain": plain}
"""


def test_what_is_right_passes(findings):
    assert findings(RIGHT) == []


TERM = "def mine(batch):\n    {}\nTERMS = {{'mine': mine}}\n"
NAN = "return torch.where(batch.y_N == 0, torch.nan, 0.0) * batch.z_ND.sum(1)"
CENTROIDS = "return sum(batch.z_ND[batch.y_N == c].mean(0).square().sum() for c in range(batch.classes))"


@pytest.mark.parametrize(
    ("body", "check", "said"),
    [
        ("return batch.z_ND", "shape", "gave a loss of shape (8, 8): expected one per sample, (8,), or a scalar"),
        ("return 1.0", "shape", "gave float: expected a tensor"),
        (NAN, "shape", "the loss is nan"),
        (
            "return batch.z_ND.detach().square().sum(1)",
            "gradient",
            "no gradient reaches z or logits: it trains nothing",
        ),
        ("return batch.z_ND.square().sum(1) * batch.z_ND.sum().detach()", "gradient", "by autograd"),
        ("return torch.rand(len(batch.y_N)) * batch.z_ND.square().sum(1)", "the same twice", "batch.uniform(shape)"),
        ("mine.n = getattr(mine, 'n', 0) + 1; return mine.n * batch.z_ND.square().sum(1)", "the same twice", "Memory"),
        ("batch.z_ND.detach().mul_(1.01); return batch.z_ND.sum(1) ** 2", "the same twice", "z of the batch in place"),
        ("return batch.z_ND.std(0).sum()", "a batch of one", "nan"),
        (CENTROIDS, "classes without samples", "nan"),
        ("return (batch.z_ND.sum(1) + 1e8) - 1e8", "float32 as float64", "in float64"),
        ("return batch.tree.nothing", "shape", "AttributeError"),
        ("return batch.view_ND.sum(1)", "shape", "Term(fn, views=2)"),
    ],
)
def test_each_way_a_term_can_be_wrong(findings, body: str, check: str, said: str):
    wrong = findings(TERM.format(body))
    assert any(line.startswith(f"term mine: {check}") and said in line for line in wrong), wrong


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("loss_N, {'m': m + 1}", "mine.a: no gradient reaches it: it is never learned"),
        ("loss_N * a", "mine.m: never returned"),
        ("loss_N * a, {'m': m / 0}", "mine.m: returned with numbers that are not finite"),
        ("loss_N * a, {'m': m.sum()}", "returns 'm' of (): expected a tensor (2,)"),
    ],
)
def test_what_is_learned_or_remembered(findings, returned: str, said: str):
    lines = "def mine(batch, *, a: Annotated[Tensor, Learned] = 1., m: Annotated[Tensor, Memory] = (1., 1.)):\n"
    lines += f"    loss_N = batch.z_ND.square().sum(1)\n    return {returned}\nTERMS = {{'mine': mine}}\n"
    wrong = findings(lines)
    assert any(said in line for line in wrong), wrong


WEIGHTING = "def w(losses_T, alpha_T, memory): return {}, memory\nWEIGHTINGS = {{'w': w}}"
EVEN = "torch.full_like(losses_T, 1/3)"
AUGMENTATION = "def a(images, y_N, generator): return {}\nAUGMENTATIONS = {{'a': a}}"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (WEIGHTING.format("losses_T.sum(), alpha_T.softmax(0) * 2"), "1 in all"),
        (WEIGHTING.format(f"losses_T.sum(), {EVEN}"), "no gradient reaches alpha"),
        (WEIGHTING.format("(alpha_T / losses_T).sum(), alpha_T.softmax(0)"), "expected one finite number"),
        (AUGMENTATION.format("images[:2]"), "expected images [28, 3, H, W]"),
        (AUGMENTATION.format("(images * torch.rand(())).byte()"), "not the same twice"),
        (AUGMENTATION.format("images.add_(1)"), "in place"),
        ("def s(done): return -done\nLR_SCHEDULES={'s': s}", "expected numbers >= 0"),
        ("def m(logits, z, y, tree): return z.mean()\nMETRICS={'m': m}", "AttributeError"),
        ("def o(groups): return torch.optim.SGD(groups, lr=-1)\nOPTIMIZERS={'o': o}", "ValueError"),
        ("TERM_GROUPS={'g': ('ce', 'nothing')}", "unknown term 'nothing'"),
        ("def d(fold, split_seed, image_size): return 3\nDATASETS={'d': d}", "gave int"),
        ("STUDIES={'s': 3}", "it has no add_options"),
    ],
)
def test_the_other_kinds(findings, lines: str, said: str):
    wrong = findings(lines)
    assert any(said in line for line in wrong), wrong


LOOP = """
from torch import nn
from laresa.methods.loop import Loop

class Mine(Loop):
    def __init__(self, config, data, device, *, hidden: int = 8):
        super().__init__(config, data, device)
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, hidden), nn.ReLU(), nn.Linear(hidden, 8))
        self.model.to(self.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), config.lr, momentum=0.9)
        self.calls = 0

    def train_epoch(self, number):
        for images, y_N in self.batches(number):
            self.calls += 1
            loss = nn.functional.cross_entropy(self.model(images), y_N) {more}
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return {"train/loss": loss.item()}

    def predict(self, images):
        return self.model(images)[:, :CLASSES]

METHODS = {"mine": Mine}
"""


def test_a_training_loop(findings):
    """The drawn data set has seven classes."""
    assert findings(LOOP.replace("{more}", "").replace("CLASSES", "7")) == []


@pytest.mark.parametrize(
    ("more", "classes", "said"),
    [("* self.calls", "7", "after restore train/loss"), ("", "8", "expected [N, 7], a logit a class")],
)
def test_a_training_loop_that_is_wrong(findings, more: str, classes: str, said: str):
    wrong = findings(LOOP.replace("{more}", more).replace("CLASSES", classes))
    assert any(said in line for line in wrong), wrong


def test_before_a_sweep_trains(tiny: Dataset, tmp_path: Path):
    """On the data set's own tree and embeddings, a term without gradient is named."""
    with plugins.isolated():
        (tmp_path / "mine.py").write_text(TERM.format("return batch.z_ND.detach().sum(1)"))
        plugins.load(str(tmp_path / "mine.py"))
        with pytest.raises(ConfigError, match=r"term 'mine' does not pass its check \(gradient .*no gradient reaches"):
            check_terms(TrialConfig(dataset="tiny", subset="ce+mine"), tiny)


@pytest.mark.parametrize("name", plugins.table("TERMS"))
def test_ours_pass(name: str):
    assert [str(finding) for finding in check_term(name) if finding.wrong] == []
