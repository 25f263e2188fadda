"""flashlight-text: the lexicon decoder with a language model, the lexicon-free decoder without.

It reads a raw pointer to C-contiguous float32. A word of its lexicon ends with the space, and the last one of an
utterance counts only once its space is there: a frame of "space or blank" is added, as one must.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np


def load(
    package: Any, tokens: list[str], files: dict[str, str], settings: dict[str, Any]
) -> Callable[[int], Callable[[Any], str]]:
    """`settings`: alpha, beta (with a language model), beam_size_token, beam_threshold."""
    return _with_lexicon(package, tokens, files, settings) if "lm" in files else _without(package, tokens, settings)


def _options(package: Any, beam: int, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "beam_size": beam,
        "beam_size_token": settings["beam_size_token"],
        "beam_threshold": settings["beam_threshold"],
        "sil_score": 0.0,
        "log_add": True,
        "criterion_type": package.CriterionType.CTC,
    }


def _with_lexicon(
    package: Any, tokens: list[str], files: dict[str, str], settings: dict[str, Any]
) -> Callable[[int], Callable[[Any], str]]:
    places = {token: index for index, token in enumerate(tokens)}
    space, blank = places[" "], places[""]
    listed = Path(files["words"]).read_text(encoding="utf-8").split()
    words = [word for word in listed if all(letter in places for letter in word)]
    vocabulary = importlib.import_module("flashlight.lib.text.dictionary").Dictionary([*words, "<unk>"])
    model = importlib.import_module("flashlight.lib.text.decoder.kenlm").KenLM(files["lm"], vocabulary)
    trie, start = package.Trie(len(tokens), space), model.start(False)
    for number, word in enumerate(words):
        trie.insert([*(places[letter] for letter in word), space], number, model.score(start, number)[1])
    trie.smear(package.SmearingMode.MAX)
    weights = {
        "lm_weight": settings["alpha"] * math.log(10),  # KenLM's scores are decimal logarithms
        "word_score": settings["beta"],
        "unk_score": -math.inf,
    }
    unknown = vocabulary.get_index("<unk>")

    def with_beam(beam: int) -> Callable[[Any], str]:
        options = package.LexiconDecoderOptions(**_options(package, beam, settings), **weights)
        decoder = package.LexiconDecoder(options, trie, model, space, blank, unknown, [], False)

        def decode(log_probs: Any) -> str:
            frames = np.concatenate([log_probs, np.full((1, log_probs.shape[1]), -30.0, np.float32)])
            frames[-1, [space, blank]] = math.log(0.5)
            found = decoder.decode(frames.ctypes.data, *frames.shape)
            return " ".join(words[index] for index in found[0].words if 0 <= index < len(words)) if found else ""

        return decode

    return with_beam


def _without(package: Any, tokens: list[str], settings: dict[str, Any]) -> Callable[[int], Callable[[Any], str]]:
    space, blank = tokens.index(" "), tokens.index("")

    def with_beam(beam: int) -> Callable[[Any], str]:
        options = package.LexiconFreeDecoderOptions(**_options(package, beam, settings), lm_weight=0.0)
        decoder = package.LexiconFreeDecoder(options, package.ZeroLM(), space, blank, [])

        def decode(log_probs: Any) -> str:
            found = decoder.decode(log_probs.ctypes.data, *log_probs.shape)
            path = found[0].tokens if found else []
            return " ".join("".join(tokens[index] for index, _ in groupby(path)).split())

        return decode

    return with_beam
