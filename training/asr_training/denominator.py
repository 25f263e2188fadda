"""How likely any text at all is: what lattice-free maximum mutual information takes off the CTC loss.

CTC makes the right text likely. Maximum mutual information makes it more likely than the others, each weighed by a
trigram of tokens, so that the model need not learn which tokens follow each other: the language model knows (Povey et
al. 2016, "Purely sequence-trained neural networks for ASR based on lattice-free MMI"; with CTC's topology as in Hadian
et al. 2018, "End-to-end speech recognition using lattice-free MMI"). The sum over all texts is a forward-backward pass
over two states for each pair of tokens: in its second one, and in the blank behind that.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from asr_runtime.errors import RecipeError
from asr_training.kernels import LANES, call, kernels

MOST_TOKENS = 150  # memory grows with the cube: 27 MB for the moves, 58 for the kernels', 4 a frame of 23 utterances


class Trigram:
    """Probabilities of the tokens of texts, by the two before; the blank is no token of a text.

    `follow` float32 [tokens + 1, tokens + 1, tokens + 1] is that of a token (last index) behind another (first) with
    one before that (second), where index `tokens` is none: no token yet. `ends` float32 [tokens + 1, tokens + 1] is
    that of a text to end, by the token before the last and the last. Those of less context smooth them (Witten and
    Bell 1991).
    """

    def __init__(self, texts: Iterable[np.ndarray], tokens: int) -> None:
        if tokens > MOST_TOKENS:
            raise RecipeError(
                f"[training] discriminative: the alphabet has {tokens} characters, and a trigram of more than"
                f" {MOST_TOKENS} takes too much memory; leave it out, or take phonemes"
            )
        none = tokens  # the begin and the end of a text
        counts = np.zeros((tokens + 1, tokens + 1, tokens + 1))
        for labels in texts:
            if len(labels):
                np.add.at(counts, (np.r_[none, labels], np.r_[none, none, labels[:-1]], np.r_[labels, none]), 1)
        one = counts.sum((0, 1))
        follow = smoothed(counts, smoothed(counts.sum(1), (one + 0.5) / (one + 0.5).sum())[:, None])
        self.tokens = tokens
        self.ends = torch.from_numpy(follow[:, :, none].T.astype(np.float32))
        follow[:, :, none] = 0  # no frame is in the token that is none
        self.follow = torch.from_numpy(follow.astype(np.float32))
        from_token = self.follow.clone()  # which the same token follows through the blank alone
        from_token.diagonal(dim1=0, dim2=2).zero_()
        self.moves = torch.cat([from_token, self.follow], 1)

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """The moves as the kernels take them: [token left, 2, token before, columns], [left, left for, 2, columns]."""
        columns = padding(self.tokens + 1)
        back = self.moves.view(-1, 2, self.tokens + 1, self.tokens + 1).permute(0, 3, 1, 2)
        return F.pad(self.moves, columns), F.pad(back, columns).contiguous()


def padding(tokens: int) -> tuple[int, int]:
    """What makes rows of so many floats ones that the kernels take, as F.pad wants it."""
    return 0, -tokens % LANES


def smoothed(counts: np.ndarray, less: np.ndarray) -> np.ndarray:
    """Probabilities from counts [..., next], to which those with `less` context add by how many tokens they share."""
    kinds = np.maximum(1, (counts > 0).sum(-1, keepdims=True))
    share = (counts + kinds * less) / (counts.sum(-1, keepdims=True) + kinds)
    return np.asarray(share)


def denominator(log_probs: Tensor, frames: Tensor, trigram: Trigram) -> Tensor:
    """Log-likelihood of all texts together, natural log, float32 [batch].

    Takes log-probabilities float32 [batch, frames, tokens + 1], the blank last, and int64 [batch] of frames, each at
    least 1.
    """
    fits = log_probs.device.type == "cpu" and (log_probs.dtype, frames.dtype) == (torch.float32, torch.int64)
    passes = Compiled if fits and kernels() is not None else Total
    total: Tensor = passes.apply(log_probs, frames, trigram)  # type: ignore[no-untyped-call]
    return total


class Total(torch.autograd.Function):
    """The forward pass; its gradient, from the backward pass, is how much each token is in use at each frame.

    States are [in the token or in the blank behind it, token before, batch, token].
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, log_probs: Tensor, frames: Tensor, trigram: Trigram
    ) -> Tensor:
        """Take and return what `denominator` does."""
        batch, longest, tokens = log_probs.shape
        moves, ends = trigram.moves.to(log_probs.device), trigram.ends.to(log_probs.device)
        emitted = log_probs.detach().exp().transpose(0, 1)
        blank = emitted[:, :, -1:].clone()
        token = emitted.contiguous()
        token[:, :, -1] = 0  # the token that is none
        inside = (torch.arange(longest, device=frames.device)[:, None] < frames)[..., None]
        everyone = inside.all(1)[:, 0].tolist()
        states = log_probs.new_empty(longest + 1, 2, tokens, batch, tokens)
        states[0] = 0
        states[0, 1, -1, :, -1] = 1  # behind no token
        scales = []
        for t in range(longest):
            state, following = states[t], states[t + 1]
            moved = torch.bmm(state.view(2 * tokens, batch, tokens).permute(2, 1, 0).contiguous(), moves)
            torch.mul(moved.add_(state[0]), token[t], out=following[0])
            torch.mul(state[0] + state[1], blank[t], out=following[1])
            scale = torch.where(inside[t], following.sum((0, 1, 3))[:, None], 1.0)
            following /= scale
            if not everyone[t]:
                following.copy_(torch.where(inside[t], following, state))
            scales.append(scale)
        last = (states[-1].sum(0) * ends[:, None]).sum((0, 2))
        ctx.scales, ctx.inside, ctx.token, ctx.blank = scales, inside, token, blank  # type: ignore[attr-defined]
        ctx.states, ctx.last, ctx.moves, ctx.ends = states, last, moves, ends  # type: ignore[attr-defined]
        ctx.everyone = everyone  # type: ignore[attr-defined]
        return torch.cat(scales, 1).log().sum(1) + last.log()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the log-probabilities."""
        scales, inside, token, blank = ctx.scales, ctx.inside, ctx.token, ctx.blank  # type: ignore[attr-defined]
        states, last, ends = ctx.states, ctx.last, ctx.ends  # type: ignore[attr-defined]
        everyone, backwards = ctx.everyone, ctx.moves.transpose(1, 2).contiguous()  # type: ignore[attr-defined]
        rest = (ends[:, None] / last[:, None]).expand_as(states[0])
        used = torch.empty_like(token)
        for t in reversed(range(len(scales))):
            both = (states[t + 1] * rest).sum(1) * inside[t]
            used[t] = both[0]
            used[t, :, -1] = both[1].sum(1)
            inner, behind = rest[0] * (token[t] / scales[t]), rest[1] * (blank[t] / scales[t])
            earlier = torch.bmm(inner, backwards).permute(2, 1, 0).reshape(states[0].shape)
            earlier += behind
            earlier[0] += inner
            rest = earlier if everyone[t] else torch.where(inside[t], earlier, rest)
        return used.transpose(0, 1) * grad[:, None, None], None, None


class Compiled(torch.autograd.Function):
    """The same passes in C (`training/csrc/denominator.c`), for float32 on a CPU.

    States are [token, batch, in the token or in the blank behind it, token before], the last padded to `columns`.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, log_probs: Tensor, frames: Tensor, trigram: Trigram
    ) -> Tensor:
        """Take and return what `denominator` does."""
        batch, longest, tokens = log_probs.shape
        emitted = log_probs.detach().exp().transpose(0, 1).contiguous()
        moves, frames = trigram.padded[0], frames.contiguous()
        columns = moves.shape[-1]
        states = torch.empty(longest + 1, tokens, batch, 2, columns)
        states[0] = 0
        states[0, -1, :, 1, tokens - 1] = 1  # behind no token
        scales, room = torch.empty(longest, batch), torch.empty(tokens, batch, columns)
        sizes = longest, batch, tokens, columns
        call("denominator_forward", (states, emitted, frames, moves, scales, room), *sizes)
        ends = F.pad(trigram.ends.t(), padding(tokens))[:, None, None]
        last = (states[-1] * ends).sum((0, 2, 3))
        ctx.passed, ctx.rest = (states, emitted, frames, scales), ends / last[:, None, None]  # type: ignore[attr-defined]
        ctx.moves, ctx.sizes = trigram.padded[1], sizes  # type: ignore[attr-defined]
        return scales.log().sum(0) + last.log()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of the log-probabilities."""
        states, emitted, frames, scales = ctx.passed  # type: ignore[attr-defined]
        rest = ctx.rest.expand_as(states[0]).contiguous()  # type: ignore[attr-defined]
        _, batch, tokens, columns = ctx.sizes  # type: ignore[attr-defined]
        used, inner, earlier = torch.empty_like(emitted), torch.zeros(tokens, batch, columns), torch.empty_like(rest)
        passed = states, emitted, frames, ctx.moves, scales, used, rest, inner, earlier  # type: ignore[attr-defined]
        call("denominator_backward", passed, *ctx.sizes)  # type: ignore[attr-defined]
        return used.transpose(0, 1) * grad[:, None, None], None, None
