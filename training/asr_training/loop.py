"""The training loop: a recipe in, checkpoints out.

Every epoch goes once through the training data in batches of like lengths. Whatever is random in a step (augmentation,
dropout, the order of an epoch) is drawn from generators seeded with the recipe's seed and the number of the step or
epoch, so a run that is stopped at any step and taken up again goes on exactly as it would have. Under torchrun the
processes share each step's batch; the first of them writes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from asr_runtime.errors import RecipeError
from asr_training import processes
from asr_training.census import take_census
from asr_training.checkpoint import newest
from asr_training.checks import check_data
from asr_training.corpus import Batch, Corpus
from asr_training.denominator import Trigram
from asr_training.evaluate import evaluate
from asr_training.learner import Learner
from asr_training.model import AcousticModel
from asr_training.recipe import Recipe, Training
from asr_training.report import Row, write_table
from asr_training.run import Position, Run, save, take_up
from asr_training.schedule import share_of_rate
from asr_training.steps import Step, ahead, own_parts, upcoming
from asr_training.stream import TrainingData, open_training_data
from asr_training.transfer import refuse_other_origin, start_from

SAVE_EVERY_SECONDS = 300
MOST_LEFT_OUT = 50  # float16 finds its scale in 16


def fit(
    recipe: Recipe, folder: Path, device: str = "cpu", start: Path | None = None, skip_bad: bool = False
) -> Position:
    """Train as `recipe` says, in `folder`: `last/` and `best/` are checkpoints, `epochs.txt` the table of results.

    A run that `folder` holds already is taken up where it stopped. Another one begins with the weights of the
    checkpoint `start` if that is given. With `skip_bad` it goes on without faulty data, see `checks`.
    """
    with processes.joined(device) as own_device:
        run = begin(recipe, folder, own_device, start, skip_bad)
        if processes.number() == 0:
            print(opening(run), file=sys.stderr)
        with closing_on_signal() as stopped, board(folder, run.position.step) as tensorboard:
            go_through(run, stopped, tensorboard)
    return run.position


def go_through(run: Run, stopped: list[int], tensorboard: SummaryWriter | None) -> None:
    """Do what is left of the run; raises KeyboardInterrupt after a signal, when all is saved."""
    saved = validated = time.monotonic()
    minutes = run.recipe.training.validate_every_minutes
    for following in remaining(run):
        step(run, following, tensorboard)
        if run.position.left_out >= MOST_LEFT_OUT:
            raise RecipeError(
                f"the last {MOST_LEFT_OUT} steps up to {run.position.step} had no finite gradient;"
                " lower learning_rate and run it again, or begin anew with another --out"
            )
        now, first = time.monotonic(), processes.number() == 0
        due = bool(minutes) and now - validated > minutes * 60
        wishes = [bool(stopped), first and due, first and now - saved > SAVE_EVERY_SECONDS]
        stop, validating, saving = (bool(wish) for wish in processes.total(list(map(float, wishes)), run.device))
        if following.ends_epoch or validating:
            validate(run, tensorboard)
            validated = saved = time.monotonic()
        elif saving or stop:
            keep(run, "last")
            saved = now
        if stop:
            raise KeyboardInterrupt


@contextlib.contextmanager
def board(folder: Path, step: int) -> Iterator[SummaryWriter | None]:
    """TensorBoard's writer in the first process, None in the others; what was written behind `step` is taken back."""
    if processes.number() > 0:
        yield None
        return
    with SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None) as writer:
        yield writer


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


