"""Every format, read back by programs of others or by a grammar of its standard."""

import csv
import json
import math
import re
from itertools import chain, pairwise

import pysubs2
import pytest
import webvtt
from hypothesis import assume, given
from hypothesis import strategies as st

from asr_runtime.subtitles import APART, FLICKER, LINGER, LONGEST, PAUSE, SHORTEST, Layout
from asr_runtime.transcript import Alternative, Transcript, Word, mean_confidence, split_at_pauses
from asr_runtime.writers import FORMATS, Style


def words_of(items: list[tuple[str, int, int]]) -> tuple[Word, ...]:
    """Words of (text, frames of silence before it, frames that it lasts) with frames of 40 ms."""
    words, frame = [], 0
    for text, pause, length in items:
        begin, frame = frame + pause, frame + pause + length
        words.append(Word(text, round(0.04 * begin, 3), round(0.04 * frame, 3), 0.5))
    return tuple(words)


def transcript_of(words: tuple[Word, ...], audio: str = "talks/a b.flac", **more: object) -> Transcript:
    return Transcript(
        audio=audio,
        duration=words[-1].end if words else 1.0,
        text=" ".join(word.word for word in words),
        confidence=mean_confidence(words),
        words=words,
        segments=tuple(split_at_pauses(words)),
        model="tones",
        device="cpu",
        language="en",
        **more,  # type: ignore[arg-type]
    )


def written(name: str, *transcripts: Transcript, style: Style = Style()) -> str:  # noqa: B008
    writer = FORMATS[name](len(transcripts) == 1, style)
    return writer.head() + "".join(chain.from_iterable(map(writer.body, transcripts))) + writer.tail()


TEXT = st.text("abcdefghij'é&<>-", min_size=1, max_size=14)
SPOKEN = st.lists(st.tuples(TEXT, st.integers(0, 40), st.integers(1, 30)), max_size=60).map(words_of)
TWO = words_of([("hello", 1, 5), ("world", 2, 5), ("again", 40, 6)])


@given(SPOKEN, st.integers(10, 50), st.integers(1, 3))
def test_subtitles_hold_every_word_once_and_are_readable(words: tuple[Word, ...], width: int, count: int) -> None:
    cues = Layout(width, count).cues(words)
    assert [word for cue in cues for line in cue.lines for word in line] == list(words)
    for cue in cues:
        spoken = [word for line in cue.lines for word in line]
        assert cue.start == spoken[0].start
        assert all(len(" ".join(word.word for word in line)) <= width or len(line) == 1 for line in cue.lines)
        assert len(cue.lines) <= count or len(spoken) == 1
        assert spoken[-1].end - cue.start <= LONGEST or len(spoken) == 1
        assert all(after.start - before.end < PAUSE for before, after in pairwise(spoken))
        assert cue.end >= spoken[-1].end
    for cue, following in pairwise(cues):
        assert cue.start < cue.end <= following.start
        gap = following.start - cue.end
        assert cue.end - cue.start >= SHORTEST - 1e-9 or gap <= APART + 1e-9
        assert gap <= APART + 1e-9 or (gap >= FLICKER - 1e-9 and cue.end >= cue.lines[-1][-1].end + LINGER - 1e-9)


def test_long_speech_is_cut_behind_its_longest_pause_into_lines_of_like_length() -> None:
    sentence = [("again", 0, 6)] * 16
    sentence[7] = ("and", 9, 6)  # 0.36 s of silence before it
    (first, second) = Layout().cues(words_of(sentence))
    assert second.lines[0][0].word == "and"
    assert [len(line) for line in first.lines] == [7]  # one line
    (cue,) = Layout().cues(words_of([("again", 0, 3)] * 8))
    assert [len(line) for line in cue.lines] == [4, 4]


@given(SPOKEN)
def test_srt_is_read_by_another_program(words: tuple[Word, ...]) -> None:
    assume(not re.search("< */? *[bius] *>", transcript_of(words).text))  # which that program takes for its own tags
    read = pysubs2.SSAFile.from_string(written("srt", transcript_of(words)), format_="srt", keep_unknown_html_tags=True)
    cues = Layout().cues(words)
    assert [(event.start, event.end) for event in read] == [
        (round(1000 * cue.start), round(1000 * cue.end)) for cue in cues
    ]
    shown = " ".join(event.text.replace("\\N", " ") for event in read)
    assert shown == transcript_of(words).text


SRT = re.compile(r"(\d+)\n(\d\d:\d\d:\d\d,\d{3}) --> (\d\d:\d\d:\d\d,\d{3})\n((?:.+\n)+)\n")


@given(SPOKEN)
def test_srt_is_nothing_but_numbered_cues(words: tuple[Word, ...]) -> None:
    text = written("srt", transcript_of(words))
    found = list(SRT.finditer(text))
    assert "".join(match[0] for match in found) == text
    assert [int(match[1]) for match in found] == list(range(1, len(found) + 1))


