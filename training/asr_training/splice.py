"""New sentences by the speakers of recordings, whose words are put together in another order, anew in every epoch.

A model that has heard a few hours over and over learns their texts by heart; words in an order that nobody wrote leave
it the sounds alone (as in Lam et al. 2021, "On-the-fly aligned data augmentation for sequence-to-sequence ASR", where
words are exchanged). The cuts come with the manifest, from `asr-train align`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from asr_runtime.errors import RecipeError
from asr_training.augment import random_rate, stretch_time
from asr_training.corpus import Corpus, Find
from asr_training.feature_store import Noticed, UtteranceFeatures
from asr_training.manifest import Utterance

SHORTEST, LONGEST = 3.0, 14.0  # seconds of a new utterance, at most
FEWEST_FRAMES = 3  # of a piece
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


@dataclass(frozen=True)
class Speaker:
    """Whose pieces go together, and how many times as much audio is made of them."""

    source: str
    name: str
    times: float


class SplicedFeatures:
    """Mel features of utterances that are made of pieces of others, put together whenever they are asked for."""

    def __init__(self, whole: UtteranceFeatures, lots: list[list[Piece]]) -> None:
        self.whole, self.lots = whole, lots
        self.frames = np.array([sum(piece.frames for piece in lot) for lot in lots], np.int64)
        self.noticed = [Noticed()] * len(lots)  # of recordings it is; the data are checked before they are cut

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
    """Training data some of whose utterances are there in pieces, too, in an order drawn from seed and epoch.

    Raises RecipeError where there are no pieces that could be used.
    """

    def __init__(self, corpus: Corpus, seed: int, longest_seconds: float) -> None:
        self.corpus, self.seed, self.longest = corpus, seed, min(LONGEST, longest_seconds) * corpus.frame_rate
        self.alphabet, self.pronunciations = corpus.alphabet, corpus.pronunciations
        self.speakers = pieces_of(corpus, self.longest)
        if not self.speakers:
            raise RecipeError(
                f"[data]: the recordings to be spliced have no piece of at most {self.longest / corpus.frame_rate:g} s;"
                " set longest_seconds to more, or find more cuts"
            )

    @property
    def more_hours(self) -> float:
        """Hours of audio that are made in each epoch, about."""
        frames = sum(speaker.times * piece.frames for speaker, pieces in self.speakers.items() for piece in pieces)
        return frames / self.corpus.frame_rate / 3600

    def groups(self, epoch: int) -> int:
        """How many groups an epoch goes through: one."""
        return 1

    def group(self, epoch: int, number: int) -> Corpus:
        """All utterances, and behind them those made of their pieces for this epoch."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(2,)))
        utterances, made = self.corpus.utterances, []
        lots = [[Piece(index, 0, int(frames))] for index, frames in enumerate(self.corpus.store.frames)]
        for speaker, lot in lots_of(self.speakers, self.longest, self.corpus.frame_rate, rng):
            text = " ".join(word for piece in lot for word in piece.words)
            first = utterances[lot[0].utterance]
            made.append(Utterance(first.audio, text, first.where, speaker.source, speaker.name))
            lots.append(lot)
        return self.corpus.with_more(made, SplicedFeatures(self.corpus.store, lots))

    def parts(self) -> Iterator[Corpus]:
        """The utterances as they were recorded, once."""
        yield self.corpus

    def leave_out(self, find: Find) -> None:
        """Leave out what `find` finds from now on, pieces of it as well."""
        self.corpus.leave_out(find)
        self.speakers = pieces_of(self.corpus, self.longest)


def pieces_of(corpus: Corpus, longest: float) -> dict[Speaker, list[Piece]]:
    """The pieces between the cuts of a corpus's utterances, of up to `longest` frames however slowly they are played.

    They come in the order of the recipe and its lines, which a run that goes on elsewhere finds again.
    """
    pieces: defaultdict[Speaker, list[Piece]] = defaultdict(list)
    for index in np.flatnonzero(corpus.spliced):
        utterance, words = corpus.utterances[index], corpus.utterances[index].text.split()
        speaker = Speaker(utterance.source, utterance.speaker or utterance.where, float(corpus.spliced[index]))
        for (first, begin), (last, end) in itertools.pairwise(utterance.cuts):
            frames = round(begin * corpus.frame_rate), min(round(end * corpus.frame_rate), corpus.store.frames[index])
            if FEWEST_FRAMES <= frames[1] - frames[0] <= longest / (1 + SPEED):
                pieces[speaker].append(Piece(int(index), frames[0], int(frames[1]), tuple(words[first:last])))
    return dict(pieces)


def lots_of(
    speakers: dict[Speaker, list[Piece]], longest: float, frame_rate: float, rng: np.random.Generator
) -> Iterator[tuple[Speaker, list[Piece]]]:
    """Pieces of each speaker in a random order, at random rates, in lots of up to a random length, `longest` at most.

    What a last lot has too much is taken off what the next speaker gets: all together have as much as is wanted.
    """
    wanted, shortest = 0.0, min(SHORTEST * frame_rate, longest)
    everyone = list(speakers.items())
    for number in rng.permutation(len(everyone)):
        speaker, pieces = everyone[number]
        wanted += speaker.times * sum(piece.frames for piece in pieces)
        order: list[int] = []
        lot: list[Piece] = []
        length, most = 0, rng.uniform(shortest, longest)
        while wanted > 0:
            order = order or rng.permutation(len(pieces)).tolist()
            piece = dataclasses.replace(pieces[order.pop()], rate=random_rate(SPEED, rng))
            if lot and length + piece.frames > most:
                yield speaker, lot
                wanted -= length
                lot, length, most = [], 0, rng.uniform(shortest, longest)
            lot.append(piece)
            length += piece.frames
