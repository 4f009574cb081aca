"""What runs on a worker, between Tune and a group of trials."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from ray import tune

from laresa.errors import StorageError
from sweeps.service.storage.open import sweep_at
from sweeps.service.storage.shared_folder import FencedError
from sweeps.service.study import PlannedTrial
from sweeps.service.tracking.async_writer import AsyncWriter
from sweeps.service.worker import board
from sweeps.service.worker.checks import check_code, check_here
from sweeps.service.worker.device import trial_device
from sweeps.service.worker.members import STORAGE, TrialContext
from sweeps.service.worker.plugins import Shipment, unpack
from sweeps.service.worker.session import Session

log = logging.getLogger("laresa.trial")
ASK_SECONDS = 1.0  # between two looks at who is to stop
FLUSH_TIMEOUT_S = 20.0  # how long a worker that ends may go on sending; the runner delivers the rest


class TuneTrial(tune.Trainable):
    """One worker, one group of trials after another (`reuse_actors`); a step() is an epoch, of a group some.

    Tune's config: {"trials": [PlannedTrial as a dict, ...], "halving", "context" (TrialContext as a dict)}.
    """

    _writer: AsyncWriter | None = None
    _session: Session | None = None
    _parent_run = ""
    _asked_at = -math.inf

    def setup(self, config: dict[str, Any], plugins: Shipment) -> None:
        unpack(plugins)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        assert self._session is not None
        try:
            self._session.stop(self._asked_to_stop())
            return group_result(self._session.step())
        except FencedError as error:
            log.warning("%s", error)
            return group_result(self._session.ended("fenced"))
        except StorageError as error:
            return group_result(self._session.ended(STORAGE, str(error)))

    def _asked_to_stop(self) -> Collection[str]:
        """Keys of the sweep's trials that the user wants to stop; asked once in a while."""
        if time.monotonic() - self._asked_at < ASK_SECONDS:
            return ()
        self._asked_at = time.monotonic()
        with contextlib.suppress(board.AwayError):
            return board.get(board.stops_of(self._parent_run)) or ()
        return ()

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        return {}  # ours lie under the signature; Tune keeps nothing that matters

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        return None

    def cleanup(self) -> None:
        self._leave()
        if self._writer is not None:
            self._writer.stop(FLUSH_TIMEOUT_S)

    def _leave(self) -> None:
        """Whatever ended the group, its last epochs are kept."""
        session, self._session = self._session, None
        if session is not None:
            session.leave()

    def _begin(self, config: dict[str, Any]) -> None:
        self._leave()
        context = TrialContext.from_dict(config["context"])
        self._parent_run = context.sweep.parent_run_id
        check_here(sweep_at(context.folder))
        check_code(context.files)
        device = trial_device(context.gpus)
        torch.set_num_threads(max(1, int(context.cpus)))
        if self._writer is None:
            self._writer = AsyncWriter(context.sweep.uri)
            self._writer.start()
        trials = tuple(PlannedTrial.from_dict(fields) for fields in config["trials"])
        self._session = Session(trials, context, self._writer, device, halving=config["halving"])


def group_result(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a step of a group reports to Tune, from what each of its trials has to say.

    rows: {"signature", "epoch", "state", "val/top1", "done", ...} each. The top level speaks for the scheduler, which
    stops all or none: a group has come as far as its furthest trial, is as good as its best, and runs while one does.
    """
    validation = [row["val/top1"] for row in rows if math.isfinite(row["val/top1"])]
    return {
        "epoch": max(row["epoch"] for row in rows),
        "state": next((row["state"] for row in rows if row["state"] == "running"), rows[0]["state"]),
        "seconds": sum(row.get("seconds", 0.0) for row in rows),
        "val/top1": max(validation, default=math.nan),
        "done": all(row["done"] for row in rows),
        "trials": [dict(row) for row in rows],
    }
