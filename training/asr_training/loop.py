"""The training loop: a recipe in, checkpoints out.

Every epoch goes once through the corpus in batches of like lengths. Whatever is random in a step (augmentation,
dropout, the order of an epoch) is drawn from generators seeded with the recipe's seed and the number of the step or
epoch, so a run that is stopped at any step and taken up again goes on exactly as it would have.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from asr_runtime.errors import RecipeError
from asr_training.augment import augment
from asr_training.checkpoint import Checkpoint, load_weights, newest, read_json, read_tensors, write_checkpoint
from asr_training.data import Batch, Corpus, describe
from asr_training.evaluate import evaluate
from asr_training.model import AcousticModel
from asr_training.recipe import Recipe, Training, from_table
from asr_training.report import Row, write_table
from asr_training.transfer import refuse_other_origin, start_from

SAVE_EVERY_SECONDS = 300


@dataclass
class Position:
    """How far a run has come; all that a resume needs besides weights and optimiser."""

    epoch: int = 0
    batch: int = 0  # of this epoch, the next to do
    step: int = 0
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    loss_sum: float = 0.0  # since the last validation
    loss_steps: int = 0
    best_wer: float = math.inf
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Run:
    """A training run: what is fitted, on what, and where it is written."""

    recipe: Recipe
    folder: Path
    device: torch.device
    train: Corpus
    validation: Corpus
    model: AcousticModel
    optimiser: torch.optim.AdamW
    steps_per_epoch: int
    position: Position
    earlier_recipes: list[Any] = field(default_factory=list)  # of a run that was taken up with another one
    origin: dict[str, Any] | None = None  # of the weights that it began with; see `transfer.start_from`

    def checkpoint(self) -> Checkpoint:
        """The model as it is now, described."""
        recipe = self.recipe
        provenance = {
            "recipe": dataclasses.asdict(recipe),
            **({"earlier_recipes": self.earlier_recipes} if self.earlier_recipes else {}),
            **({"from": self.origin} if self.origin else {}),
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            "data": describe(self.train),
            "steps": self.position.step,
            "audio_hours": round(self.position.audio_seconds / 3600, 2),
            "training_seconds": round(self.position.wall_seconds),
            "validation": self.position.rows[-1] if self.position.rows else None,
        }
        return Checkpoint(self.model, recipe.features, recipe.model, self.train.alphabet, provenance)


def fit(recipe: Recipe, folder: Path, device: str = "cpu", start: Path | None = None) -> Position:
    """Train as `recipe` says, in `folder`: `last/` and `best/` are checkpoints, `epochs.txt` the table of results.

    A run that `folder` holds already is taken up where it stopped. Another one begins with the weights of the
    checkpoint `start` if that is given.
    """
    run = begin(recipe, folder, torch.device(device), start)
    print(opening(run), file=sys.stderr)
    with closing_on_signal() as stopped, SummaryWriter(str(folder / "tensorboard")) as board:
        saved = validated = time.monotonic()
        for batch_number in remaining(run):
            step(run, batch_number, board)
            now, stop = time.monotonic(), bool(stopped)
            end_of_epoch = run.position.batch == 0
            minutes = recipe.training.validate_every_minutes
            if end_of_epoch or (minutes and now - validated > minutes * 60):
                validate(run, board)
                validated = saved = time.monotonic()
            elif now - saved > SAVE_EVERY_SECONDS or stop:
                save(run, "last")
                saved = now
            if stop:
                raise KeyboardInterrupt
    return run.position


@contextlib.contextmanager
def closing_on_signal() -> Iterator[list[int]]:
    """Collect a first SIGINT or SIGTERM in a list, so that a step ends and is saved; a second one stops at once."""
    stopped: list[int] = []

    def note(number: int, _: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def begin(recipe: Recipe, folder: Path, device: torch.device, start: Path | None = None) -> Run:
    """Read the data, make the model, and take up what `folder` holds or begin with the weights of `start`."""
    torch.manual_seed(recipe.training.seed)
    torch.set_flush_denormal(True)  # denormal numbers cost a CPU 10 % of its speed here
    if recipe.training.threads:
        torch.set_num_threads(recipe.training.threads)
    train = Corpus(recipe.data.train, recipe.data, recipe.features, folder / "features")
    known = dataclasses.replace(recipe.data, pronunciations="")  # which only the training loss needs
    validation = Corpus(recipe.data.validation, known, recipe.features, folder / "features")
    model = AcousticModel(recipe.features, recipe.model, len(train.alphabet.tokens)).to(device)
    optimiser = make_optimiser(model, recipe.training)
    refuse_other_phonemes(train, recipe)
    steps = len(train.training_order(recipe.data, recipe.training, model.stride, 0))
    if not steps:
        raise RecipeError(
            f"[data]: no utterance is left to train on, {train.left_out(recipe.data, model.stride)};"
            " change longest_seconds, repeat or the data"
        )
    run = Run(recipe, folder, device, train, validation, model, optimiser, steps, Position())
    if saved := newest(folder / "last"):
        take_up(run, saved)
        if start:
            refuse_other_origin(run.origin, start, folder)
    elif start:
        run.origin = start_from(model, recipe, start)
    return run


def refuse_other_phonemes(train: Corpus, recipe: Recipe) -> None:
    """Refuse a model whose intermediate layer has not as many outputs as there are phonemes."""
    found = len(train.pronunciations.phonemes) if train.pronunciations else 0
    wanted = getattr(recipe.model, "phonemes", 0)
    if found != wanted:
        raise RecipeError(
            f"[model]: phonemes is {wanted}, but the pronunciations of [data] have {found}; set phonemes to {found}"
        )


def take_up(run: Run, saved: Path) -> None:
    """Go on from the checkpoint in the folder `saved`, if the recipe is still one that it can go on with."""
    provenance = read_json(saved / "config.json").get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    earlier = from_table(Recipe, provenance.get("recipe"), f"the recipe in {saved / 'config.json'}")
    refuse_changes(earlier, run.recipe, run.folder)
    run.earlier_recipes = list(provenance.get("earlier_recipes", []))
    run.origin = provenance.get("from")
    if earlier != run.recipe:
        run.earlier_recipes.append(dataclasses.asdict(earlier))
    load_weights(run.model, saved)
    try:
        load_optimiser(run.optimiser, read_tensors(saved / "training.safetensors"))
        run.position = Position(**read_json(saved / "training.json"))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(f"{saved} does not hold the state of a run ({error}); give another --out") from None


def refuse_changes(earlier: Recipe, recipe: Recipe, folder: Path) -> None:
    """Refuse a recipe that a run cannot change to on its way; rates, epochs, augmentation and paths may change."""
    for (name, before), now in zip(unchangeable(earlier).items(), unchangeable(recipe).values(), strict=True):
        if before != now:
            raise RecipeError(
                f"{folder} holds a run whose recipe has another {name} ({before} there, {now} here);"
                " take its recipe or give another --out"
            )


def unchangeable(recipe: Recipe) -> dict[str, Any]:
    """What decides the weights' shapes and meaning, and which utterances meet in which step."""
    data, training = recipe.data, recipe.training
    return {
        "[model]": recipe.model,
        "[features]": recipe.features,
        "alphabet": data.alphabet,
        "lower_case": data.lower_case,
        "longest_seconds": data.longest_seconds,
        "repeat of its data": [source.repeat for source in data.train],
        "seed": training.seed,
        "batch_utterances": training.batch_utterances,
        "batch_seconds": training.batch_seconds,
    }


