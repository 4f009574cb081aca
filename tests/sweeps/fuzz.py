"""Hostile command lines, files and addresses, by seed: `python -m tests.sweeps.fuzz SEED [COUNT] [FIRST]`.

One process imports everything and runs case after case by `main`; where a case hangs, another takes its place. Nothing
here may train, start Ray or a server: what could run is planned, what is run is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT = 20.0  # seconds a case may take
QUICK = ["--backbone", "test_vit", "--set", "input_size=32", "--set", "encoder=all-MiniLM-L6-v2", "--seeds", "0"]
FREE = {"mlflow": 0, "storage": 0}
NUMBERS = (
    "0",
    "-1",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "99999999999999999999",
    "9" * 5000,
    "0x10",
    "1_000",
    "٣",
    "",
)
WORDS = (
    *(
        "",
        " ",
        "=",
        ":",
        ",",
        "+",
        "none",
        "true",
        "null",
        "[]",
        "{}",
        '"',
        "'",
        "`",
        "\\",
        "%s",
        "{0}",
        "~nosuch",
        "/",
    ),
    *("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\r\rgone", "a\nb", "\u202eevil", "\udcff\udc80", "é", "日本", "😀"),
    *(
        "a" * 300,
        "../x",
        "[" * 3000,
        "-",
        "--",
        "--=",
        "a;b",
        "$(x)",
        "'; DROP TABLE runs; --",
        "<b>",
        "\x7f",
        "\x9b31m",
    ),
)
ADDRESSES = (
    *("ftp://host/x", "http://", "http://[::1", "http://127.0.0.1:1", "http://nosuch.invalid:5000", "localhost:5000"),
    *("http://user:s3cret@127.0.0.1:1", "https://u:s3cret@nosuch.invalid/x", "postgresql://u:s3cret@127.0.0.1:1/db"),
    *("http://127.0.0.1:99999", "http://127.0.0.1:x", "http://a b", "sqlite://", "sqlite:///", "sqlite:///:memory:"),
    *("sqlite:////no/such/folder/x.db", "sqlite:///{work}/no.db", "sqlite:///{work}/garbage.db", "sqlite:///{work}"),
    *(
        "sqlite:///{work}/truncated.db",
        "file:///{work}",
        "{work}",
        "databricks",
        "mlflow://x",
        "http://\x1b[31m",
        "\udcff",
    ),
)
STORAGES = (
    *(
        "s3://",
        "s3://user:s3cret@bucket/x",
        "ftp://x",
        "gs:/x",
        "file://host/x",
        "abfs://x",
        "~nosuch/x",
        "{work}/file",
    ),
    *("{work}/file/below", "/proc/nosuch", "{work}/\udcff", "s3:///x", "s3://b?x=y", "/dev/null", "a" * 5000),
)
GROUPS = {"pet": ["cat", "dog"], "tool": ["saw", "axe"]}


@dataclass(frozen=True)
class Case:
    """words: the command line. writes: whether it may leave files under LARESA_HOME."""

    family: str
    words: tuple[str, ...]
    writes: bool = False


# ---------------------------------------------------------------------- what is made
def draw(seed: int, number: int, work: Path) -> Case:
    """One case, its files made in `work`; the same for the same seed and number."""
    rng = random.Random(f"{seed}-{number}")
    family = rng.choices(list(FAMILIES), [weight for _, weight in FAMILIES.values()])[0]
    return FAMILIES[family][0](rng, work, family)


def hostile(rng: random.Random, *more: str) -> str:
    """A value that nobody expects, or one that somebody does, slightly wrong."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(NUMBERS)
    if kind < 0.75 or not more:
        return rng.choice(WORDS)
    text = list(rng.choice(more))
    for _ in range(rng.randint(0, 2)):
        text.insert(rng.randint(0, len(text)), rng.choice([*WORDS[:18], *"0123456789.-\x1b\udcff"]))
    return "".join(text)


