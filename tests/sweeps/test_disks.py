"""Power cuts, full and read-only disks: a line that says so, nothing lost, and in the end the same to the bit."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import random
import shutil
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from laresa import files
from laresa.errors import StorageError
from laresa.training import fit
from sweeps import trials
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.state import file_digest
from sweeps.service.tracking.client import fetch_artifacts
from sweeps.service.tracking.schema import make_store
from sweeps.service.tracking.sweep import Sweep
from sweeps.service.worker import session
from tests.sweeps.conftest import ablation, laresa
from tests.sweeps.inprocess import DiedError, dying_at, run_here, without_ray  # noqa: F401 (a fixture)
from tests.sweeps.test_deaths import assert_as_undisturbed

SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN, as the kernel's own crash tests use it
WITHOUT_LOG = 2  # what lies in memory never reaches the disk
CUTS = 6


def cannot() -> str | None:
    """Why no disks can be made here; None if they can."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("mkfs.ext4", "e2fsck", "mount", "losetup"))):
        return "disks of one's own need root, mount and e2fsprogs"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    if tried.returncode or not Path("/dev/loop-control").exists():
        return "disks can't be mounted here"
    return None


pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(cannot() is not None, reason=str(cannot())),
]


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextlib.contextmanager
def mounted(place: Path, *how: str) -> Iterator[None]:
    command("mount", *how, str(place))
    try:
        yield
        gc.collect()  # of what died in it, files may be open
        command("umount", str(place))  # whole: whoever checks or mounts the disk next is alone with it
    except BaseException:
        subprocess.run(["umount", "--lazy", str(place)])
        raise


def make_disk(image: Path) -> None:
    with image.open("wb") as file:
        file.truncate(64 << 20)
    command("mkfs.ext4", "-q", "-F", str(image))


def check_disk(image: Path) -> None:
    assert subprocess.run(["e2fsck", "-y", str(image)], capture_output=True).returncode in (0, 1)


