"""New sentences by the speakers of recordings, which are cut between words and put together anew, as training data.

A model that has heard a few hours over and over learns their texts by heart; words in an order that nobody wrote leave
it the sounds alone. The cuts come from the model's own alignment (as in Lam et al. 2021, "On-the-fly aligned data
augmentation for sequence-to-sequence ASR", where words are exchanged during the training).
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch

from asr_runtime.audio import read_audio
from asr_runtime.errors import RecipeError
from asr_training.checkpoint import Checkpoint
from asr_training.checks import whole_corpus
from asr_training.evaluate import log_probabilities
from asr_training.manifest import read_lines
from asr_training.recipe import Source
from asr_training.vocoder import SAMPLE_RATE

MARGIN = 0.1, 0.25  # seconds that stay before the first label and behind the last one
EARLY = 0.05  # seconds from a label to the middle of its sound; the network, which sees both sides, is early
FADE = 0.008  # seconds in which one piece goes over into the next
SHORTEST, LONGEST = 3.0, 14.0  # seconds of a new recording
QUIET = 0.005  # power at a cut, as a share of the recording's
LIKELY = -2.0  # log-probability of a label in the mean; what lies below is said otherwise than written


@dataclass(frozen=True)
class Piece:
    """Words of a recording between two cuts, in samples at `SAMPLE_RATE`."""

    audio: Path
    begin: int
    end: int
    words: tuple[str, ...]
    licence: str = ""


def align(log_probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """The frame at which each of `labels`, int64 [labels], begins in log-probabilities [frames, tokens].

    It is so on the most likely path of CTC, whose blank is the last token; its log-probability for each label comes
    second. The frames have to be enough for the labels and for the blanks between two that are the same.
    """
    blank = log_probs.shape[1] - 1
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    skips = np.zeros(len(states), bool)
    skips[3::2] = labels[1:] != labels[:-1]
    emitted = log_probs[:, states]
    score = np.full(len(states), -np.inf)
    score[:2] = emitted[0, :2]
    origins = np.zeros(emitted.shape, np.int8)
    for t in range(1, len(emitted)):
        one, two = np.r_[-np.inf, score[:-1]], np.r_[-np.inf, -np.inf, score[:-2]]
        candidates = np.stack([score, one, np.where(skips, two, -np.inf)])
        origins[t] = candidates.argmax(0)
        score = candidates.max(0) + emitted[t]
    state = len(states) - 1 if score[-1] >= score[-2] else len(states) - 2
    begins, likelihood = np.zeros(len(labels), np.int64), float(score[state]) / len(labels)
    for t in range(len(emitted) - 1, -1, -1):
        if state % 2:
            begins[state // 2] = t
        state -= int(origins[t, state])
    return begins, likelihood


def quietest(samples: np.ndarray, begin: int, end: int) -> tuple[int, float]:
    """The sample from `begin` to `end` with the least power around it, in mono float32 [samples], and that power."""
    window = SAMPLE_RATE // 50
    around = samples[max(0, begin - window // 2) : end + window // 2]
    if len(around) < window:
        return begin, np.inf
    power = np.convolve(around**2, np.ones(window), "valid")
    return begin + int(power.argmin()), float(power.min()) / window


def cut(audio: Path, words: list[str], gaps: np.ndarray, begins: np.ndarray, licence: str = "") -> list[Piece]:
    """The pieces of a recording that are between pauses, or sounds as quiet as one, at the ends of words.

    `begins` is when each label is said, as a share of the recording, and `gaps` are the labels between words.
    """
    samples = read_audio(audio, SAMPLE_RATE)
    times = (begins * len(samples)).astype(np.int64)
    before, behind, early = (int(seconds * SAMPLE_RATE) for seconds in (*MARGIN, EARLY))
    first, last = max(0, int(times[0]) - before), min(len(samples), int(times[-1]) + behind)
    quiet = QUIET * float(np.mean(samples[first:last] ** 2))
    cuts = [(0, first)]
    for word, gap in enumerate(gaps, 1):
        place, power = quietest(samples, int(times[gap - 1]) + early, int(times[gap + 1]) + early)
        if power < quiet:
            cuts.append((word, place))
    cuts.append((len(words), last))
    return [
        Piece(audio, begin, end, tuple(words[i:j]), licence)
        for (i, begin), (j, end) in itertools.pairwise(cuts)
        if end - begin <= LONGEST * SAMPLE_RATE
    ]


def find_pieces(checkpoint: Checkpoint, manifest: Path, pronunciations: str) -> dict[str, list[Piece]]:
    """The pieces of the recordings of a manifest, by speaker; what is said otherwise than written is left out.

    A recording without a speaker has one of its own. Raises RecipeError for texts that the checkpoint cannot write.
    """
    with whole_corpus(checkpoint, (Source(str(manifest)),), pronunciations) as corpus:
        rows = {where: json.loads(line) for where, line in read_lines(manifest)}
        space = corpus.alphabet.labels[" "]
        pieces: defaultdict[str, list[Piece]] = defaultdict(list)
        for index, result in log_probabilities(checkpoint.model, corpus, torch.device("cpu")):
            labels, utterance, frames = corpus.labels[index], corpus.utterances[index], len(result.log_probs)
            row, gaps = rows[utterance.where], np.flatnonzero(labels == space)
            words = str(row["text"]).split()
            single = len(gaps) == len(words) - 1 and space not in (labels[0], labels[-1])  # spaces between words
            if not single or corpus.fewest_frames[index] > frames:
                continue
            begins, likelihood = align(result.log_probs, labels)
            if likelihood > LIKELY:
                found = cut(utterance.audio, words, gaps, (begins + 0.5) / frames, str(row.get("licence", "")))
                pieces[utterance.speaker or utterance.where] += found
    return dict(pieces)


@functools.lru_cache(maxsize=2000)  # those of a speaker, which are wanted again and again
def recording(audio: Path) -> np.ndarray:
    """Its samples at `SAMPLE_RATE`, mono float32 [samples]."""
    return read_audio(audio, SAMPLE_RATE)


def join(pieces: list[Piece]) -> np.ndarray:
    """The samples of pieces one behind the other, float32 [samples], which fade into each other."""
    fade = int(FADE * SAMPLE_RATE)
    ramp = np.linspace(0, 1, fade, dtype=np.float32)
    joined = np.zeros(0, np.float32)
    for piece in pieces:
        samples = recording(piece.audio)[piece.begin : piece.end].copy()
        if len(joined) >= fade and len(samples) >= fade:
            samples[:fade] *= ramp
            joined[-fade:] *= ramp[::-1]
            samples[:fade] += joined[-fade:]
            joined = joined[:-fade]
        joined = np.concatenate([joined, samples])
    return joined


def sentences(pieces: list[Piece], seconds: float, rng: np.random.Generator) -> Iterator[list[Piece]]:
    """Pieces in a random order, in lots of up to a random length, `LONGEST` seconds at most, of so many together."""
    lot: list[Piece] = []
    length, wanted = 0.0, rng.uniform(SHORTEST, LONGEST)
    while seconds > 0:
        for index in rng.permutation(len(pieces)):
            more = (pieces[index].end - pieces[index].begin) / SAMPLE_RATE
            if lot and length + more > wanted:
                yield lot
                seconds -= length
                lot, length, wanted = [], 0.0, rng.uniform(SHORTEST, LONGEST)
                if seconds <= 0:
                    return
            lot.append(pieces[index])
            length += more


def splice(
    checkpoint: Checkpoint, manifest: Path, out: Path, *, pronunciations: str = "", times: float = 1.0, seed: int = 1
) -> int:
    """Put the words of each speaker of `manifest` together anew, into `out`/audio and `out`/spliced.jsonl.

    Each speaker gets `times` as much audio as there is. A checkpoint that writes phonemes needs the `pronunciations` of
    the words. Returns how many recordings were made. Raises RecipeError where `out` holds some already, for texts that
    the checkpoint cannot write, and for a checkpoint that hears none of them.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"{out} holds something already, which is not replaced; give another folder")
    if " " not in checkpoint.alphabet.characters:
        raise RecipeError("the checkpoint's alphabet has no space, so that it does not tell words apart; give another")
    speakers = find_pieces(checkpoint, manifest, pronunciations)
    if not speakers:
        raise RecipeError(
            f"the checkpoint hears none of the texts of {manifest}; give one trained longer, the right texts, or for a"
            " model of phonemes --pronunciations"
        )
    out.mkdir(parents=True, exist_ok=True)
    rng, number = np.random.default_rng(seed), 0
    unfinished = out / "spliced.jsonl.part"
    with unfinished.open("w", encoding="utf-8") as lines:
        for speaker, pieces in sorted(speakers.items()):
            seconds = times * sum(piece.end - piece.begin for piece in pieces) / SAMPLE_RATE
            for lot in sentences(pieces, seconds, rng):
                audio = f"audio/{number // 1000:04d}/{number:06d}.flac"
                (out / audio).parent.mkdir(parents=True, exist_ok=True)
                samples = join(lot)
                soundfile.write(out / audio, samples, SAMPLE_RATE)
                text = " ".join(word for piece in lot for word in piece.words)
                row = {"audio": audio, "text": text, "duration": round(len(samples) / SAMPLE_RATE, 3)}
                licence = ", ".join(sorted({piece.licence for piece in lot} - {""}))
                row |= {"speaker": speaker, "source": "spliced"} | ({"licence": licence} if licence else {})
                print(json.dumps(row), file=lines)
                number += 1
            recording.cache_clear()
    unfinished.rename(out / "spliced.jsonl")
    return number
