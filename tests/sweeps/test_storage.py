"""Storage: attempts fence, the lock excludes, files are whole."""

from __future__ import annotations

import errno
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from laresa.errors import DamagedError, StorageError
from laresa.files import is_full
from sweeps.service.storage.files import SweepFolder
from sweeps.service.storage.shared_folder import FencedError, SweepBusyError
from sweeps.service.storage.state import read_state, write_state


def test_a_newer_attempt_fences_its_predecessor(tmp_path: Path):
    folder = SweepFolder(tmp_path).trial("abc")
    first = folder.new_attempt()
    first.check()
    second = folder.new_attempt()
    assert (first.number, second.number) == (1, 2)
    with pytest.raises(FencedError, match=r"attempt 1 .* gives way to attempt 2"):
        first.check()
    with pytest.raises(FencedError):
        first.conclude({"state": "finished"})
    assert folder.outcome() is None
    second.conclude({"state": "finished"})
    assert folder.outcome() == {"state": "finished", "attempts": 2, "files": {}}


def test_checkpoints_newest_attempt_first_and_gone_once_concluded(tmp_path: Path):
    folder = SweepFolder(tmp_path).trial("abc")
    first, second, third = (folder.new_attempt() for _ in range(3))
    second.checkpoint(9).touch()
    second.checkpoint(10).touch()
    first.checkpoint(12).touch()
    assert folder.checkpoints() == [second.checkpoint(10), second.checkpoint(9), first.checkpoint(12)]
    second.keep(second.checkpoint(10))
    assert folder.checkpoints() == [second.checkpoint(10), second.checkpoint(9)]
    third.conclude({"state": "failed"})
    assert folder.checkpoints() == []
    assert folder.new_attempt().number == 4


def test_lock_excludes_another_process_and_ends_with_its_holder(tmp_path: Path):
    folder = SweepFolder(tmp_path / "mine")
    hold = f"""
import sys
from pathlib import Path
from sweeps.service.storage.files import SweepFolder
with SweepFolder(Path({str(tmp_path / "mine")!r})).lock():
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert folder.busy()
        with pytest.raises(SweepBusyError, match=f"sweep 'mine' is being run by process {holder.pid}"), folder.lock():
            pass
    finally:
        holder.kill()
        holder.communicate()
    assert not folder.busy()
    with folder.lock():
        pass


def test_storage_that_cant_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    folder = SweepFolder(tmp_path / "file" / "sweep")
    with pytest.raises(StorageError, match=r"file/sweep can't be written .*another --storage"), folder.lock():
        pass


# ---------------------------------------------------------------------------------------------------- damage
def flips(content: bytes) -> Iterator[bytes]:
    """The content with each of its bits the other way, one at a time."""
    for place in range(len(content)):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def test_every_flipped_bit_of_what_decides_a_sweep_is_found(tmp_path: Path):
    path, value = tmp_path / "outcome.json", {"state": "finished", "metrics": {"test/top1": 0.25, "x": math.nan}}
    write_state(path, value)
    assert str(read_state(path)) == str(value)
    whole, found = path.read_bytes(), 0
    for damaged in flips(whole):
        path.write_bytes(damaged)
        try:
            assert str(read_state(path)) == str(value)  # white space
        except DamagedError as error:
            assert "outcome.json is damaged" in str(error)  # noqa: PT017
            found += 1
    assert found > 7 * len(whole)
    path.write_bytes(whole[:-20])
    with pytest.raises(DamagedError):
        read_state(path)
    assert read_state(tmp_path / "nothing.json") is None


def test_what_a_trial_left_is_trained_again_where_it_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    trial = SweepFolder(tmp_path / "toy").trial("abc")
    attempt = trial.new_attempt()
    (trial.root / "model.safetensors").write_bytes(b"weights")
    attempt.conclude({"state": "finished"})
    trial.check_files()
    (trial.root / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(DamagedError, match=r"model.safetensors is damaged.* trains its trial again"):
        trial.check_files()
    assert trial.outcome() is None
    trial.new_attempt().conclude({"state": "finished"})
    path = trial.root / "outcome.json"
    path.write_bytes(path.read_bytes().replace(b"finished", b"fanished"))
    assert [trial.outcome(), trial.outcome()] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is damaged: its content is not what was written (or was by an earlier version); "
        "what it tells is trained again"
    ]
    assert SweepFolder(tmp_path / "toy").outcomes() == []


def test_a_full_disk_is_the_storages_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trial = SweepFolder(tmp_path / "toy").trial("abc")
    trial.write("group.json", {"group": "a"})
    monkeypatch.setattr("os.fsync", full)
    for write in (lambda: trial.write("group.json", {"group": "b"}), lambda: trial.note_delivered("run", [])):
        with pytest.raises(StorageError, match=r"can't be written \(No space left on device\): make room") as told:
            write()
        assert is_full(told.value)
    assert trial.read("group.json") == {"group": "a"}
    assert [path.name for path in trial.root.iterdir()] == ["group.json"]
