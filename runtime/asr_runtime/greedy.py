"""Best-path decoding: the likeliest token of each frame, repeats merged, blanks dropped (Graves et al. 2006)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from asr_runtime.decoder import Hypothesis, Word


class GreedyDecoder:
    """Decodes without beam and language model; in place of a `BeamSearchDecoder` where speed is all.

    Words are separated by the token `" "`, or begin with a token that begins with `▁`, or are continued by tokens
    that begin with `##`. A word lasts from its first token's first frame to its last token's last frame; its
    confidence is the product of its tokens' highest probabilities. A word's text is its tokens with `joint` between,
    which shows where tokens that do not spell words begin and end.
    """

    def __init__(self, tokens: Sequence[str], *, blank: int = -1, joint: str = "") -> None:
        self._tokens = list(tokens)
        self._joint = joint
        self._blank = blank % len(tokens)
        self._pieces = any(token.startswith("##") for token in tokens)

    def __repr__(self) -> str:
        return f"<GreedyDecoder: {len(self._tokens)} tokens>"

    def decode(self, log_probs: NDArray[np.float32]) -> list[Hypothesis]:
        """The best path through `log_probs` [frames, tokens] as the only hypothesis."""
        stream = self.stream()
        stream.feed(log_probs)
        return stream.finish()

    def stream(self) -> GreedyStream:
        """A path that is fed piece by piece; any cuts give what `decode` gives for the whole."""
        return GreedyStream(self._hypothesis)

    def _hypothesis(self, best: NDArray[np.intp], peaks: NDArray[np.float64]) -> Hypothesis:
        """From the best token of each frame and its log-probability."""
        if not len(best):
            return Hypothesis("", 0.0, 0.0, 0.0, ())
        starts = np.flatnonzero(np.diff(best, prepend=-1))
        ends = np.append(starts[1:], len(best))
        confidences = np.exp(np.maximum.reduceat(peaks, starts))
        spelt = [
            (self._tokens[best[start]], int(start), int(end), float(confidence))
            for start, end, confidence in zip(starts, ends, confidences, strict=True)
            if best[start] != self._blank
        ]
        words = tuple(self._words(spelt))
        score = float(peaks.sum())
        return Hypothesis(" ".join(word.text for word in words), score, score, 0.0, words)

    def _words(self, spelt: list[tuple[str, int, int, float]]) -> list[Word]:
        numbers = np.cumsum([self._begins_word(token) for token, *_ in spelt])
        words = []
        for _, group in groupby(zip(numbers, spelt, strict=True), key=lambda pair: pair[0]):
            tokens = [item for _, item in group if item[0] not in (" ", "▁")]
            text = self._joint.join(token.removeprefix("▁").removeprefix("##") for token, *_ in tokens)
            if text:
                confidence = float(np.prod([item[3] for item in tokens]))
                words.append(Word(text, tokens[0][1], tokens[-1][2], confidence))
        return words

    def _begins_word(self, token: str) -> bool:
        if self._pieces:
            return not token.startswith("##")
        return token == " " or token.startswith("▁")


class GreedyStream:
    """One utterance in pieces: `feed` log-probabilities, take `finish`."""

    def __init__(self, hypothesis: Callable[[NDArray[np.intp], NDArray[np.float64]], Hypothesis]) -> None:
        self._hypothesis = hypothesis
        self._best: list[NDArray[np.intp]] = [np.empty(0, np.intp)]
        self._peaks: list[NDArray[np.float64]] = [np.empty(0)]

    def feed(self, log_probs: NDArray[np.float32]) -> None:
        """The next frames, [frames, tokens]."""
        best = log_probs.argmax(axis=1)
        self._best.append(best)
        self._peaks.append(log_probs[np.arange(len(best)), best].astype(np.float64))

    def finish(self) -> list[Hypothesis]:
        """What `decode` gives for all frames so far."""
        return [self._hypothesis(np.concatenate(self._best), np.concatenate(self._peaks))]
