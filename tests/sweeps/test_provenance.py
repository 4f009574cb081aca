"""What code was it? The commit where there is a checkout, what submit told where there is none."""

from __future__ import annotations

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
