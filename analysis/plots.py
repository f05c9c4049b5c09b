"""The best score so far over the finished ideas, beside what the baseline and luck alone give."""

from __future__ import annotations

import io
import logging
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xar_agent.analysis.report import Entry, RunReport
from xar_agent.analysis.report_counts import luck_after
from xar_agent.analysis.text import one_line
from xar_agent.jobs.scoring import prediction_half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE_INCHES = (8.0, 5.2)
PNG_DPI = 200
"""1,600 pixels wide: sharp where it is shown at 800."""
MAX_LUCK_POINTS = 40
"""The curve is smooth in the logarithm of n; each point costs milliseconds."""
FAR = 6.0
"""Scores further beyond the baseline than this many half-bands are drawn at the edge: they would squeeze the rest."""

INK, PAPER, GRID = "#1b1b1f", "#fffffe", "#d9d9de"
BEST, LUCK, BAND, GOOD, DULL, BAD, STAR, NO_SCORE = (
    "#0072b2",
    "#aa4499",
    "#999999",
    "#009e73",
    "#77777a",
    "#d55e00",
    "#e69f00",
    "#8a5a00",
)
"""After Okabe and Ito: told apart by colour-blind readers, and by shape as well."""
COLOURS = {
    "ink": INK,
    "paper": PAPER,
    "grid": GRID,
    "best": BEST,
    "luck": LUCK,
    "band": BAND,
    "good": GOOD,
    "dull": DULL,
    "bad": BAD,
    "star": STAR,
    "no-score": NO_SCORE,
}
"""Each appears once, so that a page can set it anew for a dark background."""
MARKS = {
    "better": (GOOD, "o", "better than the baseline"),
    "within_noise": (DULL, "D", "within noise"),
    "worse": (BAD, "v", "worse"),
    "none": (DULL, "s", "no verdict"),
}


@dataclass(frozen=True, slots=True)
class View:
    """What of the score axis is shown."""

    lo: float
    hi: float

    def inside(self, value: float) -> float:
        """The value, or the edge that is nearest to it."""
        return min(max(value, self.lo), self.hi)


def draw_best_so_far(report: RunReport, kinds: Sequence[str] = ("svg", "png")) -> dict[str, bytes]:
    """The plot by kind of file; nothing when no idea has a result yet."""
    if not report.in_order:
        return {}
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of missing fonts on stderr
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": report.name,
        "text.parse_math": False,
        "font.size": 10,
    }
    with mpl.rc_context({**mpl.rcParamsDefault, **style, "font.family": "sans-serif"}):
        figure = Figure(figsize=SIZE_INCHES, facecolor=PAPER, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, report)
        files = {}
        for kind in kinds:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=PNG_DPI, metadata={"Date": None} if kind == "svg" else None)
            files[kind] = buffer.getvalue()
    return files


def draw(figure: Figure, report: RunReport) -> None:
    """All parts of the plot."""
    axes = figure.add_subplot(facecolor=PAPER)
    view = view_of(report)
    draw_baseline(axes, report)
    draw_luck(axes, report)
    draw_candidates(axes, report, view)
    draw_without_score(axes, report)
    draw_best(axes, report, view)
    better = "lower" if report.direction == "min" else "higher"
    axes.set_ylabel(f"{report.metric} ({better} is better)", color=INK)
    axes.set_xlabel("ideas with a result, in the order in which they came in", color=INK)
    axes.set_title(f"{one_line(report.name, 60)}: best so far", color=INK, loc="left", fontsize=11)
    axes.set_xlim(0.4, len(report.in_order) + 0.6)
    margin = 0.06 * (view.hi - view.lo)
    axes.set_ylim(view.lo - 2 * margin, view.hi + margin)
    axes.locator_params(axis="x", integer=True)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(INK)


def view_of(report: RunReport) -> View:
    """All good scores, the baseline with its band, and as much of the bad ones as leaves the rest readable."""
    seen = [value for entry in report.valid for value in bounds_of(entry)]
    band = band_of(report)
    if band is not None:
        mean, half = band
        seen += [mean - half, mean + half]
        worst = FAR * half
        seen = [v for v in seen if (v < mean + worst if report.direction == "min" else v > mean - worst)]
    elif seen:
        middle = statistics.median(seen)
        spread = statistics.median(abs(value - middle) for value in seen) or abs(middle) or 1.0
        seen = [v for v in seen if abs(v - middle) <= FAR * spread * 2]
    lo, hi = min(seen, default=0.0), max(seen, default=1.0)
    if lo == hi:
        lo, hi = lo - 0.05 * (abs(lo) or 1), hi + 0.05 * (abs(hi) or 1)
    return View(lo, hi)


def bounds_of(entry: Entry) -> tuple[float, ...]:
    """A candidate's mean and the ends of its interval."""
    found = entry.candidate.score
    values = (found.mean, found.lo, found.hi) if found else ()
    return tuple(value for value in values if value is not None and math.isfinite(value))


def band_of(report: RunReport) -> tuple[float, float] | None:
    """The baseline's mean, and half of the interval in which 95 % of further means of it lie."""
    baseline = report.baseline
    if baseline is None or baseline.n < 2:
        return None
    return baseline.mean, prediction_half_width(baseline, report.seeds, 1 / baseline.n)


def draw_baseline(axes: Axes, report: RunReport) -> None:
    """Its mean as a line, and the band in which an unchanged candidate would lie."""
    band = band_of(report)
    if band is None or report.baseline is None:
        return
    mean, half = band
    axes.axhspan(mean - half, mean + half, color=BAND, alpha=0.22, linewidth=0, label="95 % of unchanged candidates")
    axes.axhline(mean, color=BAND, linewidth=1.4, label=f"baseline mean (n = {report.baseline.n})")


