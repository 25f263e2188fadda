"""The CTC loss: the sum over a text's alignments, by PyTorch and by the kernel."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from built import needs_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from asr_training.ctc import ctc_loss
from asr_training.kernels import kernels


def log_probabilities(seed: int, batch: int, frames: int, tokens: int, scale: float = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, frames, tokens, generator=generator)
    return logits.log_softmax(-1).requires_grad_()


def one_text(log_probs: torch.Tensor, labels: list[int]) -> torch.Tensor:
    frames, counts = torch.tensor([log_probs.shape[1]]), torch.tensor([len(labels)])
    return ctc_loss(log_probs, frames, torch.tensor(labels, dtype=torch.int64), counts)


@pytest.mark.parametrize("labels", [[], [0], [1, 1], [0, 1], [1, 0, 1]])
def test_it_is_the_sum_over_the_alignments(labels: list[int]) -> None:
    log_probs, blank = log_probabilities(1, 1, 5, 3), 2
    each, likely = log_probs.detach()[0].tolist(), 0.0
    for path in itertools.product(range(3), repeat=5):
        if [token for token, _ in itertools.groupby(path) if token != blank] == labels:
            likely += math.exp(sum(each[t][token] for t, token in enumerate(path)))
    assert float(one_text(log_probs, labels).detach()) == pytest.approx(-math.log(likely), abs=1e-5)


def test_each_frame_is_in_one_token_and_padding_in_none() -> None:
    log_probs = log_probabilities(2, 2, 9, 4)
    labels, counts, frames = torch.tensor([0, 1, 1, 2]), torch.tensor([3, 1]), torch.tensor([9, 4])
    (gradient,) = torch.autograd.grad(ctc_loss(log_probs, frames, labels, counts), log_probs)
    if kernels() is not None:  # PyTorch's is that of a softmax before, too
        torch.testing.assert_close(gradient[0].sum(1), -torch.ones(9), rtol=0, atol=1e-5)
    assert not gradient[1, 4:].any()


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [1, 1], [0, 0, 0]])
def test_a_text_without_an_alignment_counts_nothing(labels: list[int]) -> None:
    log_probs = log_probabilities(3, 1, 2, 3)
    loss = one_text(log_probs, labels)
    assert float(loss.detach()) == 0
    assert not torch.autograd.grad(loss, log_probs)[0].any()


@needs_kernels
@given(
    tokens=st.sampled_from([2, 3, 41, 200]),
    sizes=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 40)), min_size=1, max_size=6),
    scale=st.sampled_from([0.1, 2.0, 20.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_kernel_equals_pytorch_with_its_gradient(
    tokens: int, sizes: list[tuple[int, int]], scale: float, seed: int
) -> None:
    frames, counts = (torch.tensor(column) for column in zip(*sizes, strict=True))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(tokens - 1, (int(counts.sum()),), generator=generator)
    logits = scale * torch.randn(len(sizes), int(frames.max()), tokens, generator=generator)
    results = []
    for ours in (True, False):
        given_logits = logits.clone().requires_grad_()
        log_probs = given_logits.log_softmax(-1)
        if ours:
            loss = ctc_loss(log_probs, frames, labels, counts)
        else:
            turned = log_probs.transpose(0, 1).double()
            loss = F.ctc_loss(turned, labels, frames, counts, tokens - 1, reduction="sum", zero_infinity=True)
        results.append((loss.detach().float(), torch.autograd.grad(0.5 * loss, given_logits)[0]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-3, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("scale", [2, 60])
def test_a_long_recording_equals_float64(scale: float) -> None:
    log_probs, labels = log_probabilities(4, 1, 3000, 41, scale), torch.arange(700) % 40
    frames, counts = torch.tensor([3000]), torch.tensor([700])
    exact = log_probs.detach().double().log_softmax(-1).requires_grad_()
    theirs = F.ctc_loss(exact.transpose(0, 1), labels, frames, counts, 40, reduction="sum")
    ours = ctc_loss(log_probs, frames, labels, counts)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=0.01)
    # PyTorch's gradient has that of a softmax before, too
    of_softmax = exact.detach().exp() - torch.autograd.grad(theirs, exact)[0]
    torch.testing.assert_close(-torch.autograd.grad(ours, log_probs)[0].double(), of_softmax, rtol=0, atol=2e-3)


@needs_kernels
def test_tokens_that_cannot_be_cost_nothing_else() -> None:
    log_probs = torch.tensor([[[0.0, -math.inf], [-math.inf, 0.0], [-math.inf, 0.0]]], requires_grad=True)
    assert float(one_text(log_probs, [0]).detach()) == pytest.approx(0, abs=1e-5)
    assert float(one_text(log_probs, []).detach()) == 0  # no path
    nan = torch.full((1, 3, 2), math.nan, requires_grad=True)
    assert math.isnan(float(one_text(nan, [0]).detach()))


@needs_kernels
@pytest.mark.parametrize(
    ("frames", "labels", "counts", "told"),
    [
        ([5, 4], [0, 1], [1, 1], "lengths are 4 to 5, but 0 to 4 are wanted"),
        ([4, -1], [0, 1], [1, 1], "lengths are -1 to 4"),
        ([4], [0, 1], [1, 1], r"lengths are \[1\], but \[2\] are wanted"),
        ([4, 4], [0, 1], [1, 2], r"labels are \[2\], but \[3\] are wanted"),
        ([4, 4], [0, 1], [-1, 3], "counts are -1 to 3"),
        ([4, 4], [0, 1], [2], r"counts are \[1\]"),
        ([4, 4], [0, 2], [1, 1], "labels are 0 to 2, but 0 to 1 are wanted"),
        ([4, 4], [-1, 0], [1, 1], "labels are -1 to 0"),
    ],
)
def test_what_points_outside_is_refused(frames: list[int], labels: list[int], counts: list[int], told: str) -> None:
    log_probs = log_probabilities(5, 2, 4, 3)
    with pytest.raises(ValueError, match=told):
        ctc_loss(log_probs, torch.tensor(frames), torch.tensor(labels), torch.tensor(counts))
