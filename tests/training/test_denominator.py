from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from built import needs_kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.errors import RecipeError
from asr_training.ctc import ctc_loss
from asr_training.denominator import Compiled, Total, Trigram, denominator

both_passes = pytest.mark.parametrize("passes", [pytest.param(Compiled, marks=needs_kernels), Total])
Passes = type[Compiled] | type[Total]
TOKENS = 2
TEXTS = [np.array([0, 1, 1, 0]), np.array([1]), np.array([0, 0])]


def log_probabilities(seed: int, batch: int, frames: int, tokens: int = TOKENS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(batch, frames, tokens + 1, generator=generator)).log_softmax(-1)


def of_text(trigram: Trigram, labels: list[int]) -> float:
    """The trigram's probability of a text."""
    before, last, likely = trigram.tokens, trigram.tokens, 1.0
    for label in labels:
        likely *= float(trigram.follow[last, before, label])
        before, last = last, label
    return likely * float(trigram.ends[before, last])


def test_every_text_of_two_tokens_before_goes_on_or_ends() -> None:
    trigram = Trigram(TEXTS, TOKENS)
    torch.testing.assert_close(trigram.follow.sum(2) + trigram.ends.T, torch.ones(TOKENS + 1, TOKENS + 1))
    assert trigram.follow[1, 0, 1] > trigram.follow[0, 0, 1]  # "0 1 1" was seen, "0 0 1" was not


@both_passes
@given(seed=st.integers(0, 1000), frames=st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=20, deadline=None)
def test_it_is_the_sum_over_all_texts_and_their_paths(passes: Passes, seed: int, frames: list[int]) -> None:
    trigram = Trigram(TEXTS, TOKENS)
    log_probs = log_probabilities(seed, len(frames), max(frames))
    totals = passes.apply(log_probs, torch.tensor(frames), trigram)  # type: ignore[no-untyped-call]
    for item, length in enumerate(frames):
        likely = 0.0
        for path in itertools.product(range(TOKENS + 1), repeat=length):
            labels = [token for token, _ in itertools.groupby(path) if token != TOKENS]
            likely += of_text(trigram, labels) * math.exp(sum(float(log_probs[item, t, k]) for t, k in enumerate(path)))
        assert abs(float(totals[item]) - math.log(likely)) < 1e-4


@both_passes
def test_its_gradient_is_that_of_small_changes_and_none_where_frames_are_padding(passes: Passes) -> None:
    trigram, frames = Trigram(TEXTS, TOKENS), torch.tensor([5, 2])
    log_probs = log_probabilities(3, 2, 5).requires_grad_()

    def total(log_probs: torch.Tensor) -> torch.Tensor:
        return passes.apply(log_probs, frames, trigram).sum()  # type: ignore[no-untyped-call, no-any-return]

    total(log_probs).backward()
    assert log_probs.grad is not None
    assert not log_probs.grad[1, 2:].any()
    torch.testing.assert_close(log_probs.grad[0].sum(1), torch.ones(5))  # each frame is in one token or the blank
    for place in ((0, 0, 0), (0, 4, 2), (1, 1, 1)):
        step = torch.zeros_like(log_probs)
        step[place] = 1e-2
        with torch.no_grad():
            rise = total(log_probs + step) - total(log_probs - step)
        assert abs(float(rise) / 2e-2 - float(log_probs.grad[place])) < 1e-3


def test_an_alphabet_too_large_for_memory_is_refused() -> None:
    with pytest.raises(RecipeError, match="151 characters"):
        Trigram([], 151)


def test_no_text_is_likelier_than_all_of_them() -> None:
    trigram, log_probs = Trigram(TEXTS, TOKENS), log_probabilities(5, 1, 6)
    total = float(denominator(log_probs, torch.tensor([6]), trigram))
    labels = torch.tensor([0, 1])
    one = -float(ctc_loss(log_probs, torch.tensor([6]), labels, torch.tensor([2]))) + math.log(of_text(trigram, [0, 1]))
    assert one < total < 0


@both_passes
def test_long_and_certain_recordings_stay_finite(passes: Passes) -> None:
    log_probs = (log_probabilities(1, 1, 3000, 40) * 30).log_softmax(-1).requires_grad_()
    total = passes.apply(log_probs, torch.tensor([3000]), Trigram([np.arange(40)], 40))  # type: ignore[no-untyped-call]
    total.sum().backward()
    assert log_probs.grad is not None
    assert torch.isfinite(total).all() and torch.isfinite(log_probs.grad).all()


@needs_kernels
@given(
    tokens=st.sampled_from([1, 14, 15, 16, 40, 150]),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=14),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_the_kernel_equals_pytorch_with_its_gradient(tokens: int, lengths: list[int], seed: int) -> None:
    texts = [np.random.default_rng([seed, text]).integers(0, tokens, 9) for text in range(20)]
    trigram, frames = Trigram(texts, tokens), torch.tensor(lengths)
    weights = torch.linspace(0.5, 2, len(lengths))
    results = []
    for passes in (Compiled, Total):
        log_probs = log_probabilities(seed, len(lengths), max(lengths), tokens).requires_grad_()
        total = passes.apply(log_probs, frames, trigram)  # type: ignore[no-untyped-call]
        (total * weights).sum().backward()
        assert log_probs.grad is not None
        results.append((total.detach(), log_probs.grad))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5)
