"""What got better or worse between two results, beyond the noise of their rounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import comb
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_bench.report import table
from asr_bench.results import METRICS, Metric
from asr_runtime.errors import AsrError
from asr_training.text import rate_interval

LEVEL = 0.95  # of the intervals
BETTER, WORSE, SAME, TOO_FEW = "better", "worse", "no difference", "too few rounds"
ERRORS = {"wer": (1, 2, Metric("WER %", ".2f")), "cer": (3, 4, Metric("CER %", ".2f"))}  # columns of errors, lengths


@dataclass(frozen=True)
class Change:
    """A figure in two results; `low` and `high` bound the change: a ratio of speeds, a difference of error rates."""

    what: str
    metric: Metric
    before: float
    after: float
    change: float
    low: float
    high: float
    verdict: str


def compare(before: dict[str, Any], after: dict[str, Any], least: float) -> list[Change]:
    """Every figure that both results have; changes below `least` (a share) count as none.

    Raises AsrError where the two cannot be compared.
    """
    if before["scenario"] != after["scenario"]:
        raise AsrError(f"got results of {before['scenario']} and {after['scenario']}; give two of the same scenario.")
    changes = list(error_changes(before, after) if "decoders" in before else speed_changes(before, after, least))
    if not changes:
        raise AsrError("the two results have no point in common; measure the same settings.")
    return changes


def speed_changes(before: dict[str, Any], after: dict[str, Any], least: float) -> Iterator[Change]:
    """Ratios of points with the same key."""
    earlier = {_name(each): each["rounds"] for each in before["points"]}
    paired = before["session"] == after["session"]
    for each in after["points"]:
        rounds = earlier.get(_name(each), {})
        for name in METRICS.keys() & each["rounds"].keys() & rounds.keys():
            one, other = np.array(rounds[name], float), np.array(each["rounds"][name], float)
            if min(one.min(), other.min()) > 0:
                yield _ratio(_name(each), METRICS[name], one, other, paired, least)


def _name(each: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in each["key"].items() if value != "")


def _ratio(
    what: str, metric: Metric, before: NDArray[np.float64], after: NDArray[np.float64], paired: bool, least: float
) -> Change:
    both = paired and len(before) == len(after)
    change, low, high = paired_ratio(before, after) if both else all_ratios(before, after)
    if np.isnan(low):
        verdict = TOO_FEW
    elif low <= 1 <= high or abs(change - 1) < least:
        verdict = SAME
    else:
        verdict = BETTER if (change > 1) == metric.more_is_better else WORSE
    return Change(what, metric, median(before), median(after), change, low, high, verdict)


def paired_ratio(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median ratio of rounds that were measured in turns, and its interval by the sign test; NaN if too few."""
    ratios, count = np.sort(after / before), len(before)
    # The largest number that can be left out at each end so that the interval still holds the median often enough.
    tail = np.cumsum([comb(count, number) for number in range(count + 1)]) / 2**count
    left_out = int(np.sum(tail <= (1 - LEVEL) / 2)) - 1
    return _interval(ratios, left_out)


def all_ratios(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float, float]:
    """The median of the ratios of all pairs (Hodges and Lehmann 1963), its interval by Mann and Whitney's test."""
    ratios = np.sort((after[:, None] / before).ravel())
    tail = np.cumsum(rank_sums(len(before), len(after)))
    left_out = int(np.sum(tail <= (1 - LEVEL) / 2)) - 1
    return _interval(ratios, left_out)


def _interval(ratios: NDArray[np.float64], left_out: int) -> tuple[float, float, float]:
    middle = float(np.median(ratios))
    if left_out < 0:
        return middle, float("nan"), float("nan")
    return middle, float(ratios[left_out]), float(ratios[len(ratios) - 1 - left_out])


def rank_sums(first: int, second: int) -> NDArray[np.float64]:
    """How likely each value of Mann and Whitney's U is, if two samples of such sizes do not differ."""
    ways = np.zeros(first * second + 1)
    ways[0] = 1
    for number in range(1, first + 1):  # the coefficients of Gauss's binomial: times (1 - q^(n+i)), over (1 - q^i)
        for place in range(len(ways) - 1, second + number - 1, -1):
            ways[place] -= ways[place - second - number]
        for place in range(number, len(ways)):
            ways[place] += ways[place - number]
    likely: NDArray[np.float64] = ways / ways.sum()
    return likely


def error_changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[Change]:
    """Differences of error rates, in percent, over the same utterances (Bisani and Ney 2004)."""
    for decoder, name in product(before["decoders"].keys() & after["decoders"].keys(), ERRORS):
        wrong, of, metric = ERRORS[name]
        rows = _utterances(before, decoder), _utterances(after, decoder)
        if [(row[0], row[of]) for row in rows[0]] != [(row[0], row[of]) for row in rows[1]]:
            raise AsrError("the two results are of other utterances or normalisers; measure both on the same.")
        lengths = np.array([row[of] for row in rows[0]])
        one, other = (np.array([row[wrong] for row in each]) for each in rows)
        low, high = (100 * bound for bound in rate_interval(other - one, lengths))
        rates = [100 * each.sum() / max(1, lengths.sum()) for each in (one, other)]
        verdict = SAME if low <= 0 <= high else BETTER if high < 0 else WORSE
        yield Change(decoder, metric, rates[0], rates[1], rates[1] - rates[0], low, high, verdict)


def _utterances(result: dict[str, Any], decoder: str) -> Sequence[list[Any]]:
    found = result["decoders"][decoder].get("utterances")
    if not found:
        raise AsrError("a result has no utterances; measure it again with this version.")
    return list(found)


def markdown(changes: Sequence[Change]) -> str:
    """A table of the changes, the worst first."""
    order = [WORSE, BETTER, TOO_FEW, SAME]
    rows = [
        (
            each.what,
            each.metric.label,
            format(each.before, each.metric.form),
            format(each.after, each.metric.form),
            f"{each.change:.3f}" + ("" if np.isnan(each.low) else f" ({each.low:.3f}–{each.high:.3f})"),
            each.verdict,
        )
        for each in sorted(changes, key=lambda each: (order.index(each.verdict), each.what, each.metric.label))
    ]
    return table(["what", "figure", "before", "after", "change (95 % interval)", "verdict"], rows)
