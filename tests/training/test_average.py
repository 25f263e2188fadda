"""The mean of checkpoints' weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from asr_export.to_onnx import to_onnx
from asr_runtime.errors import RecipeError
from asr_training.average import average
from asr_training.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from asr_training.cli import app
from asr_training.model import AcousticModel
from asr_training.recipe import CRNN, ConvolutionAttention, Features, Model
from asr_training.text import Alphabet
from asr_training.transfer import digest

FEATURES = Features(mels=20)
SMALL = ConvolutionAttention(stem=16, width=16, blocks=2, expansion=2, kernel=3, heads=2)
RECURRENT = CRNN(channels=2, blocks=1, convolutions=2, recurrent_layers=1, recurrent_size=8)


def checkpoint(
    folder: Path, seed: int, architecture: Model = SMALL, characters: str = "abc ", features: Features = FEATURES
) -> Path:
    torch.manual_seed(seed)
    model = AcousticModel(features, architecture, len(characters) + 1)
    recipe = {
        "name": str(seed),
        "features": dataclasses.asdict(features),
        "model": dataclasses.asdict(architecture),
    }
    provenance = {"recipe": recipe, "validation": {"wer": seed}}
    write_checkpoint(folder, Checkpoint(model, features, architecture, Alphabet(characters), provenance), {}, {})
    return folder


@pytest.mark.parametrize("architecture", [SMALL, RECURRENT], ids=["convolution-attention", "crnn"])
def test_it_is_the_mean_in_which_one_may_count_twice(tmp_path: Path, architecture: Model) -> None:
    one = checkpoint(tmp_path / "1", 1, dataclasses.replace(architecture, dropout=0.3))
    two = checkpoint(tmp_path / "2", 2, architecture)
    done = CliRunner().invoke(app, ["average", str(tmp_path / "mean"), str(one), str(two), str(two)])
    assert done.exit_code == 0, done.output
    found = load_checkpoint(tmp_path / "mean")
    first, second = (load_checkpoint(folder).model.state_dict() for folder in (one, two))
    for name, weight in found.model.state_dict().items():
        wanted = (first[name] + 2 * second[name]) / 3 if weight.is_floating_point() else first[name]
        torch.testing.assert_close(weight, wanted)
    assert found.provenance["recipe"]["name"] == "1" and "validation" not in found.provenance
    averaged = found.provenance["averaged"]
    assert [each["sha256"] for each in averaged] == [digest(folder) for folder in (one, two, two)]
    known = [each["provenance"]["validation"]["wer"] if "provenance" in each else None for each in averaged]
    assert known == [None, 2, None]  # the first one's is the mean's


def test_a_bundle_counts_but_for_the_layer_that_it_lacks(tmp_path: Path) -> None:
    one, two = checkpoint(tmp_path / "1", 1), checkpoint(tmp_path / "2", 2)
    to_onnx(two, tmp_path / "bundle", weights="fp32")
    average([one, tmp_path / "bundle"], tmp_path / "mean")
    found, first, second = (load_checkpoint(tmp_path / name).model.state_dict() for name in ("mean", "1", "2"))
    for name, weight in found.items():
        wanted = first[name] if "intermediate" in name else torch.stack([first[name], second[name]]).mean(0)
        torch.testing.assert_close(weight, wanted)


def test_what_has_no_mean_is_refused(tmp_path: Path, one_sentence: Callable[[str], None]) -> None:
    one = checkpoint(tmp_path / "1", 1)
    for other, told in (
        (checkpoint(tmp_path / "2", 2, RECURRENT), "architecture is 'crnn'"),
        (checkpoint(tmp_path / "3", 2, dataclasses.replace(SMALL, blocks=3)), "blocks is 3"),
        (checkpoint(tmp_path / "4", 2, characters="abd "), "alphabet is 'abd '"),
        (checkpoint(tmp_path / "5", 2, features=Features(mels=24)), "mels is 24"),
    ):
        with pytest.raises(RecipeError, match=told) as caught:
            average([one, other], tmp_path / "mean")
        one_sentence(str(caught.value))
    with pytest.raises(RecipeError, match="nothing to average in 1 checkpoint; give two"):
        average([one], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()
