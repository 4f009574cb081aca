"""A user's own folder of pictures, small enough for a whole sweep in seconds, and a home of its own for the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweeps.service.tracking.local_server import LocalServer

GROUPS = {"pet": ["cat", "dog"], "vehicle": ["truck", "car"], "fruit": ["apple", "pear"]}
QUICK = ["--backbone", "test_vit", "--set", "input_size=32", "--set", "batch_size=16", "--set", "patience=100"]


def draw_pictures(folder: Path, size: int = 16) -> Path:
    """A data set in the layout that README.md describes."""
    rng = np.random.default_rng(0)
    patterns = rng.random((6, size, size, 3))
    fine = [name for group in GROUPS.values() for name in group]
    for split, count in (("train", 12), ("val", 5), ("test", 5)):
        for index, name in enumerate(fine):
            place = folder / split / name
            place.mkdir(parents=True)
            for i in range(count):
                picture = patterns[index] * 150 + rng.random((size, size, 3)) * 105
                Image.fromarray(picture.astype(np.uint8)).save(place / f"{i}.png")
    (folder / "taxonomy.json").write_text(json.dumps({"groups": GROUPS}))
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("pictures") / "toys")


@pytest.fixture(scope="session")
def laresa_home(tmp_path_factory: pytest.TempPathFactory):
    """One LARESA_HOME with one MLflow server for all tests of a session; the server ends with it."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("LARESA_HOME")
    os.environ["LARESA_HOME"] = str(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield folder
    LocalServer(folder).stop()
    if before is None:
        del os.environ["LARESA_HOME"]
    else:
        os.environ["LARESA_HOME"] = before


@pytest.fixture(scope="session")
def server(laresa_home: Path) -> str:
    """Address of the session's MLflow server."""
    local = LocalServer(laresa_home)
    return local.wait(local.launch())


@pytest.fixture(scope="module")
def s3():
    """URI of a bucket in an S3 of our own, which AWS_ENDPOINT_URL leads to."""
    moto = pytest.importorskip("moto.server", reason="pip install 'moto[s3]' flask-cors")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "fake")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
        urllib.request.urlopen(urllib.request.Request(f"{url}/laresa-tests", method="PUT"))
        yield "s3://laresa-tests"
    server.stop()


def ablation(sweep: str, data: Path, subsets: str, seeds: str = "0", epochs: int = 3) -> list[str]:
    """The study on given settings, each trial a second or two."""
    what = ["--sweep", sweep, "--dataset", str(data), "--subsets", subsets, "--seeds", seeds, "--epochs", str(epochs)]
    return ["ablation", "--tune", "0", *what, *QUICK]


def laresa(*arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    """The command as a user types it, in a process of its own."""
    command = [sys.executable, "-m", "sweeps.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, **options)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done
