"""What can't be run is refused before anything is written: `run` and `plan` begin with the same checks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from laresa.errors import StorageError
from laresa.plugins import loaded
from sweeps.service.planning.code import CodeBook
from sweeps.service.planning.plan import check_plan
from sweeps.service.planning.prepare import check_trials
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.open import sweep_folder
from sweeps.service.study import PlannedTrial, RunOptions, Study
from sweeps.service.tracking.client import check_given
from sweeps.service.worker.plugins import pack


def check_request(study: Study, options: RunOptions, absent: list[str] | None = None) -> SweepFolder:
    """The sweep's folder, where `run` may begin. LaresaError: a search, a plugin, the storage, the tracking store, the
    data or a part of a trial can't be used, or the sweep holds another plan. Nothing is written but caches.

    absent: as of check_trials.
    """
    if study.searches:
        from sweeps.service.driver.schedulers import check_searches

        check_searches(study.searches)
    pack(loaded())
    folder = sweep_folder(study.name, options.storage)
    check_place(folder)
    check_plan(study, folder)
    check_given(options.tracking_uri)
    kept = {} if options.retrain else CodeBook(folder).accepted
    if anything_left(replace(study, kept=kept), folder.snapshot(), options):
        check_trials(study, absent)
    return folder


def check_place(folder: SweepFolder) -> None:
    """StorageError: a folder on this machine that can't be written. Of a bucket, reading tells."""
    place = Path(folder.place)
    there = next((path for path in (place, *place.parents) if path.exists()), place)
    if not folder.place.startswith("/") or (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return
    reason = "no permission" if there.is_dir() else f"{there} is no folder"
    raise StorageError(f"storage {folder.place} can't be written ({reason}): choose another --storage")


def anything_left(study: Study, folder: SweepFolder, options: RunOptions) -> bool:
    """Whether something may have to be trained, as far as storage knows: else no Ray is needed."""
    if study.searches:
        return True
    for trial in study.trials():
        if folder.trial(trial.key).outcome() is None or (options.halve_batch and halved(study, trial, folder)):
            return True
    return False


def halved(study: Study, trial: PlannedTrial, folder: SweepFolder) -> PlannedTrial | None:
    """The trial with half the batch, if it failed for want of memory and has a batch to halve."""
    outcome = folder.trial(trial.key).outcome() or {}
    if not (outcome.get("error") or "").startswith("OutOfMemoryError") or trial.config.batch_size < 4:
        return None
    config = trial.config.replace(batch_size=trial.config.batch_size // 2)
    return study.find(PlannedTrial(trial.arm, config, trial.role))
