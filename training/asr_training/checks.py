"""Checks of the data before the first epoch: faults that stop a run, and doubts that it is told of."""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr_runtime.errors import MOST_FAULTS, RecipeError
from asr_training import processes
from asr_training.checkpoint import Checkpoint
from asr_training.corpus import Corpus
from asr_training.manifest import Fault, Utterance, without_faults
from asr_training.recipe import Data, Source
from asr_training.shards import ShardedUtterance
from asr_training.stream import TrainingData

SHOWN = 3  # lines of each kind; the file has them all


def check_data(train: TrainingData, validation: Corpus, data: Data, stride: int, report: Path, skip_bad: bool) -> str:
    """Find faults and doubts in the data, list them in `report` if there are any, and return what to tell in words.

    Faults (a broken line, no text, a character outside the alphabet, unreadable or silent audio) raise a RecipeError,
    unless `skip_bad` goes on without them. Doubts (a text longer than its frames, a recording that is there twice, a
    speaker who is in both sets) are told; with `skip_bad` they are taken out of the training data, too.
    """

    first: dict[str, Utterance] = {}
    by_heart = learns_by_heart(data)

    def find(part: Corpus) -> dict[int, Fault]:
        doubts = long_texts(part, stride) | duplicates(part, first)
        if not by_heart:
            doubts = in_both_sets(part, validation) | shared_speakers(part, validation) | doubts
        return doubts

    faults: list[Fault] = [*validation.faults]
    doubts: list[Fault] = []
    keys, rates = array("Q"), set() if by_heart else rates_of(validation)
    for part in train.parts():
        faults += part.faults
        doubts += find(part).values()
        keys.extend(key_of(noticed.digest) for noticed in part.store.noticed)
        rates |= rates_of(part)
    first |= first_of_repeated(train, keys)
    if first:  # which is rare, and only now it is known which they are
        doubts = [doubt for part in train.parts() for doubt in find(part).values()]
    faults = list(dict.fromkeys(faults))  # a manifest that serves as both has them twice
    listed = faults + doubts
    hashes = told_of_rates(rates, validation.config.sample_rate) if len(rates) > 1 else ""
    if not listed:
        return hashes
    if processes.number() == 0:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text("".join(f"{fault.kind}: {fault}\n" for fault in listed), encoding="utf-8")
    if faults and not skip_bad:
        refuse(faults, report)
    if skip_bad:
        train.leave_out(find)
    return "\n".join([told(listed, report, skip_bad), *([hashes] if hashes else [])])


def refuse_faults(corpus: Corpus) -> None:
    """Raise a RecipeError for the faults of a corpus that is to be used whole."""
    without_faults(corpus.faults)


@contextlib.contextmanager
def whole_corpus(checkpoint: Checkpoint, sources: tuple[Source, ...], pronunciations: str) -> Iterator[Corpus]:
    """All recordings of some sources, with their texts as a checkpoint writes them, while the block lasts.

    A checkpoint that writes phonemes needs the file of `pronunciations`; "" for another. Raises RecipeError for faults.
    """
    data = Data(
        train=(),
        validation=sources,
        alphabet=checkpoint.alphabet.characters,
        pronunciations=pronunciations,
        spoken=bool(pronunciations),
    )
    with tempfile.TemporaryDirectory() as cache:
        corpus = Corpus(sources, data, checkpoint.features, Path(cache))
        refuse_faults(corpus)
        yield corpus


def refuse(faults: list[Fault], report: Path) -> None:
    """Raise a RecipeError that names the first faults, a line each, and counts them all."""
    go_on = "or go on without what is faulty: --skip-bad"
    if len(faults) == 1:
        raise RecipeError(f"{faults[0]}; {go_on}")
    raise RecipeError("\n".join([*map(str, faults[:MOST_FAULTS]), f"{counted(faults)}; all are in {report}; {go_on}"]))


def counted(faults: list[Fault]) -> str:
    """How many there are of each kind."""
    return ", ".join(f"{count} × {kind}" for kind, count in Counter(fault.kind for fault in faults).items())


def told(faults: list[Fault], report: Path, skip_bad: bool) -> str:
    """The counts, and the first lines of each kind."""
    lines = [f"data: {counted(faults)}; {'left out' if skip_bad else 'kept as they are'}, see {report}"]
    for kind in dict.fromkeys(fault.kind for fault in faults):
        lines += [f"  {kind}: {fault}" for fault in [fault for fault in faults if fault.kind == kind][:SHOWN]]
    return "\n".join(lines)


