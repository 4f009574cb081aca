"""`laresa submit cluster.yaml STUDY ...`: a study on a cluster, its arguments whole, its exit code back.

`ray submit` joins a script's arguments unquoted into a line for the head's shell, so that a `;` in one is executed
there, and ends with 1 whatever happened. Here the line is quoted, and a head that does not answer is reported within a
minute.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laresa.errors import ConfigError, LaresaError
from sweeps.cli.studies import STUDIES
from sweeps.service.provenance import git_commit

ANSWER_SECONDS = 25
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
        description="Like `ray submit cluster.yaml sweeps/STUDY.py ...`, with the arguments passed whole.",
    )
    submit.add_argument("cluster", type=Path, metavar="CLUSTER.YAML")
    submit.add_argument("study", choices=tuple(STUDIES), metavar="STUDY")
    submit.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the study's own options")
    submit.set_defaults(handler=lambda args: submit_study(args.cluster, args.study, args.arguments))


def submit_study(cluster: Path, study: str, arguments: Sequence[str]) -> int:
    """Run it on the head and return its exit code. ConfigError: the YAML or an argument can't be used; ClusterError."""
    from cluster.check import check

    if faults := check(cluster):
        raise ConfigError("\n".join(faults))
    line = (
        f"LARESA_GIT_COMMIT={git_commit()} {command_line(study, arguments)}"  # the head has the code, not its history
    )
    greet(cluster)
    return _follow(_start(cluster, f"echo {MARK} begin; {line}; echo {MARK} $?", subprocess.PIPE))


def command_line(study: str, arguments: Sequence[str]) -> str:
    """What the head's shell is given: every argument as one word, whatever it holds."""
    for argument in arguments:
        if not argument.isprintable():
            raise ConfigError(f"argument {argument!r}: control characters don't travel through a remote terminal")
    return shlex.join(["laresa", "run", study, *arguments])


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