def pictures(work: Path) -> Path:
    """A sound data set of four classes."""
    import numpy as np
    from PIL import Image

    root, rng = work / "data", np.random.default_rng(0)
    for part, count in (("train", 2), ("test", 2)):
        for names in GROUPS.values():
            for name in names:
                (root / part / name).mkdir(parents=True)
                for index in range(count):
                    picture = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                    Image.fromarray(picture).save(root / part / name / f"{index}.png")
    (root / "taxonomy.json").write_text(json.dumps({"groups": GROUPS}))
    return root


def study_words(rng: random.Random, work: Path, *, data: str | None = None) -> list[str]:
    """A sound plan of one small arm."""
    study = rng.choice(["ablation", "hierarchy", "search", "embeddings", "paper"])
    where = data or str(pictures(work))
    words = [study, "--dataset", where, *QUICK, "--gpus-per-trial", "0"]
    if study not in ("search", "paper"):
        words += ["--tune", "0", "--subsets", "ce", "--primary", "none"]
    words += ["--subsets", "ce", "--recipe", "default"] if study == "paper" else []
    return words


def of_line(rng: random.Random, work: Path, family: str) -> Case:
    """Any verb with options that exist, do not, are given twice, or lack a value."""
    options = {
        "plan": (
            "--seeds",
            "--folds",
            "--epochs",
            "--tune",
            "--hours",
            "--sampler",
            "--scheduler",
            "--primary",
            "--margin",
            "--subsets",
            "--vary",
            "--until",
            "--max-trials",
            "--max-gpu-hours",
            "--priority",
            "--latents-every",
            "--keep-weights",
            "--encoders",
            "--recipe",
            "--scale",
            "--concurrency",
            "--sweep",
            "--gpus-per-trial",
            "--cpus-per-trial",
            "--gpu-memory-per-trial",
            "--trials",
            "--search-seed",
            "--objective",
            "--space",
            "--set",
            "--features",
            "--backbone",
            "--dataset",
            "--plugin",
            "--calibrate",
            "--reading",
            "--json",
            "--debugg",
            "--accept-code",
            "--retrain",
            "--halve-batch",
        ),
        "best": ("--metric", "--n", "--by", "--json", "--storage"),
        "status": ("--json", "--storage", "--n"),
        "report": ("--out", "--mixed", "--storage"),
        "rerun": ("--tolerance", "--json", "--plugin"),
        "fields": ("--json", "--plugin"),
        "data": (
            *("--size", "--out", "--classes", "--features", "--set", "--to", "--archive"),
            *(
                "--check",
                "--against",
                "--groups",
                "--linkage",
                "--names",
                "--llm",
                "--llm-url",
                "--llm-timeout",
                "--force",
            ),
        ),
        "plugin": ("--x",),
        "submit": ("--x",),
        "server": ("--port", "--host", "--default-permission", "--x"),
        "ui": ("--x",),
        "": ("--x", "--help"),
    }
    verb = rng.choice(list(options))
    words = [verb] if verb else [hostile(rng, *options)]
    if verb == "plan":
        words += study_words(rng, work)
    elif verb in ("best", "status", "report", "rerun"):
        words.append(hostile(rng, "my-sweep"))
    elif verb == "data":
        words += [rng.choice(["check", "list", "coarsen", "get", hostile(rng, "check")])]
        words += [hostile(rng, "emoji120", "cifar100")] if words[-1] in ("check", "coarsen") else []
        words += [hostile(rng, "emoji120")] if words[-1] == "get" else []  # nothing is fetched
    elif verb == "plugin":
        words += ["check", hostile(rng, "my.py", "os")]
    elif verb == "submit":
        (work / "c.yaml").write_bytes(
            rng.choice([b"", b"[]", b"a: [", b"\xff\xfe", b"provider: 3", b"auth: []\nprovider: x", b"x"])
        )
        words += [str(work / rng.choice(["c.yaml", "no.yaml"])), "ablation"]
    elif words[0] in ("server", "ui"):  # also where a mutation made the word; without more they would start
        words.append(rng.choice(["--nosuch", "\x1b", "\udcff"]))
    for _ in range(rng.randint(0, 2) if verb in ("", "server", "ui") else rng.randint(1, 2)):
        option = rng.choice(options[verb])
        words.append(option)
        if rng.random() < 0.85 and option not in (
            "--json",
            "--mixed",
            "--accept-code",
            "--retrain",
            "--halve-batch",
            "--llm",
            "--force",
        ):
            words.append(hostile(rng, "ce", "ce+anchor", "0,1", "val/top1", "tpe", "lr=0.1", "ablation"))
    if words[:1] == ["fields"] or rng.random() < 0.1:
        words.insert(rng.randint(0, len(words)), hostile(rng))
    return Case(family, tuple(words))