def learns_by_heart(data: Data) -> bool:
    """Whether validation is on training data by intent, so that nothing in both is a doubt."""
    return bool({source.path for source in data.train} & {source.path for source in data.validation})


def long_texts(train: Corpus, stride: int) -> dict[int, Fault]:
    """Utterances with more characters than frames; CTC has no alignment for them, so they never train anything."""
    faults = {}
    for index in np.flatnonzero(~train.fits(stride)):
        utterance, needed = train.utterances[index], train.fewest_frames[index]
        frames = -(-int(train.store.frames[index]) // stride)
        detail = f"{utterance.audio} has {frames} frames, but its text needs {needed}; check that they belong together"
        faults[int(index)] = Fault("text longer than frames", utterance.where, detail)
    return faults


def key_of(digest: str) -> int:
    """Eight bytes of a digest, to look for those that may be there twice without holding all of them."""
    return int(digest[-16:], 16)


def first_of_repeated(train: TrainingData, keys: array[int]) -> dict[str, Utterance]:
    """The first utterance of recordings that are there more than once, by digest; `keys` are those of all."""
    found, counts = np.unique(np.array(keys, np.uint64), return_counts=True)
    repeated = set(found[counts > 1].tolist())
    first: dict[str, Utterance] = {}
    for part in train.parts() if repeated else ():
        for utterance, noticed in zip(part.utterances, part.store.noticed, strict=True):
            if key_of(noticed.digest) in repeated:
                first.setdefault(noticed.digest, utterance)
    return first


def duplicates(part: Corpus, first: dict[str, Utterance]) -> dict[int, Fault]:
    """Utterances whose samples are those of an earlier one, of this part of the training data or another."""
    faults, met = {}, set()
    for index, (utterance, noticed) in enumerate(zip(part.utterances, part.store.noticed, strict=True)):
        known = first.get(noticed.digest)
        # The first itself is met again where a manifest is named twice.
        if known and (known.where != utterance.where or noticed.digest in met):
            faults[index] = Fault("duplicate", utterance.where, same_recording(utterance, known))
        met.add(noticed.digest)
    return faults


def in_both_sets(part: Corpus, validation: Corpus) -> dict[int, Fault]:
    """Training utterances whose samples are those of one in `validation`."""
    pairs = zip(validation.utterances, validation.store.noticed, strict=True)
    held = {noticed.digest: utterance for utterance, noticed in pairs}
    faults = {}
    for index, (utterance, noticed) in enumerate(zip(part.utterances, part.store.noticed, strict=True)):
        if known := held.get(noticed.digest):
            faults[index] = Fault("recording in both sets", utterance.where, same_recording(utterance, known))
    return faults


def same_recording(utterance: Utterance, known: Utterance) -> str:
    """That an utterance has the samples of another one, in words."""
    text = "the same text" if known.text == utterance.text else f"another text, {known.text!r}"
    return f"{utterance.audio} is the recording of {known.where} with {text}; remove one of them"


def rates_of(corpus: Corpus) -> set[int]:
    """The rates, hertz, of the samples that the digests are of: for shards that with which they were made."""
    return {
        u.recording.rate if isinstance(u, ShardedUtterance) else corpus.config.sample_rate for u in corpus.utterances
    }


def told_of_rates(rates: set[int], wanted: int) -> str:
    """That recordings were hashed at several rates, in words."""
    found = " and ".join(map(str, sorted(rates)))
    return (
        f"data: recordings were hashed at {found} Hz, and one that is there at two of these is not found;"
        f" make the shards with asr-train prepare --sample-rate {wanted}"
    )


def shared_speakers(train: Corpus, validation: Corpus) -> dict[int, Fault]:
    """Training utterances of speakers, by source and name, whom the validation data have as well."""
    known = {(u.source, u.speaker): u.where for u in validation.utterances if u.speaker}
    faults = {}
    for index, utterance in enumerate(train.utterances):
        if place := known.get((utterance.source, utterance.speaker)):
            detail = f"the speaker {utterance.speaker!r} is in the validation data, too ({place}); keep speakers apart"
            faults[index] = Fault("speaker in both sets", utterance.where, detail)
    return faults
