"""A recording in parts: each is decoded alone, and what was said in all of them is put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from typing import TypeAlias

from asr_runtime.audio import Samples
from asr_runtime.decoder import Hypothesis, Word

Chain: TypeAlias = "tuple[Chain, int, Hypothesis] | None"  # hypotheses of parts, the last first, with their beginnings


@dataclass(frozen=True)
class Segment:
    """A part of a recording, from frame `begin` on; its blocks are to be taken before the next segment is."""

    begin: int
    blocks: Iterator[Samples]


def joined(parts: Sequence[tuple[int, Sequence[Hypothesis]]]) -> list[Hypothesis]:
    """The hypotheses of a whole, best first, from those of its parts, in order, each with the frame where it begins.

    There are as many as the part with most has: the best of all ways to take one of each.
    """
    most = max(len(hypotheses) for _, hypotheses in parts)
    ways: list[tuple[float, Chain]] = [(0.0, None)]
    for begin, hypotheses in parts:
        longer = [(score + each.score, (chain, begin, each)) for score, chain in ways for each in hypotheses]
        ways = nlargest(most, longer, key=lambda way: way[0])
    return [_whole(chain) for _, chain in ways]


def _whole(chain: Chain) -> Hypothesis:
    taken: list[tuple[int, Hypothesis]] = []
    while chain:
        chain, begin, hypothesis = chain
        taken.append((begin, hypothesis))
    taken.reverse()
    return Hypothesis(
        " ".join(each.text for _, each in taken if each.text),
        sum(each.score for _, each in taken),
        sum(each.acoustic_score for _, each in taken),
        sum(each.lm_score for _, each in taken),
        [
            Word(word.text, begin + word.start, begin + word.end, word.confidence)
            for begin, each in taken
            for word in each.words
        ],
    )
