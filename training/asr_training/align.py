"""Where recordings can be cut between words, by a model's own alignment; training puts them together anew."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch

from asr_runtime.audio import read_audio
from asr_runtime.errors import RecipeError
from asr_training.checkpoint import Checkpoint
from asr_training.checks import whole_corpus
from asr_training.evaluate import log_probabilities
from asr_training.manifest import read_lines
from asr_training.recipe import Source
from asr_training.text_file import write_whole

SAMPLE_RATE = 16000  # of the samples that are searched for a quiet place
MARGIN = 0.1, 0.25  # seconds that stay before the first label and behind the last one
EARLY = 0.05  # seconds from a label to the middle of its sound; the network, which sees both sides, is early
LEAST = 0.05  # seconds between two cuts
QUIET = 0.005  # power at a cut, as a share of the recording's
LIKELY = -2.0  # log-probability of a label in the mean; what lies below is said otherwise than written


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


def find_cuts(audio: Path, words: int, gaps: np.ndarray, begins: np.ndarray) -> list[tuple[int, float]]:
    """Where a recording can be cut: before which of its words, counted from 0, and at which second.

    The first cut is where the speech begins and the last one, before the word behind the last, where it ends; those
    between are in pauses, or in sounds as quiet as one, at the ends of words. `begins` is when each label is said, as a
    share of the recording, and `gaps` are the labels between words.
    """
    samples = read_audio(audio, SAMPLE_RATE)
    times = (begins * len(samples)).astype(np.int64)
    before, behind, early = (int(seconds * SAMPLE_RATE) for seconds in (*MARGIN, EARLY))
    first, last = max(0, int(times[0]) - before), min(len(samples), int(times[-1]) + behind)
    least, quiet = int(LEAST * SAMPLE_RATE), QUIET * float(np.mean(samples[first:last] ** 2))
    cuts = [(0, first)]
    for word, gap in enumerate(gaps, 1):
        place, power = quietest(samples, int(times[gap - 1]) + early, int(times[gap + 1]) + early)
        if power < quiet and cuts[-1][1] + least <= place <= last - least:  # a short word can have quiet on both sides
            cuts.append((word, place))
    return [(word, round(place / SAMPLE_RATE, 3)) for word, place in [*cuts, (words, last)]]


def seen_from(folder: Path, before: Path, audio: str) -> str:
    """The path of a recording for a manifest in `folder`, which another in `before` has as `audio`."""
    if Path(audio).is_absolute():
        return audio
    try:
        return Path(os.path.relpath(before.resolve() / audio, folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return str(before.resolve() / audio)


def align_manifest(checkpoint: Checkpoint, manifest: Path, out: Path, *, pronunciations: str = "") -> tuple[int, int]:
    """Write the lines of `manifest` to `out`, each with the `cuts` of `find_cuts`.

    A line whose text is said otherwise than written has none. A checkpoint that writes phonemes needs the
    `pronunciations` of the words. Returns how many lines have cuts, and how many pieces there are between them.

    Raises RecipeError where `out` is there already, and for texts that the checkpoint cannot write or hears none of.
    """
    if " " not in checkpoint.alphabet.characters:
        raise RecipeError("the checkpoint's alphabet has no space, so that it does not tell words apart; give another")
    if out.exists():
        raise RecipeError(f"{out} is there already, and is not replaced; give another or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = pieces = 0
    with whole_corpus(checkpoint, (Source(str(manifest)),), pronunciations) as corpus:
        rows = {where: json.loads(line) for where, line in read_lines(manifest)}
        for row in rows.values():
            row.pop("cuts", None)
            row["audio"] = seen_from(out.parent, manifest.parent, row["audio"])
        space = corpus.alphabet.labels[" "]
        for index, result in log_probabilities(checkpoint.model, corpus, torch.device("cpu")):
            labels, utterance, frames = corpus.labels[index], corpus.utterances[index], len(result.log_probs)
            row, gaps = rows[utterance.where], np.flatnonzero(labels == space)
            words = len(str(row["text"]).split())
            single = len(gaps) == words - 1 and space not in (labels[0], labels[-1])  # spaces between words
            if not single or corpus.fewest_frames[index] > frames:
                continue
            begins, likelihood = align(result.log_probs, labels)
            if likelihood > LIKELY:
                row["cuts"] = find_cuts(utterance.audio, words, gaps, (begins + 0.5) / frames)
                lines, pieces = lines + 1, pieces + len(row["cuts"]) - 1
    if not lines:
        raise RecipeError(
            f"the checkpoint hears none of the texts of {manifest}; give one trained longer, the right texts, or for a"
            " model of phonemes --pronunciations"
        )
    write_whole(out, "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows.values()))
    return lines, pieces
