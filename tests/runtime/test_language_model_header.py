"""KenLM binaries that lie about themselves: one sentence before KenLM maps or allocates what the header claims."""

import struct
from pathlib import Path

import pytest

from asr_runtime.decoder import BeamSearchDecoder
from asr_runtime.errors import DecoderError

TOKENS = ["a", "b", " ", ""]
MAGIC = b"mmap lm http://kheafield.com/code format version 5\n\0".ljust(56, b"\0")
MAGIC += struct.pack("<fffIIxxxxQ", 0, 1, -0.5, 1, 2**32 - 1, 1)  # by which KenLM knows floats and byte order
PROBING, QUANTISED_ARRAY_TRIE = 0, 5


def binary(
    order: int = 2,
    multiplier: float = 1.5,
    kind: int = PROBING,
    words_follow: int = 1,
    counts: tuple[int, ...] = (3, 2),
    table: int = 3 << 32,
    size: int = 4096,
) -> bytes:
    """The beginning of a KenLM binary: magic line and test values [88 bytes], parameters, counts, word table."""
    parameters = struct.pack("<B3xfiB3xI", order, multiplier, kind, words_follow, 0)
    header = MAGIC + parameters + struct.pack(f"<{len(counts)}Q", *counts)
    return (header.ljust((len(header) + 7) // 8 * 8, b"\0") + struct.pack("<Q", table)).ljust(size, b"\0")[:size]


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(DecoderError) as caught:
        BeamSearchDecoder(TOKENS, language_model=path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (binary(size=60), "ends inside its header"),
        (binary(size=100), "ends inside its header"),
        (binary(size=110), "ends inside its header"),
        (binary(order=0), "its order is 0"),
        (binary(order=1), "its order is 1"),
        (binary(order=255), "its order is 255"),
        (binary(kind=-1), "its type -1 is unknown"),
        (binary(kind=QUANTISED_ARRAY_TRIE + 1), "its type 6 is unknown"),
        (binary(words_follow=2), "its header is damaged"),
        (binary(multiplier=0.5), "its header is damaged"),
        (binary(multiplier=float("nan")), "its header is damaged"),
        (binary(multiplier=float("inf")), "its header is damaged"),
        (binary(counts=(0, 2)), "it has no words"),
        (binary(counts=(2**63, 2)), "claims 9223372036854775808 1-grams"),
        (binary(counts=(3, 2**64 - 1)), "claims 18446744073709551615 2-grams"),
        (binary(counts=(3, 4097)), "claims 4097 2-grams, which do not fit in its 4096 bytes"),
        (binary(table=0xFFFFFFFF << 32), "its word table claims 4294967295 words, its header 3"),
        (binary(kind=QUANTISED_ARRAY_TRIE, table=2**63), "its word table claims 9223372036854775809 words"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path / "lm.binary", content)


@pytest.mark.parametrize("kind", range(PROBING, QUANTISED_ARRAY_TRIE + 1))
def test_a_plausible_header_without_a_model_is_left_to_kenlm_and_refused(tmp_path: Path, kind: int) -> None:
    message = refusal(tmp_path / "lm.binary", binary(kind=kind, table=3 << 32 if kind < 2 else 2))
    assert not any(ours in message for ours in ("damaged", "claims", "its order", "its type", "ends inside"))