def opening(run: Run) -> str:
    """The first lines of a run: what it is fitted on, what is left out of that, and what changed since its origin."""
    data = describe(run.train)
    left_out = run.train.left_out(run.recipe.data, run.model.stride)
    first = f"{data['utterances']} utterances, {data['hours']} hours, {data['speakers']} speakers; {left_out}"
    return "\n".join([first, *(run.origin["changes"] if run.origin else [])])


def make_optimiser(model: torch.nn.Module, config: Training) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, not on norms and biases."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def remaining(run: Run) -> Iterator[np.ndarray]:
    """The batches that are still to do, epoch after epoch; keeps the position's epoch and batch."""
    position, recipe = run.position, run.recipe
    while position.epoch < recipe.training.epochs:
        order = run.train.training_order(recipe.data, recipe.training, run.model.stride, position.epoch)
        if position.batch >= len(order):
            raise RecipeError(
                f"{run.folder} stopped at batch {position.batch} of an epoch that has {len(order)} now: the data have"
                " changed; bring them back or give another --out"
            )
        label = f"epoch {position.epoch + 1}/{recipe.training.epochs}"
        with tqdm(total=len(order), initial=position.batch, desc=label, unit="batch", disable=None) as bar:
            while position.batch < len(order):
                batch = order[position.batch]
                position.batch += 1
                last = position.batch == len(order)
                if last:
                    position.epoch, position.batch = position.epoch + 1, 0
                yield batch
                bar.update()
                bar.set_postfix(loss=f"{position.loss_sum / max(position.loss_steps, 1):.3f}", refresh=False)
                if last:
                    break


