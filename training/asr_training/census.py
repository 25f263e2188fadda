"""What there is to train on, and how much of it is left out, for the first line of a run and provenance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from asr_training.recipe import Data
from asr_training.splice import Spliced
from asr_training.stream import TrainingData


@dataclass(frozen=True)
class Census:
    """Counts of utterances and speakers, and hours of audio, each utterance once; and what is made of them."""

    utterances: int
    hours: float
    spliced_hours: float  # made of them besides in each epoch, about
    speakers: int
    left_out: str  # how many utterances, and why, in words

    def described(self) -> dict[str, Any]:
        """Its numbers, for provenance."""
        made = {"spliced_hours": round(self.spliced_hours, 2)} if self.spliced_hours else {}
        return {"utterances": self.utterances, "hours": round(self.hours, 2), "speakers": self.speakers, **made}

    def __str__(self) -> str:
        made = f" and {self.spliced_hours:.2f} more an epoch in another order" if self.spliced_hours else ""
        return f"{self.utterances} utterances, {self.hours:.2f} hours{made}, {self.speakers} speakers; {self.left_out}"


def take_census(train: TrainingData, data: Data, stride: int) -> Census:
    """Count the training data of a model that takes `stride` feature frames for one."""
    utterances = too_long = too_coarse = either = 0
    hours, speakers = 0.0, set()
    for corpus in train.parts():
        long, coarse = ~corpus.short_enough(data), ~corpus.fits(stride)
        utterances, hours = utterances + len(long), hours + corpus.hours
        too_long, too_coarse = too_long + int(long.sum()), too_coarse + int(coarse.sum())
        either += int((long | coarse).sum())
        speakers |= {utterance.speaker for utterance in corpus.utterances}
    left_out = (
        f"{either} of {utterances} left out: {too_long} longer than"
        f" {data.longest_seconds:g} s, {too_coarse} with too few frames for their text"
    )
    spliced_hours = train.more_hours if isinstance(train, Spliced) else 0.0
    return Census(utterances, hours, spliced_hours, len(speakers), left_out)
