"""Synthetic speech for training: sentences read aloud by many voices.

The engines are Debian's `flite` and `espeak-ng` (commands) and the neural voice of `hibari-tts[fast]`, whose package
carries its model; with pyworld, most of its recordings become other speakers. What is not installed is left out. In
their place Kokoro can read, as a fixed number of speakers made of its voices. Line i of the text with a given seed
always gets the same voice, rate and pitch, so that a run can be stopped and taken up.
"""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from asr_runtime.errors import RecipeError
from asr_training.recording import recorded_at_home
from asr_training.vocoder import SAMPLE_RATE, gather, has_pyworld, manifest_lines, new_speaker
from asr_training.workers import in_processes

FLITE_VOICES = ["rms", "slt", "awb", "kal16"]
ESPEAK_VOICES = ["en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029"]
ESPEAK_VARIANTS = ["", *(f"+m{i}" for i in range(1, 9)), *(f"+f{i}" for i in range(1, 6))]
KOKORO_SPEAKERS = 160
ACCENTED = 0.25  # share of them that are a voice of another language, where there is one

Audio = tuple[np.ndarray, str]  # mono float32 samples at 16 kHz, and whose they are
Engine = Callable[[str, float, random.Random], Audio]  # the text, how much slower than usual, and where chance is from


def run_engine(command: list[str]) -> tuple[np.ndarray, int]:
    """Run a command that writes a WAV file at its argument `{wav}`; the samples and their rate."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        wav = str(Path(folder, "speech.wav"))
        subprocess.run([part.replace("{wav}", wav) for part in command], check=True, capture_output=True, timeout=60)
        samples, rate = soundfile.read(wav, dtype="float32")
        return samples, rate


def played(samples: np.ndarray, rate: int, speed: float) -> np.ndarray:
    """At another speed pitch and formants move together: as good as another vocal tract."""
    return np.asarray(soxr.resample(samples, rate * speed, SAMPLE_RATE), np.float32)


def played_somehow(samples: np.ndarray, rate: int, voice: str, rng: random.Random) -> Audio:
    """Played at a random speed, which is a part of the name."""
    speed = rng.uniform(0.84, 1.2)
    return played(samples, rate, speed), f"{voice}-{speed:.1f}"


def flite(text: str, stretch: float, rng: random.Random) -> Audio:
    """Read with one of CMU's statistical voices, at a random pitch."""
    voice = rng.choice(FLITE_VOICES)
    pitch = [] if voice == "kal16" else ["--setf", f"int_f0_target_mean={rng.uniform(85, 230):.0f}"]
    command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.3f}", *pitch, "-t", text, "-o", "{wav}"]
    return played_somehow(*run_engine(command), f"flite-{voice}", rng)


