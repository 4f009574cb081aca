"""Optimisers and schedules against what can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laresa.config import TrialConfig
from laresa.data import Dataset
from laresa.methods.end_to_end import EndToEnd
from laresa.optimizers import LR_SCHEDULES, OPTIMIZERS, WARMUP_START, cosine, warmup_cosine
from tests.laresa.checks import few

shares = st.floats(0, 1, exclude_max=True)


@few
@given(warmup=st.floats(0.01, 0.9), floor=st.floats(0, 1), done=shares)
def test_warm_up_and_cosine_are_a_line_and_half_a_cosine(warmup: float, floor: float, done: float) -> None:
    rising = np.interp(done, [0, warmup], [WARMUP_START, 1.0])
    falling = floor + (1 - floor) * math.cos(math.pi / 2 * (done - warmup) / (1 - warmup)) ** 2
    expected = rising if done < warmup else falling
    assert warmup_cosine(done, warmup=warmup, floor=floor) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@few
@given(done=shares)
def test_without_warm_up_and_floor_it_is_the_cosine(done: float) -> None:
    assert warmup_cosine(done, warmup=0.0, floor=0.0) == cosine(done)


def test_it_peaks_where_the_warm_up_ends_and_ends_at_the_floor() -> None:
    factors = [warmup_cosine(epoch / 50, warmup=0.2, floor=0.1) for epoch in range(51)]
    assert factors[0] == WARMUP_START
    assert np.argmax(factors) == 10
    assert factors[10] == 1.0
    assert factors[50] == pytest.approx(0.1)
    assert np.all(np.diff(factors[:11]) > 0)
    assert np.all(np.diff(factors[10:]) < 0)


def test_every_schedule_starts_above_zero_and_never_passes_the_given_rate() -> None:
    for name, schedule in LR_SCHEDULES.items():
        factors = [schedule(epoch / 30) for epoch in range(30)]
        assert all(0 < factor <= 1 for factor in factors), (name, factors)


def test_a_trial_trains_with_the_rates_of_its_schedule(tiny: Dataset, config: TrialConfig) -> None:
    given = {"warmup_cosine.warmup": 0.5, "warmup_cosine.floor": 0.25, "lr": 0.01}
    trial = EndToEnd(config.replace(schedule="warmup_cosine", epochs=4, **given), tiny, "cpu")
    rates = []
    while not trial.finished:
        trial.epoch()
        rates.append(trial.optimizer.param_groups[0]["lr"])
    half = 0.25 + 0.75 * math.cos(math.pi / 4) ** 2
    assert rates == pytest.approx([0.01 * factor for factor in (WARMUP_START, (1 + WARMUP_START) / 2, 1.0, half)])


def descend(name: str, curvature: float, start: float, steps: int, *, lr: float, decay: float, **fields) -> list[float]:
    """Where an optimiser goes on curvature * x^2 / 2."""
    x = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([{"params": [x], "lr": lr, "weight_decay": decay}], **fields)
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        (curvature * x**2 / 2).sum().backward()
        optimizer.step()
        path.append(x.item())
    return path


@few
@given(
    curvature=st.floats(0.1, 2),
    start=st.floats(0.5, 3),
    lr=st.floats(0.01, 0.4),
    decay=st.floats(0, 0.3),
    momentum=st.floats(0, 0.95),
)
def test_sgd_is_the_power_of_a_matrix(curvature: float, start: float, lr: float, decay: float, momentum: float) -> None:
    """On a parabola, velocity and place are a linear map of those before: v' = m v + (c + d) x, x' = x - lr v'."""
    slope = curvature + decay
    step = np.array([[momentum, slope], [-lr * momentum, 1 - lr * slope]])
    expected = [(np.linalg.matrix_power(step, n) @ [0.0, start])[1] for n in range(1, 9)]
    path = descend("sgd", curvature, start, 8, lr=lr, decay=decay, momentum=momentum)
    assert path == pytest.approx(expected, rel=1e-9, abs=1e-12)


@few
@given(start=st.floats(0.5, 3), lr=st.floats(1e-3, 0.1), decay=st.floats(0, 0.3))
def test_decay_is_outside_adamw_s_step_and_inside_adam_s(start: float, lr: float, decay: float) -> None:
    """The first step of Adam is lr long whatever the gradient; AdamW shrinks the weight by lr * decay besides."""
    (decoupled,) = descend("adamw", 1.0, start, 1, lr=lr, decay=decay)
    (coupled,) = descend("adam", 1.0, start, 1, lr=lr, decay=decay)
    assert decoupled == pytest.approx(start * (1 - lr * decay) - lr, rel=1e-6)
    assert coupled == pytest.approx(start - lr, rel=1e-6)
