"""The report that several tests look at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reports import Report, build_report
from tests.reports.handmade import EVIL, FULL, latents, study


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A study with a failure, an evil name, two hosts and latents."""
    records = study(3, 12, arms=("ce", "ce+anchor+reg", "ce+triplet+reg", FULL))
    records[4] = replace(records[4], state="failed", metrics={}, error=f"{EVIL}\nsecond line")
    records[5] = replace(records[5], provenance={"host": EVIL, "git_commit": "0123abc"})
    return build_report(
        records,
        tmp_path_factory.mktemp("report"),
        latents=lambda trial: latents(trial, 60, 12, 3),
        title=EVIL,
        tracking_url="http://127.0.0.1:5000/#/experiments/1",
        plan={"trials": (18, 17)},
    )
