"""What can't be done is said in a line, and by `plan` as by `run`, before anything is written."""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path

import pytest

from sweeps.cli.errors import BUG, told
from sweeps.cli.main import main
from sweeps.service.tracking.local_server import LocalServer
from tests.sweeps.conftest import ablation, draw_pictures

WORDS = ["--gpus-per-trial", "0", "--primary", "none"]
BAD = [
    (["--set", "backbone=nosuch"], "unknown backbone 'nosuch'"),
    (["--dataset", "/no/such"], "no such folder: /no/such"),
    (["--dataset", "~nosuch/x"], "no home folder of '~nosuch'"),
    (["--set", "image_size=100000"], "image_size=100000: expected less than or equal to 4096"),
    (["--set", "stem=x"], "expected 'default' or 'cifar'"),
    (["--set", "encoder=/no/such/folder"], "can't be had"),
    (["--set", "backbone=true"], "backbone=True: expected a valid string"),
    (["--set", "seed=7"], "--set seed=7: it would be ignored; expected --seeds"),
    (["--set", "fold=9"], "expected --folds"),
    (["--set", "dataset=cub200"], "expected --dataset"),
    (["--set", "subset=ce"], "expected --subsets"),
    (["--set", "epochs=NaN"], "epochs=nan: expected a valid integer"),
    (["--set", "epochs=Infinity"], "epochs=inf: expected a valid integer"),
    (["--set", f"epochs={'9' * 5000}"], "expected a valid integer"),
    (["--seeds", "99999999999999999999"], "seed=99999999999999999999: expected less than or equal to"),
    (["--folds", "9"], "has folds 0 to 0"),
    (["--cpus-per-trial", "nan"], "--cpus-per-trial nan: expected a number greater than 0"),
    (["--gpus-per-trial", "nan"], "--gpus-per-trial nan"),
    (["--hours", "nan"], "--hours nan: expected more than 0"),
    (["--concurrency", "0"], "--concurrency 0"),
    (["--sweep", "a/b"], "sweep name 'a/b'"),
    (["--sweep", "\x1b[31m"], r"sweep name '\x1b[31m'"),
    (["--sweep", "x" * 300], "expected at most 200 bytes"),
    (["--storage", "/dev/null/x"], "/dev/null is no folder"),
    (["--storage", "ftp://x"], "unknown scheme"),
    (["--storage", "~nosuch/x"], "no home folder of '~nosuch'"),
    (["--tracking-uri", "ftp://x"], "expected http://HOST:PORT of a server, or sqlite:///FILE"),
    (["--tracking-uri", "localhost:5000"], "expected http://HOST:PORT"),
    (["--tracking-uri", "http://ada:s3cret@127.0.0.1:1"], "MLFLOW_TRACKING_PASSWORD in the environment"),
    (["--tracking-uri", "http://127.0.0.1:1"], "no MLflow server answers at http://127.0.0.1:1"),
    (["--tracking-uri", "http://127.0.0.1:port"], "no MLflow server answers"),
    (["--tracking-uri", "sqlite:////no/such/x.db"], "sqlite:///FILE in a folder that exists"),
    (["--tracking-uri", "sqlite:///{work}/garbage.db"], "is no sqlite database"),
    (["--tune", "2", "--sampler", "foo"], "unknown sampler 'foo'"),
    (["--tune", "2", "--scheduler", "foo"], "unknown scheduler 'foo'"),
    (["--sampler", "foo"], "with --tune 0: nothing is searched"),
    (["--scheduler", "asha"], "with --tune 0: nothing is searched"),
    (["--plugin", "/no/such.py"], "no file '/no/such.py' here"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LARESA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("LARESA_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "garbage.db").write_bytes(b"no database")
    return tmp_path / "home"


def ended(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, re.sub(r"(?m)^usage:.*\n( .*\n)*|^laresa (run|plan)", "", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("wrong", "message"), BAD, ids=[" ".join(words)[:40].encode("ascii", "replace").decode() for words, _ in BAD]
)
def test_plan_refuses_what_run_refuses(
    wrong: list[str], message: str, home: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    words = [*ablation("bad", pictures, "ce"), *WORDS, *(word.replace("{work}", str(home.parent)) for word in wrong)]
    planned, run = (ended([verb, *words], capsys) for verb in ("plan", "run"))
    assert planned == run
    assert planned[0] in (1, 2)
    assert message in planned[1]
    assert "s3cret" not in planned[1]
    assert "Traceback" not in planned[1]
    assert not home.exists(), "nothing was written"


@pytest.mark.parametrize("verb", ["plan", "run"])
@pytest.mark.parametrize(
    "content", [b"[]", b"{", b"\xff\xfe", b'{"arms": 3, "searches": {}}', b'{"arms": {"ce": 1}, "searches": {}}']
)
def test_a_damaged_plan_is_named(
    verb: str, content: bytes, home: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    path = home / "storage" / "hurt" / "plan.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    code, message = ended([verb, *ablation("hurt", pictures, "ce"), *WORDS], capsys)
    assert code == 1
    assert f"{path} is damaged" in message
    assert [found.name for found in home.rglob("*") if found.is_file()] == ["plan.json"]


def test_debug_shows_the_traceback_and_a_bug_is_called_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("sweeps.cli.fields.as_markdown", lambda: {}["gone"])
    assert ended(["fields"], capsys) == (1, f"laresa: KeyError: 'gone'; {BUG}\n")
    for words in (["--debug", "fields"], ["fields", "--debug"]):
        code, message = ended(words, capsys)
        assert code == 1
        assert message.startswith("Traceback (most recent call last)")
        assert message.endswith(f"laresa: KeyError: 'gone'; {BUG}\n")


def others() -> list[tuple[Exception, str]]:
    import requests
    import yaml
    from mlflow.exceptions import MlflowException
    from optuna.exceptions import OptunaError
    from PIL import UnidentifiedImageError
    from ray.exceptions import GetTimeoutError, RayError
    from sqlalchemy.exc import OperationalError

    return [
        (MlflowException("schema"), "the tracking store can't be used (MlflowException: schema)"),
        (OperationalError("SELECT " + "x" * 9999, {}, Exception("database is locked")), "is its database locked"),
        (sqlite3.DatabaseError("malformed"), "the tracking store can't be used (DatabaseError: malformed)"),
        (requests.ConnectionError("refused"), "the tracking server can't be reached"),
        (RayError("gone"), "Ray failed (RayError: gone)"),
        (GetTimeoutError("late"), "Ray failed"),
        (OptunaError("x"), "the search's journal can't be used"),
        (UnidentifiedImageError("x"), "an image can't be read"),
        (yaml.YAMLError("x"), "a YAML file can't be read"),
        (OSError(28, "No space left on device", "/x/y"), "/x/y: the disk is full"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: no permission"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "a file is no text in UTF-8"),
        (ModuleNotFoundError("No module named 'psycopg2'"), "a package is missing or broken"),
        (MemoryError(), "the memory is full"),
    ]


def test_each_kind_of_others_errors_has_its_words():
    for error, words in others():
        message, code = told(error)
        assert words in message
        assert code == 1
        assert len(message) < 900
        assert "\n" not in message
        assert BUG not in message


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"3",
        b"{}",
        b"{",
        b"\xff",
        b'{"url": 3, "pid": "x", "port": []}',
        b'{"pid": 9e99, "port": 1}',
        b'{"pid": 99999999999999999999, "port": 1}',
        b'{"pid": -1, "port": 5000}',
    ],
)
def test_a_damaged_server_json_is_as_none(content: bytes, tmp_path: Path):
    local = LocalServer(tmp_path)
    local.folder.mkdir()
    (local.folder / "server.json").write_bytes(content)
    assert local.url() is None
    assert not local.stop()


@pytest.mark.parametrize("verb", [["best", "x"], ["status", "x"], ["report", "x"], ["rerun", "x"]])
def test_a_database_that_is_none_is_named(verb: list[str], home: Path, capsys: pytest.CaptureFixture[str]):
    (home / "mlflow").mkdir(parents=True)
    (home / "mlflow" / "mlflow.db").write_bytes(b"garbage")
    code, message = ended(verb, capsys)
    assert code == 1
    assert "mlflow.db is no sqlite database, or a damaged one" in message


@pytest.mark.parametrize("verb", [["best", "x"], ["status", "x"], ["report", "x"], ["rerun", "x"]])
def test_nothing_is_made_by_asking(verb: list[str], home: Path, capsys: pytest.CaptureFixture[str]):
    code, message = ended(verb, capsys)
    assert code == 2
    assert "'x'" in message
    assert not (home / "mlflow").exists()


def test_a_full_disk_while_the_server_keeps_its_state(home: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    home.mkdir()
    (home / "mlflow").write_text("a file where the folder should be")
    code, message = ended(["ui"], capsys)
    assert code == 1
    assert "can't be written" in message


def test_names_steer_no_terminal(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = draw_pictures(tmp_path / "toys")
    place = os.fsencode(root / "train" / "cat") + b"/\xff\x1b[31m.png"
    Path(os.fsdecode(place)).write_bytes(b"no image")
    assert main(["data", "check", str(root)]) == 1
    out = capsys.readouterr().out
    assert r"\udcff\x1b[31m.png does not decode" in out
    assert "\x1b" not in out
    os.unlink(place)
    assert main(["data", "check", str(root)]) == 0, "file names need not be UTF-8"
    os.mkdir(os.fsencode(root / "train") + b"/\x1b]0;x\x07")
    (root / "taxonomy.json").unlink()
    assert main(["data", "check", str(root)]) == 1
    assert "holds control characters" in capsys.readouterr().out


@pytest.mark.slow
def test_a_report_starts_the_server_that_has_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """report, status and best where the local server does not run, and server.json is lost."""
    from laresa.config import TrialConfig
    from laresa.measurement import Measurement
    from sweeps.service.storage.files import SweepFolder
    from sweeps.service.storage.outcome import describe_outcome
    from sweeps.service.study import PlannedTrial
    from sweeps.service.tracking import write
    from sweeps.service.tracking.client import client
    from sweeps.service.tracking.deliver import deliver

    monkeypatch.setenv("LARESA_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    local = LocalServer()
    try:
        url = local.launch()
        local.wait(url)
        trial = PlannedTrial("ce", TrialConfig(subset="ce", epochs=1))
        stored = SweepFolder(tmp_path / "storage" / "kept").trial(trial.key)
        rows = [Measurement(1, {"val/top1": 0.5, "train/loss": 1.0}, 0.1).to_dict()]
        metrics = {"best/val/top1": 0.5, "test/top1": 0.5, "best_epoch": 1.0}
        attempt = stored.new_attempt()
        attempt.conclude(describe_outcome(trial, "finished", metrics, rows, None, {}))
        sweep = write.open_sweep(url, "kept", {})
        deliver(client(url), write.TrialRun(sweep, trial, {}), stored)
        local.stop()
        (local.folder / "server.json").unlink()
        assert main(["status", "kept"]) == 0
        assert main(["best", "kept"]) == 0
        assert local.url() is None, "what the database knows needs no server"
        assert main(["report", "kept"]) == 0
        assert local.url() is not None
    finally:
        local.stop()
