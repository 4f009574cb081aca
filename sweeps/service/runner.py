"""Study -> Ray Tune -> records. Run again = continue: nothing is trained twice, nothing measured is lost."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from laresa.errors import ConfigError
from sweeps.service import plan as planning
from sweeps.service import tracking
from sweeps.service.options import RunOptions
from sweeps.service.records import tracked_states
from sweeps.service.server import LocalServer, home
from sweeps.service.storage import SweepFolder
from sweeps.service.study import PlannedTrial, Study
from sweeps.service.tracking import SweepRun, TrialRun
from sweeps.service.watch import Watch

log = logging.getLogger("laresa.runner")


@dataclass(frozen=True)
class SweepResult:
    """What a finished `run` tells: counts by state, and the seconds the trials took."""

    sweep: SweepRun
    states: Mapping[str, int]
    wall_seconds: float
    training_seconds: float
    concurrency: int

    @property
    def efficiency(self) -> float:
        """Seconds inside training over (concurrency x wall seconds of the sweep)."""
        return self.training_seconds / (self.concurrency * self.wall_seconds) if self.wall_seconds else float("nan")


def run(study: Study, options: RunOptions) -> SweepResult:
    """Train what the study still lacks and bring the tracker up to date.

    Raises SweepBusyError when another process runs it, TrackingError and ConfigError before anything is trained.
    """
    folder = sweep_folder(study.name, options)
    with folder.lock():
        uri, server = resolve_tracking(options.tracking_uri)
        prepare(study)  # while the local server starts
        if server is not None:
            server.wait(uri)
        tracking.check(uri)
        sweep = tracking.open_sweep(uri, study.name, describe(study))
        api = tracking.client(uri)
        rows = planning.plan(study, folder, tracked_states(study.name, uri))
        pending = [row.trial for row in rows if not row.done]
        watch = Watch(study, rows)
        tags = provenance_tags()
        started = time.monotonic()
        concurrency, seconds = 1, 0.0
        if pending:
            concurrency, seconds = _tune(pending, sweep, folder, options, tags, watch)
        wall = time.monotonic() - started
        states = settle(api, study, sweep, folder, tags)
        api.set_terminated(sweep.parent_run_id, "FINISHED" if set(states) <= {"finished", "pruned"} else "FAILED")
        return SweepResult(sweep, states, wall, seconds, concurrency)


def sweep_folder(name: str, options: RunOptions) -> SweepFolder:
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"sweep name {name!r}: expected a plain name without '/', such as 'my-ablation'")
    return SweepFolder((options.storage or home() / "storage").resolve() / name)


def resolve_tracking(uri: str | None) -> tuple[str, LocalServer | None]:
    """The tracking address: as given, else MLFLOW_TRACKING_URI, else the local server (started, still to wait for)."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        tracking.check(uri)
        return uri, None
    server = LocalServer()
    return server.launch(), server


def prepare(study: Study) -> None:
    """Once, before the first trial: decode the data sets, embed the label texts, build each backbone to see it fits."""
    from laresa.data import load
    from laresa.labels import label_embeddings
    from laresa.model import build_model

    datasets: dict[tuple[Any, ...], Any] = {}
    models: set[tuple[Any, ...]] = set()
    for config in (trial.config for trial in study.trials()):
        data_key = (config.dataset, config.fold, config.split_seed, config.image_size, config.skip_bad_images)
        if data_key not in datasets:
            datasets[data_key] = load(config)
        data = datasets[data_key]
        labels = label_embeddings(data.taxonomy, encoder=config.encoder, label_text=config.label_text)
        width = labels.fine_CD.shape[1]
        if config.latent_dim not in (None, width) and {"anchor", "triplet"} & set(config.parts):
            raise ConfigError(
                f"latent_dim={config.latent_dim}: anchor and triplet compare latents with label embeddings, "
                f"which have {width} dimensions with encoder {config.encoder!r}; leave latent_dim out"
            )
        size = config.input_size or data.train.images.shape[-1]
        shape = {"input_size": size, "latent_dim": config.latent_dim or width, "classes": len(data.taxonomy.names)}
        model_key = (config.backbone, config.pretrained, *shape.values())
        if model_key not in models:
            models.add(model_key)
            build_model(config.backbone, pretrained=config.pretrained, **shape)


def describe(study: Study) -> dict[str, str]:
    """Tags of the parent run."""
    arms = json.dumps([cell.arm for cell in study.cells])
    replicates = json.dumps([[replicate.seed, replicate.fold] for replicate in study.replicates])
    return {"laresa.arms": arms, "laresa.replicates": replicates, "laresa.trials": str(len(study.trials()))}


def provenance_tags() -> dict[str, str]:
    """Versions, commit and command behind the numbers."""
    tags = {f"laresa.version.{name}": metadata.version(name) for name in ("torch", "timm", "ray", "mlflow", "optuna")}
    tags["laresa.version"] = metadata.version("laresa-sweeps")
    tags["laresa.version.python"] = platform.python_version()
    tags["laresa.git_commit"] = git_commit()
    return tags


def git_commit() -> str:
    """Commit of the code, "+dirty" where it was changed since, "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+dirty" if changed.strip() else "")


def settle(api: Any, study: Study, sweep: SweepRun, folder: SweepFolder, tags: Mapping[str, str]) -> dict[str, int]:
    """The truth at the end: deliver what storage holds and the tracker lacks, close what nobody trains any more."""
    states = tracked_states(study.name, sweep.uri)
    counts: dict[str, int] = {}
    for trial in study.trials():
        stored = folder.trial(trial.signature)
        outcome = stored.outcome()
        if outcome is not None and (states.get(trial.signature) != outcome["state"] or not stored.delivered.exists()):
            tracking.deliver(api, TrialRun(sweep, trial.signature, trial.arm, trial.config.to_dict(), tags), stored)
            states[trial.signature] = outcome["state"]
        elif outcome is None and states.get(trial.signature) == "running":
            tracking.interrupt(api, sweep, trial.signature)
            states[trial.signature] = "interrupted"
        state = states.get(trial.signature, "not started")
        counts[state] = counts.get(state, 0) + 1
    return counts


# ---------------------------------------------------------------------- Ray


def _tune(
    pending: Sequence[PlannedTrial],
    sweep: SweepRun,
    folder: SweepFolder,
    options: RunOptions,
    tags: Mapping[str, str],
    watch: Watch,
) -> tuple[int, float]:
    """Let Ray Tune train `pending`; (concurrency, seconds inside training)."""
    import ray

    from sweeps.service.tuning import run_trials

    owned = connect(options)
    try:
        return run_trials(pending, sweep, folder, options, tags, watch)
    finally:
        if owned:
            ray.shutdown()


def connect(options: RunOptions) -> bool:
    """Join the Ray cluster that is up (or RAY_ADDRESS), else start one in this process. True if it was started here."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if ray.is_initialized():
        return False
    try:
        ray.init(address="auto", **quiet)
        return False
    except ConnectionError:
        cpus = os.cpu_count() or 1
        ray.init(num_cpus=cpus, include_dashboard=False, **quiet)
        return True
