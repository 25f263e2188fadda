"""Runs that begin from a bundle: the weights come back out of the ONNX file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import asr_runtime
from asr_export.to_onnx import to_onnx
from asr_runtime.errors import RecipeError
from asr_training.bundle_weights import load_bundle
from asr_training.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from asr_training.loop import fit
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Features, Model, Recipe
from asr_training.text import Alphabet

SMALL = ConvolutionAttention(stem=16, width=16, blocks=3, expansion=2, kernel=3, heads=2)
ENGLISH = Path(asr_runtime.__file__).parent / "bundles" / "english"


def bundle_of(folder: Path, architecture: Model, weights: str = "fp32") -> Path:
    """A bundle of random weights and the alphabet "abc "."""
    torch.manual_seed(1)
    features = Features(mels=20)
    model = AcousticModel(features, architecture, 5).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    recipe = {"name": "small", "features": dataclasses.asdict(features), "model": dataclasses.asdict(architecture)}
    made = Checkpoint(model, features, architecture, Alphabet("abc "), {"recipe": recipe})
    write_checkpoint(folder / "checkpoint", made, {}, {})
    to_onnx(folder / "checkpoint", folder / "bundle", weights=weights)
    return folder / "bundle"


@pytest.mark.parametrize("changes", [{}, {"conditioned": True}, {"subframes": 2}], ids=str)
@pytest.mark.parametrize("weights, tolerance", [("fp32", 1e-6), ("fp16", 1e-3), ("int8", 1e-2)])
def test_a_bundle_gives_its_weights_back(
    tmp_path: Path, weights: str, tolerance: float, changes: dict[str, Any]
) -> None:
    loaded = load_bundle(bundle_of(tmp_path, dataclasses.replace(SMALL, **changes), weights))
    earlier = load_checkpoint(tmp_path / "checkpoint")
    assert loaded.alphabet == earlier.alphabet and loaded.features == earlier.features
    known = {k for k in earlier.model.state_dict() if "conditioned" in changes or "intermediate" not in k}
    for name in known:
        expected, got = earlier.model.state_dict()[name], loaded.model.state_dict()[name]
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_a_run_begins_from_the_bundle_that_ships(
    tiny_recipe: Callable[..., Recipe], tiny_manifest: Path, tmp_path: Path
) -> None:
    model = load_bundle(ENGLISH).architecture
    recipe = dataclasses.replace(tiny_recipe(epochs=1), model=model, features=Features())
    fit(recipe, tmp_path / "run", start=ENGLISH)
    provenance = json.loads((tmp_path / "run/last/config.json").read_text())["provenance"]
    assert provenance["from"]["provenance"]["steps"] > 0


def test_a_recurrent_bundle_is_refused(tmp_path: Path) -> None:
    small = CRNN(channels=2, blocks=1, recurrent_layers=1, recurrent_size=8)
    with pytest.raises(RecipeError, match="holds a crnn model; give the checkpoint"):
        load_bundle(bundle_of(tmp_path, small))


def test_a_damaged_bundle_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ENGLISH, tmp_path / "english")
    (tmp_path / "english/model.onnx").write_bytes(b"no model")
    with pytest.raises(RecipeError, match="cannot begin from this bundle"):
        load_bundle(tmp_path / "english")
