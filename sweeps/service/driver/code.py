"""What the driver does about other code once the tracker is open: mark runs, decide what searches bring up, reuse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeps.service.planning.code import CodeBook, code_tag, decide
from sweeps.service.planning.reuse import reuse
from sweeps.service.storage.files import SweepFolder
from sweeps.service.study import PlannedTrial, RunOptions, Study
from sweeps.service.tracking.sweep import states_of
from sweeps.service.tracking.write import SweepRun, mark_code


class SweepCode:
    """A sweep's book of code, and the tracker's side of it. runs: what the tracker holds of the sweep, by key."""

    def __init__(
        self,
        api: Any,
        sweep: SweepRun,
        folder: SweepFolder,
        options: RunOptions,
        book: CodeBook,
        runs: Mapping[str, Any],
    ) -> None:
        self._api, self._sweep, self._folder, self._options = api, sweep, folder, options
        self._book, self._runs = book, dict(runs)
        self._mark()

    @property
    def tracked(self) -> dict[str, str]:
        """key -> state, of the runs that count."""
        return states_of(self._runs)

    def decide(self, study: Study) -> None:
        """As before anything was trained, of what the searches have chosen since. ConfigError as there."""
        planned = replace(study, kept={}).trials()
        self.note(planned)
        decide(study, self._book, planned, {*self._folder.keys(), *self._runs}, self._options)
        self._book.write()
        self._mark()

    def note(self, trials: Iterable[PlannedTrial]) -> None:
        """A search may ask for what is learned by files that nothing before it needed."""
        for code in self._book.note(trials):
            self._book.write()
            self._api.set_tag(self._sweep.parent_run_id, code_tag(code), self._book.tags()[code_tag(code)])

    def reuse(self, trials: Sequence[PlannedTrial]) -> set[str]:
        """Signatures of those that other sweeps finished, whose outcomes are on storage now."""
        self.note(trials)
        accept = self._options.accept_code
        taken = reuse(self._api, self._sweep.sweep, self._folder, trials, accept_code=accept)
        if marked := [trial for trial in taken if trial.accepted_by]:
            self._book.accept(marked)
            self._book.write()
        return {trial.signature for trial in taken}

    def _mark(self) -> None:
        mark_code(self._api, self._runs, self._book.accepted_keys(), self._book.superseded)
        self._runs = {key: run for key, run in self._runs.items() if key not in self._book.superseded}
