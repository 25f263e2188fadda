"""Checkpoints: a folder of safetensors and JSON, never a pickle, written beside and renamed.

`model.safetensors` and `config.json` are what export needs; `training.safetensors` and `training.json` hold the
optimiser's state and the position in the run, for exact resume.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from asr_runtime.errors import RecipeError
from asr_training.model import AcousticModel, make_encoder
from asr_training.recipe import Features, Model, check_acoustics, convert, from_table
from asr_training.text import Alphabet

FORMAT = 1
DAMAGED = "the checkpoint is damaged; take another, or remove it to begin anew"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with all that describes it."""

    model: AcousticModel
    features: Features
    architecture: Model
    alphabet: Alphabet
    provenance: dict[str, Any]


def write_checkpoint(
    folder: Path, checkpoint: Checkpoint, tensors: dict[str, Tensor], position: dict[str, Any]
) -> None:
    """Write a checkpoint with the optimiser's tensors and the run's position in place of what `folder` held."""
    part, old = folder.with_name(folder.name + ".part"), folder.with_name(folder.name + ".old")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write_tensors(part / "model.safetensors", checkpoint.model.state_dict())
    config = {
        "format": FORMAT,
        "features": dataclasses.asdict(checkpoint.features),
        "model": dataclasses.asdict(checkpoint.architecture),
        "alphabet": checkpoint.alphabet.characters,
        "provenance": checkpoint.provenance,
    }
    (part / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    write_tensors(part / "training.safetensors", tensors)
    (part / "training.json").write_text(json.dumps(position, indent=1), encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file."""
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    except safetensors.SafetensorError as error:
        raise RecipeError(
            f"cannot write {path} ({error}); free some space, the run goes on from its last checkpoint"
        ) from None


def newest(folder: Path) -> Path | None:
    """The folder itself, the one it replaced if writing was cut between the two renames, or None."""
    old = folder.with_name(folder.name + ".old")
    return next((path for path in (folder, old) if (path / "config.json").is_file()), None)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"cannot read {path} ({error}); {DAMAGED}") from None
    if not isinstance(value, dict):
        raise RecipeError(f"{path} holds no JSON object; {DAMAGED}")
    return value


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    try:
        tensors = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise RecipeError(f"cannot read {path} ({error}); {DAMAGED}") from None
    for name, values in tensors.items():
        if values.is_floating_point() and not values.isfinite().all():
            raise RecipeError(f"{path}: {name} holds what is not finite; {DAMAGED}")
    return tensors


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's model, in evaluation mode and float32, with its configuration."""
    if not (folder / "config.json").is_file():
        best = f", {folder / 'best'} say" if (folder / "best").is_dir() else ""
        raise RecipeError(f"{folder} is no checkpoint; give the folder of a checkpoint{best}")
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise RecipeError(
            f"{folder} is a checkpoint of format {config.get('format')!r}, wanted {FORMAT}; update asr-deploy"
        )
    where = f"{folder / 'config.json'}"
    try:
        features = from_table(Features, config["features"], where)
        architecture: Model = convert(Model, config["model"], where)
        alphabet, provenance = Alphabet(str(config["alphabet"])), dict(config["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{where} lacks {error}; {DAMAGED}") from None
    check_acoustics(features, architecture)
    tokens = len(alphabet.tokens)
    with torch.device("meta"):  # sizes are compared before memory is taken for them
        hollow = torch.nn.ModuleDict({"encoder": make_encoder(architecture, features.mels, tokens)})
    load_weights(hollow, folder, assign=True)
    model = AcousticModel(features, architecture, tokens)
    load_weights(model, folder)
    return Checkpoint(model.eval(), features, architecture, alphabet, provenance)


def load_weights(model: torch.nn.Module, folder: Path, *, assign: bool = False) -> None:
    """Put a checkpoint's weights into a model of the same shape, or in place of the model's own with `assign`."""
    try:
        model.load_state_dict(read_tensors(folder / "model.safetensors"), assign=assign)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise RecipeError(
            f"the weights in {folder} are of another model ({first}); take the recipe they were made with"
        ) from None