def progress(run: Run) -> float:
    """How much of the run is done, 0…1."""
    return run.position.step / max(1, run.recipe.training.epochs * run.steps_per_epoch)


def learning_rate(config: Training, step: int, done: float) -> float:
    """The learning rate of a step: warm-up, then constant, then (if so configured) linear down to 0."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.schedule == "linear":
        rate *= min(1.0, (1 - min(done, 1.0)) / (1 - config.flat))
    return rate


def step(run: Run, indices: np.ndarray, board: SummaryWriter) -> None:
    """Fit one batch."""
    started, config, position = time.monotonic(), run.recipe.training, run.position
    done = progress(run)
    torch.manual_seed((config.seed << 32) + position.step)
    rng = np.random.default_rng([config.seed, position.step, 1])
    strength = min(1.0, done / run.recipe.augment.full_after) if run.recipe.augment.full_after else 1.0
    batch = run.train.batch(indices, lambda x, fewest: augment(x, run.recipe.augment, strength, fewest, rng))
    rate = learning_rate(config, position.step, done)
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.model.train()
    loss, total = losses(run, batch)
    run.optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.clip_norm)
    if bool(norm.isfinite()):
        run.optimiser.step()
        position.loss_sum += float(loss)
        position.loss_steps += 1
    position.step += 1
    position.audio_seconds += batch.seconds
    position.wall_seconds += time.monotonic() - started
    if position.step % 20 == 0:
        board.add_scalar("train/loss", float(loss), position.step)
        board.add_scalar("train/learning_rate", rate, position.step)
        board.add_scalar("train/gradient_norm", float(norm), position.step)


def losses(run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
    """The CTC loss per character, and the weighted sum that is fitted."""
    features, frames = batch.features.to(run.device), batch.frames.to(run.device)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.recipe.training.bfloat16):
        log_probs, frames, intermediate = run.model.encode(features, frames)
    loss = ctc_loss(log_probs, frames, batch.labels, batch.label_counts)
    weight = run.recipe.training.intermediate_weight
    if intermediate is None or not weight:
        return loss.detach(), loss
    if batch.phonemes is None or batch.phoneme_counts is None:
        second = ctc_loss(intermediate, frames, batch.labels, batch.label_counts)
    else:
        second = ctc_loss(intermediate, frames, batch.phonemes, batch.phoneme_counts)
    return loss.detach(), (1 - weight) * loss + weight * second


def ctc_loss(log_probs: Tensor, frames: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
    """Negative log-likelihood of a batch, divided by its labels (Graves et al. 2006); the blank is the last token."""
    total = F.ctc_loss(
        log_probs.transpose(0, 1),
        labels.to(log_probs.device),
        frames,
        counts.to(log_probs.device),
        blank=log_probs.shape[2] - 1,
        reduction="sum",
        zero_infinity=True,
    )
    return total / counts.sum()


def validate(run: Run, board: SummaryWriter) -> None:
    """Measure on the validation data, note it in the table and TensorBoard, and keep the best weights."""
    position = run.position
    scores = evaluate(run.model, run.validation, run.device)
    row = Row(
        epoch=position.step / run.steps_per_epoch,
        step=position.step,
        audio_hours=position.audio_seconds / 3600,
        minutes=position.wall_seconds / 60,
        train_loss=position.loss_sum / max(position.loss_steps, 1),
        validation_loss=scores["all"].loss,
        wer={source: score.wer for source, score in scores.items()},
        cer={source: score.cer for source, score in scores.items()},
    )
    position.rows.append(dataclasses.asdict(row))
    position.loss_sum, position.loss_steps = 0.0, 0
    for name, value in {"loss": row.validation_loss, "wer": row.wer["all"], "cer": row.cer["all"]}.items():
        board.add_scalar(f"validation/{name}", value, position.step)
    write_table(run.folder / "epochs.txt", [Row(**r) for r in position.rows])
    if row.wer["all"] < position.best_wer:
        position.best_wer = row.wer["all"]
        save(run, "best")
    save(run, "last")


def save(run: Run, name: str) -> None:
    """Write the checkpoint `name` of the run's folder."""
    tensors = optimiser_tensors(run.optimiser)
    write_checkpoint(run.folder / name, run.checkpoint(), tensors, dataclasses.asdict(run.position))


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's state as named tensors."""
    state = optimiser.state_dict()["state"]
    return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put `optimiser_tensors` back."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