def of_field(rng: random.Random, work: Path, family: str) -> Case:
    """--set of every field there is."""
    from laresa.config import all_fields

    name = rng.choice([*all_fields(), "margin", "beta", "seed", "fold", "nosuch", "alpha_init.ce", "anchor.beta.0"])
    value = hostile(rng, "0.1", "1", "true", "[1,2]", '"tree"', "crop+flip", "ce+anchor", "softmax", "cosine")
    assignment = rng.choice([f"{name}={value}", f"{name}={value}", f"{name}={value}", name, value, f"{name}=={value}"])
    words = ["plan", *study_words(rng, work), "--set", assignment]
    if "--subsets" in words and rng.random() < 0.5:
        words[words.index("--subsets") + 1] = rng.choice(["ce+anchor", "hace", "ce+reg", "ce+triplet"])
    return Case(family, tuple(words))


def of_space(rng: random.Random, work: Path, family: str) -> Case:
    from laresa.config import all_fields

    name = rng.choice([*all_fields(), "alpha_init.ce", "nosuch", hostile(rng)])
    low, high = hostile(rng, "0.1", "1", "3"), hostile(rng, "0.5", "7")
    text = rng.choice(
        [f"{low}:{high}", f"{low}:{high}:log", f"{low}:{high}:int", f"{low},{high}", "fixed", low, f"{low}:"]
    )
    words = ["plan", "search", "--dataset", str(pictures(work)), *QUICK, "--gpus-per-trial", "0", "--trials", "2"]
    return Case(family, (*words, "--space", rng.choice([f"{name}={text}", name])))


def of_arms(rng: random.Random, work: Path, family: str) -> Case:
    words = ["plan", rng.choice(["ablation", "hierarchy"]), "--dataset", str(pictures(work)), *QUICK, "--tune", "0"]
    option = rng.choice(["--subsets", "--primary", "--seeds", "--folds", "--vary"])
    value = hostile(rng, "ce,ce+anchor", "hace", "ce+anchor:ce", "0,1", "0,0", "3,2,1", "hace.dilution=0.1,0.2")
    return Case(family, (*words, "--gpus-per-trial", "0", option, value))


def of_taxonomy(rng: random.Random, work: Path, family: str) -> Case:
    root = pictures(work)
    (root / "taxonomy.json").write_bytes(rng.choice(TAXONOMIES)(rng))
    return _of_data(rng, family, root)


def of_folder(rng: random.Random, work: Path, family: str) -> Case:
    root = pictures(work)
    for spoil in rng.sample(SPOILS, rng.choice([1, 1, 2])):
        with contextlib.suppress(OSError):  # two may not be possible together
            spoil(rng, root)
    return _of_data(rng, family, root)


def _of_data(rng: random.Random, family: str, root: Path) -> Case:
    if rng.random() < 0.6:
        return Case(family, ("data", "check", str(root)))
    more = rng.choice([[], ["--set", "skip_bad_images=true"], ["--set", "image_size=16"], ["--set", "shots=1"]])
    return Case(family, ("plan", *study_words(rng, root.parent, data=str(root)), *more))


