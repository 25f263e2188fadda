"""`.scorer` packages of DeepSpeech and Coqui: a KenLM binary, then two weights and the words as an automaton.

Behind the language model: the bytes of the int 0x54524945, version 6, a byte for byte-wise output, alpha and beta as
doubles, and an OpenFST "const" automaton whose labels are 1 + the index in the alphabet; every word ends in the space.
Layout read from the files and from DeepSpeech's native_client/ctcdecode/scorer.cpp.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from asr_runtime.errors import DecoderError

_TRAILER = struct.Struct("<iibdd")
_MAGIC = struct.pack("<ii", 0x54524945, 6)
_FST_MAGIC = 2125659606
_HAS_WORDS = 100  # byte of a KenLM binary's header
_STATE = np.dtype([("final", "<f4"), ("first", "<u4"), ("arcs", "<u4"), ("inputs", "<u4"), ("outputs", "<u4")])
_ARC = np.dtype([("label", "<i4"), ("output", "<i4"), ("weight", "<f4"), ("target", "<i4")])
_LONGEST_WORD = 1000  # labels; an automaton with a longer one has a loop


@dataclass(frozen=True)
class ScorerPackage:
    """What a package says beside its language model."""

    alpha: float
    beta: float
    words: list[str]


def read_scorer(path: str | os.PathLike[str], tokens: Sequence[str], blank: int) -> ScorerPackage | None:
    """The package at `path`, None when it is no package; tokens: those of the model, the blank at index `blank`.

    Raises DecoderError when the package is damaged or its words do not go with the tokens.
    """
    if not Path(path).is_file() or not Path(path).stat().st_size:
        return None
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # Packages hold the model without its word list; looking at that flag first spares plain models the search.
        if data[:7] != b"mmap lm" or data[_HAS_WORDS : _HAS_WORDS + 1] != b"\0" or (place := data.rfind(_MAGIC)) < 0:
            return None
        try:
            return _parse(data, place, [token for index, token in enumerate(tokens) if index != blank])
        except (struct.error, ValueError, IndexError) as error:
            raise DecoderError(f"the scorer package '{os.fspath(path)}' is damaged or cut off: {error}") from None
        except DecoderError as error:
            raise DecoderError(f"cannot use the scorer package '{os.fspath(path)}': {error}") from None


def _parse(data: mmap.mmap, place: int, alphabet: list[str]) -> ScorerPackage:
    _, _, is_utf8, alpha, beta = _TRAILER.unpack_from(data, place)
    if is_utf8:
        raise DecoderError("it is for byte-wise output, wanted one for an alphabet")
    states, arcs, start = _read_automaton(data, place + _TRAILER.size)
    return ScorerPackage(alpha, beta, _words(states, arcs, start, alphabet))


def _read_automaton(data: mmap.mmap, place: int) -> tuple[npt.NDArray[np.void], npt.NDArray[np.void], int]:
    def take(layout: str) -> tuple[int, ...]:
        nonlocal place
        values = struct.unpack_from(layout, data, place)
        place += struct.calcsize(layout)
        return values

    def text() -> bytes:
        nonlocal place
        (length,) = take("<i")
        place += length
        return data[place - length : place]

    if take("<i")[0] != _FST_MAGIC:
        raise ValueError("the automaton of its words is missing")
    kinds = (text(), text())
    if kinds != (b"const", b"standard"):
        raise ValueError(f"its automaton is of the kind {kinds}")
    version, flags, _, start, state_count, arc_count = take("<iiQqqq")
    aligned = bool(flags & 4) or version == 1
    place += -place % 16 if aligned else 0
    states = np.frombuffer(data[place : place + max(state_count, 0) * _STATE.itemsize], _STATE)
    place += states.nbytes
    place += -place % 16 if aligned else 0
    arcs = np.frombuffer(data[place : place + max(arc_count, 0) * _ARC.itemsize], _ARC)
    if len(states) != state_count or len(arcs) != arc_count or not 0 <= start < len(states):
        raise ValueError("its automaton is shorter than it says")
    ends = states["first"].astype(np.int64) + states["arcs"]
    if (ends > len(arcs)).any() or (arcs["target"] < 0).any() or (arcs["target"] >= len(states)).any():
        raise ValueError("its automaton points outside of itself")
    return states, arcs, start


def _words(states: npt.NDArray[np.void], arcs: npt.NDArray[np.void], start: int, alphabet: list[str]) -> list[str]:
    if len(arcs) and not (arcs["label"].min() >= 1 and arcs["label"].max() <= len(alphabet)):
        raise DecoderError(
            f"its words use label {arcs['label'].max() - 1}, the alphabet has {len(alphabet)}; wrong alphabet"
        )
    letters = [alphabet[label - 1] for label in arcs["label"].tolist()]
    targets, first, count = arcs["target"].tolist(), states["first"].tolist(), states["arcs"].tolist()
    final = np.isfinite(states["final"]).tolist()
    words: list[str] = []
    stack = [(start, "")]
    while stack:
        state, spelling = stack.pop()
        if final[state] and spelling:
            if not spelling.endswith(" ") or " " in spelling[:-1]:
                raise DecoderError(f"its word {spelling!r} does not end in a space with these tokens; wrong alphabet")
            words.append(spelling[:-1])
        if len(spelling) > _LONGEST_WORD:
            raise ValueError("its automaton has a loop")
        stack.extend(
            (targets[arc], spelling + letters[arc]) for arc in range(first[state], first[state] + count[state])
        )
    if not words:
        raise DecoderError("it has no words")
    return words
