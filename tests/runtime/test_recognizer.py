"""From recordings to transcripts by the Python interface: any kind of input, in order, lazily, with times."""

import io
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile

import asr_runtime
from asr_runtime import AudioError, BundleError, DecoderError, EngineError, RawAudio, RawFormat, Recognizer, Transcript
from asr_runtime.bundle import NewFile, update_bundle

Spell = Callable[[str], np.ndarray]


@pytest.fixture(scope="module")
def recognizer(tone_bundle: Path) -> Recognizer:
    return asr_runtime.load(tone_bundle, threads=1, greedy=True)


def test_files_bytes_streams_and_arrays(recognizer: Recognizer, spell: Spell, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", spell("hello world"), 16000)
    content = (tmp_path / "a.flac").read_bytes()
    for audio in (tmp_path / "a.flac", str(tmp_path / "a.flac"), content, io.BytesIO(content)):
        assert recognizer.transcribe(audio).text == "hello world"
    assert recognizer.transcribe(spell("hello world"), 16000).text == "hello world"
    assert recognizer.transcribe(list(spell("hello world")), sample_rate=16000).text == "hello world"


def test_times_and_confidences_of_words(recognizer: Recognizer, spell: Spell) -> None:
    transcript = recognizer.transcribe(spell("ab cd"), 16000)
    assert transcript.duration == pytest.approx(0.64)
    first, second = transcript.words
    # Each character sounds for 80 ms after 40 ms of silence.
    assert (first.word, second.word) == ("ab", "cd")
    assert (first.start, first.end) == pytest.approx((0.04, 0.24))
    assert (second.start, second.end) == pytest.approx((0.40, 0.60))
    assert 0.5 < first.confidence <= 1
    assert transcript.confidence == pytest.approx((first.confidence + second.confidence) / 2)
    assert (transcript.model, transcript.device) == ("tones", "cpu")


def test_a_pause_begins_a_segment(recognizer: Recognizer, spell: Spell) -> None:
    pause = np.zeros(16000, np.float32)
    transcript = recognizer.transcribe(np.concatenate([spell("one two"), pause, spell("three")]), 16000)
    assert transcript.text == "one twothree"  # the tones know no space in silence
    transcript = recognizer.transcribe(np.concatenate([spell("one two "), pause, spell("three")]), 16000)
    assert [segment.text for segment in transcript.segments] == ["one two", "three"]
    assert transcript.segments[1].start > 1.0


def test_silence_gives_an_empty_text(recognizer: Recognizer) -> None:
    transcript = recognizer.transcribe(np.zeros(16000), 16000)
    assert (transcript.text, transcript.words, transcript.confidence) == ("", (), 0.0)


def test_one_sample_is_enough(recognizer: Recognizer) -> None:
    assert recognizer.transcribe(np.zeros(1), 16000).text == ""


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_many_come_in_order_whatever_the_batch(tone_bundle: Path, spell: Spell, batch_size: int) -> None:
    texts = ["a", "hello", "to be or not", "x y", "", "why", "zebra"]
    recognizer = asr_runtime.load(tone_bundle, batch_size=batch_size, threads=1, greedy=True)
    heard = list(recognizer.transcribe((spell(text), 16000) for text in texts))
    assert [transcript.text for transcript in heard] == texts


def test_an_iterable_is_read_lazily(tone_bundle: Path, spell: Spell) -> None:
    taken = 0

    def endless() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal taken
        while True:
            taken += 1
            yield spell("more"), 16000

    recognizer = asr_runtime.load(tone_bundle, batch_size=4, threads=1, greedy=True)
    transcripts = cast("Generator[Transcript]", recognizer.transcribe(endless()))
    assert taken == 0
    assert next(transcripts).text == "more"
    assert taken <= 40  # a few batches ahead, so that the workers are never idle
    transcripts.close()


def test_a_bad_recording_is_an_error_of_its_own(recognizer: Recognizer, spell: Spell, tmp_path: Path) -> None:
    good, bad = (spell("good"), 16000), tmp_path / "absent.wav"
    results = list(recognizer.results([good, bad, good]))
    assert [getattr(result, "text", None) for result in results] == ["good", None, "good"]
    assert isinstance(results[1], AudioError)
    with pytest.raises(AudioError, match=r"absent\.wav"):
        list(recognizer.transcribe([good, bad]))
    with pytest.raises(TypeError, match="rate"):
        recognizer.transcribe(spell("a"))  # type: ignore[call-overload]


# --- beam search -----------------------------------------------------------------------------------------------------


def test_the_language_model_decides_what_is_hard_to_hear(
    tone_bundle: Path, arpa: Path, cat_or_cut: np.ndarray, tmp_path: Path
) -> None:
    with_model = tmp_path / "cats"
    shutil.copytree(tone_bundle, with_model)
    update_bundle(with_model, [NewFile(source=arpa, role="language_model")], decoder={"alpha": 1.0, "beta": 0.5})

    def heard(bundle: Path, **options: object) -> str:
        return asr_runtime.load(bundle, threads=1, **options).transcribe(cat_or_cut, 16000).text  # type: ignore[arg-type]

    assert heard(tone_bundle) == "cut"
    assert heard(tone_bundle, language_model=arpa) == "cat"
    assert heard(with_model) == "cat"
    assert heard(with_model, alpha=0.0) == "cut"
    assert heard(with_model, language_model=False) == "cut"
    assert heard(with_model, greedy=True) == "cut"


def test_hot_words_of_a_call_are_its_own(tone_bundle: Path, cat_or_cut: np.ndarray) -> None:
    recognizer = asr_runtime.load(tone_bundle, threads=2, hot_words={"cot": 30.0})
    expected = recognizer.transcribe(cat_or_cut, 16000).text
    heard: dict[str, set[str]] = {"cat": set(), "cut": set()}

    def work(word: str) -> None:
        for transcript in recognizer.transcribe([(cat_or_cut, 16000)] * 5, hot_words={word: 30.0}):
            heard[word].add(transcript.text)

    workers = [threading.Thread(target=work, args=(word,)) for word in heard]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert heard == {"cat": {"cat"}, "cut": {"cut"}}
    assert recognizer.transcribe(cat_or_cut, 16000).text == expected
    (result,) = recognizer.results([(cat_or_cut, 16000)], hot_words={})
    assert isinstance(result, Transcript)


@pytest.mark.parametrize("greedy", [False, True])
def test_impossible_hot_words_of_a_call_are_refused_at_once(tone_bundle: Path, greedy: bool) -> None:
    recognizer = asr_runtime.load(tone_bundle, greedy=greedy)
    wrong = {"cat": 4.0} if greedy else ["cat"]
    with pytest.raises(DecoderError, match="without greedy" if greedy else "a boost for each word"):
        recognizer.transcribe(iter([]), hot_words=wrong)  # type: ignore[arg-type]


def test_a_recognizer_says_what_it_is(tone_bundle: Path, arpa: Path) -> None:
    said = repr(asr_runtime.load(tone_bundle, threads=1, language_model=arpa, beam_size=7))
    assert said.startswith("<Recognizer tones: cpu (ONNX Runtime ")
    assert f"1 thread, <BeamSearchDecoder: 29 tokens, {arpa.name} (0.0 MB), beam 7>" in said
    assert "<GreedyDecoder: 29 tokens>" in repr(asr_runtime.load(tone_bundle, greedy=True))


@pytest.fixture
def spoken_bundle(tone_bundle: Path, tmp_path: Path) -> Path:
    """Its letters are taken for phonemes."""
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("katt\tc a t\ncat\tc a t\ncut\tc u t\ncu\tc u\nbernie\tb e r n y\n")
    shutil.copytree(tone_bundle, tmp_path / "spoken")
    update_bundle(tmp_path / "spoken", [NewFile(source=lexicon, role="lexicon")])
    return tmp_path / "spoken"


def test_pronunciations_go_with_every_language_model_and_without(
    spoken_bundle: Path, arpa: Path, spell: Spell, tmp_path: Path
) -> None:
    def heard(said: str = "cat cut", **options: object) -> str:
        recognizer = asr_runtime.load(spoken_bundle, threads=1, **options)  # type: ignore[arg-type]
        return recognizer.transcribe(spell(said), 16000).text

    assert heard() == heard(language_model=False) == "katt cut"
    assert heard(language_model=arpa) == "cat cut"
    assert heard("cat", language_model=arpa, hot_words={"katt": 21.0}) == "katt"
    assert heard(greedy=True) == "c-a-t c-u-t"
    update_bundle(spoken_bundle, [NewFile(source=arpa, role="language_model")])
    assert heard() == "cat cut"
    assert heard(language_model=False) == "katt cut"


def test_beam_search_gives_times_like_best_path(tone_bundle: Path, spell: Spell) -> None:
    texts = [
        [(word.word, round(word.start, 2)) for word in recognizer.transcribe(spell("ab cd"), 16000).words]
        for recognizer in (asr_runtime.load(tone_bundle, threads=1), asr_runtime.load(tone_bundle, greedy=True))
    ]
    assert texts[0] == texts[1] == [("ab", 0.04), ("cd", 0.4)]


def test_settings_that_cannot_be_are_named(tone_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(DecoderError, match="no setting 'beam_sizes'"):
        asr_runtime.load(tone_bundle, beam_sizes=5)
    with pytest.raises(DecoderError, match="greedy decoding has no setting 'alpha'"):
        asr_runtime.load(tone_bundle, greedy=True, alpha=0.5)
    with pytest.raises(DecoderError, match="beam_size"):
        asr_runtime.load(tone_bundle, beam_size=0)
    with pytest.raises(DecoderError, match=r"absent\.arpa"):
        asr_runtime.load(tone_bundle, language_model=tmp_path / "absent.arpa")


def test_a_bundle_that_comes_along_is_found_by_its_name(
    tone_bundle: Path, spell: Spell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_runtime.recognizer.BUNDLES", tmp_path)
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(BundleError, match=r"^english: .* comes along: none\.$"):
        asr_runtime.load()
    shutil.copytree(tone_bundle, tmp_path / "tones")
    assert asr_runtime.load("tones", greedy=True).transcribe(spell("hi"), 16000).text == "hi"
    with pytest.raises(BundleError, match=r"^chords: .* comes along: tones\.$"):
        asr_runtime.load("chords")
    with pytest.raises(BundleError, match=r"^.*absent/tones: there is no bundle here"):
        asr_runtime.load(tmp_path / "absent" / "tones")


def test_a_folder_at_hand_is_not_the_bundle_that_comes_along(
    tone_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_runtime.recognizer.BUNDLES", tmp_path / "bundles")
    shutil.copytree(tone_bundle, tmp_path / "bundles" / "english")
    (tmp_path / "english").mkdir()
    monkeypatch.chdir(tmp_path)
    asr_runtime.load(greedy=True)
    with pytest.raises(BundleError, match="this is not a bundle"):
        asr_runtime.load("english")


def test_threads_may_share_a_recognizer(recognizer: Recognizer, spell: Spell) -> None:
    texts = [f"{a}{b} {a}" for a in "abcd" for b in "efgh"]
    heard: dict[str, str] = {}

    def work(part: list[str]) -> None:
        for text in part:
            heard[text] = recognizer.transcribe(spell(text), 16000).text

    workers = [threading.Thread(target=work, args=(texts[i::4],)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert heard == {text: text for text in texts}


def test_notebooks_show_words_and_escape_what_came_from_outside(recognizer: Recognizer, spell: Spell) -> None:
    transcript = recognizer.transcribe(spell("hi"), 16000)
    hostile = Transcript(**{**transcript.__dict__, "audio": "<script>.wav"})
    assert "<script>" not in hostile._repr_html_()
    assert ">hi</span>" in hostile._repr_html_()
    assert str(transcript) == "hi"


def test_raw_samples_are_one_recording(recognizer: Recognizer, spell: Spell) -> None:
    samples = (32767 * spell("raw")).astype("<i2").tobytes()
    transcript = recognizer.transcribe(RawAudio(io.BytesIO(samples), RawFormat("s16le", 16000)))
    assert (transcript.text, transcript.audio) == ("raw", "bytes")


def test_a_recognizer_works_in_a_forked_process(tone_bundle: Path) -> None:
    """In a process of its own: the tests' has threads of others, which do not survive a fork."""
    code = """
import os, sys, numpy, asr_runtime
recognizer = asr_runtime.load(sys.argv[1], threads=2)
silence = numpy.zeros(16000), 16000
recognizer.transcribe(*silence)
child = os.fork()
text = recognizer.transcribe(*silence).text
if not child:
    os._exit(0 if text == "" else 1)
sys.exit(os.waitpid(child, 0)[1])
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(tone_bundle)]
    assert subprocess.run(command, timeout=60).returncode == 0


def test_times_in_windows_are_those_of_the_whole(tone_bundle: Path, spell: Spell) -> None:
    random = np.random.default_rng(1)
    samples = spell(" ".join("".join(random.choice(list("abcdefgh"), 5)) for _ in range(100)))

    def heard(window_seconds: float) -> list[tuple[str, float, float]]:
        recognizer = asr_runtime.load(tone_bundle, threads=2, batch_size=3, window_seconds=window_seconds)
        return [(word.word, word.start, word.end) for word in recognizer.transcribe(samples, 16000).words]

    whole = heard(3600)
    assert len(whole) == 100
    assert heard(5) == heard(10) == whole
    with pytest.raises(EngineError, match="got windows of 2 seconds; give 5 to 3600"):
        heard(2)


@pytest.mark.parametrize("nothing", [None, 5])
def test_what_is_no_recording_is_refused_at_once(tone_bundle: Path, nothing: object) -> None:
    with pytest.raises(TypeError, match="wanted a path, samples with their rate, or an iterable"):
        asr_runtime.load(tone_bundle).transcribe(nothing)  # type: ignore[call-overload]