def of_state(rng: random.Random, work: Path, family: str) -> Case:
    """Files below LARESA_HOME that are not what they were."""
    words = study_words(rng, work)
    sweep, home = "mine", work / "home"
    name = rng.choice(
        [
            "plan.json",
            "code.json",
            "estimate.json",
            "optuna.journal",
            "driver.lock",
            "trials",
            "server.json",
            "mlflow.db",
            "mlflow",
            "storage",
            "server.lock",
        ]
    )
    place = {"server.json": home / "mlflow", "mlflow.db": home / "mlflow", "server.lock": home / "mlflow"}.get(
        name, home if name in FREE else home / "storage" / sweep
    )
    place.mkdir(parents=True, exist_ok=True)
    content = rng.choice(
        [
            b"",
            b"{",
            b"[]",
            b"3",
            b'"x"',
            b"null",
            b"\xff\xfe\x00",
            b'{"arms": 3, "searches": []}',
            b"[" * 5000,
            b'{"arms": {"ce": 1}, "searches": {}}',
            b'{"url": 3, "pid": "x", "port": []}',
            b"9" * 5000,
            b"{}",
            b'{"url": "http://127.0.0.1:1", "pid": 99999999999999999999, "port": 1}',
            b'{"files": 3}',
            b'{"accepted": {"a": 1}}',
            b'{"op_code": 0, "worker_id": "x", "study_name": "ce", "directions": [2]}\n',
            b'{"op_code": 99}\n',
            b'{"url": "\x1b[31m", "pid": -1, "port": 0}',
            b"SQLite format 3\0" + bytes(100),
        ]
    )
    if rng.random() < 0.1:
        (place / name).mkdir()
    else:
        (place / name).write_bytes(content)
    verb = rng.choice(["plan", "plan", "status", "best", "report", "rerun", "run"])
    if verb == "report" and name == "mlflow.db" and content.startswith(b"SQLite"):
        verb = "best"  # a report would start the server
    if verb == "run":  # with what is refused all the same
        return Case(family, ("run", *words, "--sweep", sweep, "--concurrency", "0"))
    if verb == "plan":
        return Case(family, ("plan", *words, "--sweep", sweep))
    return Case(family, (verb, sweep))


def of_address(rng: random.Random, work: Path, family: str) -> Case:
    (work / "garbage.db").write_bytes(b"no database at all")
    (work / "truncated.db").write_bytes(b"SQLite format 3\0" + bytes(84))
    (work / "file").write_text("")
    option = rng.choice(["--tracking-uri", "--tracking-uri", "--storage"])
    value = rng.choice(ADDRESSES if option == "--tracking-uri" else STORAGES).replace("{work}", str(work))
    verb = rng.choice(["plan", "status", "best", "report", "run"])
    if option == "--storage" and verb in ("best", "report"):
        verb = "status"
    words = study_words(rng, work) if verb in ("plan", "run") else ["my-sweep"]
    refused = ["--cpus-per-trial", "nan"] if verb == "run" else []
    return Case(family, (verb, *words, *refused, option, value))


def of_run(rng: random.Random, work: Path, family: str) -> Case:
    """A run that is refused, by one of its options."""
    wrong = rng.choice(REFUSED)
    return Case(family, ("run", *study_words(rng, work), *wrong))


def bad_json(rng: random.Random) -> bytes:
    text = bytearray(json.dumps({"groups": GROUPS}).encode())
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(text))
        text[place : place + rng.randint(0, 3)] = rng.choice(
            [b"", b'"', b"\xff", b"[", b"}", b"9", b"\x1b", b"\\ud800"]
        )
    return bytes(text)


def mutated(rng: random.Random) -> bytes:
    """A taxonomy with a wrong thing somewhere in it."""
    wrong: list[Any] = [None, 3, 1.5, True, "", "x", [], {}, [1], {"a": 1}, [["cat"]], "\x1b[31m", "\ud800", 10**400]
    fields = rng.choice(
        [
            {"groups": GROUPS},
            {"paths": {"cat": ["pet"], "dog": ["pet"], "saw": ["tool"], "axe": ["tool"]}},
            {"classes": ["axe", "cat", "dog", "saw"]},
        ]
    )
    tree: dict[str, Any] = json.loads(json.dumps(fields))
    kind = next(iter(tree))
    action = rng.randrange(7)
    if action == 0:
        tree[kind] = rng.choice(wrong)
    elif action == 1 and isinstance(tree[kind], dict):
        tree[kind][rng.choice([*tree[kind], "new"])] = rng.choice(wrong)
    elif action == 2:
        tree[rng.choice(["descriptions", "notes", "nosuch"])] = rng.choice(
            [*wrong, {"cat": 3}, {"cat": "\x1b"}, ["a\x1b"]]
        )
    elif action == 3 and isinstance(tree[kind], dict):
        inner = tree[kind][next(iter(tree[kind]))]
        inner[rng.randrange(len(inner))] = rng.choice([*wrong, next(iter(tree[kind])), "cat", "dog"])
    elif action == 4:
        tree["paths"] = {"cat": ["dog"], "dog": ["cat"]}
    elif action == 5:
        tree = {
            "paths": {name: [f"n{i}" for i in range(rng.choice([3, 2000]))] for name in ("cat", "dog", "saw", "axe")}
        }
    else:
        tree[kind] = [*tree[kind], *tree[kind]] if isinstance(tree[kind], list) else {**tree[kind], "pet": ["pet"]}
    return json.dumps(tree).encode()


