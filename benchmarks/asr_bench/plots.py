"""Line charts as SVG, without a library."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 860, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 220, 48, 56  # margins; the legend stands in the right one
# Okabe and Ito 2008: told apart by people who see few colours; the first is for what the chart is about.
COLOURS = ("#D55E00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#000000", "#E69F00")
MARKERS = ("M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-4,-4h8v8h-8z", "M0,-5l5,9h-10z", "M0,-5l5,5l-5,5l-5,-5z")


@dataclass(frozen=True)
class Line:
    """Points (x, y), from left to right or not, a line through them if `connected`; `labels` are written at them."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    connected: bool = True


@dataclass(frozen=True)
class Axis:
    """From numbers to pixels; ticks at 1, 2 and 5 times powers of ten if logarithmic, else at round steps."""

    low: float
    high: float
    logarithmic: bool
    first_pixel: float
    last_pixel: float

    @classmethod
    def around(cls, values: Sequence[float], logarithmic: bool, first_pixel: float, last_pixel: float) -> Axis:
        """An axis that has room for all values."""
        if logarithmic:
            positive = [value for value in values if value >= sys.float_info.min] or [1.0]  # no room below
            return cls(min(positive) / 1.2, max(positive) * 1.2, True, first_pixel, last_pixel)
        low, high = min(values), max(values)
        room = max(0.08 * (high - low), 0.03 * high)  # small differences shall look small
        room = room if room >= sys.float_info.min else 1.0
        return cls(max(0.0, low - room), high + room, False, first_pixel, last_pixel)

    def pixel(self, value: float) -> float:
        """Where a number stands; what a logarithm cannot show stands at the axis."""
        low, high = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        place = math.log(max(value, self.low)) if self.logarithmic else value
        return self.first_pixel + (place - low) / (high - low) * (self.last_pixel - self.first_pixel)

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        else:
            step = _round_step((self.high - self.low) / 10)
            found = [step * number for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [value for value in found if self.low <= value <= self.high]


def _round_step(about: float) -> float:
    power = 10.0 ** math.floor(math.log10(about))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= about)


def chart(
    title: str, across: str, up: str, lines: Sequence[Line], *, log_across: bool = True, log_up: bool = True
) -> str:
    """An SVG picture of `lines`, the first of them the heaviest; `across` and `up` name the axes."""
    points = [point for line in lines for point in line.points]
    if not points:
        raise ValueError("a chart needs at least one point")
    x = Axis.around([point[0] for point in points], log_across, LEFT, WIDTH - RIGHT)
    y = Axis.around([point[1] for point in points], log_up, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 24, title, 'font-size="15" font-weight="bold"'),
        *_axes(x, y, across, up),
        # The first line is drawn last, above the others.
        *(_line(number, line, x, y) for number, line in reversed(list(enumerate(lines)))),
        *(_legend(number, line) for number, line in enumerate(lines)),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(text)}</text>'


def _axes(x: Axis, y: Axis, across: str, up: str) -> list[str]:
    right, bottom, middle = WIDTH - RIGHT, HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = [f'<path d="M{LEFT},{TOP}V{bottom}H{right}" fill="none" stroke="#555"/>']
    for value in x.ticks():
        place = x.pixel(value)
        parts.append(f'<path d="M{place:.1f},{TOP}V{bottom}" stroke="#e4e4e4"/>')
        parts.append(_text(place, bottom + 18, f"{value:g}", 'text-anchor="middle"'))
    for value in y.ticks():
        place = y.pixel(value)
        parts.append(f'<path d="M{LEFT},{place:.1f}H{right}" stroke="#e4e4e4"/>')
        parts.append(_text(LEFT - 8, place + 4, f"{value:g}", 'text-anchor="end"'))
    parts.append(_text((LEFT + right) / 2, bottom + 42, across, 'text-anchor="middle"'))
    parts.append(_text(20, middle, up, f'text-anchor="middle" transform="rotate(-90 20 {middle:.1f})"'))
    return parts


def _marker(number: int, x: float, y: float) -> str:
    colour, shape = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{shape}" fill="{colour}"/>'


def _line(number: int, line: Line, x: Axis, y: Axis) -> str:
    places = [(x.pixel(across), y.pixel(up)) for across, up in line.points]
    path = " ".join(f"{across:.1f},{up:.1f}" for across, up in places)
    width = 3 if number == 0 else 1.8
    stroke = COLOURS[number % len(COLOURS)] if line.connected else "none"
    parts = [f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width}"/>']
    parts += [_marker(number, across, up) for across, up in places]
    written: list[tuple[float, float]] = []
    for index, ((across, up), label) in enumerate(zip(places, line.labels, strict=False)):
        beside = (across + 5, up - 8) if index % 2 == 0 else (across - 5, up + 18)  # neighbours do not cover each other
        if any(abs(beside[0] - left) < 24 and abs(beside[1] - top) < 12 for left, top in written):
            continue
        written.append(beside)
        parts.append(_text(*beside, label, f'font-size="11" fill="{COLOURS[number % len(COLOURS)]}"'))
    return "\n".join(parts)


def _legend(number: int, line: Line) -> str:
    left, up = WIDTH - RIGHT + 18, TOP + 14 + 22 * number
    colour = COLOURS[number % len(COLOURS)]
    dash = f'<path d="M{left},{up}h26" stroke="{colour}" stroke-width="{3 if number == 0 else 1.8}"/>'
    return "\n".join([dash, _marker(number, left + 13, up), _text(left + 34, up + 4, line.name)])
