"""Mel features of many recordings, with what was noticed while reading them.

They are computed once and memory-mapped, or, for recordings in shards, computed anew each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from tqdm import tqdm

from asr_runtime.audio import read_audio
from asr_runtime.errors import AudioError, RecipeError
from asr_training.features import MelSpectrogram
from asr_training.manifest import Utterance
from asr_training.recipe import Features
from asr_training.shards import ShardedUtterance
from asr_training.text_file import write_whole

SILENT_PEAK = 1e-3  # of full scale: -60 dB


@dataclass(frozen=True)
class Noticed:
    """What reading a recording showed: why it cannot be read, or its loudest sample and what its samples hash to."""

    error: str = ""
    peak: float = 0.0  # of full scale
    digest: str = ""


class UtteranceFeatures(Protocol):
    """Mel features of many utterances."""

    frames: np.ndarray  # of each utterance, int64
    noticed: list[Noticed]

    def __getitem__(self, index: int) -> np.ndarray:
        """Features of one utterance, float16 [frames, mels]."""

    def chosen(self, rows: np.ndarray) -> UtteranceFeatures:
        """Those of some of the utterances."""


class FeatureStore:
    """Mel features of many utterances in one memory-mapped float16 file, so that memory does not grow with the data."""

    def __init__(self, values: np.ndarray, starts: np.ndarray, frames: np.ndarray, noticed: list[Noticed]) -> None:
        self.values, self.starts, self.frames, self.noticed = values, starts, frames, noticed

    def __getitem__(self, index: int) -> np.ndarray:
        """Features of one utterance, float16 [frames, mels]."""
        return self.values[self.starts[index] : self.starts[index] + self.frames[index]]

    def chosen(self, rows: np.ndarray) -> FeatureStore:
        """The store of some of its utterances."""
        return FeatureStore(self.values, self.starts[rows], self.frames[rows], [self.noticed[row] for row in rows])


class ShardFeatures:
    """Mel features of utterances in shards, computed whenever they are asked for."""

    def __init__(self, utterances: list[ShardedUtterance], config: Features, front_end: MelSpectrogram) -> None:
        self.utterances, self.config, self.front_end = utterances, config, front_end
        recordings = [utterance.recording for utterance in utterances]
        # At another rate than the index has it may be one more or less; batches are padded to what there is.
        frames = [r.samples * config.sample_rate // r.rate // config.hop + 1 for r in recordings]
        self.frames = np.array(frames, np.int64)
        self.noticed = [Noticed(peak=r.peak, digest=r.digest) for r in recordings]

    def __getitem__(self, index: int) -> np.ndarray:
        """Features of one utterance, float16 [frames, mels]; raises RecipeError where its audio is damaged."""
        utterance = self.utterances[index]
        features, noticed = read_features(utterance.read(), self.config, self.front_end)
        if noticed.error:
            raise RecipeError(f"{utterance.where}: {noticed.error}; make the shards anew")
        return features

    def chosen(self, rows: np.ndarray) -> ShardFeatures:
        """Those of some of the utterances."""
        return ShardFeatures([self.utterances[row] for row in rows], self.config, self.front_end)


def features_of(utterances: list[Utterance], config: Features, cache: Path | None) -> UtteranceFeatures:
    """The features of utterances in shards (all are, without a `cache`), or of others, stored in the folder `cache`."""
    sharded = [utterance for utterance in utterances if isinstance(utterance, ShardedUtterance)]
    if cache is not None and not sharded:
        return store_features(utterances, config, cache)
    if len(sharded) < len(utterances):
        raise RecipeError("[data]: one list names shards and other data; make shards of those, too")
    return ShardFeatures(sharded, config, MelSpectrogram(config))


def store_features(utterances: list[Utterance], config: Features, cache: Path) -> FeatureStore:
    """Compute the features of all utterances, or open those of an earlier run with the same files and front end.

    A recording that cannot be read has no frames, and `noticed` says why.
    """
    files = [file_identity(utterance.audio) for utterance in utterances]
    key = hashlib.sha256(json.dumps([config.__dict__, files]).encode()).hexdigest()[:16]
    values, index = cache / f"{key}.npy", cache / f"{key}.json"
    if not index.is_file():
        write_features(utterances, config, values, index)
    try:
        rows = json.loads(index.read_text(encoding="utf-8"))
        frames = np.array([row.pop("frames") for row in rows], np.int64)
        starts = np.cumsum(frames) - frames
        return FeatureStore(np.load(values, mmap_mode="r"), starts, frames, [Noticed(**row) for row in rows])
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise RecipeError(f"cannot read the features in {values} ({error}); remove the folder {cache}") from None


def file_identity(path: Path) -> tuple[str, int, int]:
    """What tells a recording from another, or from an earlier state of itself, without reading it."""
    if not path.is_file():
        return str(path), -1, -1
    status = path.stat()
    return str(path), status.st_size, status.st_mtime_ns


def write_features(utterances: list[Utterance], config: Features, values: Path, index: Path) -> None:
    """Compute features into `values`, and what tells them apart into `index`, which is written last."""
    values.parent.mkdir(parents=True, exist_ok=True)
    front_end, raw = MelSpectrogram(config), values.with_suffix(f".{os.getpid()}.part")
    rows: list[dict[str, Any]] = []
    with raw.open("wb") as out:
        for utterance in tqdm(utterances, "features", unit="utt", disable=None):
            features, noticed = read_features(utterance.audio, config, front_end)
            out.write(features.tobytes())
            rows.append({"frames": len(features), **noticed.__dict__})
    header = {"descr": "<f2", "fortran_order": False, "shape": (sum(row["frames"] for row in rows), config.mels)}
    with raw.open("rb") as source, values.open("wb") as target:  # no memory map: on a full disk it kills the process
        write_array_header_1_0(target, header)
        shutil.copyfileobj(source, target)
    raw.unlink()
    write_whole(index, json.dumps(rows))


@torch.no_grad()
def read_features(audio: Path | bytes, config: Features, front_end: MelSpectrogram) -> tuple[np.ndarray, Noticed]:
    """Features of a recording, float16 [frames, mels], and what was noticed; no frames where it cannot be read."""
    try:
        samples = read_audio(audio, config.sample_rate)
    except AudioError as error:
        return np.zeros((0, config.mels), np.float16), Noticed(error=str(error))
    waveform = torch.from_numpy(samples)
    features, _ = front_end(waveform[None], torch.tensor([len(samples)]))
    noticed = Noticed(peak=float(np.abs(samples).max()), digest=digest_of(samples))
    return features[0].to(torch.float16).numpy(), noticed


def digest_of(samples: np.ndarray) -> str:
    """What tells the samples of a recording from others, whatever file they came in."""
    return hashlib.blake2b(samples.tobytes(), digest_size=16).hexdigest()
