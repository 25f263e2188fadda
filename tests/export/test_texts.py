"""Texts of a manifest as a bundle may write them: `verify` and `tune` compare with these."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asr_export.texts import read_texts
from asr_runtime.bundle import Bundle, Manifest, NewFile, write_bundle
from asr_runtime.errors import RecipeError


def bundle(folder: Path, tokens: list[str]) -> Bundle:
    (folder / "model.onnx").write_bytes(b"not read")
    manifest = Manifest(
        name="x", language="en", licence="CC0-1.0", sample_rate=16000, tokens=tuple(tokens), frame_seconds=0.04
    )
    model = NewFile(source=folder / "model.onnx", role="model", engine="onnx", precision="fp32")
    return write_bundle(folder / "b", manifest, [model])


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([*"' abcdefghijklmnopqrstuvwxyz", ""], "it's so"),
        (["<unk>", "▁the", "s", ""], "it's so"),
        (["<unk>", "<s>", *"IT'SO", " ", ""], "IT'S SO"),
        (["<unk>", "▁The", "s", ""], "It's so"),
    ],
    ids=["letters", "pieces", "capitals", "both cases"],
)
def test_texts_are_of_the_case_that_the_bundle_writes(tokens: list[str], text: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "It's so", "duration": 1}))
    (utterance,) = read_texts(tmp_path / "m.jsonl", bundle(tmp_path, tokens))
    assert utterance.text == text


def test_letters_that_the_bundle_lacks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio": "a.wav", "text": "it's so", "duration": 1}))
    with pytest.raises(RecipeError, match=r"m\.jsonl, line 1"):
        read_texts(tmp_path / "m.jsonl", bundle(tmp_path, [*"abc ", ""]))