def begin(recipe: Recipe, folder: Path, device: torch.device, start: Path | None = None, skip_bad: bool = False) -> Run:
    """Read the data, make the model, and take up what `folder` holds or begin with the weights of `start`."""
    training = recipe.training
    torch.manual_seed(training.seed)
    torch.set_flush_denormal(True)  # denormal numbers cost a CPU 10 % of its speed here
    if training.threads:
        torch.set_num_threads(training.threads)
    with processes.one_after_the_first():
        train = open_training_data(recipe.data, recipe.features, training, folder / "features")
        validation = Corpus(recipe.data.validation, recipe.data.for_evaluation, recipe.features, folder / "features")
    model = AcousticModel(recipe.features, recipe.model, len(train.alphabet.tokens)).to(device)
    doubts = check_data(train, validation, recipe.data, model.stride, folder / "data.txt", skip_bad)
    learner = Learner(model, training, device, trigram_of(train) if training.discriminative else None)
    refuse_other_phonemes(train, recipe)
    parts = training.accumulate * processes.count()
    census = take_census(train, recipe.data, model.stride)
    steps = count_steps(train, recipe, model.stride, parts)
    if not steps:
        bad = f"since all of them are faulty or doubtful, see {folder / 'data.txt'}; correct the data"
        why = f"{census.left_out}; change longest_seconds, repeat or the data" if census.utterances else bad
        raise RecipeError(f"[data]: no utterance is left to train on, {why}")
    run = Run(recipe, folder, device, train, validation, census, learner, steps, parts, Position(), skip_bad, doubts)
    if saved := newest(folder / "last"):
        take_up(run, saved)
        if start:
            refuse_other_origin(run.origin, start, folder)
    elif start:
        run.origin = start_from(model, recipe, start)
        learner.start_average()
    return run


def trigram_of(train: TrainingData) -> Trigram:
    """How the tokens of the training texts follow each other."""
    texts = (labels for corpus in train.parts() for labels in corpus.labels)
    return Trigram(texts, len(train.alphabet.characters))


def count_steps(train: TrainingData, recipe: Recipe, stride: int, parts: int) -> int:
    """How many steps the first epoch has; others may have a few more or less, by the lengths that meet in a batch."""
    corpora = (train.group(0, number) for number in range(train.groups(0)))
    orders = (c.training_order(recipe.data, recipe.training, stride, 0, parts, i) for i, c in enumerate(corpora))
    return sum(len(order) for order in orders)


def refuse_other_phonemes(train: TrainingData, recipe: Recipe) -> None:
    """Refuse a model whose intermediate layer has not as many outputs as there are phonemes."""
    found = len(train.pronunciations.phonemes) if train.pronunciations else 0
    wanted = getattr(recipe.model, "phonemes", 0)
    if found != wanted:
        raise RecipeError(
            f"[model]: phonemes is {wanted}, but the pronunciations of [data] have {found}; set phonemes to {found}"
        )


def opening(run: Run) -> str:
    """The first lines of a run: its data, what is left out of them, doubts, its origin's changes, and if it is done."""
    data = ", ".join(source.path for source in run.recipe.data.train)
    said = [f"{data}: {run.census}", run.doubts, *(run.origin["changes"] if run.origin else [])]
    if run.recipe.training.consistency and not run.recipe.views_differ:
        same = "consistency: both views are the same, since nothing in [augment] but speed changes them, nor dropout"
        said += [f"{same}; set masks, noise, warp or dropout"]
    if run.position.epoch >= run.recipe.training.epochs:
        said += [f"nothing is left to train: epochs is {run.recipe.training.epochs}, and so many are done"]
    elif lost_patience(run):
        patience = f"patience is {run.recipe.training.patience}"
        said += [f"nothing is left to train: {patience}, and so many validations in a row found no lower WER"]
    return "\n".join(filter(None, said))


def remaining(run: Run) -> Iterator[Step]:
    """The steps that are still to do; keeps the position's place in the data."""
    position, training = run.position, run.recipe.training
    steps = ahead(upcoming(run), training.workers)
    for epoch, of_epoch in itertools.groupby(steps, lambda following: following.epoch):
        label, quiet = f"epoch {epoch + 1}/{training.epochs}", True if processes.number() else None
        done = max(0, position.step - epoch * run.steps_per_epoch)
        with tqdm(total=run.steps_per_epoch, initial=done, desc=label, unit="batch", disable=quiet) as bar:
            for following in of_epoch:
                if lost_patience(run):
                    return
                position.epoch, position.group, position.batch = following.after
                yield following
                bar.update()
                bar.set_postfix(loss=f"{position.mean_loss:.3f}", refresh=False)


