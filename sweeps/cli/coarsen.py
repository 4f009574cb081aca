"""`laresa data coarsen`: coarse labels for a data set that has none."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laresa.errors import ConfigError
from laresa.paths import expanded
from sweeps.cli.show import say
from sweeps.options import dataset_name

if TYPE_CHECKING:
    from laresa.coarsen import Classes, Coarse, Groups


def add(actions: Any) -> None:
    action = actions.add_parser(
        "coarsen", help="group the classes: by clustering their names, or asking a language model"
    )
    action.add_argument(
        "dataset", metavar="DATASET", help="a data set's name, a folder, or a file of class names (.txt, .json)"
    )
    action.add_argument("--out", metavar="FILE", help="default: DATASET-coarse.json")
    action.add_argument("--force", action="store_true", help="replace FILE, where it is there already")
    action.add_argument("--check", metavar="FILE", help="look at a mapping that was edited by hand; writes nothing")
    action.add_argument("--against", metavar="FILE", help="compare with this taxonomy.json (default: the data set's)")
    action.add_argument(
        "--groups", type=int, metavar="K", help="how many (default: by silhouette, sqrt(C) to 2 sqrt(C))"
    )
    action.add_argument(
        "--linkage",
        choices=("complete", "average"),
        help="complete: even groups; average: odd classes stay apart, one group may be large (default: complete)",
    )
    action.add_argument(
        "--names",
        choices=("medoid", "wordnet"),
        help="groups are called like their most typical class, or by WordNet's common hypernym (default: medoid)",
    )
    model = action.add_argument_group(
        "by a language model",
        "the class names are sent to an OpenAI-compatible endpoint; its key is read from LARESA_LLM_KEY alone",
    )
    model.add_argument("--llm", action="store_true", help="ask a language model, as the LARESA paper did")
    model.add_argument("--llm-url", metavar="URL", help="such as https://HOST/v1 (default: LARESA_LLM_URL)")
    model.add_argument("--llm-model", metavar="NAME", help="default: LARESA_LLM_MODEL")
    model.add_argument("--llm-timeout", type=float, metavar="SECONDS", help="of one request (default: 120)")
    action.set_defaults(handler=coarsen)


def coarsen(args: argparse.Namespace) -> int:
    from laresa.coarsen import classes_of
    from laresa.coarsen.result import may_write, prompt_file, read, write

    _refuse_what_would_be_ignored(args)
    classes = classes_of(dataset_name(args.dataset))
    against = _against(args, classes)
    if args.check:
        path = expanded(args.check, "--check")
        groups, warnings = read(path, classes.names)
        _tell(f"{path} is sound", groups, warnings, against)
        _say_how_to_use(classes, path)
        return 0
    out = expanded(args.out or f"{classes.name}-coarse.json", "--out")
    may_write(out, prompt=args.llm, force=args.force)
    made = _made(args, classes)
    write(made, classes.names, out, force=args.force)
    _tell(f"wrote {out}", made.groups, made.warnings, against)
    if made.prompt:
        say(f"What the model was asked stands in {prompt_file(out)}.")
    say(f"Read it and edit it by hand; `laresa data coarsen {args.dataset} --check {out}` looks at it again.")
    _say_how_to_use(classes, out)
    return 0


def _made(args: argparse.Namespace, classes: Classes) -> Coarse:
    if args.llm:
        from laresa.coarsen.ask import ask
        from laresa.coarsen.endpoint import TIMEOUT, endpoint_of

        timeout = TIMEOUT if args.llm_timeout is None else args.llm_timeout
        return ask(classes.names, endpoint_of(args.llm_url, args.llm_model, timeout), count=args.groups)
    from laresa.coarsen.cluster import cluster

    return cluster(classes.tree, count=args.groups, linkage=args.linkage or "complete", names=args.names or "medoid")


def _refuse_what_would_be_ignored(args: argparse.Namespace) -> None:
    clustering, asking, making = ("linkage", "names"), ("llm_url", "llm_model", "llm_timeout"), ("groups", "out")
    others = {
        "--check, which makes nothing": (*making, *clustering, *asking, "llm", "force") if args.check else (),
        "--llm, which clusters nothing": clustering if args.llm else (),
        "no --llm": () if args.llm else asking,
    }
    for beside, names in others.items():
        for name in names:
            if (given := getattr(args, name)) is not None and given is not False:
                raise ConfigError(f"--{name.replace('_', '-')} with {beside}: it would be ignored")


def _against(args: argparse.Namespace, classes: Classes) -> tuple[str, Groups] | None:
    from laresa.coarsen.result import read

    if args.against:
        return args.against, read(expanded(args.against, "--against"), classes.names)[0]
    return None if classes.groups is None else (f"{classes.name}'s own groups", classes.groups)


def _tell(head: str, groups: Groups, warnings: Any, against: tuple[str, Groups] | None) -> None:
    from laresa.coarsen.result import compare

    say(f"{head}: {sum(map(len, groups.values()))} classes in {len(groups)} groups")
    for warning in warnings:
        say(f"warning: {warning}")
    if against is None:
        for group, members in groups.items():
            say(f"  {group}: {', '.join(members)}")
        return
    found = compare(groups, against[1])
    say(f"against {against[0]}: adjusted Rand index {found.ari:.2f}, NMI {found.nmi:.2f} (1 is equal)")
    for line in found.lines:
        say(f"  {line}")


def _say_how_to_use(classes: Classes, path: Path) -> None:
    if classes.folder is None:
        say(f"Of a data set that is a folder, it is the FOLDER/taxonomy.json: cp {path} FOLDER/taxonomy.json")
    elif path.resolve() != (classes.folder / "taxonomy.json").resolve():
        target = classes.folder / "taxonomy.json"
        there = " (which replaces the one that is there)" if target.exists() else ""
        say(f"To train with it: cp {path} {target}{there}; then `laresa data check {classes.folder}`")
