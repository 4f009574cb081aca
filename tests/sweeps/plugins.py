"""A user's own files: what README.md shows first, and a study that uses it."""

from __future__ import annotations

from pathlib import Path

from tests.readme import FILES

TERMS = FILES["my_terms.py"]
STUDY = '''
"""Does the pull need the triplet?"""
import sweeps
from my_gammas import GAMMAS
from sweeps.options import add_study_options, base_config, replicates
from sweeps.service.study import Cell, Study

def add_options(parser):
    add_study_options(parser, seeds="0")
    parser.add_argument("--gammas", default=GAMMAS)

def build(args):
    base = base_config(args)
    gammas = [float(gamma) for gamma in args.gammas.split(",")]
    cells = [Cell(f"gamma {g:g}", base.replace(subset="ce+angular", **{"angular.gamma": g})) for g in gammas]
    return Study(args.sweep or "gammas", tuple(cells), replicates(args))

if __name__ == "__main__":
    sweeps.main(__file__)
'''


def write_plugins(folder: Path) -> None:
    """my_terms.py; my_study.py, which imports my_gammas.py from beside it."""
    (folder / "my_terms.py").write_text(TERMS)
    (folder / "my_study.py").write_text(STUDY.lstrip())
    (folder / "my_gammas.py").write_text('GAMMAS = "1,3"\n')
