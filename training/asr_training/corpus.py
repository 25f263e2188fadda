"""Utterances with features and labels, in batches of like lengths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr_training.data import find_source
from asr_training.feature_store import SILENT_PEAK, Noticed, UtteranceFeatures, features_of
from asr_training.manifest import Fault, Utterance
from asr_training.recipe import Data, Features, Source, Training
from asr_training.text import Alphabet, Pronunciations, required_frames


@dataclass(frozen=True)
class Batch:
    """Padded features float32 [batch, frames, mels], their frames, labels one behind the other, and their counts."""

    features: Tensor
    frames: Tensor
    labels: Tensor
    label_counts: Tensor
    phonemes: Tensor | None  # labels of the texts' phonemes, where there are pronunciations, and their counts
    phoneme_counts: Tensor | None
    seconds: float  # of audio, without the padding


LENGTHS = 32  # feature frames in a batch are a multiple: lengths that come again find their compiled products again
LATEST_CUT = 0.1  # seconds behind the end of the audio, which aligners round differently

# The row in the batch, features [frames, mels] and the fewest output frames that must stay possible, to features.
Change = Callable[[int, np.ndarray, int], np.ndarray]
Find = Callable[["Corpus"], dict[int, Fault]]  # what there is to doubt in a corpus, by utterance


class Corpus:
    """Utterances with features and labels, to be gone through in batches.

    What cannot be used is in `faults` instead.
    """

    def __init__(self, sources: tuple[Source, ...], data: Data, features: Features, cache: Path | None) -> None:
        self.config = features
        self.alphabet = Alphabet(data.alphabet)
        self.utterances: list[Utterance] = []
        self.faults: list[Fault] = []
        repeats: list[int] = []
        spliced: list[float] = []
        for source in sources:
            found = find_source(source, data, self.alphabet)
            self.faults += [item for item in found if isinstance(item, Fault)]
            self.utterances += [item for item in found if isinstance(item, Utterance)]
            repeats += [source.repeat] * (len(self.utterances) - len(repeats))
            spliced += [source.spliced] * (len(self.utterances) - len(spliced))
        self.repeats, self.spliced = np.array(repeats, np.int64), np.array(spliced)
        self.store = features_of(self.utterances, features, cache)
        self.labels = [self.alphabet.encode(utterance.text) for utterance in self.utterances]
        beside = data.pronunciations if not data.spoken else ""  # else they are the labels themselves
        self.pronunciations = Pronunciations(Path(beside)) if beside else None
        self.phonemes = [self.pronunciations.encode(u.text) for u in self.utterances] if self.pronunciations else None
        self.fewest_frames = np.array([required_frames(labels) for labels in self.labels], np.int64)
        self.frame_rate = features.sample_rate / features.hop  # feature frames a second
        seconds = self.store.frames / self.frame_rate
        unusable = [fault_of(*item) for item in zip(self.utterances, self.store.noticed, seconds, strict=True)]
        self.faults += [fault for fault in unusable if fault]
        self.keep(np.array([fault is None for fault in unusable], bool))

    def keep(self, wanted: np.ndarray) -> None:
        """Leave out the utterances that are not `wanted`, bool [utterances]."""
        rows = np.flatnonzero(wanted)
        self.utterances = [self.utterances[row] for row in rows]
        self.labels = [self.labels[row] for row in rows]
        self.phonemes = [self.phonemes[row] for row in rows] if self.phonemes is not None else None
        self.repeats, self.spliced = self.repeats[rows], self.spliced[rows]
        self.fewest_frames = self.fewest_frames[rows]
        self.store = self.store.chosen(rows)

    def with_more(self, utterances: list[Utterance], store: UtteranceFeatures) -> Corpus:
        """A corpus of these utterances and others, once each, behind them; `store` has the features of all."""
        more = copy.copy(self)
        labels = [self.alphabet.encode(utterance.text) for utterance in utterances]
        more.utterances, more.labels, more.store = self.utterances + utterances, self.labels + labels, store
        if self.pronunciations and self.phonemes is not None:
            more.phonemes = self.phonemes + [self.pronunciations.encode(utterance.text) for utterance in utterances]
        fewest = np.array([required_frames(item) for item in labels], np.int64)
        more.fewest_frames = np.concatenate([self.fewest_frames, fewest])
        more.repeats = np.concatenate([self.repeats, np.ones(len(utterances), np.int64)])
        more.spliced = np.concatenate([self.spliced, np.zeros(len(utterances))])
        return more

    @property
    def hours(self) -> float:
        """Hours of audio, each utterance once."""
        return float(self.store.frames.sum()) / self.frame_rate / 3600

    def batch(self, indices: np.ndarray, change: Change | None = None) -> Batch:
        """Put some utterances together, their features changed by `change` if it is given."""
        stored = {index: self.store[index].astype(np.float32) for index in dict.fromkeys(indices)}
        items = [stored[index] for index in indices]
        if change is not None:
            fewest = self.fewest_frames[indices]
            items = [change(row, item, fewest[row]) for row, item in enumerate(items)]
        frames = np.array([len(item) for item in items])
        longest = -(-frames.max() // LENGTHS) * LENGTHS
        padded = np.zeros((len(items), longest, self.config.mels), np.float32)
        for row, item in zip(padded, items, strict=True):
            row[: len(item)] = item
        labels = [self.labels[index] for index in indices]
        counts = torch.tensor([len(item) for item in labels])
        seconds = float(frames.sum()) / self.frame_rate
        flat = torch.from_numpy(np.concatenate(labels))
        return Batch(
            torch.from_numpy(padded), torch.from_numpy(frames), flat, counts, *self.phonemes_of(indices), seconds
        )

    def phonemes_of(self, indices: np.ndarray) -> tuple[Tensor | None, Tensor | None]:
        """Labels of the phonemes of some utterances, one behind the other, and their counts, if they are known."""
        if self.phonemes is None:
            return None, None
        labels = [self.phonemes[index] for index in indices]
        return torch.from_numpy(np.concatenate(labels)), torch.tensor([len(item) for item in labels])

    def fits(self, stride: int) -> np.ndarray:
        """Which utterances have frames enough for their text, one of `stride` feature frames each; bool."""
        return np.asarray(self.fewest_frames * stride <= self.store.frames)

    def short_enough(self, data: Data) -> np.ndarray:
        """Which utterances are no longer than the recipe allows; bool."""
        return np.asarray(self.store.frames <= data.longest_seconds * self.frame_rate)

    def groups(self, epoch: int) -> int:
        """How many groups an epoch goes through: this one."""
        return 1

    def group(self, epoch: int, number: int) -> Corpus:
        """The only group of each epoch."""
        return self

    def parts(self) -> Iterator[Corpus]:
        """All utterances once."""
        yield self

    def leave_out(self, find: Find) -> None:
        """Leave out the utterances that `find` finds, by index."""
        found = find(self)
        self.keep(np.array([index not in found for index in range(len(self.utterances))], bool))

    def training_order(
        self, data: Data, training: Training, stride: int, epoch: int, parts: int = 1, group: int = 0
    ) -> list[np.ndarray]:
        """What each step takes, as indices: of like lengths, in an order drawn from seed, epoch and group.

        A step takes `parts` times the utterances or seconds of a batch.
        """
        rng = np.random.default_rng([training.seed, epoch, group])
        usable = self.fits(stride) & self.short_enough(data)
        indices = np.repeat(np.arange(len(self.utterances)), self.repeats * usable)
        # Lengths are shaken a little before sorting, so that the same utterances do not always meet.
        order = indices[np.argsort(self.store.frames[indices] * rng.uniform(0.9, 1.1, len(indices)))]
        batches = list(
            split(
                order,
                self.store.frames,
                training.batch_utterances * parts,
                training.batch_seconds * parts * self.frame_rate,
            )
        )
        return [batches[i] for i in rng.permutation(len(batches))]

    def in_order_of_length(self, seconds: float) -> Iterator[np.ndarray]:
        """All utterances once, shortest first, in batches of up to so many padded seconds."""
        return split(np.argsort(self.store.frames, kind="stable"), self.store.frames, 0, seconds * self.frame_rate)


def fault_of(utterance: Utterance, noticed: Noticed, seconds: float) -> Fault | None:
    """What is wrong with a recording of so many seconds, by what was noticed when it was read."""
    if noticed.error:
        return Fault("unreadable audio", utterance.where, noticed.error)
    if noticed.peak < SILENT_PEAK:
        detail = f"{utterance.audio} is silent, no sample is above -60 dB; record it again or remove the line"
        return Fault("silence", utterance.where, detail)
    if utterance.cuts and utterance.cuts[-1][1] > seconds + LATEST_CUT:
        last = f"its last cut is at {utterance.cuts[-1][1]:g} s, but {utterance.audio} has {seconds:.2f} s"
        return Fault("cuts behind the end", utterance.where, f"{last}; cuts are a word and a second each")
    return None


def split(order: np.ndarray, frames: np.ndarray, count: int, most: float) -> Iterator[np.ndarray]:
    """Cut an order of utterances into batches of `count`, or of up to `most` padded frames if `count` is 0."""
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, int(frames[index]))
        full = len(batch) >= count if count else (len(batch) + 1) * longest > most
        if batch and full:
            yield np.array(batch)
            batch, longest = [], int(frames[index])
        batch.append(int(index))
    if batch:
        yield np.array(batch)
