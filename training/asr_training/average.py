"""The mean of several checkpoints' weights: often better than each of them, for the price of one.

Runs that began from the same weights and went on with other data or in another order lie around what is common to them
(Wortsman et al. 2022, "Model soups", arXiv 2203.05482). Those of unlike beginnings have a mean that is worth nothing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_runtime.errors import RecipeError
from asr_training.checkpoint import Checkpoint, write_checkpoint
from asr_training.transfer import digest, is_bundle, load_trained


def average(sources: list[Path], out: Path) -> None:
    """Write the mean of checkpoints and bundles as the checkpoint `out`; what is given twice counts twice.

    It is described as the first of them is, and `averaged` in its provenance has them all. Bundles lack the layer that
    only training has; that one is the checkpoints' mean. Raises RecipeError for fewer than two, and for those whose
    weights mean something else than the first one's.
    """
    if len(sources) < 2:
        raise RecipeError(f"there is nothing to average in {len(sources)} checkpoint; give two or more")
    loaded = [load_trained(source) for source in sources]
    first = loaded[0]
    for source, other in zip(sources, loaded, strict=True):
        refuse_unlike(first, other, sources[0], source)
    weights = [checkpoint.model.state_dict() for checkpoint in loaded]
    trained = [w for w, source in zip(weights, sources, strict=True) if not is_bundle(source)] or weights
    first.model.load_state_dict(
        {name: mean([w[name] for w in (trained if "intermediate" in name else weights)]) for name in weights[0]}
    )
    kept = {key: value for key, value in first.provenance.items() if key not in ("validation", "export", "tune")}
    digests = [digest(source) for source in sources]
    told = {digests[0], (kept.get("from") or {}).get("sha256")}  # whose provenance is there already
    averaged: list[dict[str, Any]] = []
    for sha256, checkpoint in zip(digests, loaded, strict=True):
        averaged.append({"sha256": sha256} | ({} if sha256 in told else {"provenance": checkpoint.provenance}))
        told.add(sha256)
    write_checkpoint(out, dataclasses.replace(first, provenance={**kept, "averaged": averaged}), {}, {})


def mean(tensors: list[Tensor]) -> Tensor:
    """The mean of weights; the first of what is counted, which has none."""
    return torch.stack(tensors).mean(0) if tensors[0].is_floating_point() else tensors[0]


def refuse_unlike(first: Checkpoint, other: Checkpoint, of: Path, at: Path) -> None:
    """Refuse a checkpoint with another front end, model or alphabet than the first; dropout may differ."""
    for before, now in zip(described(first), described(other), strict=True):
        for key in before:
            if before[key] != now.get(key):
                raise RecipeError(
                    f"{key} is {now.get(key)!r} in {at}, but {before[key]!r} in {of}; weights that mean something else"
                    " have no mean, so leave one of the two out"
                )


def described(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What must be the same in all: features, model but for dropout, alphabet."""
    model = dataclasses.asdict(dataclasses.replace(checkpoint.architecture, dropout=0.0))
    return dataclasses.asdict(checkpoint.features), model, {"alphabet": checkpoint.alphabet.characters}
