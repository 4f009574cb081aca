"""`laresa data`: data sets."""

from __future__ import annotations

import argparse
import importlib
import shlex
from typing import Any

from laresa.features import PACKAGED
from sweeps.cli import coarsen
from sweeps.cli.show import add_json, say, show_json
from sweeps.options import dataset_name, set_fields


def add(verbs: Any) -> None:
    verb = verbs.add_parser("data", help="data sets: what is there, where it comes from, does it fit its taxonomy")
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the data sets that have a name")
    add_json(listing)
    check = actions.add_parser(
        "check", help="decode every image and hold the data set, and the texts, against its taxonomy"
    )
    check.add_argument("dataset", metavar="NAME_OR_PATH")
    get = actions.add_parser("get", help="download, check and unpack a data set that isn't in this package")
    get.add_argument("dataset", metavar="NAME")
    get.add_argument("--to", metavar="FOLDER", help="in which data sets lie (default: $LARESA_DATA, else ~/data)")
    get.add_argument(
        "--archive",
        metavar="FILE",
        help="take this file instead of a download; of fashion_mnist, the folder with its four",
    )
    build = actions.add_parser("build", help="make emoji120 or icons158 from the vendors' npm packages")
    build.add_argument("dataset", choices=["emoji120", "icons158"])
    build.add_argument("--out", metavar="FILE", help="default: DATASET.npz; use it with --dataset FILE")
    build.add_argument("--size", type=int, default=32, metavar="PIXELS")
    build.add_argument(
        "--classes", metavar="CSV", help="another class list (columns fine,coarse; of emoji120 also codepoint,category)"
    )
    features = actions.add_parser("features", help="take a frozen network's features, and what ridge makes of them")
    features.add_argument("dataset", metavar="NAME_OR_PATH")
    features.add_argument(
        "--features", metavar="TIMM_NAME", default=PACKAGED, help=f"any timm model with weights (default: {PACKAGED})"
    )
    features.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="such as heads.pool=cls, heads.pca=64"
    )
    add_json(features, "folds")
    coarsen.add(actions)
    listing.set_defaults(handler=_list)
    check.set_defaults(handler=_check)
    get.set_defaults(handler=_get)
    build.set_defaults(handler=_build)
    features.set_defaults(handler=_features)


def _list(args: argparse.Namespace) -> int:
    from laresa.data.report import describe

    records = describe()
    if args.json:
        show_json(records)
        return 0
    for record in records:
        there = "here" if record["present"] else "not here"
        say(f"{record['name']:14s} {there:9s} {record['classes']:4d} classes {record['images']:7d} images", end="  ")
        say(f"{record['folds']} folds  {record['licence']}; {record['origin']}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from laresa.data.report import examine

    found = examine(dataset_name(args.dataset))
    say("\n".join(found.findings) or f"{args.dataset}: nothing is wrong")
    if found.remarks:
        say("\n".join(found.remarks))
    return 1 if found.findings else 0


def _get(args: argparse.Namespace) -> int:
    from laresa.data.get import get
    from laresa.data.known import base_folder, places
    from laresa.data.report import about

    known = about(args.dataset)
    folder, new = get(known, to=args.to, archive=args.archive)
    say(f"{known.name} is {'now' if new else 'already'} in {folder} (licence: {known.licence})")
    if args.to and folder not in places(known):  # where nobody would look for it
        say(f"to use it: export LARESA_DATA={shlex.quote(str(base_folder(args.to).resolve()))}")
    return 0


def _build(args: argparse.Namespace) -> int:
    build = importlib.import_module(f"laresa.data.{args.dataset}_build").build
    say(build(args.out or f"{args.dataset}.npz", size=args.size, classes_csv=args.classes))
    return 0


def _features(args: argparse.Namespace) -> int:
    """An instant baseline, fold by fold; what later sweeps train heads on is kept by it."""
    import statistics

    import torch

    from laresa.config import TrialConfig
    from laresa.data import folds, load
    from laresa.features.ridge import ridge
    from laresa.methods import preparation
    from laresa.progress import Told

    name = dataset_name(args.dataset)
    config = TrialConfig.from_dict(
        {**set_fields(args.set), "dataset": name, "method": "heads", "backbone": args.features}
    )
    take, device = preparation(config), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    assert take is not None
    rows = []
    for fold in range(folds(name)):
        data = load(config, fold=fold)
        taken = take(config, data, device, Told(f"features of {args.features}"))
        found = ridge(taken, data.train.labels, data.val.labels, data.test.labels)
        scores = {"val_top1": found.val_top1, "test_top1": found.test_top1, "l2": found.l2}
        rows.append({"fold": fold, "train": len(data.train), "features": taken.train_NF.shape[1], **scores})
    if args.json:
        show_json(rows)
        return 0
    say(f"ridge on {rows[0]['features']} features of {args.features}, its L2 chosen on validation:")
    for row in rows:
        say(
            f"fold {row['fold']}  test top-1 {row['test_top1']:6.1%}  val {row['val_top1']:6.1%}  L2 {row['l2']:.1e}  "
            f"{row['train']:,} training images"
        )
    say(f"mean    test top-1 {statistics.mean(row['test_top1'] for row in rows):6.1%}")
    return 0
