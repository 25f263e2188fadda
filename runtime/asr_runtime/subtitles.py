"""Words to subtitles: cues short enough to read, split where the speaker pauses, in lines of like length.

The limits are those that broadcasters and streaming services publish for English: 42 characters a line, two lines, at
most 7 seconds of speech, no cue so brief that it flashes, and no gap so brief that it flickers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asr_runtime.transcript import Word

LINE_WIDTH = 42  # characters
LINES = 2
LONGEST = 7.0  # seconds
SHORTEST = 1.0  # seconds, where the next cue leaves the room
PAUSE = 0.5  # seconds of silence that end a cue
LINGER = 0.5  # seconds that a cue stays behind its last word, where the next leaves the room
FLICKER = 0.5  # seconds without a cue that are too short to be seen as a pause: the one before stays
APART = 0.08  # seconds between a cue that was lengthened and the next: two frames, so that the change is seen
LOPSIDED = 2.0  # seconds of pause that outweigh a cut at the very edge instead of in the middle


@dataclass(frozen=True)
class Cue:
    """What stands on the screen from `start` to `end` seconds: `lines` of words."""

    start: float
    end: float
    lines: tuple[tuple[Word, ...], ...]


@dataclass(frozen=True)
class Layout:
    """How much a cue may hold: `width` characters in each of `lines` lines. A longer word has a line of its own."""

    width: int = LINE_WIDTH
    lines: int = LINES

    def cues(self, words: Sequence[Word]) -> list[Cue]:
        """All words in order, each in one cue; cues do not overlap."""
        groups = [group for run in _runs(words) for group in self._groups(run)]
        following = [*(group[0].start for group in groups[1:]), float("inf")]
        return [
            Cue(group[0].start, _end(group, behind), tuple(map(tuple, self._wrapped(group))))
            for group, behind in zip(groups, following, strict=False)  # of no words there are no groups
        ]

    def _groups(self, words: Sequence[Word]) -> Iterator[Sequence[Word]]:
        """The words themselves where they fit, else both parts of them, cut at the best place, in the same way."""
        fits = len(_filled(words, self.width)) <= self.lines and words[-1].end - words[0].start <= LONGEST
        if fits or len(words) == 1:
            yield words
            return
        cut = _best_cut(words)
        yield from self._groups(words[:cut])
        yield from self._groups(words[cut:])

    def _wrapped(self, words: Sequence[Word]) -> list[list[Word]]:
        """Lines of at most `width`, as few as possible, the fullest of them as short as possible."""
        lines = _filled(words, self.width)
        longest = max(len(word.word) for word in words)
        for width in range(longest, self.width):
            if len(narrower := _filled(words, width)) == len(lines):
                return narrower
        return lines


def _runs(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    """Words without a pause between them."""
    first = 0
    for index in range(1, len(words) + 1):
        if index == len(words) or words[index].start - words[index - 1].end >= PAUSE:
            yield words[first:index]
            first = index


def _best_cut(words: Sequence[Word]) -> int:
    """The word before which to cut: behind a long pause, and near the middle of the time."""
    begin, length = words[0].start, max(words[-1].end - words[0].start, 1e-3)

    def merit(index: int) -> float:
        pause = words[index].start - words[index - 1].end
        middle = (words[index].start + words[index - 1].end) / 2
        return pause - LOPSIDED * abs((middle - begin) / length - 0.5)

    return max(range(1, len(words)), key=merit)


def _filled(words: Sequence[Word], width: int) -> list[list[Word]]:
    lines: list[list[Word]] = []
    room = -1
    for word in words:
        room -= 1 + len(word.word)
        if room < 0:
            lines.append([])
            room = width - len(word.word)
        lines[-1].append(word)
    return lines


def _end(words: Sequence[Word], following: float) -> float:
    """When a cue goes: some time behind its last word, or shortly before the `following` one comes."""
    begin, spoken = words[0].start, words[-1].end
    wanted = max(spoken + LINGER, begin + SHORTEST)
    if wanted > following - FLICKER:
        wanted = max(spoken, following - APART)
    # Words that share a frame give a cue no length, which no player takes.
    return max(min(wanted, following), begin + 0.001)
