"""What a trial's files and its run are found by, within its sweep."""

from __future__ import annotations


def trial_key(signature: str, code: str) -> str:
    return f"{signature}-{code}"
