"""Plots as SVG to stand in an HTML page: colours come from the page's CSS, bytes from the data alone.

Every plot has a title and a description that a screen reader reads in its place; every mark has a
title of its own that a mouse shows. Positions are rounded to a tenth of a unit of the view box.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

WIDTH = 460  # of the view box of a plot with axes: wide enough for its text to be read on a phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 44


@dataclass(frozen=True)
class Point:
    """A variant in the Pareto plot: shares in [0, 1], milliseconds, megabytes if known."""

    name: str
    exact_match: float
    low: float
    high: float
    p50_ms: float
    size_mb: float | None


class Drawing:
    """An SVG under construction, with the few shapes that the plots need."""

    def __init__(self, key: str, width: float, height: float, title: str, description: str) -> None:
        """``key`` is the id of the plot and must be unique in its page."""
        self.root = ElementTree.Element(
            "svg",
            {
                "id": key,
                "class": "plot",
                "viewBox": f"0 0 {_number(width)} {_number(height)}",
                "role": "img",
                "aria-labelledby": f"{key}-title {key}-desc",
            },
        )
        ElementTree.SubElement(self.root, "title", id=f"{key}-title").text = title
        ElementTree.SubElement(self.root, "desc", id=f"{key}-desc").text = description

    def add(self, tag: str, tip: str = "", text: str = "", **attributes: float | str) -> None:
        """A shape; ``kind`` is its CSS class, ``tip`` what a mouse over it shows."""
        named = {"kind": "class", "anchor": "text-anchor"}
        values = {named.get(key, key): _number(value) for key, value in attributes.items()}
        shape = ElementTree.SubElement(self.root, tag, values)
        if tip:
            ElementTree.SubElement(shape, "title").text = tip
        if text:
            shape.text = text

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float) -> None:
        """A straight line."""
        self.add("line", kind=kind, x1=x1, y1=y1, x2=x2, y2=y2)

    def text(self, text: str, x: float, y: float, kind: str = "", anchor: str = "start") -> None:
        """A word on its base line."""
        self.add("text", text=text, x=x, y=y, kind=kind, anchor=anchor)

    def __str__(self) -> str:
        return ElementTree.tostring(self.root, encoding="unicode")


@dataclass(frozen=True)
class Scale:
    """Values ``low`` to ``high`` (over 0 if ``log``) as shares of an axis' length."""

    low: float
    high: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = map(math.log10 if self.log else float, (self.low, self.high, value))
        return (value - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers on it."""
        return (log_ticks if self.log else ticks)(self.low, self.high)


class Axes:
    """A frame with an x and a y axis, drawn as it is made."""

    def __init__(
        self,
        drawing: Drawing,
        height: float,
        x: Scale,
        y: Scale,
        labels: tuple[str, str],
    ) -> None:
        self.right, self.bottom = WIDTH - _RIGHT, height - _BOTTOM
        self._x, self._y = x, y
        for tick in y.ticks():
            drawing.line("grid", _LEFT, self.y(tick), self.right, self.y(tick))
            drawing.text(f"{tick:g}", _LEFT - 6, self.y(tick) + 4, "tick", "end")
        for tick in x.ticks():
            drawing.line("grid", self.x(tick), _TOP, self.x(tick), self.bottom)
            drawing.text(f"{tick:g}", self.x(tick), self.bottom + 16, "tick", "middle")
        drawing.line("axis", _LEFT, self.bottom, self.right, self.bottom)
        drawing.text(labels[0], (_LEFT + self.right) / 2, height - 8, "label", "middle")
        middle = (_TOP + self.bottom) / 2
        drawing.add(
            "text", text=labels[1], kind="label", anchor="middle",
            transform=f"translate(13 {_number(middle)}) rotate(-90)",
        )  # fmt: skip

    def x(self, value: float) -> float:
        """Where a value lies on the x axis."""
        return _LEFT + self._x(value) * (self.right - _LEFT)

    def y(self, value: float) -> float:
        """Where a value lies on the y axis."""
        return self.bottom - self._y(value) * (self.bottom - _TOP)


def pareto(points: Sequence[Point], reference: tuple[str, float]) -> str:
    """Exact match over p50 latency, area for size; the variants that no other one beats are joined.

    Args:
        reference: a variant's name and exact match, drawn as a level line; named there unless it is
            one of the points.
    """
    height = 320
    best = frontier(points)
    drawing = Drawing(
        "pareto", WIDTH, height, "Exact match against latency",
        "; ".join(_described(point) for point in points)
        + f". Level line: {reference[0]}, {100 * reference[1]:.1f}%."
        + (f" Not beaten in both by another: {', '.join(p.name for p in best)}." if best else ""),
    )  # fmt: skip
    lows, highs = [p.low for p in points], [p.high for p in points]
    span = (100 * min(*lows, reference[1]), 100 * max(*highs, reference[1]))
    margin = max(1.0, 0.12 * (span[1] - span[0]))
    shares = Scale(max(0.0, span[0] - margin), min(100.0, span[1] + margin))
    # Logarithmic: a teacher takes a hundred times as long as what replaces it.
    times = [point.p50_ms for point in points]
    latencies = Scale(min(times) / 2, max(times) * 2, log=True)
    labels = ("p50 latency of one query (ms)", "exact match (%)")
    axes = Axes(drawing, height, latencies, shares, labels)
    level = axes.y(100 * reference[1])
    drawing.line("reference", _LEFT, level, axes.right, level)
    if reference[0] not in {point.name for point in points}:
        text = f"{reference[0]} {100 * reference[1]:.1f}%"
        drawing.text(text, axes.right - 4, level - 6, "", "end")
    for a, b in zip(best, best[1:], strict=False):
        ends = (
            axes.x(a.p50_ms),
            axes.y(100 * a.exact_match),
            axes.x(b.p50_ms),
            axes.y(100 * b.exact_match),
        )
        drawing.line("frontier", *ends)
    largest = max(point.size_mb or 0.0 for point in points)
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda point: -(point.size_mb or 0.0)):
        x, y = axes.x(point.p50_ms), axes.y(100 * point.exact_match)
        radius = 26 * math.sqrt(point.size_mb / largest) if point.size_mb else 5
        drawing.add("circle", tip=_described(point), kind="bubble", cx=x, cy=y, r=radius)
        drawing.line("interval", x, axes.y(100 * point.low), x, axes.y(100 * point.high))
        drawing.add("circle", kind="dot", cx=x, cy=y, r=3)
        size = f", {point.size_mb:.0f} MB" if point.size_mb else ""
        over = min(y - radius, axes.y(100 * point.high)) - 6
        under = max(y + radius, axes.y(100 * point.low)) + 14
        at = _free_place(point.name + size, x, over, under, taken)
        drawing.text(point.name + size, *at, "name", "middle")
    return str(drawing)


def _free_place(
    text: str, x: float, over: float, under: float, taken: list[tuple[float, float, float]]
) -> tuple[float, float]:
    """Where a label meets none of those before it: over its mark, under it, or further up or down.

    Args:
        taken: ``(x, y, half width)`` of the labels placed so far; this one is added.
    """
    half, line = 3.8 * len(text), 15  # about the size of 12 px bold type
    x = min(max(x, _LEFT + half), WIDTH - half)
    places = [y for i in range(8) for y in (over - i * line, under + i * line)]

    def free(y: float) -> bool:
        return all(abs(y - b) >= line or abs(x - a) >= half + h for a, b, h in taken)

    y = next((y for y in places if y > _TOP and free(y)), over)
    taken.append((x, y, half))
    return x, y


def _described(point: Point) -> str:
    size = f", {point.size_mb:.0f} MB" if point.size_mb else ""
    return (
        f"{point.name}: {100 * point.exact_match:.1f}% ({100 * point.low:.1f} to "
        f"{100 * point.high:.1f}), {point.p50_ms:.0f} ms{size}"
    )


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both exact match and latency, fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.p50_ms, -point.exact_match)):
        if not best or point.exact_match > best[-1].exact_match:
            best.append(point)
    return best


def contributions(rows: Sequence[tuple[str, float, float, float]]) -> str:
    """A bar per step, ``(name, change, low, high)`` in percentage points, with its interval."""
    step, top = 38, 8
    height = top + step * len(rows) + 40
    named = "; ".join(f"{n}: {c:+.1f} ({low:+.1f} to {high:+.1f})" for n, c, low, high in rows)
    drawing = Drawing(
        "contributions", WIDTH, height, "Points of exact match that each step brings", f"{named}."
    )
    low, high = min(0.0, *(row[2] for row in rows)), max(0.0, *(row[3] for row in rows))
    pad = 0.04 * (high - low) or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return 8 + (value - low) / (high - low) * (WIDTH - 16)

    for tick in ticks(low, high):
        drawing.line("grid", x(tick), top, x(tick), height - 36)
        drawing.text(f"{tick:+g}" if tick else "0", x(tick), height - 22, "tick", "middle")
    for i, (name, change, lowest, highest) in enumerate(rows):
        y, side = top + step * i, "gain" if change >= 0 else "loss"
        tip = f"{name}: {change:+.1f} ({lowest:+.1f} to {highest:+.1f})"
        drawing.add(
            "rect", tip=tip, kind=f"bar {side}", x=min(x(0), x(change)), y=y + 17,
            width=max(1.0, abs(x(change) - x(0))), height=13, rx=2,
        )  # fmt: skip
        drawing.line("interval", x(lowest), y + 23.5, x(highest), y + 23.5)
        # Over the side where the bar is not: text and bar never meet.
        room = x(0) < WIDTH / 2
        at = (x(0) + 4, "start") if room else (x(0) - 4, "end")
        drawing.text(f"{name}: {change:+.1f}", at[0], y + 12, "name", at[1])
    drawing.line("axis", x(0), top, x(0), height - 36)
    drawing.text("points of exact match", WIDTH / 2, height - 6, "label", "middle")
    return str(drawing)


def loss(steps: Sequence[int], curves: Mapping[str, Sequence[float]]) -> str:
    """Loss in nats a token on a log axis over steps, a line per curve, named at its end.

    Values must be above 0.
    """
    height = 280
    ends = "; ".join(f"{name}: {c[0]:.3g} to {c[-1]:.3g}" for name, c in curves.items())
    drawing = Drawing(
        "loss", WIDTH, height, "Training loss", f"Steps {steps[0]} to {steps[-1]}. {ends}."
    )
    values = [value for curve in curves.values() for value in curve]
    losses = Scale(min(values) / 1.15, max(values) * 1.15, log=True)
    labels = ("optimizer step", "loss (nats a token)")
    axes = Axes(drawing, height, Scale(0, steps[-1]), losses, labels)
    for i, (name, curve) in enumerate(curves.items()):
        corners = (
            f"{_number(axes.x(a))},{_number(axes.y(b))}" for a, b in zip(steps, curve, strict=True)
        )
        drawing.add("polyline", tip=name, kind=f"curve curve-{i}", points=" ".join(corners))
        drawing.add(
            "rect", kind=f"key curve-{i}", x=axes.right - 150, y=22 + 18 * i, width=14, height=3
        )
        drawing.text(name, axes.right - 130, 28 + 18 * i, "name")
    return str(drawing)


def confusion(pairs: Sequence[tuple[str, str]]) -> str:
    """Gold tool (rows) against predicted tool (columns), only those that were mixed up.

    An answer to the right tool is drawn pale, a mix-up strong; the darker, the more often.
    """
    found = Counter(pairs)
    wrong = {pair: count for pair, count in found.items() if pair[0] != pair[1]}
    names = sorted({name for pair in wrong for name in pair})
    meant = [name for name in names if any(name == gold for gold, _ in pairs)]
    label, cell = 8 + 6.1 * max(map(len, names), default=0), 15
    width, height = label + cell * len(names) + 8, label + cell * len(meant) + 8
    drawing = Drawing(
        "confusion", width, height, "Tools meant and chosen",
        f"{sum(wrong.values())} of {len(pairs)} answers name another tool than the one meant; "
        f"{len(names)} tools are involved. The table beside the plot lists every mix-up.",
    )  # fmt: skip
    for row, gold in enumerate(meant):
        y = label + cell * row
        drawing.text(gold, label - 5, y + 11, "tick", "end")
        drawing.line("grid", label, y, width - 8, y)
    for column, name in enumerate(names):
        x = label + cell * column
        drawing.add(
            "text", text=name, kind="tick",
            transform=f"translate({_number(x + 11)} {_number(label - 5)}) rotate(-90)",
        )  # fmt: skip
        drawing.line("grid", x, label, x, height - 8)
    most = max(wrong.values(), default=1)
    for row, gold in enumerate(meant):
        for column, name in enumerate(names):
            count = found[gold, name]
            if not count:
                continue
            strength = 1.0 if gold == name else 0.35 + 0.65 * count / most
            drawing.add(
                "rect", tip=f"{gold} meant, {name} chosen: {count}",
                kind="cell right" if gold == name else "cell wrong",
                x=label + cell * column + 1, y=label + cell * row + 1,
                width=cell - 2, height=cell - 2, rx=2, opacity=round(strength, 2),
            )  # fmt: skip
    return str(drawing)


def funnel(key: str, title: str, kept: Mapping[str, int], refused: Mapping[str, int]) -> str:
    """What was drawn: a bar of what was kept by source, then what was refused by reason."""
    total = max(1, sum(kept.values()) + sum(refused.values()))
    parts = "; ".join(
        [f"kept, {name}: {count:,}" for name, count in kept.items()]
        + [f"refused, {name}: {count:,}" for name, count in refused.items()]
    )
    drawing = Drawing(key, WIDTH, 26, title, f"{parts}.")
    x = 0.0
    for kind, group in (("kept", kept), ("refused", refused)):
        for i, (name, count) in enumerate(group.items()):
            width = WIDTH * count / total
            drawing.add(
                "rect", tip=f"{kind}, {name}: {count:,}", kind=f"{kind} shade-{i % 4}",
                x=x, y=2, width=max(0.5, width - 1), height=22,
            )  # fmt: skip
            x += width
    return str(drawing)


def share_bar(share: float, low: float, high: float) -> str:
    """A share in [0, 1] with its interval, small enough for a table cell; the cell says it in words."""
    svg = ElementTree.Element(
        "svg", {"class": "spark", "viewBox": "0 0 100 12", "aria-hidden": "true"}
    )
    for kind, x, width, y, height in (
        ("track", 0.0, 100.0, 3, 6),
        ("fill", 0.0, 100 * share, 3, 6),
        ("interval", 100 * low, 100 * (high - low), 5.5, 1),
    ):
        box = {"x": x, "y": y, "width": width, "height": height}
        named = {key: _number(value) for key, value in box.items()}
        ElementTree.SubElement(svg, "rect", {"class": kind, **named})
    return ElementTree.tostring(svg, encoding="unicode")


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in ``[low, high]``, 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in ``[low, high]``; powers alone over three decades."""
    units = (1,) if high / low > 1000 else (1, 2, 5)
    return [tick for tick in _decades(low, high, units) if low <= tick <= high]


def _decades(low: float, high: float, units: Sequence[int]) -> Iterator[float]:
    for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (float(f"{unit}e{power}") for unit in units)


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{round(value, 1) + 0.0:g}"
