"""asr_runtime's decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def load(
    package: Any, tokens: list[str], files: dict[str, str], settings: dict[str, Any]
) -> Callable[[int], Callable[[Any], str]]:
    """`settings`: fields of BeamConfig."""

    def with_beam(beam: int) -> Callable[[Any], str]:
        config = package.BeamConfig(beam_size=beam, **settings)
        decoder = package.BeamSearchDecoder(
            tokens, language_model=files.get("lm"), lexicon=files.get("words"), config=config
        )
        return lambda log_probs: str(decoder.decode(log_probs)[0].text)

    return with_beam
