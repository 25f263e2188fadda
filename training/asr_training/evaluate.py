"""Loss and error rates of a model on a corpus, by greedy decoding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from asr_training import processes
from asr_training.corpus import Corpus
from asr_training.model import AcousticModel
from asr_training.text import error_rates

BATCH_SECONDS = 120.0


@dataclass(frozen=True)
class Score:
    """Loss per character, and word and character error rates as shares."""

    loss: float
    wer: float
    cer: float
    utterances: int


@dataclass(frozen=True)
class Result:
    """What the model makes of one utterance."""

    log_probs: np.ndarray  # float32 [frames, tokens]
    loss: float  # natural log, of the whole text


@dataclass(frozen=True)
class Recognised:
    """What greedy decoding makes of one utterance."""

    text: str
    loss: float  # natural log, of the whole text


@torch.no_grad()
def log_probabilities(model: AcousticModel, corpus: Corpus, device: torch.device) -> Iterator[tuple[int, Result]]:
    """Run the model over this process's share of the corpus, in batches of like lengths; each with its index."""
    model.eval()
    batches = corpus.in_order_of_length(BATCH_SECONDS)
    for indices in itertools.islice(batches, processes.number(), None, processes.count()):
        batch = corpus.batch(indices)
        log_probs, frames, _ = model.encode(batch.features.to(device), batch.frames.to(device))
        losses = F.ctc_loss(
            log_probs.transpose(0, 1).cpu(),
            batch.labels,
            frames.cpu(),
            batch.label_counts,
            blank=corpus.alphabet.blank,
            reduction="none",
            zero_infinity=True,
        )
        for row, index in enumerate(indices):
            yield int(index), Result(log_probs[row, : frames[row]].cpu().numpy(), float(losses[row]))


def recognise(model: AcousticModel, corpus: Corpus, device: torch.device) -> list[Recognised]:
    """Decode the corpus greedily, in its order; the processes share the work."""
    results = log_probabilities(model, corpus, device)
    own = {index: Recognised(corpus.alphabet.greedy(result.log_probs), result.loss) for index, result in results}
    everything: dict[int, Recognised] = processes.gathered(own)
    return [everything[index] for index in range(len(corpus.utterances))]


def score(results: list[Recognised], corpus: Corpus) -> dict[str, Score]:
    """Scores of recognised texts over all utterances ("all") and for each `source` of the manifests."""
    sources = sorted({utterance.source for utterance in corpus.utterances} - {""})
    scores = {}
    for name in ["all", *sources]:
        chosen = [i for i, u in enumerate(corpus.utterances) if name in ("all", u.source)]
        references = [corpus.utterances[i].text for i in chosen]
        wer, cer = error_rates([results[i].text for i in chosen], references)
        loss = sum(results[i].loss for i in chosen) / max(1, sum(len(text) for text in references))
        scores[name] = Score(loss, wer, cer, len(chosen))
    return scores


def evaluate(model: AcousticModel, corpus: Corpus, device: torch.device) -> dict[str, Score]:
    """Scores of greedy decoding."""
    return score(recognise(model, corpus, device), corpus)
