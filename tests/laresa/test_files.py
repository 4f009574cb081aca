"""Files that are whole or not there, checkpoints that tell when a bit of them is another."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from laresa import checkpoint
from laresa.errors import CheckpointError, StorageError
from laresa.files import FAILPOINT, atomic_write, make_folder


def test_new_folders_and_the_files_in_them_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced, sync = [], os.fsync

    def note(file: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{file}").removeprefix(str(tmp_path)))
        sync(file)

    monkeypatch.setattr(os, "fsync", note)
    atomic_write(tmp_path / "a" / "b" / "c.txt", "text")
    assert synced == ["", "/a", f"/a/b/.{os.getpid()}.c.txt", "/a/b"]
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "text"
    synced.clear()
    make_folder(tmp_path / "a" / "b")
    assert synced == []


def test_a_file_stays_as_it_was_where_the_new_one_cant_be_written(tmp_path: Path):
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def half(temporary: Path) -> None:
        temporary.write_bytes(b"ne")
        raise PermissionError(13, "Permission denied")

    with pytest.raises(StorageError, match=r"file can't be written \(Permission denied\)"):
        atomic_write(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StorageError, match="File exists"):
        atomic_write(path / "below", "text")


def test_the_kth_passage_of_all_processes_is_a_death(tmp_path: Path):
    code = f"""
from pathlib import Path
from laresa.files import atomic_write
for name in "ab":
    atomic_write(Path({str(tmp_path)!r}, name), name)
"""
    ended = [
        subprocess.run([sys.executable, "-c", code], env={**os.environ, FAILPOINT: f"{tmp_path / 'count'}:6"})
        for _ in range(2)
    ]
    assert [process.returncode for process in ended] == [0, -9]  # 4 passages each: the second dies before a replacement
    assert (tmp_path / "count").stat().st_size == 6


def test_a_flipped_bit_in_a_checkpoint_is_found(tmp_path: Path):
    path, tensors = (
        tmp_path / "checkpoint.safetensors",
        {"a": torch.randn(40), "n": torch.tensor(3), "e": torch.empty(0)},
    )
    checkpoint.save(path, tensors, {"epoch": 3, "history": [0.5, float("nan")]})
    whole = path.read_bytes()
    header, rng, accepted = 8 + int.from_bytes(whole[:8], "little"), random.Random(0), 0
    places = [(place, bit) for place in range(header) for bit in range(8)]
    places += [(rng.randrange(header, len(whole)), rng.randrange(8)) for _ in range(200)]
    for place, bit in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            found, state = checkpoint.load(path)
        except CheckpointError:
            continue
        accepted += 1  # white space in the header, which says the same
        assert str(state) == str({"epoch": 3, "history": [0.5, float("nan")]})
        assert all(torch.equal(found[name], value) for name, value in tensors.items())
    assert accepted < 8
    path.write_bytes(whole)
    assert checkpoint.load(path)[0].keys() == tensors.keys()
    for cut in (0, 5, header - 3, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)
