"""Learning-rate schedules: which share of the rate is left, by how much of the descent is done (0…1)."""

from __future__ import annotations

import math
from collections.abc import Callable

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: (1.0 + math.cos(math.pi * done)) / 2,  # Loshchilov and Hutter 2017, arXiv 1608.03983
}


def share_of_rate(schedule: str, done: float, flat: float) -> float:
    """The share of the learning rate when the share `done` of a run is done; the descent begins after `flat` of it."""
    return SCHEDULES[schedule](max(0.0, min(done, 1.0) - flat) / (1.0 - flat))