def draw_luck(axes: Axes, report: RunReport) -> None:
    """The expected best of as many null runs as there were valid scores by then."""
    counts = running_counts(report.in_order)
    shown = thinned(counts)
    found = [(place, luck_after(report, n)) for place, n in shown]
    points = [(place, row.mean, row.bound) for place, row in found if row is not None]
    if len(points) < 2:
        return
    places, means, bounds = zip(*points, strict=True)
    axes.plot(places, means, color=LUCK, linewidth=1.6, linestyle="--", zorder=3.5, label="luck alone: expected best")
    axes.plot(places, bounds, color=LUCK, linewidth=1.0, linestyle=":", zorder=3.5, label="luck alone: 95 % bound")


def running_counts(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Place of each result from 1, and how many valid scores there were by then; nothing before the first one."""
    counts, n = [], 0
    for place, entry in enumerate(entries, 1):
        n += entry.valid
        if n:
            counts.append((place, n))
    return counts


def thinned(counts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most so many of them, dense where the curve bends, the ends included."""
    if len(counts) <= MAX_LUCK_POINTS:
        return list(counts)
    last = len(counts) - 1
    picked = {round(last ** (i / (MAX_LUCK_POINTS - 1))) for i in range(MAX_LUCK_POINTS)} | {0, last}
    return [counts[i] for i in sorted(picked)]


def draw_candidates(axes: Axes, report: RunReport, view: View) -> None:
    """Each valid score with its interval; one that lies outside of the view at its edge, hollow."""
    crowd = crowding(report)
    for verdict, (colour, marker, label) in MARKS.items():
        mine = [(place, entry) for place, entry in placed(report) if verdict_of(entry) == verdict]
        seen = [(place, e.mean) for place, e in mine if e.mean is not None and view.inside(e.mean) == e.mean]
        far = [
            (place, view.inside(e.mean)) for place, e in mine if e.mean is not None and view.inside(e.mean) != e.mean
        ]
        bars = [(place, *bounds_of(entry)[1:]) for place, entry in mine if (place, entry.mean) in seen]
        for place, *ends in bars:
            if len(ends) == 2:
                axes.vlines(place, ends[0], ends[1], color=colour, linewidth=1.1 * crowd, alpha=0.7 * crowd)
        size = 30 * crowd**2
        if seen:
            look: dict[str, Any] = {"color": colour, "linewidths": 0, "s": size, "zorder": 3.7}
            axes.scatter(*columns(seen), marker=marker, label=f"{label} ({len(seen)})", **look)
        if far:
            look = {"facecolors": PAPER, "edgecolors": colour, "linewidths": 1.2, "s": size + 4, "zorder": 3.7}
            axes.scatter(*columns(far), marker=marker, label=f"{label}, off the scale ({len(far)})", **look)


def crowding(report: RunReport) -> float:
    """1 for few ideas, less for many: by how much marks shrink so that they do not hide each other."""
    return max(0.5, min(1.0, math.sqrt(60 / len(report.in_order))))


def placed(report: RunReport) -> list[tuple[int, Entry]]:
    """The valid ones with their places from 1."""
    return [(place, entry) for place, entry in enumerate(report.in_order, 1) if entry.valid]


def verdict_of(entry: Entry) -> str:
    """Of its score."""
    return entry.candidate.score.verdict if entry.candidate.score else "none"


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Places and values apart."""
    return [x for x, _ in points], [y for _, y in points]


def draw_without_score(axes: Axes, report: RunReport) -> None:
    """Ideas without a valid score as ticks at the bottom."""
    failed = [place for place, entry in enumerate(report.in_order, 1) if entry.reason is not None]
    repeats = [place for place, entry in enumerate(report.in_order, 1) if entry.same_as]
    rows = ((failed, NO_SCORE, 0.02, "failed or invalid"), (repeats, DULL, 0.055, "the same code as an earlier idea"))
    for places, colour, height, label in rows:
        if places:
            look: dict[str, Any] = {"color": colour, "linewidths": 1.8 * crowding(report), "s": 80}
            where: dict[str, Any] = {"transform": axes.get_xaxis_transform()}
            heights = [height] * len(places)
            axes.scatter(places, heights, marker="|", label=f"{label} ({len(places)})", **look, **where)


def draw_best(axes: Axes, report: RunReport, view: View) -> None:
    """The best so far as steps, and the confirmed ones."""
    sign = 1 if report.direction == "min" else -1
    best = math.inf
    steps: list[tuple[float, float]] = []
    for place, entry in enumerate(report.in_order, 1):
        if entry.mean is not None:
            best = min(best, sign * entry.mean)
        if best < math.inf:
            steps.append((place, view.inside(sign * best)))
    if steps:
        steps.append((len(report.in_order) + 0.6, steps[-1][1]))
        axes.step(*columns(steps), where="post", color=BEST, linewidth=2.2, zorder=3.6, label="best so far")
    stars = [(place, view.inside(e.mean)) for place, e in placed(report) if e.confirmed and e.mean is not None]
    if stars:
        look: dict[str, Any] = {
            "color": STAR,
            "edgecolors": INK,
            "linewidths": 0.8,
            "marker": "*",
            "s": 190,
            "zorder": 4,
        }
        axes.scatter(*columns(stars), label="confirmed on the hidden split", **look)