def lost_patience(run: Run) -> bool:
    """Whether the last so many validations, as the recipe has it, found no lower word error rate."""
    patience, rates = run.recipe.training.patience, [row["wer"]["all"] for row in run.position.rows]
    return bool(patience and rates) and len(rates) - 1 - rates.index(min(rates)) >= patience


def learning_rate(config: Training, step: int, done: float) -> float:
    """The learning rate of a step: warm-up, then as the schedule says."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * share_of_rate(config.schedule, done, config.flat)


def step(run: Run, following: Step, tensorboard: SummaryWriter | None) -> None:
    """Make one step of the optimiser with some utterances, of which each process takes its parts."""
    started, config, position = time.monotonic(), run.recipe.training, run.position
    rate = learning_rate(config, position.step, run.progress)
    mine = own_parts(run)
    makers = zip(mine, following.batches, strict=True)
    done = [add_part(run, following, part, make(), last=part == mine[-1]) for part, make in makers]
    norm, finite = run.learner.update(rate)
    loss, apart, seconds = processes.total([sum(values) for values in zip(*done, strict=True)], run.device)
    if finite:
        position.loss_sum += loss
        position.loss_steps += 1
    position.left_out = 0 if finite else position.left_out + 1
    position.step += 1
    position.audio_seconds += seconds
    position.wall_seconds += time.monotonic() - started
    if position.step % 20 == 0 and tensorboard:
        tensorboard.add_scalar("train/loss", loss, position.step)
        if config.consistency:
            tensorboard.add_scalar("train/disagreement", apart, position.step)
        tensorboard.add_scalar("train/learning_rate", rate, position.step)
        tensorboard.add_scalar("train/gradient_norm", norm, position.step)


def add_part(run: Run, following: Step, part: int, batch: Batch, last: bool) -> tuple[float, float, float]:
    """Add the gradient of one of the `run.parts` parts of a step.

    Returns its share of the loss and of the views' disagreement, in natural log per token of the step, and its seconds.
    """
    corpus, indices = following.corpus, following.indices
    # The processes wait for each other's gradients: one that is left without an utterance takes another's for naught.
    whole = (1.0 if part < len(indices) else 0.0) / run.recipe.training.views
    characters = sum(len(corpus.labels[index]) for index in indices)
    phonemes = sum(len(corpus.phonemes[index]) for index in indices) if corpus.phonemes else 0
    seeds = np.random.SeedSequence([run.recipe.training.seed, following.number, part])
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> 1))
    loss, apart = run.learner.add_gradient(batch, whole / characters, whole / max(1, phonemes), last)
    return loss, apart, whole * batch.seconds


def validate(run: Run, tensorboard: SummaryWriter | None) -> None:
    """Measure on the validation data, note it in the table and TensorBoard, and keep the best weights."""
    position = run.position
    scores = evaluate(run.learner.averaged, run.validation, run.device)
    row = Row(
        epoch=position.step / run.steps_per_epoch,
        step=position.step,
        audio_hours=position.audio_seconds / 3600,
        minutes=position.wall_seconds / 60,
        train_loss=position.mean_loss,
        validation_loss=scores["all"].loss,
        wer={source: score.wer for source, score in scores.items()},
        cer={source: score.cer for source, score in scores.items()},
    )
    position.rows.append(dataclasses.asdict(row))
    position.loss_sum, position.loss_steps = 0.0, 0
    better = row.wer["all"] < position.best_wer
    position.best_wer = min(position.best_wer, row.wer["all"])
    if tensorboard:
        for name, value in {"loss": row.validation_loss, "wer": row.wer["all"], "cer": row.cer["all"]}.items():
            tensorboard.add_scalar(f"validation/{name}", value, position.step)
        write_table(run.folder / "epochs.txt", [Row(**r) for r in position.rows])
    for name in ("best", "last") if better else ("last",):
        keep(run, name)


def keep(run: Run, name: str) -> None:
    """Write a checkpoint, in the first process."""
    if processes.number() == 0:
        save(run, name)
