"""What studies that compare arms share: each arm tuned by a search of its own, all on one budget, then replicates."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from laresa.config import full_name, parse_text, write_text
from laresa.errors import ConfigError
from laresa.plugins import table
from laresa.terms import canonical_subset
from sweeps.options import (
    SAMPLER,
    SEEDS,
    add_search_options,
    add_study_options,
    replicates,
    search_space,
    set_fields,
    sweep_name,
    tuning_replicate,
)
from sweeps.service.study import Cell, Replicate, Search, Study

UNTIL = 30  # replicates at most of --until, unless --seeds says otherwise
TUNE = 12  # trials of full length that each arm's search may spend the epochs of
FIXED = (  # they make an arm what it is
    *("subset", "weighting", "encoder", "label_text", "prompt"),
    *("shuffle_labels", "random_labels", "label_noise", "coarse_noise"),
    *("center.input", "center.reduction", "variance.input", "variance.reduction"),
)


def add_comparison_options(parser: argparse.ArgumentParser, *, arms: str, recipe: str | None = None) -> None:
    """arms: the default arms in words. recipe: as in add_study_options."""
    add_study_options(parser, recipe=recipe)
    parser.add_argument("--subsets", metavar="S,S,...", help=f"loss subsets, such as ce,ce+anchor (default: {arms})")
    parser.add_argument(
        "--tune",
        type=int,
        default=TUNE,
        metavar="N",
        help="first search each arm's settings, with the epochs of N trials spent on as many as fit, then compare what "
        "was chosen; 0: compare the given settings (default: %(default)s)",
    )
    parser.add_argument(
        "--vary",
        metavar="FIELD=V,V,...",
        help="arms that have this field of a term once for each value, such as hace.dilution=0.2,0.5,0.7: a curve in "
        "the report",
    )
    evidence = parser.add_argument_group("what counts as evidence")
    evidence.add_argument(
        "--primary",
        action="append",
        default=[],
        metavar="ARM:AGAINST",
        help="a contrast named in advance, repeatable, in place of the study's own; 'none' names none. Holm's "
        "correction counts these alone, all else is exploratory",
    )
    evidence.add_argument(
        "--margin", type=float, default=1.0, metavar="POINTS", help="arms no further apart are equivalent (%(default)s)"
    )
    evidence.add_argument(
        "--until",
        choices=("decided",),
        help="add replicates in the order of --seeds (default: 0 to 29), looking after each, until every primary "
        "contrast is decided: told from 0, or equivalent",
    )
    add_search_options(parser, trials=None)


def contrasts(
    args: argparse.Namespace, cells: Sequence[Cell], own: Sequence[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """Those of --primary; without it the study's own, as far as it has their arms."""
    if args.primary == ["none"]:
        return ()
    arms = {cell.arm for cell in cells}
    if not args.primary:
        return tuple(pair for pair in own if arms >= {*pair})
    found = []
    for text in args.primary:
        arm, colon, against = text.partition(":")
        if not (arm and colon and against):
            raise ConfigError(f"--primary {text!r}: expected ARM:AGAINST, such as ce+anchor:ce, or none alone")
        found.append((arm.strip(), against.strip()))
    return tuple(dict.fromkeys(found))


def subsets(args: argparse.Namespace) -> list[str] | None:
    """Those of --subsets; None where it is not given."""
    return [canonical_subset(subset) for subset in args.subsets.split(",")] if args.subsets else None


def varied(cells: Sequence[Cell], text: str | None) -> tuple[list[Cell], str | None]:
    """The cells, those on which --vary's field has an effect once for each value; and the field's full name.

    ConfigError: not a field of a term, no value, a value twice, or a field that no arm has.
    """
    if text is None:
        return list(cells), None
    said, _, listed = text.partition("=")
    name, values = full_name(said), [parse_text(value) for value in listed.split(",") if value]
    if not values or len(set(values)) < len(values):
        raise ConfigError(f"--vary {text!r}: expected FIELD=V,V,... with values that differ")
    if name.partition(".")[0] not in table("TERMS"):
        raise ConfigError(f"--vary {said}: every arm has it, the baseline too; expected a term's field, else --set")
    found: list[Cell] = []
    for cell in cells:
        if name in cell.config.resolved:
            label = f"{cell.arm}, {name.partition('.')[2]} "
            found += [Cell(f"{label}{write_text(value)}", cell.config.replace(**{name: value})) for value in values]
        else:
            found.append(cell)
    if len(found) == len(cells) and len(values) > 1:
        raise ConfigError(f"--vary {said}: no arm has it; expected a field of {', '.join(c.arm for c in cells)}")
    return found, name


