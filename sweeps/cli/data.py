"""`laresa data`: data sets."""

from __future__ import annotations

import argparse
from typing import Any

from sweeps.cli.show import add_json, show_json
from sweeps.options import dataset_name


def add(verbs: Any) -> None:
    verb = verbs.add_parser("data", help="data sets: what is there, where it comes from, does it fit its taxonomy")
    actions = verb.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the data sets that have a name")
    add_json(listing)
    check = actions.add_parser("check", help="decode every image and hold the data set against its taxonomy")
    check.add_argument("dataset", metavar="NAME_OR_PATH")
    build = actions.add_parser("build", help="make emoji120 from the vendors' npm packages")
    build.add_argument("dataset", choices=["emoji120"])
    build.add_argument("--out", default="emoji120.npz", metavar="FILE", help="use it with --dataset FILE")
    build.add_argument("--size", type=int, default=32, metavar="PIXELS")
    build.add_argument("--classes", metavar="CSV", help="another class list (columns: codepoint,fine,coarse,category)")
    listing.set_defaults(handler=_list)
    check.set_defaults(handler=_check)
    build.set_defaults(handler=_build)


def _list(args: argparse.Namespace) -> int:
    from laresa.data.report import describe

    records = describe()
    if args.json:
        show_json(records)
        return 0
    for record in records:
        there = "here" if record["present"] else "not here"
        print(f"{record['name']:14s} {there:9s} {record['classes']:4d} classes {record['images']:7d} images", end="  ")
        print(f"{record['folds']} folds  {record['licence']}; {record['origin']}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from laresa.data.report import check

    findings = check(dataset_name(args.dataset))
    print("\n".join(findings) or f"{args.dataset}: nothing to remark")
    return 1 if findings else 0


def _build(args: argparse.Namespace) -> int:
    from laresa.data.emoji120_build import build

    print(build(args.out, size=args.size, classes_csv=args.classes))
    return 0
