"""Loss and error rates of a model on a corpus, by greedy decoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from asr_training.data import Corpus
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


@torch.no_grad()
def log_probabilities(model: AcousticModel, corpus: Corpus, device: torch.device) -> list[Result]:
    """Run the model over the corpus in batches of like lengths; results in the corpus's order."""
    model.eval()
    results: dict[int, Result] = {}
    for indices in corpus.in_order_of_length(BATCH_SECONDS):
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
            results[int(index)] = Result(log_probs[row, : frames[row]].cpu().numpy(), float(losses[row]))
    return [results[index] for index in range(len(corpus.utterances))]


def score(texts: list[str], results: list[Result], corpus: Corpus) -> dict[str, Score]:
    """Scores of recognised texts over all utterances ("all") and for each `source` of the manifests."""
    sources = sorted({utterance.source for utterance in corpus.utterances} - {""})
    scores = {}
    for name in ["all", *sources]:
        chosen = [i for i, u in enumerate(corpus.utterances) if name in ("all", u.source)]
        references = [corpus.utterances[i].text for i in chosen]
        wer, cer = error_rates([texts[i] for i in chosen], references)
        loss = sum(results[i].loss for i in chosen) / max(1, sum(len(text) for text in references))
        scores[name] = Score(loss, wer, cer, len(chosen))
    return scores


def evaluate(model: AcousticModel, corpus: Corpus, device: torch.device) -> dict[str, Score]:
    """Scores of greedy decoding."""
    results = log_probabilities(model, corpus, device)
    return score([corpus.alphabet.greedy(result.log_probs) for result in results], results, corpus)
