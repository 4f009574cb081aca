"""Storage: attempts fence, the lock excludes, files are whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sweeps.service.storage.files import FencedError, StorageError, SweepBusyError, SweepFolder, read_json


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
    assert folder.outcome() == {"state": "finished", "attempts": 2}


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


def test_damaged_json_is_named(tmp_path: Path):
    (tmp_path / "outcome.json").write_text('{"state": ')
    with pytest.raises(StorageError, match=r"outcome.json is damaged"):
        read_json(tmp_path / "outcome.json")
    assert read_json(tmp_path / "nothing.json") is None
