"""The compiled decoder (runtime/csrc/bindings.cc); use asr_runtime.decoder."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

class Word:
    """A word of a hypothesis; start and end are frames, end exclusive; confidence is in 0 to 1."""

    def __init__(self, text: str, start: int, end: int, confidence: float) -> None: ...
    @property
    def text(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def confidence(self) -> float: ...

class Hypothesis:
    """A text, its scores (natural log) and its words."""

    def __init__(
        self, text: str, score: float, acoustic_score: float, lm_score: float, words: Sequence[Word]
    ) -> None: ...
    @property
    def text(self) -> str: ...
    @property
    def score(self) -> float: ...
    @property
    def acoustic_score(self) -> float: ...
    @property
    def lm_score(self) -> float: ...
    @property
    def words(self) -> tuple[Word, ...]: ...

class Options:
    """BeamConfig as the search reads it."""

    beam_size: int
    beam_threshold: float
    token_floor: float
    alpha: float
    beta: float
    unknown_word_penalty: float
    end_of_sentence: bool
    look_ahead: bool
    repeated_spaces: bool
    confidence_scale: float
    confidence_offset: float
    n_best: int

def scorer_weights(path: str) -> tuple[float, float] | None:
    """Alpha and beta of a `.scorer` package; None for any other file."""

class Decoder:
    """A search model and the searches that run on it."""

    def __init__(
        self,
        tokens: Sequence[str],
        blank: int,
        language_model: str | None,
        lexicon: str | None,
        options: Options,
    ) -> None: ...
    def check_hot_words(self, hot_words: Sequence[tuple[str, float]]) -> None: ...
    def decode(
        self, log_probs: npt.NDArray[np.float32], hot_words: Sequence[tuple[str, float]]
    ) -> list[Hypothesis]: ...
    def decode_batch(
        self, log_probs: Sequence[npt.NDArray[np.float32]], threads: int, hot_words: Sequence[tuple[str, float]]
    ) -> list[list[Hypothesis]]: ...

class Stream:
    """One utterance in pieces."""

    def __init__(self, decoder: Decoder, hot_words: Sequence[tuple[str, float]]) -> None: ...
    def feed(self, log_probs: npt.NDArray[np.float32]) -> None: ...
    def partial(self) -> Hypothesis: ...
    def finish(self) -> list[Hypothesis]: ...
