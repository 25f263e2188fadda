"""A training run: what is fitted, on what, how far it has come, and its checkpoints."""

from __future__ import annotations

import dataclasses
import datetime
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from asr_runtime.errors import RecipeError
from asr_training.census import Census
from asr_training.checkpoint import Checkpoint, load_weights, read_json, read_tensors, write_checkpoint
from asr_training.corpus import Corpus
from asr_training.learner import Learner
from asr_training.model import AcousticModel
from asr_training.recipe import Recipe, from_table
from asr_training.stream import TrainingData


@dataclass
class Position:
    """How far a run has come; all that a resume needs besides weights and optimiser."""

    epoch: int = 0
    group: int = 0  # of this epoch's; 0 unless the data are in shards
    batch: int = 0  # of this group, the next to do
    step: int = 0
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    loss_sum: float = 0.0  # since the last validation
    loss_steps: int = 0
    left_out: int = 0  # steps in a row whose gradient was not finite
    best_wer: float = math.inf
    rows: list[dict[str, Any]] = field(default_factory=list)
    scale: dict[str, Any] = field(default_factory=dict)  # of the loss, in float16

    @property
    def mean_loss(self) -> float:
        """The mean loss since the last validation; NaN where no step had a finite gradient."""
        return self.loss_sum / self.loss_steps if self.loss_steps else math.nan


@dataclass
class Run:
    """A training run: what is fitted, on what, and where it is written."""

    recipe: Recipe
    folder: Path
    device: torch.device
    train: TrainingData
    validation: Corpus
    census: Census  # of the training data
    learner: Learner
    steps_per_epoch: int
    parts: int  # of the batch of a step: one for each process and accumulation
    position: Position
    skip_bad: bool  # whether faulty data are left out
    doubts: str  # of the data, in words
    earlier_recipes: list[Any] = field(default_factory=list)  # of a run that was taken up with another one
    origin: dict[str, Any] | None = None  # of the weights that it began with; see `transfer.start_from`

    @property
    def model(self) -> AcousticModel:
        """The model that is fitted."""
        return self.learner.model

    @property
    def progress(self) -> float:
        """How much of the run is done, 0…1."""
        return self.progress_at(self.position.step)

    def progress_at(self, step: int) -> float:
        """How much of the run is done before a step, 0…1."""
        return step / max(1, self.recipe.training.epochs * self.steps_per_epoch)

    def checkpoint(self) -> Checkpoint:
        """The averaged model as it is now, described."""
        recipe = self.recipe
        provenance = {
            "recipe": dataclasses.asdict(recipe),
            **({"earlier_recipes": self.earlier_recipes} if self.earlier_recipes else {}),
            **({"from": self.origin} if self.origin else {}),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "data": self.census.described(),
            "parts": self.parts,
            "skip_bad": self.skip_bad,
            "steps": self.position.step,
            "audio_hours": round(self.position.audio_seconds / 3600, 2),
            "training_seconds": round(self.position.wall_seconds),
            "validation": finite(self.position.rows[-1]) if self.position.rows else None,
        }
        return Checkpoint(self.learner.averaged, recipe.features, recipe.model, self.train.alphabet, provenance)


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The same with None in place of numbers that JSON has not."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def save(run: Run, name: str) -> None:
    """Write the checkpoint `name` of the run's folder."""
    run.position.scale = run.learner.scaler.state_dict()
    write_checkpoint(run.folder / name, run.checkpoint(), run.learner.tensors(), dataclasses.asdict(run.position))


def take_up(run: Run, saved: Path) -> None:
    """Go on from the checkpoint in the folder `saved`, if the recipe is still one that it can go on with."""
    provenance = read_json(saved / "config.json").get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    earlier = from_table(Recipe, provenance.get("recipe"), f"the recipe in {saved / 'config.json'}")
    before = unchangeable(earlier, provenance.get("parts", 1), provenance.get("skip_bad", False))
    refuse_changes(before, unchangeable(run.recipe, run.parts, run.skip_bad), run.folder)
    run.earlier_recipes = list(provenance.get("earlier_recipes", []))
    run.origin = provenance.get("from")
    if earlier != run.recipe:
        run.earlier_recipes.append(dataclasses.asdict(earlier))
    load_weights(run.model, saved)
    try:
        run.position = Position(**read_json(saved / "training.json"))
        run.position.left_out = 0  # a lower rate gets all the steps that a run gets
        run.learner.load(read_tensors(saved / "training.safetensors"), run.position.scale)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(f"{saved} does not hold the state of a run ({error}); give another --out") from None


def refuse_changes(earlier: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse what a run cannot change to on its way; rates, epochs, augmentation and paths may change."""
    for name, before in earlier.items():
        if before != now[name]:
            raise RecipeError(
                f"{folder} holds a run whose recipe has another {name} ({before} there, {now[name]} here);"
                " take its recipe or give another --out"
            )


def unchangeable(recipe: Recipe, parts: int, skip_bad: bool) -> dict[str, Any]:
    """What decides the weights' shapes and meaning, and which utterances meet in which step."""
    data, training = recipe.data, recipe.training
    return {
        "[model]": recipe.model,
        "[features]": recipe.features,
        "alphabet": data.alphabet,
        "lower_case": data.lower_case,
        "longest_seconds": data.longest_seconds,
        "shards_at_once": data.shards_at_once,
        "repeat of its data": [source.repeat for source in data.train],
        "spliced of its data": [source.spliced for source in data.train],
        "seed": training.seed,
        "--skip-bad": skip_bad,
        "batch_utterances times accumulate and processes": training.batch_utterances * parts,
        "batch_seconds times accumulate and processes": training.batch_seconds * parts,
    }
