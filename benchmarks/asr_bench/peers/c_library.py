"""A decoder as a C library, named by its path.

It has `void *pr_load(const char *lm, const char **words, int count)` and `int pr_decode(void *decoder, const float
*log_probs, int frames, int tokens, int beam, float alpha, float beta, float token_floor, float beam_threshold, int
look_ahead, char *text, int capacity)`, for 29 tokens: the space, a to z, the apostrophe, the blank. `pr_load` returns
NULL where it cannot load, `pr_decode` the length of the text, below 0 where it cannot decode.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

CAPACITY = 1 << 20  # bytes of a text


def version(library: str) -> str:
    """What tells builds apart."""
    return "sha256 " + hashlib.sha256(Path(library).read_bytes()).hexdigest()[:12]


def load(
    package: Any, tokens: list[str], files: dict[str, str], settings: dict[str, Any]
) -> Callable[[int], Callable[[Any], str]]:
    """`package` is ctypes; `settings`: library, alpha, beta, token_floor, beam_threshold."""
    if tokens != [" ", *"abcdefghijklmnopqrstuvwxyz", "'", ""]:
        raise ValueError("the library takes 29 tokens: the space, a to z, the apostrophe, the blank")
    if "lm" not in files:
        raise ValueError("the library needs a language model")
    library = package.CDLL(settings["library"])
    library.pr_load.restype = package.c_void_p
    words = [word.encode() for word in Path(files["words"]).read_text(encoding="utf-8").split()]
    loaded = library.pr_load(files["lm"].encode(), (package.c_char_p * len(words))(*words), len(words))
    if loaded is None:
        raise ValueError(f"pr_load returned NULL for {files['lm']} and {len(words)} words; see what the library wants")
    decoder, text = package.c_void_p(loaded), package.create_string_buffer(CAPACITY)
    weights = [package.c_float(settings[name]) for name in ("alpha", "beta", "token_floor", "beam_threshold")]

    def with_beam(beam: int) -> Callable[[Any], str]:
        def decode(log_probs: Any) -> str:
            rows = package.c_void_p(log_probs.ctypes.data)
            code = library.pr_decode(decoder, rows, *log_probs.shape, beam, *weights, 1, text, CAPACITY)
            if code < 0:
                raise ValueError(
                    f"pr_decode returned {code} for {len(log_probs)} frames and beam {beam}, wanted a length"
                )
            return str(text.value.decode())

        return decode

    return with_beam
