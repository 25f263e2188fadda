"""Recordings with their texts, as a bundle may write them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from asr_runtime.bundle import Bundle
from asr_runtime.recognizer import is_pronounced
from asr_training.data import read_source
from asr_training.manifest import Utterance, read_utterances
from asr_training.recipe import Data, Source
from asr_training.text import Alphabet


def read_texts(manifest: Path, bundle: Bundle) -> list[Utterance]:
    """The utterances of a manifest or LibriSpeech folder, in lower case; raises RecipeError for the first fault.

    Where the bundle spells, a text of other characters than its tokens is one.
    """
    if is_pronounced(bundle):
        return [dataclasses.replace(each, text=each.text.lower()) for each in read_utterances(manifest)]
    alphabet = Alphabet("".join(bundle.tokens))
    return read_source(Source(str(manifest)), Data((), (), alphabet=alphabet.characters), alphabet)