def espeak(text: str, stretch: float, rng: random.Random) -> Audio:
    """Read with one of espeak-ng's formant voices."""
    voice = rng.choice(ESPEAK_VOICES) + rng.choice(ESPEAK_VARIANTS)
    speed, pitch = f"{150 / stretch:.0f}", str(rng.randint(25, 75))
    command = ["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "-w", "{wav}", text]
    return played_somehow(*run_engine(command), f"espeak-{voice}", rng)


@cache
def hibari_model() -> Any:
    """The model of hibari-tts, loaded once."""
    from hibari import Hibari

    return Hibari(threads=1)


def hibari(text: str, stretch: float, rng: random.Random) -> Audio:
    """Read with the neural voice of hibari-tts; with pyworld it becomes another speaker most of the time."""
    samples = np.asarray(hibari_model()(text, speed=1 / stretch, seed=rng.randrange(2**31)), np.float32)
    if not has_pyworld() or rng.random() >= 0.6:
        return played_somehow(samples, 24000, "hibari", rng)
    samples = new_speaker(played(samples, 24000, 1), SAMPLE_RATE, np.random.default_rng(rng.randrange(2**63)))
    return samples, f"hibari-varied-{rng.randrange(10**6)}"


@cache
def kokoro_model(folder: Path) -> Any:
    """Kokoro's model on one thread, loaded once, from a folder with it (*.onnx) and its voices (*.bin)."""
    files = [sorted(folder.glob(pattern)) for pattern in ("*.onnx", "*.bin")]
    if [len(found) for found in files] != [1, 1]:
        raise RecipeError(
            f"{folder} has to hold one .onnx and one .bin file, Kokoro's model and its voices; put them there"
        )
    if not importlib.util.find_spec("kokoro_onnx"):
        raise RecipeError(
            "Kokoro's voices read with the package kokoro-onnx, which is missing; run `pip install kokoro-onnx`"
        )
    try:
        with zipfile.ZipFile(files[1][0]) as archive:
            voices = [name for name in archive.namelist() if name.endswith(".npy")]
    except zipfile.BadZipFile:
        voices = []
    if not any(map(is_english, voices)):
        raise RecipeError(f"{files[1][0]} holds no voices of Kokoro's that are English; take Kokoro's voices-v1.0.bin")
    if "MP3" not in soundfile.available_formats():
        raise RecipeError(
            "soundfile has no MP3 here, through which Kokoro's speech goes; run `pip install -U soundfile`"
        )
    import onnxruntime
    from kokoro_onnx import Kokoro

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(files[0][0]), options, providers=["CPUExecutionProvider"])
    return Kokoro.from_session(session, str(files[1][0]))


def is_english(voice: str) -> bool:
    """Whether one of Kokoro's voices is, by its name: a is American, b British, others of other languages."""
    return voice[0] in "ab"


@dataclass(frozen=True)
class Speaker:
    """One of Kokoro's: the style, float [510, 1, 256], the English spoken, how fast played, and how slow to speak."""

    name: str
    style: np.ndarray
    language: str
    speed: float
    stretch: float


def kokoro_speaker(folder: Path, number: int) -> Speaker:
    """The speaker of a number: an English voice, or with an accent one of another language; half of them mixed."""
    model, rng = kokoro_model(folder), random.Random(f"speaker {number}")
    native = [name for name in model.get_voices() if is_english(name)]
    others = [name for name in model.get_voices() if not is_english(name)]
    accented = bool(others) and rng.random() < ACCENTED
    voices = [rng.choice(others if accented else native)]
    partners = [name for name in native if name != voices[0]]
    if partners and rng.random() < 0.5:
        voices.append(rng.choice(partners))
    share = rng.uniform(0.3, 0.7) if len(voices) == 2 else 1.0
    style = share * model.get_voice_style(voices[0]) + (1 - share) * model.get_voice_style(voices[-1])
    return Speaker(
        name=f"kokoro-{number:03d}-{'+'.join(voices)}",
        style=np.asarray(style, np.float32),
        language="en-gb" if voices[0].startswith("b") else "en-us",
        speed=rng.uniform(0.9, 1.35) if accented else rng.uniform(0.86, 1.17),  # learners are children, too
        stretch=1.15 if accented else 1.0,
    )


def kokoro(folder: Path, text: str, stretch: float, rng: random.Random) -> Audio:
    """Read as one of Kokoro's speakers; each comes often enough to be cut and spliced."""
    speaker = kokoro_speaker(folder, rng.randrange(KOKORO_SPEAKERS))
    speed = 1 / (stretch * speaker.stretch)
    ended = text if text.endswith((".", "?", "!")) else f"{text}."  # else the voice stays up
    samples, rate = kokoro_model(folder).create(ended, speaker.style, speed, speaker.language)
    return played(np.asarray(samples, np.float32), rate, speaker.speed), speaker.name


def engines() -> dict[Engine, int]:
    """The engines that are installed here, each with how often it is drawn."""
    found = {
        flite: 4 if shutil.which("flite") else 0,
        espeak: 1 if shutil.which("espeak-ng") else 0,
        hibari: 6 if importlib.util.find_spec("hibari") else 0,
    }
    return {engine: share for engine, share in found.items() if share}


