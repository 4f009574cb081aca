"""One trial's weights over epochs: the LARESA paper's Figures 4 (alpha) and 9 (beta), as an SVG artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from laresa.measurement import Measurement


def draw_weights(history: Sequence[Measurement], path: Path, *, title: str) -> None:
    """Weight of each term (solid) and beta (dashed) against the epoch."""
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no global state on a worker

    names = [name for name in history[-1].metrics if name.startswith("weight/") and name != "weight/entropy"]
    names += [name for name in ("beta/fine", "beta/coarse") if name in history[-1].metrics]
    figure = Figure(figsize=(6, 3.4))
    axes = figure.subplots(gridspec_kw={"left": 0.1, "right": 0.97, "bottom": 0.14, "top": 0.91})
    epochs = [measurement.epoch for measurement in history]
    for name in names:
        values = [measurement.metrics.get(name, float("nan")) for measurement in history]
        style = "--" if name.startswith("beta/") else "-"
        axes.plot(epochs, values, style, linewidth=1.4, label=name.replace("weight/", "").replace("beta/", "beta "))
    axes.set(xlabel="epoch", ylabel="weight", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text: smaller, quicker, searchable
        figure.savefig(path)
