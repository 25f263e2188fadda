"""What goes into a bundle beside the model: language model, word list, card and decoder settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_export.check import renew_check
from asr_runtime.bundle import Bundle, NewFile, update_bundle
from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
from asr_runtime.errors import ExportError


def language_model_files(language_model: Path, tokens: Sequence[str], lexicon: Path | None = None) -> list[NewFile]:
    """A language model and its word list as a bundle takes them, if the decoder takes them with these tokens.

    Raises DecoderError.
    """
    BeamSearchDecoder(tokens, language_model=language_model, lexicon=lexicon)
    kind = ".arpa" if language_model.suffix == ".arpa" else ".binary"
    files = [NewFile(source=language_model, role="language_model", path=f"lm{kind}")]
    if lexicon is not None:
        files.append(NewFile(source=lexicon, role="lexicon", path="lexicon.txt"))
    return files


def card_file(card: Path) -> NewFile:
    """The text that describes the model, as a bundle takes it."""
    if not card.is_file():
        raise ExportError(f"{card}: there is no such file; give the text that describes the model.")
    return NewFile(source=card, role="card", path="card.md")


def add_language_model(
    path: Path,
    language_model: Path,
    *,
    lexicon: Path | None = None,
    decoder: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Bundle:
    """Put a language model into the bundle at `path`, with settings of `BeamConfig` that go with it.

    Raises BundleError, and DecoderError for a language model, word list or setting that the decoder does not take.
    """
    settings = dict(decoder or {})
    BeamConfig(**settings)
    tokens = Bundle.load(path).tokens
    files = language_model_files(language_model, tokens, lexicon)
    update_bundle(path, files, force=force, decoder=settings)
    return renew_check(path)
