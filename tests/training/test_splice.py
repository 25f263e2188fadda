"""Utterances put together anew from the words of others: what is in them, how many there are, and when they change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.errors import RecipeError
from asr_training.census import take_census
from asr_training.corpus import Corpus
from asr_training.manifest import Fault, read_row
from asr_training.prepare import prepare
from asr_training.recipe import Data, Features, Recipe, Source, Training
from asr_training.run import unchangeable
from asr_training.splice import LONGEST, SPEED, Piece, Spliced, lots_of, pieces_of
from asr_training.stream import open_training_data

FEATURES = Features(mels=20)


def opened(manifest: Path, cache: Path, times: float = 3.0) -> Spliced:
    data = Data(train=(Source(str(manifest), spliced=times),), validation=())
    spliced = open_training_data(data, FEATURES, Training(seed=7), cache)
    assert isinstance(spliced, Spliced)
    return spliced


@pytest.fixture
def spliced(cut_manifest: Path, tmp_path: Path) -> Spliced:
    return opened(cut_manifest, tmp_path)


def test_an_epoch_has_the_recordings_and_so_many_times_their_audio_besides(spliced: Spliced) -> None:
    recorded, epoch = spliced.corpus, spliced.group(0, 0)
    whole = len(recorded.utterances)
    assert epoch.utterances[:whole] == recorded.utterances
    for index in range(whole):
        np.testing.assert_array_equal(epoch.store[index], recorded.store[index])
    more = int(epoch.store.frames[whole:].sum())
    there = sum(piece.frames for pieces in pieces_of(recorded).values() for piece in pieces)
    assert abs(more - 3 * there) < LONGEST * recorded.frame_rate
    assert all(repeat == 1 for repeat in epoch.repeats)


def test_what_is_put_together_has_the_words_and_the_sound_of_its_pieces(spliced: Spliced) -> None:
    recorded, epoch = spliced.corpus, spliced.group(0, 0)
    words = Counter(word for utterance in recorded.utterances for word in utterance.text.split())
    for index in range(len(recorded.utterances), len(epoch.utterances)):
        utterance, features = epoch.utterances[index], epoch.store[index]
        assert set(utterance.text.split()) <= set(words)
        assert (utterance.speaker, utterance.source) == ("s", "chords")
        assert len(features) == epoch.store.frames[index] <= LONGEST * epoch.frame_rate
        assert epoch.labels[index].tolist() == epoch.alphabet.encode(utterance.text).tolist()
        lot = epoch.store.lots[index]  # type: ignore[attr-defined]
        assert [word for piece in lot for word in piece.words] == utterance.text.split()
        start = 0
        for piece in lot:
            of_recording = recorded.utterances[piece.utterance]
            assert " ".join(piece.words) in of_recording.text
            assert 1 / (1 + SPEED) <= piece.rate <= 1 + SPEED
            sound = recorded.store[piece.utterance][piece.begin : piece.end].astype(np.float32)
            np.testing.assert_allclose(features[start], sound[0])
            last = features[start + piece.frames - 1]
            assert np.abs(sound - last).max(1).min() < np.abs(np.diff(sound, axis=0)).max()
            start += piece.frames


def test_the_order_is_another_in_each_epoch_and_the_same_when_it_is_asked_for_again(spliced: Spliced) -> None:
    texts = [[u.text for u in spliced.group(epoch, 0).utterances] for epoch in (0, 1, 0)]
    assert texts[0] == texts[2] != texts[1]


def test_what_is_left_out_is_in_no_piece(spliced: Spliced) -> None:
    gone = spliced.corpus.utterances[0]
    spliced.leave_out(lambda corpus: {0: Fault("doubt", gone.where, "of it")})
    places = {u.where for u in spliced.group(0, 0).utterances}
    assert gone.where not in places and len(spliced.corpus.utterances) == 7


def test_speakers_are_not_mixed_and_nobody_is_mixed_with_another_source(cut_manifest: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in cut_manifest.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["audio"] = str(cut_manifest.parent / row["audio"])
        row["speaker"], row["source"] = ("a", "one") if number < 3 else ("a", "two") if number < 6 else ("", "two")
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    spliced = opened(tmp_path / "m.jsonl", tmp_path / "cache")
    epoch, recorded = spliced.group(0, 0), spliced.corpus.utterances
    for lot in epoch.store.lots:  # type: ignore[attr-defined]
        owners = {(recorded[p.utterance].source, recorded[p.utterance].speaker or p.utterance) for p in lot}
        assert len(owners) == 1


@given(
    lengths=st.lists(st.integers(3, 1400), min_size=1, max_size=20),
    wanted=st.integers(1, 20_000),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_lots_are_as_long_as_wanted_and_take_the_pieces_in_turn(lengths: list[int], wanted: int, seed: int) -> None:
    pieces = [Piece(index, 0, length) for index, length in enumerate(lengths)]
    lots = list(lots_of(pieces, wanted, 100, np.random.default_rng(seed)))
    total = sum(piece.frames for lot in lots for piece in lot)
    assert wanted <= total < wanted + LONGEST * 100 * (1 + SPEED)
    for lot in lots:
        assert len(lot) == 1 or sum(piece.frames for piece in lot) <= LONGEST * 100
    counts = Counter(piece.utterance for lot in lots for piece in lot)
    assert max(counts.values()) - min(counts.get(index, 0) for index in range(len(lengths))) <= 1


def test_a_manifest_without_cuts_is_refused(
    tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError) as caught:
        opened(tiny_manifest, tmp_path)
    one_sentence(str(caught.value))


def test_how_much_is_made_is_told_and_noted(spliced: Spliced) -> None:
    census = take_census(spliced, Data(train=(), validation=()), 4)
    assert census.described()["spliced_hours"] == round(spliced.group(0, 0).hours - spliced.corpus.hours, 2)
    assert "more of their words" in str(census)
    assert "more of their words" not in str(take_census(spliced.corpus, Data(train=(), validation=()), 4))


def test_nothing_is_spliced_unless_asked_for(cut_manifest: Path, tmp_path: Path) -> None:
    data = Data(train=(Source(str(cut_manifest)),), validation=())
    assert isinstance(open_training_data(data, FEATURES, Training(), tmp_path), Corpus)


def test_shards_cannot_be_spliced(tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]) -> None:
    prepare([tiny_manifest], tmp_path / "shards", size=4)
    data = Data(train=(Source(str(tmp_path / "shards"), spliced=1.0),), validation=())
    with pytest.raises(RecipeError) as caught:
        open_training_data(data, FEATURES, Training(), tmp_path)
    one_sentence(str(caught.value))


@pytest.mark.parametrize(
    "cuts",
    [
        "no",
        [0],
        [[0, 0.1, 3]],
        [["0", 0.1]],
        [[0, True]],
        [[0, 0.1], [0, 0.5]],
        [[0, 0.5], [1, 0.5]],
        [[0, 0.1], [4, 0.5]],
        [[-1, 0.1]],
        [[0, -0.1]],
        [[0, float("nan")], [1, 0.3]],
    ],
)
def test_cuts_that_are_none_are_a_fault_of_the_line(cuts: object, one_sentence: Callable[[str], None]) -> None:
    line = json.dumps({"audio": "a.flac", "text": "one two three", "cuts": cuts})
    found = read_row(Path(), "line 1", line)
    assert isinstance(found, Fault)
    one_sentence(str(found))


def test_a_run_keeps_how_much_is_spliced(tiny_recipe: Callable[..., Recipe]) -> None:
    recipe = tiny_recipe()
    assert unchangeable(recipe, 1, False)["spliced of its data"] == [0.0]
