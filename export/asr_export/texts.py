"""Recordings with their texts, as a bundle may write them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from asr_runtime.bundle import Bundle
from asr_runtime.recognizer import is_pronounced
from asr_training.data import read_source
from asr_training.manifest import Utterance, read_utterances
from asr_training.recipe import Data, Source
from asr_training.text import Alphabet


def read_texts(manifest: Path, bundle: Bundle) -> list[Utterance]:
    """The utterances of a manifest or LibriSpeech folder, in the case that the bundle writes.

    Raises RecipeError for the first fault; where the bundle spells by single letters, a text of others is one.
    """
    if is_pronounced(bundle):
        return cased(str.lower, manifest)
    if any(len(token) > 1 for token in bundle.tokens):
        return cased(case_of(bundle.tokens), manifest)
    alphabet = Alphabet("".join(bundle.tokens))
    return read_source(Source(str(manifest)), Data((), (), alphabet=alphabet.characters), alphabet)


def cased(change: Callable[[str], str], manifest: Path) -> list[Utterance]:
    """The utterances with their texts changed."""
    return [dataclasses.replace(each, text=change(each.text)) for each in read_utterances(manifest)]


def case_of(tokens: Sequence[str]) -> Callable[[str], str]:
    """What makes a text of the case that word pieces are of; `<unk>` and its kin say nothing about it."""
    letters = "".join(token for token in tokens if not token.startswith(("<", "[")))
    if letters == letters.lower():
        return str.lower
    return str.upper if letters == letters.upper() else str