@given(SPOKEN)
def test_vtt_is_read_by_another_program(words: tuple[Word, ...]) -> None:
    text = written("vtt", transcript_of(words))
    read = webvtt.from_string(text)
    cues = Layout().cues(words)
    assert [(caption.start, caption.end) for caption in read] == [
        tuple(f"{int(s // 3600):02}:{int(s // 60 % 60):02}:{s % 60:06.3f}" for s in (cue.start, cue.end))
        for cue in cues
    ]
    escaped = "\n".join(caption.raw_text for caption in read)
    assert not re.search("[<>]|&(?!amp;|lt;|gt;)", escaped)
    unescaped = escaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert unescaped.split() == [word.word for word in words]


def test_hours_in_both_clocks() -> None:
    late = (Word("late", 36_061.5, 36_062.75, 1.0),)
    assert "10:01:01,500 --> 10:01:03,250" in written("srt", transcript_of(late))
    assert "10:01:01.500 --> 10:01:03.250" in written("vtt", transcript_of(late))


@given(SPOKEN)
def test_ctm_has_six_fields_a_word(words: tuple[Word, ...]) -> None:
    rows = [line.split(" ") for line in written("ctm", transcript_of(words)).splitlines()]
    assert [(row[0], row[1], row[4], float(row[5])) for row in rows] == [("a_b", "1", w.word, 0.5) for w in words]
    assert [(float(row[2]), float(row[2]) + float(row[3])) for row in rows] == [
        pytest.approx((word.start, word.end), abs=1e-6) for word in words
    ]


@given(SPOKEN)
def test_tsv_has_segments_in_milliseconds(words: tuple[Word, ...]) -> None:
    transcript = transcript_of(words)
    expected = [
        {"start": str(round(1000 * s.start)), "end": str(round(1000 * s.end)), "text": s.text}
        for s in transcript.segments
    ]
    rows = csv.DictReader(written("tsv", transcript).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    assert list(rows) == expected
    rows = csv.DictReader(written("tsv", transcript, transcript).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
    assert list(rows) == [{"audio": transcript.audio, **row} for row in expected] * 2


@given(SPOKEN)
def test_json_and_json_lines_say_the_same(words: tuple[Word, ...]) -> None:
    transcript = transcript_of(words)
    single = json.loads(written("json", transcript))
    assert single["text"] == transcript.text
    assert [(w["word"], w["start"], w["end"]) for w in single["words"]] == [(w.word, w.start, w.end) for w in words]
    assert json.loads(written("json", transcript, transcript)) == [single, single]
    lines = written("jsonl", transcript, transcript).split("\n")
    assert [json.loads(line) for line in lines[:-1]] == [single, single]
    assert lines[-1] == ""


# What OpenAI's reference says of a transcription's verbose_json: each key with its type.
TRANSCRIPTION = {"language": str, "duration": float, "text": str, "segments": list, "words": list, "task": str}
SEGMENT = {
    "id": int,
    "seek": int,
    "start": float,
    "end": float,
    "text": str,
    "tokens": list,
    "temperature": float,
    "avg_logprob": float,
    "compression_ratio": float,
    "no_speech_prob": float,
}


def test_verbose_json_has_the_shape_that_programs_expect() -> None:
    content = json.loads(written("verbose_json", transcript_of(TWO)))
    assert {key: type(content[key]) for key in TRANSCRIPTION} == TRANSCRIPTION
    assert content["language"] == "english"
    assert [segment["text"] for segment in content["segments"]] == ["hello world", "again"]
    for number, segment in enumerate(content["segments"]):
        assert {key: type(segment[key]) for key in SEGMENT} == SEGMENT
        assert segment["id"] == number
        assert segment["seek"] == round(100 * segment["start"])
        assert segment["avg_logprob"] == round(math.log(0.5), 4)
    assert [set(word) for word in content["words"]] == [{"word", "start", "end", "confidence"}] * 3
    assert (content["audio"], content["model"], content["device"]) == ("talks/a b.flac", "tones", "cpu")


@pytest.mark.parametrize("name", ["json", "jsonl", "verbose_json"])
def test_json_without_words_and_with_other_readings(name: str) -> None:
    readings = (Alternative("hello world again", -3.14159, 0.5), Alternative("hello word again", -4.0, 0.25))
    content = json.loads(written(name, transcript_of(TWO, alternatives=readings), style=Style(words=False)))
    assert "words" not in content
    assert content["alternatives"] == [
        {"text": "hello world again", "score": -3.1416, "confidence": 0.5},
        {"text": "hello word again", "score": -4.0, "confidence": 0.25},
    ]
    assert "alternatives" not in json.loads(written(name, transcript_of(TWO)))


@pytest.mark.parametrize("name", FORMATS)
def test_silence_is_a_whole_output_too(name: str) -> None:
    text = written(name, transcript_of(()))
    empty = {"txt": "\n", "srt": "", "ctm": "", "vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n"}
    assert text == empty[name] if name in empty else json.loads(text)["text"] == ""
