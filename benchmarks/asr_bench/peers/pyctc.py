"""pyctcdecode, and ctc-beam-decoder, which has the same interface."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load(
    package: Any, tokens: list[str], files: dict[str, str], settings: dict[str, Any]
) -> Callable[[int], Callable[[Any], str]]:
    """`settings`: alpha, beta (with a language model), token_min_logp, beam_prune_logp."""
    logging.disable(logging.WARNING)
    model = {}
    if "lm" in files:
        words = Path(files["words"]).read_text(encoding="utf-8").split()
        weights = {"alpha": settings["alpha"], "beta": settings["beta"]}
        model = {"kenlm_model_path": files["lm"], "unigrams": words, **weights}
    decoder = package.build_ctcdecoder(tokens, **model)
    pruning = {key: settings[key] for key in ("token_min_logp", "beam_prune_logp")}

    def with_beam(beam: int) -> Callable[[Any], str]:
        return lambda log_probs: str(decoder.decode(log_probs, beam_width=beam, **pruning))

    return with_beam
