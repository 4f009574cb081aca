"""The options every study shares, and what they make of a TrialConfig."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from laresa.config import TrialConfig, core_fields, full_name, parse_text
from laresa.errors import ConfigError
from laresa.paths import expanded
from sweeps import recipes
from sweeps.recipes import Recipe
from sweeps.service.study import KEEP_WEIGHTS, Replicate, RunOptions

TINY: Mapping[str, Any] = {  # option -> its default at --scale tiny, of those that a study has
    "dataset": "emoji120",
    "backbone": "test_resnet",
    "recipe": recipes.DEFAULT,
    "epochs": 3,
    "tune": 2,
    "trials": 4,
}
TINY_SEEDS = 2  # at most
OPTION_OF = {"seed": "--seeds", "fold": "--folds", "dataset": "--dataset"}  # fields that an option alone sets
SEEDS = "0,1,2"
SAMPLER = "tpe"


def add_study_options(parser: argparse.ArgumentParser, seeds: str = SEEDS, recipe: str | None = None) -> None:
    """The options that interface stability promises to every study. recipe: for data sets without one of their own."""
    parser.set_defaults(study_recipe=recipe or recipes.DEFAULT)
    what = parser.add_argument_group("what is trained")
    what.add_argument(
        "--sweep", metavar="NAME", help="name of the sweep; run again = continue (default: STUDY-DATASET)"
    )
    what.add_argument("--dataset", default="emoji120", metavar="NAME_OR_PATH", help="see `laresa data list`")
    what.add_argument("--backbone", metavar="TIMM_NAME", help="any timm model (default: the data set's recipe)")
    what.add_argument(
        "--features",
        metavar="TIMM_NAME",
        help="train heads on the frozen features of this model, many at once, in place of networks; "
        "tf_efficientnet_lite0 needs no download",
    )
    what.add_argument("--seeds", default=seeds, metavar="S,S,...", help=f"one replicate a seed (default: {seeds})")
    what.add_argument(
        "--folds",
        metavar="F,F,...",
        help="fold of each replicate (default: seed modulo number of folds; of three or more without the last, which "
        "is kept for tuning)",
    )
    what.add_argument("--epochs", type=int, metavar="N")
    what.add_argument(
        "--recipe",
        choices=recipes.NAMES,
        help="training settings from a table, by data set and backbone; options and --set win over them (default: the "
        f"data set's own, else {recipe or 'the defaults of the fields'}; of --features {recipes.HEADS})",
    )
    what.add_argument(
        "--scale",
        choices=("full", "tiny"),
        default="full",
        help="tiny: the whole study in miniature, a minute or two; the other options win over what it sets: "
        + ", ".join(f"{name} {value}" for name, value in TINY.items() if name not in ("tune", "trials")),
    )
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
    how.add_argument("--sampler", default=SAMPLER, help="tpe, random, gp, cmaes, nsga2, qmc or grid (default: tpe)")
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


def tiny_defaults(known: Mapping[str, Any], own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The defaults at --scale tiny of a study's options. known: those at full scale. own: what the study has its own of
    (parser.set_defaults(tiny=...)).
    """
    heads = {"backbone", "recipe"} if known.get("features") else set[str]()  # which have their own
    found = {name: value for name, value in TINY.items() if name in known and name not in heads}
    return {**found, **(own or {}), "seeds": ",".join(str(known["seeds"]).split(",")[:TINY_SEEDS])}


def sweep_name(args: argparse.Namespace, study: str) -> str:
    """--sweep, or the study and its data set; a miniature is another sweep."""
    said = [study, args.dataset.strip("/").split("/")[-1]]
    said += ["features"] if args.features and study != "probe" else []
    said += ["tiny"] if args.scale == "tiny" else []
    return args.sweep or "-".join(said)


