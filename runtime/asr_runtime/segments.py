"""A recording in parts: each is decoded alone, and what was said in all of them is put together again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
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

    Of the ways to take one of each those are the best that say something else than any better one; there are at most as
    many as the part with most hypotheses has.
    """
    most = max(len(hypotheses) for _, hypotheses in parts)
    # What a way says is known by its digest: the text of ten hours, copied for each way and part, would take minutes.
    ways: list[tuple[float, blake2b, Chain]] = [(0.0, blake2b(), None)]
    for begin, hypotheses in parts:
        longer = [(score + each.score, said, chain, each) for score, said, chain in ways for each in hypotheses]
        best: dict[bytes, tuple[float, blake2b, Chain]] = {}
        for score, said, chain, each in sorted(longer, key=lambda way: way[0], reverse=True):
            said = _with(said, each.text)
            # Who says the same up to here says the same with all that may follow.
            best.setdefault(said.digest(), (score, said, (chain, begin, each)))
            if len(best) == most:
                break
        ways = list(best.values())
    return [_whole(chain) for _, _, chain in ways]


def _with(said: blake2b, text: str) -> blake2b:
    longer = said.copy()
    if text:
        longer.update(f"{text} ".encode())
    return longer


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
