"""The steps that a run has still to do: what each takes, and its batches, which threads can make ahead."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from asr_runtime.errors import RecipeError
from asr_training import processes
from asr_training.augment import augment
from asr_training.corpus import Batch, Corpus
from asr_training.run import Run


@dataclass(frozen=True)
class Step:
    """One step of the optimiser: some utterances of a corpus, and this process's batches of them."""

    number: int
    epoch: int
    corpus: Corpus
    indices: np.ndarray  # of the utterances
    batches: Sequence[Callable[[], Batch]]
    after: tuple[int, int, int]  # the epoch, group and batch that come next

    @property
    def ends_epoch(self) -> bool:
        """Whether it is its epoch's last."""
        return self.after[0] > self.epoch


def upcoming(run: Run) -> Iterator[Step]:
    """The steps from the run's position on, epoch after epoch; the position stays as it is."""
    number, position = run.position.step, run.position
    start = position.group, position.batch
    for epoch in range(position.epoch, run.recipe.training.epochs):
        ends: list[tuple[int, int, Corpus, np.ndarray] | None] = [None]
        for this, following in itertools.pairwise(itertools.chain(batches_of_epoch(run, epoch, *start), ends)):
            assert this is not None  # only the end is
            _, _, corpus, indices = this
            after = (epoch, following[0], following[1]) if following else (epoch + 1, 0, 0)
            makers = [partial(make_batch, run, number, corpus, indices, part) for part in own_parts(run)]
            yield Step(number, epoch, corpus, indices, makers, after)
            number += 1
        start = 0, 0


def batches_of_epoch(run: Run, epoch: int, group: int, batch: int) -> Iterator[tuple[int, int, Corpus, np.ndarray]]:
    """Group, number in it, corpus and utterances of each step of an epoch, from a batch of a group on."""
    recipe, groups = run.recipe, run.train.groups(epoch)
    if group >= groups:
        raise RecipeError(
            f"{run.folder} stopped in group {group} of shards of an epoch that has {groups} now: the data have changed;"
            " bring them back or give another --out"
        )
    for number in range(group, groups):
        corpus = run.train.group(epoch, number)
        order = corpus.training_order(recipe.data, recipe.training, run.model.stride, epoch, run.parts, number)
        first = batch if number == group else 0
        if first and first >= len(order):
            raise RecipeError(
                f"{run.folder} stopped at batch {batch} of an epoch that has {len(order)} now: the data have"
                " changed; bring them back or give another --out"
            )
        for place in range(first, len(order)):
            yield number, place, corpus, order[place]


def own_parts(run: Run) -> range:
    """Which of the `run.parts` parts of a step this process computes."""
    return range(processes.number(), run.parts, processes.count())


def make_batch(run: Run, step: int, corpus: Corpus, indices: np.ndarray, part: int) -> Batch:
    """One of the parts of a step; a part without utterances has the step's first one.

    With two views all utterances come a second time behind the first ones. All that is random is drawn for an utterance
    by its place in the step, so that it does not matter who takes it.
    """
    recipe, seed = run.recipe, run.recipe.training.seed
    config = recipe.augment
    strength = min(1.0, run.progress_at(step) / config.full_after) if config.full_after else 1.0

    taken = indices[part :: run.parts]
    if not len(taken):
        taken = indices[:1]

    def change(row: int, features: np.ndarray, fewest: int) -> np.ndarray:
        view, row = divmod(row, len(taken))
        place = [seed, step, part + row * run.parts]
        own = np.random.default_rng([*place, view]) if view else None
        return augment(features, config, recipe.features, strength, fewest, np.random.default_rng(place), own)

    return corpus.batch(np.tile(taken, recipe.training.views), change)


def ahead(steps: Iterator[Step], workers: int) -> Iterator[Step]:
    """The same steps, whose batches so many threads make while earlier ones are computed; 0: each when it is asked for.

    At most so many steps are ahead.
    """
    if not workers:
        yield from steps
        return
    pool = ThreadPoolExecutor(workers, "batches", torch.set_flush_denormal, (True,))
    waiting: deque[Step] = deque()
    try:
        for step in steps:
            waiting.append(replace(step, batches=[pool.submit(make).result for make in step.batches]))
            if len(waiting) > workers:
                yield waiting.popleft()
        yield from waiting
    finally:
        pool.shutdown(cancel_futures=True)
