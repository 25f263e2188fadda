"""ds_ctcdecoder, the decoder of DeepSpeech: probabilities in float64, the language model as a .scorer package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def load(
    package: Any, tokens: list[str], files: dict[str, str], settings: dict[str, Any]
) -> Callable[[int], Callable[[Any], str]]:
    """`settings`: alpha, beta (with a scorer), cutoff_prob, cutoff_top_n."""
    alphabet = package.Alphabet(files["alphabet"])
    scorer = None
    if "scorer" in files:
        scorer = package.Scorer(settings["alpha"], settings["beta"], files["scorer"], alphabet)

    def with_beam(beam: int) -> Callable[[Any], str]:
        options = beam, settings["cutoff_prob"], settings["cutoff_top_n"], scorer

        def decode(log_probs: Any) -> str:
            found = package.ctc_beam_search_decoder(np.exp(log_probs, dtype=np.float64), alphabet, *options)
            return str(found[0][1]) if found else ""

        return decode

    return with_beam
