"""Which trial is next: as they were given, whatever else has ended."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from sweeps.service.driver.schedulers import Asha, InOrder, MedianStopping


@dataclass(eq=False)
class Fake:
    """What a scheduler asks of a trial and of Tune's controller."""

    status: str = Trial.PENDING

    def is_finished(self) -> bool:
        return self.status in (Trial.TERMINATED, Trial.ERROR)


class Controller:
    def __init__(self, trials: list[Fake]) -> None:
        self.get_trials = lambda: trials


def test_it_chooses_as_tunes_own_and_forgets_what_has_ended():
    trials = [Fake() for _ in range(5)]
    ours, theirs, controller = InOrder(), FIFOScheduler(), Controller(trials)
    for trial in trials:
        ours.on_trial_add(controller, trial)
    steps = [(0, Trial.RUNNING), (1, Trial.PAUSED), (0, Trial.TERMINATED), (2, Trial.ERROR), (3, Trial.RUNNING)]
    for index, status in [*steps, (4, Trial.RUNNING), (1, Trial.RUNNING), (3, Trial.PENDING)]:
        trials[index].status = status
        assert ours.choose_trial_to_run(controller) is theirs.choose_trial_to_run(controller)
    assert ours._live == (trials[1], trials[3], trials[4])


@pytest.mark.parametrize("kind", [Asha, MedianStopping])
def test_schedulers_that_stop_early_choose_so_too(kind: type[InOrder]):
    assert kind.choose_trial_to_run is InOrder.choose_trial_to_run
    assert kind.on_trial_result is not InOrder.on_trial_result
