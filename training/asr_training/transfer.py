"""Fine-tuning: a new run that begins with the weights of a checkpoint or bundle, on another alphabet or deeper."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from asr_runtime.errors import RecipeError
from asr_training.bundle_weights import load_bundle
from asr_training.checkpoint import Checkpoint, load_checkpoint
from asr_training.model import AcousticModel, ResidualBlock
from asr_training.recipe import Model, Recipe
from asr_training.text import Alphabet

OUTPUT_LAYERS = ("encoder.output", "encoder.intermediate")


def start_from(model: AcousticModel, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Put the weights of the checkpoint or bundle `folder` into `model`, which `recipe` describes.

    The recipe may have another alphabet, whose characters that the checkpoint lacks begin at random, and more blocks,
    which begin as the identity. Returns what provenance says of it. Raises RecipeError for another model or front end.
    """
    earlier = load_trained(folder)
    refuse_other_model(earlier, recipe, folder)
    weights = earlier.model.state_dict()
    fresh = model.state_dict()
    finer = repeat_subframes(OUTPUT_LAYERS, weights, subframes(earlier.architecture), subframes(recipe.model))
    of_characters = OUTPUT_LAYERS[: 1 if getattr(recipe.model, "phonemes", 0) else 2]
    replaced = replace_output_layers(of_characters, weights, fresh, earlier.alphabet, Alphabet(recipe.data.alphabet))
    model.load_state_dict(fresh | weights)
    deepened = clear_new_blocks(model, earlier.architecture.blocks)
    return {
        "sha256": digest(folder),
        "changes": [change for change in (finer, replaced, deepened) if change],
        "provenance": earlier.provenance,
    }


def load_trained(path: Path) -> Checkpoint:
    """The model of a checkpoint or of a bundle; raises RecipeError where there is none."""
    return load_bundle(path) if is_bundle(path) else load_checkpoint(path)


def is_bundle(path: Path) -> bool:
    """Whether it is a bundle, a folder or one file, and no checkpoint."""
    return path.suffix == ".asr" or (path / "bundle.json").is_file()


def digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, by which a run knows what it began from wherever that lies.

    That of a bundle is its list of files, which has theirs, or the one file itself.
    """
    file = folder / ("bundle.json" if is_bundle(folder) else "model.safetensors") if folder.is_dir() else folder
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise RecipeError(f"cannot read the checkpoint to begin from ({error}); give the folder of one") from None


def refuse_other_origin(origin: dict[str, Any] | None, start: Path, folder: Path) -> None:
    """Refuse to go on with the run in `folder` as if it had begun from the checkpoint `start` when it did not."""
    if origin is None or origin["sha256"] != digest(start):
        raise RecipeError(
            f"{folder} holds a run that did not begin from {start}; leave --from out to go on with it, or give another"
            " --out"
        )


def refuse_other_model(earlier: Checkpoint, recipe: Recipe, folder: Path) -> None:
    """Refuse a checkpoint whose weights mean something else than the recipe's; dropout and more blocks may differ."""
    for table, before, now in (
        ("[features]", dataclasses.asdict(earlier.features), dataclasses.asdict(recipe.features)),
        ("[model]", shape(earlier.architecture), shape(recipe.model)),
    ):
        for key in before:
            if before[key] != now.get(key):
                raise RecipeError(
                    f"{table}: {key} is {now.get(key)}, but {before[key]} in the checkpoint {folder} to begin from;"
                    " take the same, or begin without it"
                )
    if recipe.model.blocks < earlier.architecture.blocks:
        raise RecipeError(
            f"[model]: blocks is {recipe.model.blocks}, but {earlier.architecture.blocks} in the checkpoint {folder} to"
            " begin from; take as many or more"
        )


def shape(model: Model) -> dict[str, Any]:
    """What must be the same in a model to take another's weights; the architecture comes first.

    A conditioned model keeps its blocks, too: more of them would move the layer that it is conditioned on.
    """
    values = dataclasses.asdict(model)
    free = ("dropout", "subframes") if values.get("conditioned") else ("blocks", "dropout", "subframes")
    return {key: value for key, value in values.items() if key not in free}


def subframes(model: Model) -> int:
    """How many frames of log-probabilities each step of a model's encoder writes."""
    return int(getattr(model, "subframes", 1))


def repeat_subframes(layers: tuple[str, ...], weights: dict[str, Tensor], before: int, now: int) -> str:
    """Give the output `layers` in `weights` the rows of `now` subframes, of which there were `before`.

    More of them begin as copies of those that there are, which repeat a token and so write the same texts. Returns what
    was done in words, or "" where there is nothing to do. Raises RecipeError where there would be fewer.
    """
    if before == now:
        return ""
    if now < before:
        raise RecipeError(
            f"[model]: subframes is {now}, but {before} in what it is to begin from; take as many or more"
        )
    for name in (f"{layer}.{part}" for layer in layers for part in ("weight", "bias")):
        if name in weights:
            rows = weights[name].view(before, -1, *weights[name].shape[1:])
            weights[name] = rows.repeat_interleave(now // before, 0).flatten(0, 1)
    return f"each step writes {now} frames in place of {before}; they begin alike"


def replace_output_layers(
    layers: tuple[str, ...], weights: dict[str, Tensor], fresh: dict[str, Tensor], before: Alphabet, now: Alphabet
) -> str:
    """Give the output `layers` in `weights` the rows of the alphabet `now`; those of new characters come from `fresh`.

    Returns what was done in words, or "" where the alphabet is the same.
    """
    if before == now:
        return ""
    kept = [token for token in now.tokens if token in before.tokens]
    rows = torch.tensor([now.tokens.index(token) for token in kept])
    earlier_rows = torch.tensor([before.tokens.index(token) for token in kept])
    for name in (f"{layer}.{part}" for layer in layers for part in ("weight", "bias")):
        if name in fresh:
            layer = of_tokens(fresh[name], now).clone()
            layer[:, rows] = of_tokens(weights[name], before)[:, earlier_rows].to(layer.device)
            weights[name] = layer.flatten(0, 1)
    if len(layers) > 1:  # what is made of the intermediate layer's characters is learnt anew
        weights.update({name: value for name, value in fresh.items() if name.startswith("encoder.condition.")})
    new = "".join(character for character in now.characters if character not in before.characters)
    return (
        f"the output layer is replaced for the alphabet {now.characters!r}: {len(kept)} of its {len(now.tokens)} tokens"
        f" keep their weights, {f'{new!r} begin' if new else 'none begins'} at random"
    )


def of_tokens(layer: Tensor, alphabet: Alphabet) -> Tensor:
    """The rows of an output layer by subframe and token: [subframes, tokens, …]."""
    return layer.view(-1, len(alphabet.tokens), *layer.shape[1:])


def clear_new_blocks(model: AcousticModel, blocks: int) -> str:
    """Let the blocks behind the first so many, and the attention before them, begin as the identity.

    Their last layers are 0, as the branches of a residual network may begin (Goyal et al. 2017, arXiv 1706.02677,
    section 5.1). Returns what was done in words, or "" where there are none.
    """
    last: list[nn.Module] = []
    every = list(model.encoder.blocks)  # type: ignore[arg-type]
    modules = dict(model.encoder.named_modules())
    for i, block in enumerate(every[blocks:], blocks):
        last.append(block.convolutions[-1] if isinstance(block, ResidualBlock) else block.narrow)
        if attention := modules.get(f"attentions.{i}.output"):
            last.append(attention)
    for layer in last:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    new = len(every) - blocks
    return f"new blocks behind the first {blocks}, which begin as the identity: {new}" if new else ""
