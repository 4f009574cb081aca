"""`laresa submit cluster.yaml STUDY ...`: a study on a cluster, its arguments whole, its exit code back.

`ray submit` joins a script's arguments unquoted into a line for the head's shell, so that a `;` in one is executed
there, uploads the script alone, and ends with 1 whatever happened. Here the line is quoted, a study file and plugin
files travel in it with what they import from beside them, and a head that does not answer is reported within a minute.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from laresa.errors import ConfigError, LaresaError
from laresa.paths import expanded
from sweeps.cli.studies import is_file
from sweeps.service.provenance import git_commit
from sweeps.service.worker.plugins import source_files

ANSWER_SECONDS = 25
UPLOADED = "~/.cache/laresa/submitted"  # on the head; below it a folder by what was uploaded
UPLOAD_BYTES = 90_000  # in one line; Linux takes 128 KiB an argument
MARK = "laresa-submit-exit"  # the study's exit code comes back in the last line: `ray exec` knows only 0 and 1
REASONS = {  # what ssh says -> what to do
    "Permission denied": "the head refuses the key: see auth.ssh_user and auth.ssh_private_key in the YAML",
    "No such file or directory": "the key file of auth.ssh_private_key does not exist",
    "Connection refused": "the head's ssh port is closed: is sshd running there?",
    "Could not resolve hostname": "the head's name is unknown here: see provider.head_ip in the YAML",
    "Head node of cluster": "the cluster is not up: `ray up` first",
}


class ClusterError(LaresaError, ConnectionError):
    """The cluster does not answer, or does not let us in."""


def add(verbs: Any) -> None:
    submit = verbs.add_parser(
        "submit",
        help="run a study on a cluster that is up",
        description="Like `ray submit cluster.yaml sweeps/STUDY.py ...`, with the arguments passed whole, and with "
        "study files and --plugin files uploaded.",
    )
    submit.add_argument("cluster", type=Path, metavar="CLUSTER.YAML")
    submit.add_argument("study", metavar="STUDY", help="a name, a file (which is uploaded), or a module there")
    submit.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the study's own options")
    submit.set_defaults(handler=lambda args: submit_study(args.cluster, args.study, args.arguments))


def submit_study(cluster: Path, study: str, arguments: Sequence[str]) -> int:
    """Run it on the head and return its exit code. ConfigError: the YAML or an argument can't be used; ClusterError."""
    from cluster.check import check

    if faults := check(cluster):
        raise ConfigError("\n".join(faults))
    words, upload = uploaded([study, *arguments])
    line = f"LARESA_GIT_COMMIT={git_commit()} {command_line(words)}"  # the head has the code, not its history
    greet(cluster)
    return _follow(_start(cluster, f"echo {MARK} begin; {upload}{line}; echo {MARK} $?", subprocess.PIPE))


def command_line(words: Sequence[str]) -> str:
    """What the head's shell is given: every argument as one word, whatever it holds."""
    for argument in words:
        if not argument.isprintable():
            raise ConfigError(f"argument {argument!r}: control characters don't travel through a remote terminal")
    return shlex.join(["laresa", "run", *words])


def uploaded(words: Sequence[str]) -> tuple[list[str], str]:
    """(words with the head's paths in place of ours, what the head's shell does first) for a study and its plugins.

    ConfigError: a file is not here, or all of them are too large for a line.
    """
    given: dict[int, tuple[str, str]] = {}  # place in words -> (what stands before the path, the path)
    for index, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--plugin" and is_file(value):
            given[index] = (f"{option}{equals}", value)
        elif is_file(word) and (index == 0 or words[index - 1] == "--plugin"):
            given[index] = ("", word)
    if not given:
        return list(words), ""
    files: dict[str, bytes] = {}
    places = {index: _add(files, str(index), path) for index, (_, path) in given.items()}
    folder = f"{UPLOADED}/{hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]}"
    text = base64.b64encode(_packed(files)).decode()
    if len(text) > UPLOAD_BYTES:
        raise ConfigError(
            f"the study's and plugins' files are {len(text)} bytes, packed: expected {UPLOAD_BYTES} at most; install "
            "what is larger as a package on the hosts"
        )
    # ~ stands outside of quotes for the shell; where laresa is given the path, laresa resolves it.
    make = f"(umask 077; mkdir -p {folder} && echo {text} | base64 -d | tar -xzf - -C {folder})"
    found = {index: f"{given[index][0]}{folder}/{place}" for index, place in places.items()}
    return [found.get(index, word) for index, word in enumerate(words)], f"{make} && "


def _add(files: dict[str, bytes], folder: str, spec: str) -> str:
    """Add a file and what it imports from beside it, below `folder`; its own name there."""
    path = expanded(spec, "file").resolve()
    if not path.is_file():
        raise ConfigError(f"no file {spec!r} here (in {Path.cwd()}) to upload")
    files |= {f"{folder}/{name}": source.read_bytes() for name, source in source_files(path).items()}
    return f"{folder}/{path.name}"


def _packed(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def greet(cluster: Path) -> None:
    """ClusterError, with the reason, unless the head lets us in within ANSWER_SECONDS."""
    with tempfile.TemporaryFile("w+") as said:  # no pipe: ssh's shared connection stays behind and would hold it open
        process = _start(cluster, f"echo {MARK} 0", said.fileno())
        silent = []
        try:
            process.wait(ANSWER_SECONDS)
        except subprocess.TimeoutExpired:
            silent = [f"the head did not answer within {ANSWER_SECONDS} s"]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        said.seek(0)
        lines = [line.strip() for line in said.read().splitlines() if line.strip()]
    if f"{MARK} 0" in lines:
        return
    known = [advice for words, advice in REASONS.items() if any(words in line for line in lines)]
    raise ClusterError(f"{cluster}: " + [*known, *silent, *lines[-1:], "`ray exec` failed"][0])


def _start(cluster: Path, line: str, output: int) -> subprocess.Popen[str]:
    """`ray exec`, as a group of its own so that all of it can be ended."""
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "exec", str(cluster), line]
    return subprocess.Popen(
        ray,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )


def _follow(process: subprocess.Popen[str]) -> int:
    """Show what the study prints; its exit code. Interrupted here, it ends there, and submitted again it continues."""
    begun = False
    try:
        for line in process.stdout or ():
            if found := re.fullmatch(rf"{MARK} (begin|\d+)\s*", line):
                if found[1] != "begin":
                    return int(found[1])
                begun = True
            elif begun:  # what comes before is Ray's own
                print(line, end="", flush=True)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    raise ClusterError("the connection to the head broke: submit the same again, it continues where it stood")