def cut_power(place: Path) -> None:
    (place / "unsynced").write_bytes(b"in memory alone")
    root = os.open(place, os.O_RDONLY)
    fcntl.ioctl(root, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
    os.close(root)


def was_cut(place: Path) -> bool:
    """Whether the disk is as after a power cut: what was not synced is gone."""
    return not (place / "unsynced").exists() or not (place / "unsynced").read_bytes()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a disk is mounted as storage; records are kept elsewhere."""
    folder = tmp_path / "disk"
    folder.mkdir()
    monkeypatch.setenv("LARESA_HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def fresh_store(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{folder / name}.db"
    make_store(uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)


@contextlib.contextmanager
def at(number: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch, word: str) -> Iterator[None]:
    """Before the number-th passage of a failpoint whose name has the word in it, something happens."""
    passed = 0

    def happen(what: str) -> None:
        nonlocal passed
        passed += word in what
        if passed == number and word in what:
            act()

    with monkeypatch.context() as patch:
        patch.setattr(files, "_die", happen)
        yield


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("without_ray")
def test_power_cuts(pictures: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever was not synced is gone; checked, mounted and run again, all that counts is there."""
    words, image = ablation("plan", pictures, "ce,ce+anchor", epochs=2), tmp_path / "image"
    known: dict[str, dict[str, float]] = {}
    concluded = lost = 0
    for number in sorted(random.Random(1).sample(range(15, 80), CUTS)):
        make_disk(image)
        fresh_store(tmp_path, str(number), monkeypatch)
        with mounted(place, "-o", "loop", str(image)):
            with pytest.raises(DiedError), dying_at(number, monkeypatch):
                run_here(words)
            outcomes = {path.parent.name for path in place.rglob("outcome.json")}
            concluded += len(outcomes)
            cut_power(place)
        check_disk(image)
        with mounted(place, "-o", "loop", str(image)):
            assert was_cut(place)
            lost += len(outcomes - {path.parent.name for path in place.rglob("outcome.json")})
            assert lost == 0, number
            run_here(words)
            assert_as_undisturbed("plan", 2, place, known)
            attempts = {path.name: len(list(path.glob("attempt-*"))) for path in place.glob("storage/plan/trials/*")}
            assert all(attempts[name] == 1 for name in outcomes), (number, attempts)  # not trained again
        image.unlink()
    assert concluded >= 2
    print(f"{CUTS} power cuts, {concluded} outcomes written before them, {lost} lost")


# Passages of a plan of two: the records begin; the first trial has its outcome; the tracker has its files; its state;
# that is noted; storage gives the files up, and the disk has heard of it; the end.
DELIVERING = (9, 38, 42, 46, 48, 50, 84)


@pytest.mark.timeout(400)
@pytest.mark.usefixtures("without_ray")
def test_power_cuts_of_records_too(pictures: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tracker's database and files are on the same disk: what storage gave up, the tracker has."""
    words, image = ablation("plan", pictures, "ce,ce+anchor", epochs=2), tmp_path / "image"
    known: dict[str, dict[str, float]] = {}
    given_up = lost = 0
    for number in DELIVERING:
        make_disk(image)
        with mounted(place, "-o", "loop", str(image)):
            fresh_store(place, "mlflow", monkeypatch)
            monkeypatch.chdir(place)  # MLflow keeps files below it
            with pytest.raises(DiedError), dying_at(number, monkeypatch):
                run_here(words)
            outcomes = {path.parent.name for path in place.rglob("outcome.json")}
            given_up += sum(not (path.parent / "model.safetensors").exists() for path in place.rglob("delivered"))
            cut_power(place)
            leave_records(tmp_path, monkeypatch)
        check_disk(image)
        with mounted(place, "-o", "loop", str(image)):
            assert was_cut(place)
            lost += len(outcomes - {path.parent.name for path in place.rglob("outcome.json")})
            assert lost == 0, number
            monkeypatch.chdir(place)
            run_here(words)
            assert_as_undisturbed("plan", 2, place, known)
            assert_files_kept("plan", place, tmp_path / str(number))
            attempts = {path.name: len(list(path.glob("attempt-*"))) for path in place.glob("storage/plan/trials/*")}
            assert all(attempts[name] == 1 for name in outcomes), (number, attempts)
            leave_records(tmp_path, monkeypatch)
        image.unlink()
    assert given_up >= 2
    print(f"{len(DELIVERING)} power cuts, {given_up} models given up by storage before them, {lost} outcomes lost")


def leave_records(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of MLflow's stays open on the disk."""
    monkeypatch.chdir(folder)
    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()


def assert_files_kept(sweep: str, home: Path, copies: Path) -> None:
    """The tracker has of each trial what its outcome speaks of, to the bit."""
    opened, folder = Sweep.open(sweep), SweepFolder(home / "storage" / sweep)
    for record in opened.trials():
        copy = fetch_artifacts(opened.api, record.run_id, copies / record.run_id)
        there = {path.name: file_digest(path) for path in copy.rglob("*") if path.is_file()}
        said = (folder.trial(record.key).outcome() or {})["files"]
        assert "model.safetensors" in said
        assert {name: there.get(name) for name in said} == said


def fill(place: Path) -> None:
    # Unbuffered: what is left in a buffer would be an error when it is closed, and end the sweep in the disk's stead.
    with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def written(place: Path) -> dict[Path, str]:
    """Whole files of a sweep, with what is in them."""
    found = [path for path in place.rglob("*") if path.is_file() and path.suffix in (".json", ".safetensors", ".npz")]
    tune = [path for path in found if any(part.startswith("tune-") for part in path.parts)]
    return {path: file_digest(path) for path in found if path not in tune and not path.name.startswith(".")}


MOMENTS = ("claim", "checkpoint-000001", "checkpoint-000002", "config.json", "model", "outcome", "delivered")


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("without_ray")
def test_a_disk_that_is_full(pictures: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words, known = ablation("plan", pictures, "ce,ce+anchor", epochs=2), dict[str, dict[str, float]]()
    for moment in MOMENTS:
        fresh_store(tmp_path, moment, monkeypatch)
        with mounted(place, "-t", "tmpfs", "-o", "size=24m", "none"):
            refused(words, place, lambda: fill(place), monkeypatch, moment)
            (place / "filler").unlink()
            run_here(words)
            assert_as_undisturbed("plan", 2, place, known)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("without_ray")
def test_a_disk_that_becomes_read_only(pictures: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the kernel makes one in which it has found an error."""
    words, known = ablation("plan", pictures, "ce,ce+anchor", epochs=2), dict[str, dict[str, float]]()
    image = tmp_path / "image"
    monkeypatch.setattr(session, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(session, "AWAY_STEP_SECONDS", 0.0)
    for moment in MOMENTS:
        fresh_store(tmp_path, moment, monkeypatch)
        make_disk(image)
        with mounted(place, "-o", "loop,errors=remount-ro", str(image)):
            device = subprocess.run(["findmnt", "-no", "SOURCE", str(place)], capture_output=True, text=True).stdout
            trigger = Path("/sys/fs/ext4", Path(device.strip()).name, "trigger_fs_error")
            refused(words, place, lambda trigger=trigger: trigger.write_text("1"), monkeypatch, moment)
        check_disk(image)
        with mounted(place, "-o", "loop", str(image)):
            run_here(words)
            assert_as_undisturbed("plan", 2, place, known)
        image.unlink()


def refused(
    words: list[str], place: Path, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The sweep ends, with one line that names the disk; no trial is blamed, nothing that was there is lost."""
    before: dict[Path, str] = {}

    def note_and_act() -> None:
        before.update(written(place))
        act()

    with pytest.raises(StorageError) as said, at(1, note_and_act, monkeypatch, moment):
        run_here(words)
    assert before
    assert before.items() <= written(place).items()
    assert str(place) in str(said.value)
    assert "\n" not in str(said.value)
    assert not list(place.rglob("traceback.txt"))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("what", ["attempt-0001", "outcome.json"])
def test_a_disk_that_fills_while_ray_trains(
    what: str, server: str, pictures: Path, tmp_path: Path, laresa_home: Path, monkeypatch: pytest.MonkeyPatch
):
    """It is full from the moment that a file is there, Tune's own folder on it included."""
    disk, sweep = tmp_path / "disk", f"filled-{Path(what).stem}"
    disk.mkdir()
    arguments = ["run", *ablation(sweep, pictures, "ce,ce+anchor", epochs=5), "--storage", str(disk)]
    before: dict[Path, str] = {}
    with mounted(disk, "-t", "tmpfs", "-o", "size=96m", "none"):
        with filling_after(disk, what, before):
            ended = laresa(*arguments, check=False, cwd=tmp_path)
        assert (disk / "filler").exists()
        assert ended.returncode == 1, ended.stdout + ended.stderr
        assert "Traceback" not in ended.stdout + ended.stderr
        (said,) = [line for line in ended.stderr.splitlines() if line.startswith("laresa: ")]
        assert str(disk) in said
        assert "make room" in said
        assert before.items() <= written(disk).items()
        opened = Sweep.open(sweep)
        assert "RUNNING" not in {run.info.status for run in opened.api.search_runs([opened.experiment_id])}
        (disk / "filler").unlink()
        laresa(*arguments, cwd=tmp_path)
        records = trials(sweep)
        assert [record.state for record in records] == ["finished"] * 2
        for record in records:
            undisturbed = fit(record.config, device="cpu").metrics
            same = {name: value for name, value in undisturbed.items() if name != "seconds/train"}
            assert {name: record.metrics[name] for name in same} == same
            assert SweepFolder(disk / sweep).trial(record.key).checkpoints() == []
        assert not list((disk / sweep).glob("tune-*"))


@contextlib.contextmanager
def filling_after(disk: Path, what: str, before: dict[Path, str]) -> Iterator[None]:
    """Fill the disk once a trial has `what`. before: what was written by then."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            if any(disk.glob(f"*/trials/*/{what}")):
                fill(disk)
                before.update(written(disk))  # full: nothing becomes whole any more
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
