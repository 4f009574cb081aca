"""The options every study shares, and what they make of a TrialConfig."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from laresa.config import TrialConfig, full_name, parse_text
from laresa.errors import ConfigError
from sweeps.recipes import RECIPES
from sweeps.service.study import Replicate, RunOptions


def add_study_options(parser: argparse.ArgumentParser, seeds: str = "0,1,2") -> None:
    """The options that interface stability promises to every study."""
    what = parser.add_argument_group("what is trained")
    what.add_argument(
        "--sweep", metavar="NAME", help="name of the sweep; run again = continue (default: STUDY-DATASET)"
    )
    what.add_argument("--dataset", default="emoji120", metavar="NAME_OR_PATH", help="see `laresa data list`")
    what.add_argument("--backbone", metavar="TIMM_NAME", help="any timm model (default: the data set's recipe)")
    what.add_argument("--seeds", default=seeds, metavar="S,S,...", help=f"one replicate a seed (default: {seeds})")
    what.add_argument(
        "--folds", metavar="F,F,...", help="fold of each replicate (default: seed modulo number of folds)"
    )
    what.add_argument("--epochs", type=int, metavar="N")
    what.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="any TrialConfig field; repeatable"
    )
    add_run_options(parser)


def add_search_options(parser: argparse.ArgumentParser, trials: int | None) -> None:
    how = parser.add_argument_group("how it searches")
    if trials is not None:
        how.add_argument(
            "--trials", type=int, default=trials, metavar="N", help=f"in all; more later extends ({trials})"
        )
    how.add_argument("--hours", type=float, metavar="H", help="after them nothing new is asked")
    how.add_argument("--sampler", default="tpe", help="tpe, random, gp, cmaes, nsga2, qmc or grid (default: tpe)")
    how.add_argument(
        "--scheduler", help="asha, hyperband, median or none (default: asha, with several objectives none)"
    )
    how.add_argument("--search-seed", type=int, default=0, metavar="S", help="of the sampler")
    how.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="FIELD[=RANGE]",
        help="search this field too, in its own range or in LOW:HIGH, LOW:HIGH:log, LOW:HIGH:int, A,B,C; "
        "'fixed' leaves it out",
    )


def search_space(args: argparse.Namespace) -> dict[str, Any]:
    """The default space as --space changes it. What --set fixes is not searched."""
    from sweeps.service.search.space import default_space, parse_space, without

    space: dict[str, Any] = default_space()
    for name in set_fields(args.set):
        space = without(space, name)
    for assignment in args.space:
        name, distribution = parse_space(assignment)
        space = without(space, name)
        if distribution is not None:
            space[name] = distribution
    if not space:
        raise ConfigError("nothing is left to search: take a --space FIELD=fixed or --set away")
    return space


def add_run_options(parser: argparse.ArgumentParser) -> None:
    how = parser.add_argument_group("where and how it runs")
    how.add_argument("--gpus-per-trial", type=float, default=0.0, metavar="F", help="a fraction packs a GPU")
    how.add_argument(
        "--gpu-memory-per-trial", type=float, metavar="GIB", help="packs GPUs by memory, instead of --gpus-per-trial"
    )
    how.add_argument(
        "--halve-batch",
        action="store_true",
        help="where a whole GPU is too small, go on with half the batch: another configuration, compared all the same",
    )
    code = how.add_mutually_exclusive_group()
    code.add_argument(
        "--accept-code", action="store_true", help="results that other code learned: keep, continue and mark them"
    )
    code.add_argument("--retrain", action="store_true", help="results that other code learned: train them anew")
    how.add_argument("--cpus-per-trial", type=float, default=1.0, metavar="N", help="also the trial's threads")
    how.add_argument("--concurrency", type=int, metavar="N", help="trials at once (default: as many as fit)")
    add_place_options(how)


def add_place_options(parser: Any) -> None:
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow server (default: MLFLOW_TRACKING_URI, else a local one)"
    )
    parser.add_argument(
        "--storage",
        metavar="PATH_OR_URI",
        help="checkpoints and outcomes: a folder that all hosts see, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX "
        "(default: .laresa/storage)",
    )


def run_options(args: argparse.Namespace) -> RunOptions:
    """Checked options; ConfigError names the one that can't be."""
    if args.cpus_per_trial <= 0 or args.gpus_per_trial < 0:
        raise ConfigError("--cpus-per-trial must be > 0 and --gpus-per-trial >= 0")
    if args.gpu_memory_per_trial is not None and (args.gpu_memory_per_trial <= 0 or args.gpus_per_trial):
        given = f"--gpu-memory-per-trial {args.gpu_memory_per_trial:g}"
        raise ConfigError(f"{given}: expected more than 0, and no --gpus-per-trial beside it")
    if args.concurrency is not None and args.concurrency < 1:
        raise ConfigError(f"--concurrency {args.concurrency}: expected 1 or more")
    return RunOptions(
        tracking_uri=args.tracking_uri,
        storage=args.storage,
        cpus_per_trial=args.cpus_per_trial,
        gpus_per_trial=args.gpus_per_trial,
        concurrency=args.concurrency,
        gpu_memory_per_trial=args.gpu_memory_per_trial,
        halve_batch=args.halve_batch,
        accept_code=args.accept_code,
        retrain=args.retrain,
    )


def base_config(args: argparse.Namespace) -> TrialConfig:
    """The data set's recipe, overridden by the options, overridden by --set."""
    fields: dict[str, Any] = {**RECIPES.get(args.dataset, {}), "dataset": dataset_name(args.dataset)}
    if args.backbone is not None:
        fields["backbone"] = args.backbone
    if args.epochs is not None:
        fields["epochs"] = args.epochs
    fields |= set_fields(args.set)
    return TrialConfig.from_dict(fields)


def dataset_name(given: str) -> str:
    """A folder by its whole path, since workers have another current folder; a name as it is."""
    path = Path(given).expanduser()
    return str(path.resolve()) if path.exists() and (path.is_dir() or path.suffix == ".npz") else given


def set_fields(assignments: list[str]) -> dict[str, Any]:
    """Full name -> value, of --set."""
    fields: dict[str, Any] = {}
    for assignment in assignments:
        said, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: expected FIELD=VALUE, such as --set lr=0.001")
        name = full_name(said)
        if name in fields:
            raise ConfigError(f"--set {said} given more than once")
        fields[name] = parse_text(text)
    return fields


def replicates(args: argparse.Namespace) -> tuple[Replicate, ...]:
    """One replicate a seed; its fold is given, or the seed modulo the data set's number of folds."""
    from laresa.data import folds

    seeds, available = _integers("--seeds", args.seeds), folds(dataset_name(args.dataset))
    chosen = _integers("--folds", args.folds) if args.folds else [seed % available for seed in seeds]
    if len(chosen) != len(seeds):
        raise ConfigError(f"--folds {args.folds}: expected {len(seeds)} folds, one for each of --seeds {args.seeds}")
    for fold in chosen:
        if fold >= available:
            raise ConfigError(f"--folds {args.folds}: data set {args.dataset!r} has folds 0 to {available - 1}")
    return tuple(Replicate(seed, fold) for seed, fold in zip(seeds, chosen, strict=True))


def _integers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text!r}: expected whole numbers with commas between, such as 0,1,2") from None
    if min(numbers) < 0:
        raise ConfigError(f"{option} {text!r}: expected numbers >= 0")
    return numbers
