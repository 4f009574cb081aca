"""What we claim: tables, figures and one page, built from trial records alone (no GPU, no scheduler, no tracker)."""

from __future__ import annotations

from reports.build import Report, build_report

__all__ = ["Report", "build_report"]
