"""Results that other code learned: a sweep never mixes them in silently.

What a sweep knows of code lies in its code.json: which files were behind each code, which trials the user accepted
though other code than today's learned them, and which were superseded by training them anew.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from laresa.code import Code
from laresa.errors import ConfigError, StorageError
from sweeps.service.key import trial_key
from sweeps.service.planning.estimate import chosen_so_far, read_journal
from sweeps.service.planning.plan import MOVE, stored
from sweeps.service.provenance import code_of
from sweeps.service.search import journal
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial, RunOptions, Study

NAMED = 8  # files that a message lists


@dataclass(frozen=True)
class OtherCode:
    """A trial as the code that is here would find it, and the codes that the sweep has it by."""

    trial: PlannedTrial
    codes: tuple[str, ...]


class CodeBook:
    """code.json of a sweep.

    files: code -> its files. accepted: signature -> (code, the code that went on with it). superseded: keys.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._folder, found = folder, stored(folder, "code.json")
        try:
            self.files: dict[str, Code] = {code: Code(dict(files)) for code, files in found.get("files", {}).items()}
            self.accepted: dict[str, tuple[str, str]] = {
                signature: (str(code), str(by)) for signature, (code, by) in found.get("accepted", {}).items()
            }
            self.superseded = set(found.get("superseded", ()))
        except (AttributeError, TypeError, ValueError) as error:
            raise StorageError(f"{folder.root / 'code.json'} is damaged ({error}): {MOVE}") from error

    def write(self) -> None:
        files = {code: dict(found.files) for code, found in self.files.items()}
        fields = {"files": files, "accepted": self.accepted, "superseded": sorted(self.superseded)}
        self._folder.write("code.json", fields)

    def note(self, trials: Iterable[PlannedTrial]) -> list[str]:
        """Keep the files of the code that is here; the codes that are new."""
        here = {code.digest: code for trial in trials if (code := code_of(trial.config)).digest not in self.files}
        self.files |= here
        return list(here)

    def accept(self, trials: Iterable[PlannedTrial]) -> None:
        """Keep trials by the code they have, which is not the one that is here."""
        self.accepted |= {trial.signature: (trial.code, trial.accepted_by) for trial in trials}

    def supersede(self, found: Iterable[OtherCode]) -> None:
        """What the sweep has of trials by other code counts no more."""
        for other in found:
            self.accepted.pop(other.trial.signature, None)
            self.superseded |= {trial_key(other.trial.signature, code) for code in other.codes}

    def accepted_keys(self) -> dict[str, str]:
        """key -> the code that went on with it."""
        return {trial_key(signature, code): by for signature, (code, by) in self.accepted.items()}

    def tags(self) -> dict[str, str]:
        """Of the parent run: another sweep that meets a code here can name its files."""
        return {code_tag(code): json.dumps(dict(found.files)) for code, found in self.files.items()}


def code_tag(code: str) -> str:
    return f"laresa.code.{code}"


def planned_now(study: Study, folder: SweepFolder, options: RunOptions) -> list[PlannedTrial]:
    """All that a command plans as far as it is known before it trains: what its searches have asked included."""
    progress = read_journal(study, folder)
    asked = [trial for found in progress.values() for trial in found.trials]
    trials = [*study.chosen(chosen_so_far(study, progress)).trials(), *asked]
    return [*trials, *(half for trial in trials for half in _halves(trial))] if options.halve_batch else trials


def _halves(trial: PlannedTrial) -> Iterable[PlannedTrial]:
    """What --halve-batch may have put in the place of a trial."""
    while trial.config.batch_size >= 4:
        config = trial.config.replace(batch_size=trial.config.batch_size // 2)
        trial = PlannedTrial(trial.arm, config, trial.role)
        yield trial


def other_code(
    book: CodeBook, planned: Iterable[PlannedTrial], keys: Collection[str], *, accepted_too: bool
) -> list[OtherCode]:
    """The planned trials that the sweep has by other code alone, not yet accepted (or accepted_too).

    keys: of all trials that the sweep's storage or the tracker knows.
    """
    codes: dict[str, set[str]] = defaultdict(set)
    for key in set(keys) - book.superseded:
        signature, _, code = key.partition("-")
        codes[signature].add(code)
    found = {}
    for trial in planned if codes else ():
        others = codes.get(trial.signature, set()) - {trial.code}
        accepted = book.accepted.get(trial.signature, ("", ""))[1] == trial.code
        if others and (accepted_too if accepted else trial.code not in codes[trial.signature]):
            found[trial.signature] = OtherCode(trial, tuple(sorted(others)))
    return list(found.values())


def decide(
    study: Study, book: CodeBook, planned: Sequence[PlannedTrial], keys: Collection[str], options: RunOptions
) -> Study:
    """The study with what it keeps of other code, as the options say; the book tells the same.

    ConfigError: it has trials by other code, and the options say nothing.
    """
    found = other_code(book, planned, keys, accepted_too=options.retrain)
    if found and not (options.accept_code or options.retrain):
        raise ConfigError(f"sweep {study.name!r}: {refusal(book, found)}")
    if options.accept_code:
        book.accept(replace(other.trial, code=other.codes[-1]) for other in found)
    else:
        book.supersede(found)
    study = replace(study, kept=book.accepted)
    if book.superseded:  # the code that learned it may be back
        book.superseded -= {study.find(trial).key for trial in planned}
    return study


def keep_decision(study: Study, book: CodeBook, planned: Sequence[PlannedTrial], folder: SweepFolder) -> None:
    """Write the book, and let a search begin anew that heard of a trial which counts no more."""
    book.note(planned)
    book.write()
    gone, there = {key.partition("-")[0] for key in book.superseded}, folder.keys()
    if not gone:
        return
    for name, found in read_journal(study, folder).items():
        heard = [trial for trial in found.trials if trial.signature in found.heard and trial.signature in gone]
        if any(study.find(trial).key not in there for trial in heard):
            journal.forget(folder, name)


def refusal(book: CodeBook, found: Sequence[OtherCode]) -> str:
    """How many trials, which files, and what can be done."""
    pairs = {(other.trial.code, code): other.trial for other in found for code in other.codes}
    files = {name for (_, code), trial in pairs.items() for name in changed(trial, book.files.get(code))}
    return (
        f"{len(found)} of its trials were learned by other code ({named(files)}): --accept-code keeps them, continues "
        "those under way and marks them, --retrain trains them anew (the old runs are tagged superseded)"
    )


def changed(trial: PlannedTrial, then: Code | None) -> list[str]:
    return [] if then is None else code_of(trial.config).changed_from(then)


def named(files: Collection[str]) -> str:
    """Some of the files that differ."""
    if not files:
        return "its files are not on record"
    shown = sorted(files)[:NAMED]
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return f"changed: {', '.join(shown)}{more}"


def files_behind(tags: Mapping[str, str], code: str) -> Code | None:
    """What a sweep's parent run tells of a code."""
    text = tags.get(code_tag(code))
    return None if text is None else Code(json.loads(text))
