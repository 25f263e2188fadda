"""The texts of a recipe's data, as the model learns them, checked against its alphabet."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from asr_runtime.errors import RecipeError
from asr_training.manifest import Fault, Utterance, find_utterances, without_faults
from asr_training.recipe import Data, Source
from asr_training.shards import is_sharded, read_shards
from asr_training.text import Alphabet, Pronunciations


def read_source(source: Source, data: Data, alphabet: Alphabet) -> list[Utterance]:
    """The utterances of a manifest or LibriSpeech folder, their texts checked; faults are a RecipeError."""
    return without_faults(find_source(source, data, alphabet))


def find_source(source: Source, data: Data, alphabet: Alphabet) -> list[Utterance | Fault]:
    """The utterances of a manifest, a LibriSpeech folder or shards, and what is wrong with others."""
    spoken = Pronunciations(Path(data.pronunciations)) if data.spoken else None
    if spoken:
        spoken.refuse_long_phonemes()
    path = Path(source.path)
    found = [*read_shards(path)] if is_sharded(path) else find_utterances(path)
    if source.spliced and " " not in alphabet.characters:
        raise RecipeError(f"[data]: spliced is {source.spliced:g} for {path}, but the alphabet has no space; add it")
    if source.spliced and not any(isinstance(item, Utterance) and item.cuts for item in found):
        raise RecipeError(
            f"[data]: spliced is {source.spliced:g} for {path}, whose lines have no cuts; make a manifest that has them"
            " with asr-train align"
        )
    return [item if isinstance(item, Fault) else check_text(item, data, alphabet, spoken) for item in found]


def check_text(
    utterance: Utterance, data: Data, alphabet: Alphabet, spoken: Pronunciations | None = None
) -> Utterance | Fault:
    """The utterance, in lower case if so configured, unless its text is empty or not of the alphabet.

    With `spoken` its text becomes the phonemes of its words.
    """
    text = utterance.text.lower() if data.lower_case else utterance.text
    if not text.strip():
        return Fault("empty text", utterance.where, "the text is empty; write what is said or remove the line")
    if spoken is not None:
        try:
            text = spoken.spell(text)
        except RecipeError as error:
            return Fault("word without pronunciation", utterance.where, str(error))
    if unknown := alphabet.unknown(text):
        detail = (
            f"the character {unknown!r} is outside the alphabet {alphabet.characters!r};"
            " write it in words or add it to the recipe's alphabet"
        )
        return Fault("character outside the alphabet", utterance.where, detail)
    return dataclasses.replace(utterance, text=text)
