"""Small PNG figures whose bytes depend on the data alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

_METADATA = {"Software": None}  # matplotlib writes its version there otherwise


def loss_curve(path: Path, steps: Sequence[int], loss: Sequence[float]) -> None:
    """Loss on rows not trained on before (nats an answer token, log axis), over steps."""
    figure = Figure(figsize=(6, 3.2), dpi=90, layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, loss, color="#1f5f99", linewidth=1.3)
    axes.set(xlabel="step", ylabel="loss on new rows (nats per token)", yscale="log")
    axes.grid(True, which="both", alpha=0.25)
    _save(figure, path)


def confusion_matrix(path: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Gold tool (rows) against predicted tool (columns), counts on a log colour scale.

    Only tools that were mixed up at least once are drawn; the diagonal is left in for scale.
    """
    mixed = sorted({name for pair in pairs if pair[0] != pair[1] for name in pair})
    meant = [name for name in mixed if any(name == gold for gold, _ in pairs)]
    found = Counter(pairs)
    counts = np.array([[found[gold, name] for name in mixed] for gold in meant])
    side = 2.2 + 0.18 * len(mixed)
    figure = Figure(figsize=(side + 0.6, side), dpi=72, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="predicted tool", ylabel="gold tool")
    if mixed:
        shown = np.ma.masked_equal(counts, 0)
        image = axes.imshow(shown, norm=LogNorm(1, max(2, counts.max())), cmap="viridis_r")
        figure.colorbar(image, ax=axes, shrink=0.6, label="inputs")
        axes.set_xticks(range(len(mixed)), mixed, rotation=90, fontsize=6)
        axes.set_yticks(range(len(meant)), meant, fontsize=6)
    else:
        axes.text(0.5, 0.5, "no tool was mixed up", ha="center", va="center")
        axes.set(xticks=[], yticks=[])
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    FigureCanvasAgg(figure).print_png(str(partial), metadata=_METADATA)
    partial.replace(path)
