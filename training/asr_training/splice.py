"""New sentences by the speakers of recordings, whose words are put together in another order, anew in every epoch.

A model that has heard a few hours over and over learns their texts by heart; words in an order that nobody wrote leave
it the sounds alone (as in Lam et al. 2021, "On-the-fly aligned data augmentation for sequence-to-sequence ASR", where
words are exchanged). The cuts come with the manifest, from `asr-train align`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asr_training.augment import stretch_time
from asr_training.corpus import Corpus, Find
from asr_training.feature_store import Noticed, UtteranceFeatures
from asr_training.manifest import Utterance

SHORTEST, LONGEST = 3.0, 14.0  # seconds of a new utterance
SPEED = 0.1  # each piece is up to so much faster or slower than it was


@dataclass(frozen=True)
class Piece:
    """Frames of an utterance, by its index, and the words in them."""

    utterance: int
    begin: int
    end: int
    words: tuple[str, ...] = ()
    rate: float = 1.0  # at which it is played

    @property
    def frames(self) -> int:
        """How many there are when it is played at its rate."""
        return int((self.end - self.begin) / self.rate)


class SplicedFeatures:
    """Mel features of utterances that are made of pieces of others, put together whenever they are asked for."""

    def __init__(self, whole: UtteranceFeatures, lots: list[list[Piece]]) -> None:
        self.whole, self.lots = whole, lots
        self.frames = np.array([sum(piece.frames for piece in lot) for lot in lots], np.int64)
        self.noticed = [whole.noticed[lot[0].utterance] if len(lot) == 1 else Noticed(peak=1.0) for lot in lots]

    def __getitem__(self, index: int) -> np.ndarray:
        """Features of one utterance, float [frames, mels]."""
        return np.concatenate([self.played(piece) for piece in self.lots[index]])

    def played(self, piece: Piece) -> np.ndarray:
        """The features of one piece."""
        features = self.whole[piece.utterance][piece.begin : piece.end]
        return features if piece.rate == 1 else stretch_time(features.astype(np.float32), piece.rate)

    def chosen(self, rows: np.ndarray) -> SplicedFeatures:
        """Those of some of the utterances."""
        return SplicedFeatures(self.whole, [self.lots[row] for row in rows])


class Spliced:
    """Training data some of whose utterances are there in pieces, too, in an order drawn from seed and epoch."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self.corpus, self.seed = corpus, seed
        self.alphabet, self.pronunciations = corpus.alphabet, corpus.pronunciations

    def groups(self, epoch: int) -> int:
        """How many groups an epoch goes through: one."""
        return 1

    def group(self, epoch: int, number: int) -> Corpus:
        """All utterances, and behind them those made of their pieces for this epoch."""
        return spliced(self.corpus, np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(2,))))

    def parts(self) -> Iterator[Corpus]:
        """The utterances as they were recorded, once."""
        yield self.corpus

    def leave_out(self, find: Find) -> None:
        """Leave out what `find` finds from now on, pieces of it as well."""
        self.corpus.leave_out(find)


def spliced(corpus: Corpus, rng: np.random.Generator) -> Corpus:
    """A corpus with more utterances, made of the pieces of its own, as much audio as their sources' `spliced` says."""
    lots = [[Piece(index, 0, int(frames))] for index, frames in enumerate(corpus.store.frames)]
    made: list[Utterance] = []
    for (source, speaker), pieces in sorted(pieces_of(corpus).items()):
        wanted = sum(corpus.spliced[piece.utterance] * piece.frames for piece in pieces)
        for lot in lots_of(pieces, wanted, corpus.frame_rate, rng):
            lots.append(lot)
            text = " ".join(word for piece in lot for word in piece.words)
            first = corpus.utterances[lot[0].utterance]
            made.append(Utterance(first.audio, text, first.where, source, speaker))
    return corpus.with_more(made, SplicedFeatures(corpus.store, lots))


def pieces_of(corpus: Corpus) -> dict[tuple[str, str], list[Piece]]:
    """The pieces between the cuts of a corpus's utterances, by source and speaker; without one each is its own."""
    pieces: defaultdict[tuple[str, str], list[Piece]] = defaultdict(list)
    for index in np.flatnonzero(corpus.spliced):
        utterance, words = corpus.utterances[index], corpus.utterances[index].text.split()
        for (first, begin), (last, end) in itertools.pairwise(utterance.cuts):
            frames = round(begin * corpus.frame_rate), min(round(end * corpus.frame_rate), corpus.store.frames[index])
            if 3 <= frames[1] - frames[0] <= LONGEST * corpus.frame_rate:
                piece = Piece(int(index), frames[0], int(frames[1]), tuple(words[first:last]))
                pieces[utterance.source, utterance.speaker or utterance.where].append(piece)
    return pieces


def lots_of(pieces: list[Piece], wanted: float, frame_rate: float, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Pieces in a random order, at random rates, in lots of up to a random length, until `wanted` frames are used."""
    lot: list[Piece] = []
    length, longest = 0, rng.uniform(SHORTEST, LONGEST) * frame_rate
    while wanted > 0:
        for index in rng.permutation(len(pieces)):
            original = pieces[index]
            rate = float(np.exp(rng.uniform(-1, 1) * np.log1p(SPEED)))
            piece = Piece(original.utterance, original.begin, original.end, original.words, rate)
            if lot and length + piece.frames > longest:
                yield lot
                wanted -= length
                lot, length, longest = [], 0, rng.uniform(SHORTEST, LONGEST) * frame_rate
                if wanted <= 0:
                    return
            lot.append(piece)
            length += piece.frames