def compared(
    study: str,
    cells: Sequence[Cell],
    args: argparse.Namespace,
    space: Mapping[str, str] | None = None,
    primary: Sequence[tuple[str, str]] = (),
) -> Study:
    """The cells on every replicate, after a search for each unless --tune 0.

    space: as in options.search_space. primary: the study's contrasts where --primary names none.
    """
    if "subset" in set_fields(args.set):
        raise ConfigError("--set subset: it would be ignored, each arm has its own; expected --subsets")
    if args.tune < 0:
        raise ConfigError(f"--tune {args.tune}: expected trials for each arm, or 0 to compare the given settings")
    if args.space and not args.tune:
        raise ConfigError(f"--space {args.space[0]} with --tune 0: nothing is searched; expected --tune N, or --set")
    if not args.tune and (args.sampler != SAMPLER or args.scheduler is not None):
        raise ConfigError("--sampler or --scheduler with --tune 0: nothing is searched; expected --tune N")
    cells, kept = varied(cells, args.vary)
    judged = tuning_replicate(args)
    searches = tuple(search_of(cell, args, judged, space, kept) for cell in cells) if args.tune else ()
    if args.until and args.seeds == SEEDS:
        args.seeds = ",".join(map(str, range(UNTIL)))
    known, named = replicates(args, tuned=args.tune > 0), contrasts(args, cells, primary)
    if args.until:
        spent = sum(search.trials for search in searches)
        most = None if args.max_trials is None else max(0, args.max_trials - spent) // len(cells)
        known = looked_at(known, named, most)
    return Study(
        sweep_name(args, study), tuple(cells), known, searches, args.hours, named, bool(args.until), args.margin
    )


def looked_at(
    known: Sequence[Replicate], contrasts: Sequence[tuple[str, str]], most: int | None
) -> tuple[Replicate, ...]:
    """The replicates that --until decided may use, in its order: new test sets first, at most so many.

    Where there are test sets enough to speak of new ones, each is used once: its second replicate would tell no more.
    ConfigError: no contrast is named, or too few replicates to decide anything.
    """
    from reports.claims import SETS
    from reports.decide import first_look

    if not contrasts:
        raise ConfigError("--until decided: the study names no primary contrast; expected --primary ARM:AGAINST")
    ordered, sets = by_test_set(known), len({replicate.fold for replicate in known})
    usable = ordered[: sets if sets >= SETS else None][:most]
    if len(usable) < (first := first_look(len(contrasts))):
        raise ConfigError(
            f"--until decided: nothing can be decided with {len(usable)} replicates on {sets} test sets; expected "
            f"{first} or more by --seeds" + (" and --max-trials" if most is not None else "")
        )
    return usable


def by_test_set(replicates: Sequence[Replicate]) -> tuple[Replicate, ...]:
    """In their order, but the first of every fold before the second of any: new test sets come first."""
    seen: dict[int, int] = {}
    turn = []
    for replicate in replicates:
        turn.append(seen.get(replicate.fold, 0))
        seen[replicate.fold] = turn[-1] + 1
    return tuple(r for _, r in sorted(zip(turn, replicates, strict=True), key=lambda pair: pair[0]))


def settings(study: Study) -> str:
    """Whether its arms are tuned, in a line."""
    if not study.searches:
        return "given settings, not tuned; `--tune N` searches each arm"
    search = study.searches[0]
    return (
        f"each arm is tuned on {search.trials} x {search.base.epochs} = {search.epochs} epochs, on as many trials as "
        "fit; `--tune 0` takes the given settings"
    )


def search_of(
    cell: Cell,
    args: argparse.Namespace,
    replicate: Replicate,
    space: Mapping[str, str] | None = None,
    kept: str | None = None,
) -> Search:
    """The search of one arm: the same budget for each, over the fields that matter to it, on data of no test.

    kept: a field that makes the arm what it is.
    """
    from sweeps.service.search.space import has_effect

    found = {name: where for name, where in search_space(args, space).items() if name not in (*FIXED, kept)}
    return Search(
        name=cell.arm,
        base=cell.config,
        space={name: where for name, where in found.items() if has_effect(name, cell.config)},
        trials=args.tune,
        replicate=replicate,
        sampler=args.sampler,
        scheduler=args.scheduler or "asha",
        seed=args.search_seed,
        first=(cell.config,),
        by_epochs=True,
    )
