from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_training.learner import disagreement


def views(seed: int, batch: int, frames: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * batch, frames, 4, generator=generator).log_softmax(-1)


@given(seed=st.integers(0, 1000), frames=st.lists(st.integers(1, 5), min_size=1, max_size=3))
@settings(deadline=None)
def test_views_disagree_by_both_divergences_of_the_frames_that_are_no_padding(seed: int, frames: list[int]) -> None:
    log_probs = views(seed, len(frames), max(frames))
    wanted = 0.0
    for item, length in enumerate(frames):
        first, second = log_probs[item, :length], log_probs[item + len(frames), :length]
        wanted += float((first.exp() * (first - second) + second.exp() * (second - first)).sum())
    torch.testing.assert_close(disagreement(log_probs, torch.tensor(2 * frames)), torch.tensor(wanted))
    same = torch.cat([log_probs[: len(frames)]] * 2)
    assert float(disagreement(same, torch.tensor(2 * frames))) == 0


def test_each_view_is_pulled_towards_the_other_where_that_stands() -> None:
    log_probs = views(1, 1, 3).requires_grad_()
    disagreement(log_probs, torch.tensor([2, 2])).backward()
    assert log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad[:, :2], -log_probs.detach().exp().flip(0)[:, :2])
    assert not log_probs.grad[:, 2:].any()
