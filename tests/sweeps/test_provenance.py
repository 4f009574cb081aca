"""What code was it? The commit where there is a checkout, what submit told where there is none, and the code itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sweeps.service import provenance


def test_without_a_checkout_the_commit_is_what_submit_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("LARESA_GIT_COMMIT", raising=False)
    assert provenance.git_commit() == "unknown"
    monkeypatch.setenv("LARESA_GIT_COMMIT", "0123abcd+dirty")
    assert provenance.git_commit() == "0123abcd+dirty"


def test_the_digest_follows_the_code_and_not_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here, root = provenance.code_digest(), Path(provenance.__file__).parents[2]
    for package in ("laresa", "sweeps", "reports", "cluster"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("*.npz", "__pycache__"))
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "sweeps/service/provenance.py"))
    assert provenance.code_digest() == here
    (tmp_path / "laresa/losses.py").write_text("")
    assert provenance.code_digest() != here
