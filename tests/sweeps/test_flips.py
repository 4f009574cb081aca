"""One flipped bit in any file of a sweep is found, or changes nothing: what comes out is the same to the bit."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from laresa.errors import LaresaError
from sweeps.service.tracking.schema import make_store
from tests.sweeps.conftest import QUICK, ablation
from tests.sweeps.inprocess import DiedError, dying_at, run_here, without_ray  # noqa: F401 (a fixture)
from tests.sweeps.test_deaths import assert_as_undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_ray", "one_thread")]

FLIPS = 3  # a file: near its begin, in its middle, near its end
KEPT = ("driver.lock", ".lock")  # what only names who holds it


class Place:
    """A home that is put back to one state again and again. Its database has a new name each time: MLflow keeps the
    old one open."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self._kept, self._count, self._patch = folder / "home", folder / "kept", 0, monkeypatch
        self.home.mkdir()
        make_store(f"sqlite:///{folder}/0.db")
        monkeypatch.setenv("LARESA_HOME", str(self.home))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/0.db")
        monkeypatch.chdir(self.home)

    def keep(self) -> None:
        shutil.copytree(self.home, self._kept)

    def put_back(self) -> None:
        self._count += 1
        for path in self.home.iterdir():
            shutil.rmtree(path)
        shutil.copytree(self._kept, self.home, dirs_exist_ok=True)
        database = self.home.parent / f"{self._count}.db"
        shutil.copy(self.home.parent / "0.db", database)
        self._patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")

    def files(self) -> Iterator[Path]:
        """What the sweep keeps on storage."""
        for path in sorted((self._kept / "storage").rglob("*")):
            if path.is_file() and not path.name.endswith(KEPT):
                yield self.home / path.relative_to(self._kept)


def flip(path: Path, place: int, rng: random.Random) -> bool:
    """One bit of the place-th third of the file; False where it is empty."""
    content = bytearray(path.read_bytes())
    if not content:
        return False
    third = len(content) / FLIPS
    at = min(len(content) - 1, int((place + rng.random()) * third))
    content[at] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return True


def run_or_refuse(words: list[str]) -> LaresaError | None:
    try:
        run_here(words)
    except LaresaError as error:
        return error
    return None


STATES = {
    "concluded": ("outcome.json", 3),  # written and renamed, the second trial's: all its files lie there, undelivered
    "training": ("config.json", 3),  # the second trial has its last checkpoints, the first is delivered
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("study", ["plan", "found"])
def test_a_flip_in_any_file_of_a_sweep(
    study: str, state: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ablation("plan", pictures, "ce,ce+anchor", epochs=2)
    if study == "found":
        words = ["search", "--sweep", "found", "--dataset", str(pictures), "--trials", "2", "--epochs", "2"]
        words += ["--scheduler", "none", *QUICK]
    place, known, rng = Place(tmp_path, monkeypatch), dict[str, dict[str, float]](), random.Random(study + state)
    word, number = STATES[state]
    with pytest.raises(DiedError), dying_at(number + (state == "concluded"), monkeypatch, word):
        run_here(words)
    place.keep()
    said: dict[str, int] = {}
    for file in place.files():
        for part in range(FLIPS):
            place.put_back()
            if not flip(file, part, rng):
                continue
            outcome, error = "nothing changed", run_or_refuse(words)
            if error is not None:
                assert file.name in str(error)
                outcome = "named"
                file.unlink()  # as the message says
                run_here(words)
            assert_as_undisturbed(study, 2, place.home, known)
            said[outcome] = said.get(outcome, 0) + 1
    print(f"{study}, {state}: {said}")
    assert sum(said.values()) >= 3 * 6