def search_space(args: argparse.Namespace, more: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The default space, as `more` (a study's own, field -> range), the recipe and --space change it, in this order.

    What --set fixes is not searched.
    """
    from sweeps.service.search.space import default_space, parse_distribution, parse_space, without

    space: dict[str, Any] = default_space()
    for name, text in {**(more or {}), **chosen_recipe(args).space}.items():
        space[name] = parse_distribution(name, text)
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
    how.add_argument(
        "--gpus-per-trial",
        default="auto",
        metavar="auto|F",
        help="auto: a GPU each (a share, once its memory is measured), the CPU where the cluster has none; 0: the CPU; "
        "a fraction packs a GPU (default: auto)",
    )
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
    how.add_argument(
        "--priority",
        type=float,
        default=1.0,
        metavar="P",
        help="places of a shared cluster are divided among its sweeps by it (default: 1)",
    )
    how.add_argument(
        "--max-gpu-hours",
        type=float,
        metavar="H",
        help="of the sweep in all: it ends there; a greater number continues",
    )
    how.add_argument(
        "--max-trials", type=int, metavar="N", help="of the sweep in all: it ends there; a greater number continues"
    )
    how.add_argument(
        "--latents-every",
        type=int,
        metavar="N",
        help="keep validation latents of the first and every N-th epoch (at most 2,000, 1.5 MB each), to draw how they "
        "came about",
    )
    how.add_argument(
        "--keep-weights",
        choices=KEEP_WEIGHTS,
        default=KEEP_WEIGHTS[0],
        help="of each trial: of its best epoch, of that and the last, or none (default: %(default)s)",
    )
    add_place_options(how)


def add_place_options(parser: Any) -> None:
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow server (default: MLFLOW_TRACKING_URI, else a local one)"
    )
    parser.add_argument(
        "--storage",
        type=_storage,
        metavar="PATH_OR_URI",
        help="checkpoints and outcomes: a folder that all hosts see, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX "
        "(default: .laresa/storage)",
    )


def _storage(text: str) -> str:
    try:
        expanded(text, "--storage")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def run_options(args: argparse.Namespace) -> RunOptions:
    """Checked options; ConfigError names the one that can't be."""
    gpus = _gpus(args.gpus_per_trial)
    if args.gpu_memory_per_trial is not None and gpus is not None:
        raise ConfigError(
            f"--gpu-memory-per-trial {args.gpu_memory_per_trial:g} and --gpus-per-trial {gpus:g}: expected one of them"
        )
    return RunOptions(
        tracking_uri=args.tracking_uri,
        storage=args.storage,
        cpus_per_trial=args.cpus_per_trial,
        gpus_per_trial=gpus,
        concurrency=args.concurrency,
        priority=args.priority,
        max_gpu_hours=args.max_gpu_hours,
        latents_every=args.latents_every,
        keep_weights=args.keep_weights,
        max_trials=args.max_trials,
        gpu_memory_per_trial=args.gpu_memory_per_trial,
        halve_batch=args.halve_batch,
        accept_code=args.accept_code,
        retrain=args.retrain,
    )


def _gpus(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--gpus-per-trial {text!r}: expected auto, 0 for the CPU, or a number up to 1") from None


def base_config(args: argparse.Namespace) -> TrialConfig:
    """The recipe, overridden by the options, overridden by --set."""
    recipe, given = chosen_recipe(args), _given(args)
    if "backbone" in given and given.get("pretrained", recipe.fields.get("pretrained")):
        given["backbone"] = recipes.pinned(recipe.name, given["backbone"])
    return TrialConfig.from_dict({**recipe.fields, **given})


def chosen_recipe(args: argparse.Namespace) -> Recipe:
    """--recipe, else the data set's own, else the study's. ConfigError: it does not know such a backbone."""
    backbone = _given(args).get("backbone", core_fields()["backbone"].default)
    name = args.recipe or (recipes.HEADS if args.features else recipes.own(args.dataset, backbone, args.study_recipe))
    if recipes.of_heads(name) != bool(args.features):
        wanted = "--features MODEL with it" if recipes.of_heads(name) else f"{recipes.HEADS} or hace_probe"
        raise ConfigError(f"--recipe {name}, features {args.features or 'none'}: expected {wanted}")
    return recipes.merged(name, args.dataset, backbone)


def describe_recipe(args: argparse.Namespace) -> str:
    """The recipe and what of it the user gave otherwise, in a line."""
    recipe, given = chosen_recipe(args), _given(args)
    kept = [f"{name}={value}" for name, value in recipe.fields.items() if name not in given]
    changed = [f"{name}={given[name]}" for name in recipe.fields if name in given]
    said = ", ".join(kept) or "the fields' own defaults"
    return f"recipe {recipe.name}: {said}" + (f"; given otherwise: {', '.join(changed)}" if changed else "")


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What the options and --set say."""
    fields: dict[str, Any] = {"dataset": dataset_name(args.dataset)}
    if args.features and args.backbone:
        raise ConfigError(f"--features {args.features} and --backbone {args.backbone}: expected one of them")
    if args.features:
        fields |= {"method": "heads", "backbone": args.features}
    if args.backbone is not None:
        fields["backbone"] = args.backbone
    if args.epochs is not None:
        fields["epochs"] = args.epochs
    fields |= set_fields(args.set)
    TrialConfig.from_dict(fields)  # each of a value that it takes, before a recipe is looked for
    return fields


def dataset_name(given: str) -> str:
    """A folder by its whole path, since workers have another current folder; a name as it is."""
    path = expanded(given, "--dataset")
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
        if name == "exchange_splits":
            raise ConfigError(f"--set {name}: it is the searches' own, which are judged on the fold kept for tuning")
        if name in OPTION_OF:
            raise ConfigError(f"--set {assignment}: it would be ignored; expected {OPTION_OF[name]}")
        fields[name] = parse_text(text)
    return fields


def replicates(args: argparse.Namespace, *, tuned: bool = False) -> tuple[Replicate, ...]:
    """One replicate a seed; its fold is given, or the seed modulo the folds that are open to it.

    Of three or more folds the last is kept for tuning. With fewer the folds swap the halves of one test part: all
    replicates are tested on the same half unless --folds says otherwise, which it may not where settings are `tuned`.
    """
    from laresa.data import folds

    seeds, available = _integers("--seeds", args.seeds), folds(dataset_name(args.dataset))
    kept = _kept(available)
    usable = available - 1 if kept is not None else 1
    chosen = _integers("--folds", args.folds) if args.folds else [seed % usable for seed in seeds]
    if len(chosen) != len(seeds):
        raise ConfigError(f"--folds {args.folds}: expected {len(seeds)} folds, one for each of --seeds {args.seeds}")
    for fold in chosen:
        if fold >= available:
            raise ConfigError(f"--folds {args.folds}: data set {args.dataset!r} has folds 0 to {available - 1}")
        if tuned and fold >= usable:
            raise ConfigError(
                f"--folds {args.folds}: the searches of --tune are judged on what fold {fold} tests, so no replicate "
                f"may have it: expected folds below {usable}, or --tune 0 to compare given settings"
            )
    return tuple(Replicate(seed, fold) for seed, fold in zip(seeds, chosen, strict=True))


def tuning_replicate(args: argparse.Namespace) -> Replicate:
    """What each arm's search is judged on: the test part of the fold kept for tuning, else fold 0's validation part."""
    from laresa.data import folds

    seed, kept = _integers("--seeds", args.seeds)[0], _kept(folds(dataset_name(args.dataset)))
    return Replicate(seed, 0) if kept is None else Replicate(seed, kept, exchanged=True)


def _kept(folds: int) -> int | None:
    """The fold that no replicate is tested on unless asked for; None where there are too few to keep one."""
    return folds - 1 if folds >= 3 else None


def _integers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text!r}: expected whole numbers with commas between, such as 0,1,2") from None
    if min(numbers) < 0:
        raise ConfigError(f"{option} {text!r}: expected numbers >= 0")
    return numbers