TAXONOMIES: list[Callable[[random.Random], bytes]] = [
    bad_json,
    mutated,
    mutated,
    mutated,
    lambda rng: rng.choice(
        [b"", b"null", b"[]", b"3", b'"x"', b"[" * 100_000, b'{"a":' * 50_000, b"9" * 5000, b"\xff\xfe{"]
    ),
    lambda rng: rng.randbytes(rng.randint(1, 200)),
]


def _cut(rng: random.Random, root: Path) -> None:
    path = rng.choice(sorted(root.glob("*/*/*.png")))
    path.write_bytes(path.read_bytes()[: rng.randint(0, 70)])


def _flip(rng: random.Random, root: Path) -> None:
    path = rng.choice(sorted(root.glob("*/*/*.png")))
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def _mode(rng: random.Random, root: Path) -> None:
    from PIL import Image

    mode, name = rng.choice(
        [
            ("I;16", "x.png"),
            ("I", "x.tif"),
            ("F", "x.tif"),
            ("CMYK", "x.jpg"),
            ("P", "x.gif"),
            ("1", "x.png"),
            ("LA", "x.png"),
            ("LAB", "x.tif"),
            ("YCbCr", "x.jpg"),
            ("PA", "x.tif"),
            ("I;16", "x.tif"),
        ]
    )
    with contextlib.suppress(OSError, KeyError):  # not every mode can be written as such a file
        Image.new(mode, (9, 7)).save(root / "train" / "cat" / name)


def _odd(rng: random.Random, root: Path) -> None:
    from PIL import Image

    size = rng.choice([(1, 1), (1, 30_000), (30_000, 1), (3, 200)])
    Image.new("RGB", size).save(root / "train" / "cat" / "odd.png")


def _replace(rng: random.Random, root: Path) -> None:
    path = rng.choice([*sorted(root.glob("*/*")), root / "train", root / "test", root / "taxonomy.json"])
    remove = shutil.rmtree if path.is_dir() else Path.unlink
    remove(path)
    if rng.random() < 0.5:
        make = Path.mkdir if path.suffix else Path.touch
        make(path)


def _raw(name: bytes) -> Callable[[random.Random, Path], None]:
    def make(rng: random.Random, root: Path) -> None:
        place = os.fsencode(root / rng.choice(["train", "test", "train/cat", "."])) + b"/" + name
        source = next(root.glob("*/*/*.png"))
        if rng.random() < 0.5:
            os.makedirs(place)
            shutil.copy(source, place + b"/0.png")
        else:
            shutil.copy(source, place + b".png")

    return make


