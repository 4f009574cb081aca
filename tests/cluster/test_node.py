"""node.sh on this machine, in a home of its own: what a host that can't join leaves for the study to say."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from laresa.errors import LaresaError
from sweeps.service.driver import connection
from sweeps.service.driver.nodes import kept_away

CLUSTER = Path(__file__).parents[2] / "cluster"
HAVE = f"Ray {version('ray')} on Python {platform.python_version()}"


def node(folder: Path, *role: str, venv: Path) -> subprocess.CompletedProcess[str]:
    shared, home = folder / "shared", folder / "home"
    shared.mkdir(exist_ok=True)
    home.mkdir(exist_ok=True)
    shutil.copytree(CLUSTER, folder / "checkout" / "cluster", dirs_exist_ok=True)
    (shared / "site.sh").write_text(f"LARESA_VENV={venv}\n")
    script = (folder / "checkout" if role else shared / "code") / "cluster" / "node.sh"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LARESA_", "MLFLOW_", "RAY_"))}
    command = ["bash", str(script), str(shared), *role]
    return subprocess.run(command, env={**kept, "HOME": str(home)}, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(shutil.which("rsync") is None, reason="node.sh needs rsync")
def test_a_host_with_other_versions_is_told_and_may_come_back(tmp_path: Path):
    ours, other = Path(sys.prefix), tmp_path / "other"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "python").write_text("#!/bin/sh\necho Ray 2.9.3 on Python 3.11.1\n")
    (other / "bin" / "python").chmod(0o755)
    head = node(tmp_path, "head", venv=ours)
    assert head.returncode == 0, head.stderr
    assert kept_away(tmp_path / "shared") == {}
    late = node(tmp_path, venv=other)
    assert late.returncode == 1
    words = f"{platform.node()} has Ray 2.9.3 on Python 3.11.1, the head has {HAVE}: one image, or LARESA_VENV, for all"
    assert words in late.stderr
    assert kept_away(tmp_path / "shared")[platform.node()].startswith(words)
    assert node(tmp_path, venv=ours).returncode == 0
    assert kept_away(tmp_path / "shared") == {}


def test_a_study_in_another_environment_than_its_ray_says_so(monkeypatch: pytest.MonkeyPatch):
    def init(address: str, **options):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.9.3\n    Python: 3.11.1\n")

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    with pytest.raises(
        LaresaError, match=r"started with: Ray: 2\.9\.3 Python: 3\.11\.1: run laresa in the environment"
    ):
        connection.connect()
