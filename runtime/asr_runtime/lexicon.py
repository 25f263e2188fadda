"""Lexicons: the words that a beam search may write, and where its tokens are phonemes, how each word sounds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from asr_runtime.errors import DecoderError

Words: TypeAlias = "Iterable[str] | Mapping[str, str | Iterable[str]]"


def read_lexicon(lexicon: str | os.PathLike[str] | Words) -> str:
    """The lines of a file; of words themselves, one a line, of a mapping each with a tab and its tokens.

    Raises DecoderError for what cannot be read or has no words.
    """
    if isinstance(lexicon, str | os.PathLike):
        text = _read(lexicon)
    elif isinstance(lexicon, Mapping):
        text = "\n".join(line for word, sounds in lexicon.items() for line in _lines(word, sounds))
    else:
        text = "\n".join(lexicon)
    if not text.strip():
        raise DecoderError("the lexicon has no words; give some, or None for those of the language model")
    return text


def has_pronunciations(path: str | os.PathLike[str]) -> bool:
    """Whether the lexicon in a file has pronunciations: then its lines are a word, a tab and tokens."""
    return "\t" in read_lexicon(path)


def _read(path: str | os.PathLike[str]) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        name = os.fspath(path)
        raise DecoderError(f"cannot read the lexicon '{name}': {reason}; wanted words, one a line") from None


def _lines(word: str, sounds: str | Iterable[str]) -> list[str]:
    pronunciations = [sounds] if isinstance(sounds, str) else list(sounds)
    if not pronunciations or not all(isinstance(one, str) for one in (word, *pronunciations)):
        raise DecoderError(f"got {sounds!r:.80} for the word {word!r:.80}, wanted its tokens with spaces between")
    return [f"{word}\t{one}" for one in pronunciations]
