"""Making shards of manifests: what is written has been read, checked and mixed."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from asr_runtime.audio import read_audio
from asr_runtime.bundle import put_in_place
from asr_runtime.errors import AudioError, RecipeError
from asr_training.checks import refuse, told
from asr_training.feature_store import SILENT_PEAK, digest_of
from asr_training.manifest import Fault, Utterance, find_utterances
from asr_training.shards import INDEX, Prepared, Recording, write_index, write_shard

FAULTS = "data.txt"


def prepare(
    data: list[Path],
    out: Path,
    *,
    size: int = 1000,
    sample_rate: int = 16000,
    seed: int = 1,
    skip_bad: bool = False,
    force: bool = False,
) -> tuple[int, int, str]:
    """Write the utterances of manifests and LibriSpeech folders into shards of `size` utterances in the folder `out`.

    Their order is drawn from `seed`; audio files go in as they are. Each is read at `sample_rate` hertz, the rate of
    the recipes to come, to count its samples and to find faults: a broken line, no text, unreadable or silent audio,
    and a recording that is there twice. The shards are written beside `out` and renamed when whole. Returns how many
    utterances and shards there are, and what to tell of faults. Raises RecipeError where there are some, unless
    `skip_bad` leaves them out, where `out` holds something already, unless that are shards and `force` replaces them,
    and where they cannot be written.
    """
    found = [item for path in data for item in find_utterances(path)]
    faults = [item for item in found if isinstance(item, Fault)]
    utterances = [item for item in found if isinstance(item, Utterance)]
    order = np.random.default_rng(seed).permutation(len(utterances))
    good = usable((utterances[i] for i in tqdm(order, "shards", unit="utt", disable=None)), sample_rate, faults)
    try:
        refuse_what_is_there(out, force)
        with beside(out) as work:
            made = work / "shards"
            made.mkdir()
            shards = write_shards(made, size, good)
            if faults:
                list_faults(made if shards and skip_bad else out, faults)
            if faults and not skip_bad:
                refuse(faults, out / FAULTS)
            if not shards:
                raise RecipeError(f"none of the {len(utterances)} utterances can be used; see {out / FAULTS}")
            write_index(made, shards)
            put_in_place(made, out.resolve(), work)
    except OSError as error:
        raise RecipeError(f"{out}: the shards cannot be written ({error}); make room or give another folder") from None
    count = sum(shard["utterances"] for shard in shards)
    return count, len(shards), told(faults, out / FAULTS, skip_bad) if faults else ""


def refuse_what_is_there(out: Path, force: bool) -> None:
    """Raise RecipeError for a place that is taken, even with `force` unless shards lie there."""
    if not os.path.lexists(out):
        return
    if out.resolve() == Path.cwd() or out.resolve().is_mount():
        raise RecipeError(f"{out} is the working folder or a mount point, which stays; give a folder inside it")
    if out.is_dir() and {path.name for path in out.iterdir()} <= {FAULTS}:
        return
    if not (out / INDEX).is_file():
        raise RecipeError(f"{out}: what lies here are no shards, so it is not replaced; give another folder")
    if not force:
        raise RecipeError(f"{out} holds shards already; give another folder, or --force to replace them")


@contextlib.contextmanager
def beside(out: Path) -> Iterator[Path]:
    """A folder on the same file system as `out`, gone afterwards; what a killed run left in it goes first.

    Raises RecipeError while another run writes there.
    """
    place = out.resolve()
    work = place.parent / f".{place.name}.part"
    busy = RecipeError(f"{out}: another asr-train prepare is writing this; wait for it")
    work.mkdir(parents=True, exist_ok=True)
    held = os.open(work, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets it go with the process
        except BlockingIOError:
            raise busy from None
        if not work.is_dir() or not os.path.samestat(os.fstat(held), work.stat()):  # it has just ended
            raise busy
        try:
            for left in work.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield work
        finally:
            shutil.rmtree(work)
    finally:
        os.close(held)


def write_shards(folder: Path, size: int, utterances: Iterator[Prepared]) -> list[dict[str, Any]]:
    """Write shards of `size` utterances; returns their lines of `shards.json`."""
    shards: list[dict[str, Any]] = []
    while first := next(utterances, None):
        items = itertools.chain([first], itertools.islice(utterances, size - 1))
        shards.append(write_shard(folder / f"{len(shards):06d}.tar", size * len(shards), items))
    return shards


def list_faults(folder: Path, faults: list[Fault]) -> None:
    """Write all of them to `data.txt`."""
    folder.mkdir(exist_ok=True)
    (folder / FAULTS).write_text("".join(f"{fault.kind}: {fault}\n" for fault in faults), encoding="utf-8")


def usable(utterances: Iterator[Utterance], sample_rate: int, faults: list[Fault]) -> Iterator[Prepared]:
    """The utterances that can be trained on, read; what is wrong with others goes to `faults`."""
    earlier: dict[str, str] = {}
    for utterance in utterances:
        item = read(utterance, sample_rate)
        if isinstance(item, Fault):
            faults.append(item)
        elif known := earlier.get(item.recording.digest):
            detail = f"{utterance.audio} is the recording of {known}; remove one of them"
            faults.append(Fault("duplicate", utterance.where, detail))
        else:
            earlier[item.recording.digest] = utterance.where
            yield item


def read(utterance: Utterance, sample_rate: int) -> Prepared | Fault:
    """The utterance with its audio file, or what is wrong with it."""
    if not utterance.text.strip():
        return Fault("empty text", utterance.where, "the text is empty; write what is said or remove the line")
    try:
        samples = read_audio(utterance.audio, sample_rate)
        content = utterance.audio.read_bytes()
    except (AudioError, OSError) as error:
        return Fault("unreadable audio", utterance.where, str(error))
    peak = float(np.abs(samples).max())
    if peak < SILENT_PEAK:
        detail = f"{utterance.audio} is silent, no sample is above -60 dB; record it again or remove the line"
        return Fault("silence", utterance.where, detail)
    return Prepared(utterance, content, Recording(0, len(content), len(samples), sample_rate, peak, digest_of(samples)))