def speak(text: str, rng: random.Random, drawn: Mapping[Engine, int], at_home: bool) -> tuple[np.ndarray, str]:
    """Read `text` with a voice, rate, pitch and noise floor drawn from `rng`; samples at 16 kHz and the voice.

    `at_home` the recording is one that a volunteer might have made, not a synthesiser.
    """
    engine = rng.choices(list(drawn), list(drawn.values()))[0]
    samples, voice = engine(text, rng.uniform(0.8, 1.2), rng)
    silence = [round(rng.uniform(0, 0.4) * SAMPLE_RATE) for _ in range(2)]
    samples = np.pad(samples, (silence[0], silence[1]))
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 10 ** rng.uniform(-4, -2.3), len(samples))
    samples = (samples + noise) * 10 ** rng.uniform(-0.7, 0.2)
    samples = np.clip(samples, -1, 1).astype(np.float32)
    if at_home:
        samples = recorded_at_home(samples, SAMPLE_RATE, np.random.default_rng(rng.randrange(2**63)))
    return samples, voice


def synthesize_part(
    text: Path, out: Path, seed: int, voices: Path | None, part: int, parts: int, done: set[str]
) -> None:
    """Read every `parts`-th line of `text` aloud, from line `part` on, into `out`/audio and `out`/part-PART.jsonl."""
    drawn: dict[Engine, int] = {partial(kokoro, voices): 1} if voices else engines()
    with (out / f"part-{part}.jsonl").open("a") as rows:
        for index, line in enumerate(text.read_text(encoding="utf-8").splitlines()):
            audio = f"audio/{index // 1000:04d}/{index:07d}.ogg"
            if index % parts != part or not line.strip() or audio in done:
                continue
            try:
                samples, voice = speak(line, random.Random(f"{seed}/{index}"), drawn, at_home=voices is not None)
            except (subprocess.SubprocessError, ValueError) as error:
                print(f"line {index + 1}: {error}", file=sys.stderr)
                continue
            (out / audio).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(out / audio, samples, SAMPLE_RATE, format="OGG", subtype="OPUS")
            duration = round(len(samples) / SAMPLE_RATE, 3)
            row = {"audio": audio, "text": line, "duration": duration, "speaker": voice, "source": "synthetic"}
            print(json.dumps(row), file=rows, flush=True)


def refuse_other_lines(text: Path, out: Path, done: Mapping[str, str]) -> None:
    """Refuse a text without sentences, and one whose lines are not those that are `done` in `out` already."""
    lines = text.read_text(encoding="utf-8").splitlines()
    if not any(line.strip() for line in lines):
        raise RecipeError(f"{text} holds no sentences; give some, one a line")
    for audio, row in done.items():
        number, said = int(Path(audio).stem), str(json.loads(row)["text"])
        if number < len(lines) and lines[number] != said:
            raise RecipeError(
                f"{out} holds recordings of another text: line {number + 1} is {said!r} there, and {lines[number]!r} in"
                f" {text}; give another folder, or the same text"
            )


def synthesize(text: Path, out: Path, *, seed: int = 1, processes: int = 1, voices: Path | None = None) -> int:
    """Read the lines of `text` aloud into `out`: Opus in Ogg below audio/, and synthetic.jsonl.

    Kokoro alone reads if `voices` is the folder with its model. Lines that an earlier run has done are left as they
    are. Returns how many recordings there are; raises RecipeError where no engine is installed, for a text without
    sentences, and where `out` holds those of another text.
    """
    done = manifest_lines(out)
    refuse_other_lines(text, out, done)
    if voices:
        kokoro_model(voices)
    elif not engines():
        raise RecipeError("no speech synthesiser is here; install flite or espeak-ng, or the packages named in --help")
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(text, out, seed, voices, part, processes, set(done)) for part in range(processes)]
    in_processes(synthesize_part, jobs)
    return gather(out, "synthetic.jsonl")
