"""New speakers out of recorded ones, by the WORLD vocoder (Morise et al. 2016), as training data.

A recording is taken apart into pitch, spectral envelope and breath noise; these change apart from each other, as they
do between people. Words, accent and the lengths of the sounds stay, so a made speaker is worth less than a real one.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from asr_runtime.audio import read_audio
from asr_runtime.errors import AudioError, RecipeError
from asr_training.workers import in_processes

SAMPLE_RATE = 16000
FRAME_MILLISECONDS = 5.0


def new_speaker(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Mono float32 [samples] as another person might say it; `rng` decides who. Needs the package pyworld.

    A vocal tract of another length moves all formants (0.84 to 1.2), the mean pitch goes with it but has its own
    scatter, and the range of the pitch, the colour of the spectrum and the breathiness are drawn for themselves.
    """
    import pyworld

    x = np.ascontiguousarray(samples, np.float64)
    pitch, times = pyworld.dio(x, rate, frame_period=FRAME_MILLISECONDS)
    pitch = pyworld.stonemask(x, pitch, times, rate)
    envelope = pyworld.cheaptrick(x, pitch, times, rate)
    breath = pyworld.d4c(x, pitch, times, rate)
    tract = rng.uniform(0.84, 1.2)
    pitch = move_pitch(pitch, tract, rng)
    bins = np.arange(envelope.shape[1])
    colour = np.interp(bins, np.linspace(0, len(bins), 10), rng.normal(0, 0.35, 10))
    envelope = np.exp(move_formants(np.log(envelope), tract) + colour)
    breath = np.clip(move_formants(breath, tract), 1e-6, 1) ** rng.uniform(0.75, 1.25)
    y = pyworld.synthesize(pitch, envelope, breath, rate, FRAME_MILLISECONDS)
    return np.asarray(y / max(1e-9, np.abs(y).max()) * 0.7, np.float32)


def move_pitch(pitch: np.ndarray, tract: float, rng: np.random.Generator) -> np.ndarray:
    """Pitch in hertz [frames] (0 where unvoiced), moved to a mean between 80 and 280 and to a range of its own."""
    voiced = pitch > 0
    if not voiced.any():
        return pitch
    logarithms = np.log(pitch[voiced])
    mean = np.clip(np.log(150 * tract**3) + rng.normal(0, 0.12), np.log(80), np.log(280))
    moved = pitch.copy()
    moved[voiced] = np.exp(mean + (logarithms - logarithms.mean()) * rng.uniform(0.6, 1.5))
    return moved


def move_formants(spectrum: np.ndarray, tract: float) -> np.ndarray:
    """[frames, bins] with the frequency axis stretched by `tract` up to four fifths, then bent to meet the end."""
    last = spectrum.shape[1] - 1
    knee = 0.8 * last * min(tract, 1)
    bins = np.arange(last + 1)
    source = np.where(bins < knee, bins / tract, knee / tract + (bins - knee) * (last - knee / tract) / (last - knee))
    below = np.minimum(source.astype(np.int64), last - 1)
    share = source - below
    return np.ascontiguousarray(spectrum[:, below] * (1 - share) + spectrum[:, below + 1] * share)


def vary_part(manifest: Path, out: Path, times: int, seed: int, part: int, parts: int, done: set[str]) -> None:
    """Say every `parts`-th recording of a manifest again, from line `part` on, into `out` and a part's manifest."""
    rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").split("\n") if line.strip()]
    with (out / f"part-{part}.jsonl").open("a", encoding="utf-8") as lines:
        for index in range(part, len(rows) * times, parts):
            number, row = index // times, rows[index // times]
            audio = f"audio/{number // 1000:04d}/{number:06d}-{index % times}.ogg"
            if audio in done:
                continue
            try:
                samples = read_audio(manifest.parent / row["audio"], SAMPLE_RATE)
            except AudioError as error:
                print(f"line {number + 1}: {error}", file=sys.stderr)
                continue
            rng = np.random.default_rng(random.Random(f"{seed}/{index}").randrange(2**63))
            (out / audio).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(out / audio, new_speaker(samples, SAMPLE_RATE, rng), SAMPLE_RATE, "OPUS", format="OGG")
            speaker = f"{row.get('speaker', '')}-varied-{index}"
            print(json.dumps({**row, "audio": audio, "speaker": speaker}), file=lines, flush=True)


def vary(manifest: Path, out: Path, *, times: int = 1, seed: int = 1, processes: int = 1) -> int:
    """Say each recording of `manifest` again as `times` new speakers, into `out`/audio and `out`/varied.jsonl.

    Recordings that an earlier run has made are left as they are. Returns how many there are.
    """
    from asr_training.manifest import read_manifest

    if not has_pyworld():
        raise RecipeError("the package pyworld is missing; install it with: pip install 'asr-deploy[synthesis]'")
    read_manifest(manifest)
    out.mkdir(parents=True, exist_ok=True)
    done = set(manifest_lines(out))
    jobs: list[tuple[Any, ...]] = [(manifest, out, times, seed, part, processes, done) for part in range(processes)]
    in_processes(vary_part, jobs)
    return gather(out, "varied.jsonl")


def has_pyworld() -> bool:
    """Whether the vocoder is installed."""
    import importlib.util

    return importlib.util.find_spec("pyworld") is not None


def manifest_lines(out: Path) -> dict[str, str]:
    """The manifest lines that stand in `out`, also those of runs that were stopped, by their audio's name."""
    lines = [line for part in sorted(out.glob("*.jsonl")) for line in part.read_text(encoding="utf-8").splitlines()]
    return {json.loads(line)["audio"]: line for line in lines}


def gather(out: Path, name: str) -> int:
    """Put the parts' manifests together in `out`/`name`; returns how many recordings there are."""
    rows = manifest_lines(out)
    (out / name).write_text("".join(rows[audio] + "\n" for audio in sorted(rows)), encoding="utf-8")
    for part in out.glob("part-*.jsonl"):
        part.unlink()
    return len(rows)
