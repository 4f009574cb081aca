"""The command line starts at once: what is heavy is imported when it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sweeps.cli.main import build_parser, main

HEAVY = ("torch", "ray", "mlflow", "optuna", "numpy", "pandas", "sklearn", "matplotlib")
PARSER = "from sweeps.cli.main import build_parser; build_parser()"
QUERY = "from sweeps import best, trials"


@pytest.mark.parametrize("code", [PARSER, QUERY], ids=["help", "query"])
def test_it_starts_without_what_is_heavy(code: str):
    code += f"; import sys; sys.exit(', '.join(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_a_plugin_may_be_called_like_a_verb(capsys: pytest.CaptureFixture[str]):
    assert main(["run", "--plugin", "run"]) == 2
    assert "plugin 'run': no module of that name" in capsys.readouterr().err


def test_no_option_is_abbreviated(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        build_parser().parse_args(["run", "ablation", "--schedule", "none"])  # not --scheduler
    assert "--schedule none (schedule is a field: --set schedule=VALUE)" in capsys.readouterr().err