SPOILS: list[Callable[[random.Random, Path], None]] = [
    *(
        _cut,
        _flip,
        _flip,
        _mode,
        _mode,
        _odd,
        _replace,
        _raw(b"\xff\xfe"),
        _raw(b"\x1b[31m"),
        _raw(b"a\nb"),
        _raw(b"x" * 240),
    ),
    lambda rng, root: (root / "train" / "cat" / "loop.png").symlink_to("loop.png"),
    lambda rng, root: (root / "train" / "loop").symlink_to(root),
    lambda rng, root: (root / "train" / "cat" / "0.png").chmod(0),
    lambda rng, root: (root / "train" / "cat" / "sub").mkdir(),
    lambda rng, root: os.mkfifo(root / "train" / "cat" / "fifo.png"),
    lambda rng, root: (root / "train" / "cat" / "text.png").write_text("GIF89a not really"),
    lambda rng, root: (root / "taxonomy.json").unlink(),
    lambda rng, root: (root / "val").mkdir(),
]
REFUSED: tuple[tuple[str, ...], ...] = (
    ("--cpus-per-trial", "nan"),
    ("--gpus-per-trial", "nan"),
    ("--gpus-per-trial", "7"),
    ("--concurrency", "0"),
    ("--hours", "nan"),
    ("--seeds", "99999999999999999999"),
    ("--seeds", "a"),
    ("--folds", "9"),
    ("--set", "seed=7"),
    ("--set", "epochs=NaN"),
    ("--set", "image_size=100000"),
    ("--set", "encoder=/no/such/folder"),
    ("--set", "backbone=nosuch"),
    ("--dataset", "/no/such/folder"),
    ("--dataset", "~nosuch"),
    ("--sweep", "a/b"),
    ("--sweep", "\x1b[31m"),
    ("--sweep", "a" * 300),
    ("--storage", "/dev/null/x"),
    ("--storage", "ftp://x"),
    ("--tracking-uri", "ftp://x"),
    ("--tracking-uri", "http://u:s3cret@127.0.0.1:1"),
    ("--tracking-uri", "http://127.0.0.1:1"),
    ("--tracking-uri", "sqlite:////no/such/x.db"),
    ("--sampler", "foo"),
    ("--plugin", "/no/such.py"),
)
FAMILIES: dict[str, tuple[Callable[[random.Random, Path, str], Case], int]] = {
    "line": (of_line, 24),
    "field": (of_field, 16),
    "space": (of_space, 8),
    "arms": (of_arms, 8),
    "taxonomy": (of_taxonomy, 12),
    "folder": (of_folder, 12),
    "state": (of_state, 8),
    "address": (of_address, 8),
    "run": (of_run, 4),
}


# ---------------------------------------------------------------------- the process that runs them
class TooLongError(BaseException):
    """A case ran into its limit."""


def _alarm(number: int, frame: Any) -> None:
    raise TooLongError


def serve() -> None:
    """Run the cases whose seed and number stand in the lines of stdin; answer each with a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    said = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the process)
    for descriptor in (1, 2):
        os.dup2(said.fileno(), descriptor)
    sys.stdout.reconfigure(line_buffering=True)
    signal.signal(signal.SIGALRM, _alarm)
    from sweeps.cli.main import main
    from sweeps.service.tracking.local_server import LocalServer

    _warm(main)
    for line in sys.stdin:
        seed, number = json.loads(line)
        with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
            work = Path(folder)
            os.environ |= {
                "LARESA_HOME": str(work / "home"),
                "XDG_CACHE_HOME": str(work / "cache"),
                "LARESA_DATA": folder,
            }
            _keep_embeddings(work)
            os.chdir(work)
            case = draw(seed, number, work)
            before = _files(work / "home")
            said.seek(0)
            said.truncate()
            code = _ended(main, case)
            sys.stdout.flush()
            sys.stderr.flush()
            said.seek(0)
            output = said.read().decode(errors="backslashreplace")
            wrote = sorted(_files(work / "home") - before)
            if "mlflow/server.json" in wrote:  # a fault; it must not outlive its case
                LocalServer().stop()
        words = [word.replace(folder, "WORK") for word in case.words]
        answers.write(json.dumps([case.family, words, code, output.replace(folder, "WORK"), wrote]) + "\n")
        answers.flush()


def _warm(main: Callable[[list[str]], int]) -> None:
    """Import what the cases import, and load the sentence encoder."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.environ |= {"LARESA_HOME": f"{folder}/home", "XDG_CACHE_HOME": f"{folder}/cache"}
        words = ["--dataset", str(pictures(Path(folder))), *QUICK, "--gpus-per-trial", "0"]
        for study in ("ablation", "search"):
            main(["plan", study, *words])


