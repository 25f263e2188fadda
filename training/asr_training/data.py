"""Speech with text: manifests and LibriSpeech folders to features, and features to batches of like lengths."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from torch import Tensor
from tqdm import tqdm

from asr_runtime.audio import read_audio
from asr_runtime.errors import AudioError, RecipeError
from asr_training.features import MelSpectrogram
from asr_training.manifest import Utterance, read_utterances
from asr_training.recipe import Data, Features, Source, Training
from asr_training.text import Alphabet, Pronunciations, required_frames


def read_source(source: Source, data: Data, alphabet: Alphabet) -> list[Utterance]:
    """The utterances of a manifest or LibriSpeech folder, their texts checked."""
    found = read_utterances(Path(source.path))
    return [check_text(utterance, data, alphabet) for utterance in found]


def check_text(utterance: Utterance, data: Data, alphabet: Alphabet) -> Utterance:
    """The utterance, in lower case if so configured; no text or a character outside the alphabet is refused."""
    text = utterance.text.lower() if data.lower_case else utterance.text
    if not text.strip():
        raise RecipeError(f"{utterance.where}: the text is empty; write what is said or remove the line")
    if unknown := alphabet.unknown(text):
        raise RecipeError(
            f"{utterance.where}: the character {unknown!r} is outside the alphabet {alphabet.characters!r};"
            " write it in words or add it to the recipe's alphabet"
        )
    return dataclasses.replace(utterance, text=text)


def read_waveform(utterance: Utterance, rate: int) -> np.ndarray:
    """An utterance's recording as mono float32 [samples] at `rate` hertz."""
    try:
        return read_audio(utterance.audio, rate)
    except AudioError as error:
        raise RecipeError(f"{utterance.where}: {error}") from None


class FeatureStore:
    """Mel features of many utterances in one memory-mapped float16 file, so that memory does not grow with the data."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets
        self.frames = np.diff(offsets)

    def __getitem__(self, index: int) -> np.ndarray:
        """Features of one utterance, float16 [frames, mels]."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]


def store_features(utterances: list[Utterance], config: Features, cache: Path) -> FeatureStore:
    """Compute the features of all utterances, or open those of an earlier run with the same files and front end."""
    files = [file_identity(utterance.audio) for utterance in utterances]
    key = hashlib.sha256(json.dumps([config.__dict__, files]).encode()).hexdigest()[:16]
    values, offsets = cache / f"{key}.npy", cache / f"{key}.offsets.npy"
    if not offsets.is_file():
        write_features(utterances, config, values, offsets)
    try:
        return FeatureStore(np.load(values, mmap_mode="r"), np.load(offsets))
    except (OSError, EOFError, ValueError) as error:
        raise RecipeError(f"cannot read the features in {values} ({error}); remove the folder {cache}") from None


def file_identity(path: Path) -> tuple[str, int, int]:
    """What tells a recording from another, or from an earlier state of itself, without reading it."""
    if not path.is_file():
        return str(path), -1, -1
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def write_features(utterances: list[Utterance], config: Features, values: Path, offsets: Path) -> None:
    """Compute features into `values`, and where each utterance begins into `offsets`, which is written last."""
    values.parent.mkdir(parents=True, exist_ok=True)
    front_end, raw, ends = MelSpectrogram(config), values.with_suffix(".part"), [0]
    with raw.open("wb") as out, torch.no_grad():
        for utterance in tqdm(utterances, "features", unit="utt", disable=None):
            samples = torch.from_numpy(read_waveform(utterance, config.sample_rate))
            features, _ = front_end(samples[None], torch.tensor([len(samples)]))
            out.write(features[0].to(torch.float16).numpy().tobytes())
            ends.append(ends[-1] + features.shape[1])
    header = {"descr": "<f2", "fortran_order": False, "shape": (ends[-1], config.mels)}
    with raw.open("rb") as source, values.open("wb") as target:  # no memory map: on a full disk it kills the process
        write_array_header_1_0(target, header)
        shutil.copyfileobj(source, target)
    raw.unlink()
    part = offsets.with_suffix(".part.npy")
    np.save(part, np.array(ends))
    part.replace(offsets)


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


# Features [frames, mels] and the fewest output frames that must stay possible, to changed features.
Change = Callable[[np.ndarray, int], np.ndarray]


class Corpus:
    """Utterances with features and labels, to be gone through in batches."""

    def __init__(self, sources: tuple[Source, ...], data: Data, features: Features, cache: Path) -> None:
        self.config = features
        self.alphabet = Alphabet(data.alphabet)
        self.utterances: list[Utterance] = []
        repeats: list[int] = []
        for source in sources:
            found = read_source(source, data, self.alphabet)
            self.utterances += found
            repeats += [source.repeat] * len(found)
        self.repeats = np.array(repeats)
        self.store = store_features(self.utterances, features, cache)
        self.labels = [self.alphabet.encode(utterance.text) for utterance in self.utterances]
        self.pronunciations = Pronunciations(Path(data.pronunciations)) if data.pronunciations else None
        self.phonemes = [self.pronunciations.encode(u.text) for u in self.utterances] if self.pronunciations else None
        self.fewest_frames = np.array([required_frames(labels) for labels in self.labels])
        self.frame_rate = features.sample_rate / features.hop  # feature frames a second

    @property
    def hours(self) -> float:
        """Hours of audio, each utterance once."""
        return float(self.store.frames.sum()) / self.frame_rate / 3600

    def batch(self, indices: np.ndarray, change: Change | None = None) -> Batch:
        """Put some utterances together, their features changed by `change` if it is given."""
        items = [self.store[index].astype(np.float32) for index in indices]
        if change is not None:
            items = [change(item, self.fewest_frames[index]) for item, index in zip(items, indices, strict=True)]
        frames = np.array([len(item) for item in items])
        padded = np.zeros((len(items), frames.max(), self.config.mels), np.float32)
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

    def left_out(self, data: Data, stride: int) -> str:
        """How many utterances are left out of training, and why, in words."""
        long, coarse = ~self.short_enough(data), ~self.fits(stride)
        return (
            f"{int((long | coarse).sum())} of {len(long)} left out: {int(long.sum())} longer than"
            f" {data.longest_seconds:g} s, {int(coarse.sum())} with too few frames for their text"
        )

    def training_order(self, data: Data, training: Training, stride: int, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch as indices: of like lengths inside, in an order drawn from seed and epoch."""
        rng = np.random.default_rng([training.seed, epoch])
        usable = self.fits(stride) & self.short_enough(data)
        indices = np.repeat(np.arange(len(self.utterances)), self.repeats * usable)
        # Lengths are shaken a little before sorting, so that the same utterances do not always meet.
        order = indices[np.argsort(self.store.frames[indices] * rng.uniform(0.9, 1.1, len(indices)))]
        batches = list(
            split(order, self.store.frames, training.batch_utterances, training.batch_seconds * self.frame_rate)
        )
        return [batches[i] for i in rng.permutation(len(batches))]

    def in_order_of_length(self, seconds: float) -> Iterator[np.ndarray]:
        """All utterances once, shortest first, in batches of up to so many padded seconds."""
        return split(np.argsort(self.store.frames, kind="stable"), self.store.frames, 0, seconds * self.frame_rate)


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


def describe(corpus: Corpus) -> dict[str, Any]:
    """Utterances, hours and speakers, for provenance and the first line of a run."""
    speakers = {utterance.speaker for utterance in corpus.utterances}
    return {"utterances": len(corpus.utterances), "hours": round(corpus.hours, 2), "speakers": len(speakers)}
