from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from asr_export.graph import author
from asr_training.checkpoint import Checkpoint, write_checkpoint
from asr_training.model import AcousticModel
from asr_training.recipe import ConvolutionAttention, Features, Model
from asr_training.text import Alphabet

ALPHABET = Alphabet("' abcdefghijklmnopqrstuvwxyz")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def random_model(architecture: Model, features: Features | None = None) -> AcousticModel:
    """A model with random weights: biases and norms, too, so that faults show, but no chaotic recurrence."""
    torch.manual_seed(1)
    model = AcousticModel(features or Features(), architecture, len(ALPHABET.tokens)).eval()
    for parameter in model.parameters():
        spread = 0.1 if parameter.ndim == 1 else 0.3 * parameter[0].numel() ** -0.5
        parameter.data += spread * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="session")
def authored() -> Callable[..., tuple[AcousticModel, onnx.ModelProto]]:
    """Makes a random model of an architecture (and front end) with its graph."""

    def make(architecture: Model, features: Features | None = None) -> tuple[AcousticModel, onnx.ModelProto]:
        model = random_model(architecture, features)
        return model, author(model, ALPHABET.tokens)

    return make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "best"
    architecture = ConvolutionAttention(stem=32, width=32, blocks=3, kernel=5, heads=2)
    model = random_model(architecture)
    made = Checkpoint(model, model.config, architecture, ALPHABET, {"recipe": {"name": "tiny"}})
    write_checkpoint(folder, made, {}, {})
    return folder
