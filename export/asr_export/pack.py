"""What goes into a bundle beside the model: language model, word list, card and decoder settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_export.check import renew_check
from asr_runtime.bundle import Bundle, NewFile, update_bundle
from asr_runtime.decoder import BeamConfig, BeamSearchDecoder
from asr_runtime.errors import ExportError
from asr_runtime.recognizer import is_pronounced


def language_model_file(language_model: Path, tokens: Sequence[str], lexicon: Path | None = None) -> NewFile:
    """A language model as a bundle takes it, if the decoder takes it with these tokens and this lexicon.

    Raises DecoderError.
    """
    BeamSearchDecoder(tokens, language_model=language_model, lexicon=lexicon)
    kind = ".arpa" if language_model.suffix == ".arpa" else ".binary"
    return NewFile(source=language_model, role="language_model", path=f"lm{kind}")


def lexicon_file(lexicon: Path) -> NewFile:
    """A word list, or a lexicon with pronunciations, as a bundle takes it."""
    return NewFile(source=lexicon, role="lexicon", path="lexicon.txt")


def words_files(language_model: Path | None, lexicon: Path | None, tokens: Sequence[str]) -> list[NewFile]:
    """What makes words of tokens, as a new bundle takes it, if the decoder takes it; raises DecoderError."""
    files = [lexicon_file(lexicon)] if lexicon else []
    if language_model:
        return [*files, language_model_file(language_model, tokens, lexicon)]
    if lexicon:
        BeamSearchDecoder(tokens, lexicon=lexicon)
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

    A bundle keeps its pronunciations. Raises BundleError, and DecoderError for a language model, lexicon or setting
    that the decoder does not take.
    """
    settings = dict(decoder or {})
    BeamConfig(**settings)
    bundle = Bundle.load(path)
    files = [language_model_file(language_model, bundle.tokens, lexicon or _pronunciations(bundle))]
    if lexicon is not None:
        files.append(lexicon_file(lexicon))
    update_bundle(path, files, force=force, decoder=settings)
    return renew_check(path)


def add_lexicon(path: Path, lexicon: Path, *, force: bool = False) -> Bundle:
    """Put a word list, or the words' pronunciations, into the bundle at `path`; its language model stays.

    Raises BundleError, and DecoderError for a lexicon that the decoder does not take.
    """
    bundle = Bundle.load(path)
    own = bundle.find("language_model")
    BeamSearchDecoder(bundle.tokens, language_model=bundle.path(own) if own else None, lexicon=lexicon)
    update_bundle(path, [lexicon_file(lexicon)], force=force)
    return renew_check(path)


def _pronunciations(bundle: Bundle) -> Path | None:
    own = bundle.find("lexicon")
    return bundle.path(own) if own and is_pronounced(bundle) else None
