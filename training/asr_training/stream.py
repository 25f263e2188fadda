"""Training data in shards, gone through a group of shards at a time, so that memory does not grow with them.

An epoch takes the shards in an order drawn from seed and epoch and cuts that into groups. A group is a corpus like any
other: its utterances are mixed and put into batches of like lengths together, and their features are computed when a
batch needs them. All there is of a corpus that fits in memory is one such group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from asr_runtime.errors import RecipeError
from asr_training.corpus import Corpus, Find
from asr_training.recipe import Data, Features, Source, Training
from asr_training.shards import is_sharded, list_shards
from asr_training.splice import Spliced
from asr_training.text import Alphabet, Pronunciations


class TrainingData(Protocol):
    """What is trained on: groups of utterances that follow each other, each a corpus."""

    alphabet: Alphabet
    pronunciations: Pronunciations | None

    def groups(self, epoch: int) -> int:
        """How many groups an epoch goes through."""

    def group(self, epoch: int, number: int) -> Corpus:
        """One of them."""

    def parts(self) -> Iterator[Corpus]:
        """All utterances once, some at a time."""

    def leave_out(self, find: Find) -> None:
        """Leave out what `find` finds from now on."""


class Stream:
    """The shards of a recipe's training data."""

    def __init__(self, data: Data, features: Features, seed: int) -> None:
        self.data, self.features, self.seed = data, features, seed
        self.shards = [(shard, source.repeat) for source in data.train for shard in list_shards(Path(source.path))]
        nothing = self.open({})  # which has read the alphabet and the pronunciations
        self.alphabet, self.pronunciations = nothing.alphabet, nothing.pronunciations
        self.find: Find | None = None

    def open(self, repeats: dict[Path, int]) -> Corpus:
        """Some shards as a corpus, each with how often it is gone through."""
        sources = tuple(Source(str(shard), repeat) for shard, repeat in repeats.items())
        return Corpus(sources, self.data, self.features, None)

    def order(self, epoch: int) -> list[np.ndarray]:
        """The shards of each group of an epoch, as indices; those of a group are in the order of the recipe."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(1,)))
        order = rng.permutation(np.repeat(np.arange(len(self.shards)), [repeat for _, repeat in self.shards]))
        size = self.data.shards_at_once
        return [np.sort(order[start : start + size]) for start in range(0, len(order), size)]

    def groups(self, epoch: int) -> int:
        """How many groups an epoch goes through."""
        return len(self.order(epoch))

    def group(self, epoch: int, number: int) -> Corpus:
        """One of them, opened."""
        corpus = self.open(Counter(self.shards[index][0] for index in self.order(epoch)[number]))
        if self.find:
            corpus.leave_out(self.find)
        return corpus

    def parts(self) -> Iterator[Corpus]:
        """All utterances once, a shard at a time."""
        for shard in dict.fromkeys(shard for shard, _ in self.shards):
            corpus = self.open({shard: 1})
            if self.find:
                corpus.leave_out(self.find)
            yield corpus

    def leave_out(self, find: Find) -> None:
        """Leave out what `find` finds whenever a group is opened."""
        self.find = find


def open_training_data(data: Data, features: Features, training: Training, cache: Path) -> TrainingData:
    """The training data of a recipe: shards, or what is held in memory with its features in the folder `cache`."""
    sharded = [is_sharded(Path(source.path)) for source in data.train]
    if not any(sharded):
        corpus = Corpus(data.train, data, features, cache)
        return Spliced(corpus, training.seed, data.longest_seconds) if corpus.spliced.any() else corpus
    if not all(sharded):
        other = data.train[sharded.index(False)].path
        raise RecipeError(f"[data]: train names shards and {other}, which is none; make shards of it, too")
    if any(source.spliced for source in data.train):
        raise RecipeError(
            "[data]: spliced is for manifests, and train names shards; leave it out, or name the manifests"
        )
    return Stream(data, features, training.seed)
