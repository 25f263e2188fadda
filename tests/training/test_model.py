from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_training.model import AcousticModel, parameters
from asr_training.recipe import CRNN, ConvolutionAttention, Features, Model

CONFIGS: dict[str, Model] = {
    "relu, single convolutions": CRNN(channels=4, blocks=2, recurrent_layers=2, recurrent_size=16),
    "gelu, double convolutions": CRNN(
        channels=4, blocks=1, convolutions=2, activation="gelu", recurrent_layers=2, recurrent_size=16
    ),
    "convolution and attention": ConvolutionAttention(
        stem=32, width=32, blocks=3, heads=2, kernel=7, attention_every=2
    ),
    "conditioned on phonemes": ConvolutionAttention(
        stem=32, width=32, blocks=3, heads=2, kernel=7, phonemes=40, conditioned=True
    ),
    "two frames a step": ConvolutionAttention(stem=32, width=32, blocks=3, heads=2, kernel=7, subframes=2),
}


def make(config: Model) -> AcousticModel:
    torch.manual_seed(3)
    return AcousticModel(Features(mels=20), config, 29).eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 12000), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_padding_and_neighbours_change_nothing(config: Model, lengths: list[int], seed: int) -> None:
    model = make(config)
    waveforms = torch.randn(len(lengths), max(lengths), generator=torch.Generator().manual_seed(seed)) * 0.1
    with torch.no_grad():
        together, frames = model(waveforms, torch.tensor(lengths))
        for row, length in enumerate(lengths):
            alone, count = model(waveforms[row : row + 1, :length], torch.tensor([length]))
            assert alone.shape[1] == int(count) == int(frames[row])
            torch.testing.assert_close(together[row, : int(count)], alone[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_outputs_are_log_probabilities_every_frame_seconds(config: Model) -> None:
    model = make(config)
    log_probs, frames = model(torch.randn(1, 32000) * 0.1, torch.tensor([32000]))
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(1, int(frames)))
    step = model.frame_seconds * getattr(config, "subframes", 1)
    assert abs(int(frames) * model.frame_seconds - 2.0) <= 1.01 * step


def test_the_seed_models_have_the_published_numbers_of_weights() -> None:
    # Both: 5 GRUs of 512 and dense 1024 -> 512 -> 29 on 64 bands of 32 channels; nearly all is in the GRUs.
    for config in (CRNN(), CRNN(blocks=3, convolutions=2, activation="gelu")):
        assert round(parameters(AcousticModel(Features(mels=128), config, 29)) / 1e6, 1) == 23.7


def test_intermediate_log_probabilities_exist_in_training_only() -> None:
    model = make(CONFIGS["convolution and attention"])
    features, frames = torch.randn(1, 40, 20), torch.tensor([40])
    assert model.encode(features, frames)[2] is None
    assert model.train().encode(features, frames)[2] is not None


def test_the_intermediate_layer_tells_phonemes_apart_and_what_it_finds_counts() -> None:
    model = make(CONFIGS["conditioned on phonemes"])
    features, frames = torch.randn(1, 40, 20), torch.tensor([40])
    before = model.encode(features, frames)[0]
    with torch.no_grad():
        model.encoder.intermediate.bias[3] += 5  # type: ignore[index, operator, union-attr]
    assert (model.encode(features, frames)[0] - before).abs().max() > 1e-3
    intermediate = model.train().encode(features, frames)[2]
    assert intermediate is not None and intermediate.shape == (1, 10, 41)
