"""What turns batches into weights: loss, gradients, AdamW, and the average of the weights."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from asr_training import processes
from asr_training.corpus import Batch
from asr_training.ctc import ctc_loss
from asr_training.denominator import Trigram, denominator
from asr_training.model import AcousticModel, ConvolutionAttentionEncoder
from asr_training.recipe import Training


class Objective(nn.Module):
    """The loss of a model on a batch: CTC, and a second CTC at the intermediate layer if so configured.

    With a trigram of the tokens the likelihood of all texts is taken off, see `denominator`. With `consistency` the
    second half of a batch is another view of the first, and what they disagree in is added.
    """

    def __init__(self, model: AcousticModel, config: Training, trigram: Trigram | None) -> None:
        super().__init__()
        self.model, self.config, self.trigram = model, config, trigram

    def forward(
        self,
        features: Tensor,
        frames: Tensor,
        labels: Tensor,
        counts: Tensor,
        phonemes: Tensor | None,
        phoneme_counts: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the CTC loss and the disagreement, for the record, and what is fitted of the last and a middle layer.

        All are summed over the batch, in natural log.
        """
        config = self.config
        dtype = torch.float16 if config.float16 else torch.bfloat16
        with torch.autocast(features.device.type, dtype, enabled=config.float16 or config.bfloat16):
            log_probs, frames, intermediate = self.model.encode(features, frames)
        loss = fitted = ctc_loss(log_probs, frames, labels, counts)
        if self.trigram is not None:
            fitted = loss + config.discriminative * denominator(log_probs, frames, self.trigram).sum()
        apart = disagreement(log_probs, frames) if config.consistency else torch.zeros_like(loss)
        fitted = fitted + config.consistency * apart
        weight = config.intermediate_weight
        if intermediate is None or not weight:
            return loss.detach(), apart.detach(), fitted, None
        if phonemes is None or phoneme_counts is None:
            second = ctc_loss(intermediate, frames, labels, counts)
        else:
            second = ctc_loss(intermediate, frames, phonemes, phoneme_counts)
        return loss.detach(), apart.detach(), (1 - weight) * fitted, weight * second


def disagreement(log_probs: Tensor, frames: Tensor) -> Tensor:
    """How far the halves of a batch are from each other: Kullback-Leibler divergences both ways, over all frames.

    Each is drawn to the other, which gets no gradient from that (consistency regularisation of CTC: Yao et al. 2024).
    """
    first, second = log_probs.chunk(2)
    both = F.kl_div(first, second.detach(), reduction="none", log_target=True)
    both = both + F.kl_div(second, first.detach(), reduction="none", log_target=True)
    audible = torch.arange(both.shape[1], device=both.device) < frames[: len(both), None]
    return (both.sum(2) * audible).sum()


def make_optimiser(model: nn.Module, config: Training) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on norms and biases."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def moving_average(model: AcousticModel, decay: float) -> AveragedModel:
    """An exponential moving average of the weights, whose memory grows to `decay` as the run gets longer."""

    def update(averaged: Any, current: Any, updates: Tensor | int) -> None:
        memory = min(decay, (1 + int(updates)) / (10 + int(updates)))
        torch._foreach_lerp_(averaged, current, 1 - memory)

    return AveragedModel(model, multi_avg_fn=update)


class Learner:
    """A model that is fitted; `averaged` is the one to validate and to keep."""

    def __init__(
        self, model: AcousticModel, config: Training, device: torch.device, trigram: Trigram | None = None
    ) -> None:
        encoder = model.encoder
        if isinstance(encoder, ConvolutionAttentionEncoder) and not encoder.config.conditioned:
            # A layer that nothing depends on is no parameter: DistributedDataParallel waits for every gradient.
            encoder.intermediate.requires_grad_(config.intermediate_weight > 0)
        self.model, self.config, self.device = model, config, device
        self.objective: nn.Module = Objective(model, config, trigram)
        if processes.count() > 1:
            devices = [device] if device.type == "cuda" else None
            self.objective = DistributedDataParallel(self.objective, devices)
        self.optimiser = make_optimiser(model, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.float16)
        self.average = moving_average(model, config.ema) if config.ema else None

    @property
    def averaged(self) -> AcousticModel:
        """The moving average of the weights if the recipe asks for one, else the model itself."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, AcousticModel)  # it is a copy of the model
        return self.average.module

    def add_gradient(self, batch: Batch, weight: float, phoneme_weight: float, last: bool) -> tuple[float, float]:
        """Add the gradient of a batch's loss times `weight`; after the last one the processes exchange theirs.

        `phoneme_weight` is that of an intermediate layer which has labels of its own. Returns the loss and the
        views' disagreement, both times `weight`.
        """
        self.objective.train()
        inputs = (batch.features, batch.frames, batch.labels, batch.label_counts, batch.phonemes, batch.phoneme_counts)
        with contextlib.ExitStack() as stack:
            if isinstance(self.objective, DistributedDataParallel) and not last:
                stack.enter_context(self.objective.no_sync())
            loss, apart, fitted, second = self.objective(*(None if x is None else x.to(self.device) for x in inputs))
            fitted = fitted * weight
            if second is not None:
                fitted = fitted + second * (weight if batch.phonemes is None else phoneme_weight)
            # DistributedDataParallel takes the mean over the processes, and the sum is wanted.
            self.scaler.scale(fitted * processes.count()).backward()
        return float(loss) * weight, float(apart) * weight

    def update(self, rate: float) -> tuple[float, bool]:
        """Make one step of the optimiser with the gradients so far; returns their norm, and whether it was finite.

        A step whose gradient is not finite is left out; with float16 it makes the scale of the loss smaller.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.scaler.unscale_(self.optimiser)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm))
        finite = norm < float("inf")
        if finite:
            self.scaler.step(self.optimiser)
            if self.average is not None:
                self.average.update_parameters(self.model)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        return norm, finite

    def tensors(self) -> dict[str, Tensor]:
        """What a resume needs besides the averaged weights, as named tensors."""
        state = self.optimiser.state_dict()["state"]
        tensors = {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}
        if self.average is not None:
            weights = {f"weights.{name}": value for name, value in self.model.state_dict().items()}
            tensors |= {**weights, "average.updates": self.average.n_averaged}
        return tensors

    def load(self, tensors: dict[str, Tensor], scale: dict[str, Any]) -> None:
        """Put `tensors` and the scaler's state back, into a model that holds the checkpoint's weights."""
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, name = key.split(".", 1)
            if owner.isdigit():
                state.setdefault(int(owner), {})[name] = value
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.start_average()
        weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
        if weights:
            self.model.load_state_dict(weights)
        if self.average is not None and "average.updates" in tensors:
            self.average.n_averaged.copy_(tensors["average.updates"])
        if scale and self.scaler.is_enabled():
            self.scaler.load_state_dict(scale)

    def start_average(self) -> None:
        """Let the average begin with the weights that the model has now."""
        if self.average is not None:
            self.average.module.load_state_dict(self.model.state_dict())