def _ended(main: Callable[[list[str]], int], case: Case) -> int | str:
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        return main(list(case.words))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except TooLongError:
        return "too long"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _keep_embeddings(work: Path) -> None:
    """Of all cases: what the sentence encoder says of the same few names."""
    kept = Path(tempfile.gettempdir()) / f"fuzz-embeddings-{os.getpid()}"
    kept.mkdir(exist_ok=True)
    (work / "cache" / "laresa").mkdir(parents=True)
    (work / "cache" / "laresa" / "embeddings").symlink_to(kept)


def _files(home: Path) -> set[str]:
    return {f"{path.relative_to(home)}" for path in home.rglob("*")} if home.exists() else set()


# ---------------------------------------------------------------------- asking it
@dataclass(frozen=True)
class Answer:
    """What a case did. code: "too long" or "died" where it did not end by itself."""

    number: int
    family: str
    words: tuple[str, ...]
    code: int | str
    output: str
    wrote: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """What is wrong with it; nothing where the case ended as it should."""
        found = [] if self.code in (0, 1, 2) else [f"exit code {self.code}"]
        found += ["a traceback"] if "Traceback" in self.output or "--- Logging error" in self.output else []
        found += ["called a bug"] if "this is a bug in laresa" in self.output else []
        found += ["no word of why"] if self.code != 0 and not self.output.strip() else []
        found += ["raw control characters"] if any(c in self.output for c in "\x1b\r\x07\x9b\u202e") else []
        found += ["a password"] if "s3cret" in self.output else []
        found += [f"wrote {', '.join(self.wrote)}"] if self.wrote else []
        return found


def answers(seed: int, numbers: range) -> Iterator[Answer]:
    """Of the cases of a seed, in their order."""
    process, left = None, list(numbers)
    try:
        while left:
            process = process or _start()
            assert process.stdin
            assert process.stdout
            number = left.pop(0)
            process.stdin.write(json.dumps([seed, number]) + "\n")
            process.stdin.flush()
            watch = _killer(process)
            line = process.stdout.readline()
            watch.cancel()
            if line:
                family, words, code, output, wrote = json.loads(line)
                yield Answer(number, family, tuple(words), code, output, tuple(wrote))
            else:
                yield Answer(number, "?", (), "died", "", ())
            if not line or code == "too long":
                _end(process)
                process = None
    finally:
        if process is not None:
            _end(process)


def _start() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from tests.sweeps.fuzz import serve; serve()"]
    root = str(Path(__file__).parent.parent.parent)
    variables = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
        variables.pop(name, None)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables, cwd="/")


def _killer(process: subprocess.Popen[str]) -> Any:
    """Ends a process that does not even hear its alarm."""
    import threading

    timer = threading.Timer(LIMIT + 60, process.kill)  # its imports count too
    timer.start()
    return timer


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            stream.close()  # type: ignore[union-attr]
    shutil.rmtree(Path(tempfile.gettempdir()) / f"fuzz-embeddings-{process.pid}", ignore_errors=True)


def replay(answer: Answer, seed: int) -> str:
    """What went wrong, and how to see it again."""
    shown = answer.output if len(answer.output) < 3000 else f"{answer.output[:500]}\n...\n{answer.output[-2500:]}"
    words = " ".join(word[:200] if word.isprintable() else ascii(word)[:200] for word in answer.words)
    again = f"python -m tests.sweeps.fuzz {seed} 1 {answer.number}"
    return f"{'; '.join(answer.faults)}\n  laresa {words}\n  {again}\n{shown if shown.isascii() else ascii(shown)}"


def main() -> int:
    seed, count, first = ([*map(int, sys.argv[1:]), *(0, 500, 0)[len(sys.argv) - 1 :]])[:3]
    wrong = 0
    counts: dict[str, int] = {}
    for answer in answers(seed, range(first, first + count)):
        counts[answer.family] = counts.get(answer.family, 0) + 1
        if answer.faults or count == 1:
            wrong += bool(answer.faults)
            print(replay(answer, seed), end="\n\n", flush=True)
    print(
        f"seed {seed}: {count} inputs ({', '.join(f'{n} {name}' for name, n in sorted(counts.items()))}), {wrong} wrong"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
