"""Utterances put together anew from the words of others: what is in them, how many there are, and when they change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_runtime.errors import RecipeError
from asr_training.census import take_census
from asr_training.corpus import Corpus
from asr_training.loop import fit
from asr_training.manifest import Fault, read_manifest, read_row
from asr_training.prepare import prepare
from asr_training.recipe import Data, Features, Recipe, Source, Training, check
from asr_training.splice import LONGEST, SPEED, Piece, Speaker, Spliced, lots_of
from asr_training.stream import open_training_data

FEATURES = Features(mels=20)


def opened(manifest: Path, cache: Path, times: float = 3.0) -> Spliced:
    data = Data(train=(Source(str(manifest), spliced=times),), validation=())
    spliced = open_training_data(data, FEATURES, Training(seed=7), cache)
    assert isinstance(spliced, Spliced)
    return spliced


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


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
    there = sum(u.cuts[-1][1] - u.cuts[0][1] for u in recorded.utterances) * recorded.frame_rate
    assert 3 * there - 100 < more < 3 * there + LONGEST * recorded.frame_rate
    assert all(repeat == 1 for repeat in epoch.repeats)


def test_what_is_put_together_has_the_words_and_the_sound_of_its_pieces(spliced: Spliced) -> None:
    recorded, epoch = spliced.corpus, spliced.group(0, 0)
    words = Counter(word for utterance in recorded.utterances for word in utterance.text.split())
    assert len(epoch.store.lots[-1]) > 1  # type: ignore[attr-defined]
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
    epoch, recorded = spliced.group(0, 0), spliced.corpus.utterances
    assert gone not in recorded and len(recorded) == 7
    for lot, utterance in zip(epoch.store.lots[7:], epoch.utterances[7:], strict=True):  # type: ignore[attr-defined]
        said = [recorded[p.utterance].text for p in lot]
        assert all(" ".join(p.words) in text for p, text in zip(lot, said, strict=True))
        assert utterance.text == " ".join(word for piece in lot for word in piece.words)


def test_speakers_are_not_mixed_and_nobody_is_mixed_with_another_source(cut_manifest: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in cut_manifest.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["speaker"], row["source"] = ("a", "one") if number < 3 else ("a", "two") if number < 6 else (None, "two")
    spliced = opened(written(tmp_path / "m.jsonl", rows), tmp_path / "cache", times=30)
    epoch, recorded = spliced.group(0, 0), spliced.corpus.utterances
    made = epoch.store.lots[8:]  # type: ignore[attr-defined]
    owners = [
        {(recorded[p.utterance].source, recorded[p.utterance].speaker or p.utterance) for p in lot} for lot in made
    ]
    assert all(len(owner) == 1 for owner in owners)
    assert {("one", "a"), ("two", "a"), ("two", 6), ("two", 7)} == set.union(*owners)
    assert any(len(lot) > 1 for lot in made)


def test_many_speakers_with_little_audio_get_together_what_is_wanted() -> None:
    speakers = {Speaker("", str(n), 0.5): [Piece(n, 0, 100), Piece(n, 100, 250)] for n in range(200)}
    lots = list(lots_of(speakers, 1400, 100, np.random.default_rng(1)))
    total = sum(piece.frames for _, lot in lots for piece in lot)
    assert 200 * 250 * 0.5 <= total < 200 * 250 * 0.5 + 1400
    assert all(str(piece.utterance) == speaker.name for speaker, lot in lots for piece in lot)


@given(
    lengths=st.lists(st.integers(3, 1272), min_size=1, max_size=20),
    times=st.floats(0.01, 20),
    longest=st.integers(1400, 2000),
    seed=st.integers(0, 1000),
)
@settings(max_examples=100, deadline=None)
def test_lots_are_as_long_as_wanted_and_take_the_pieces_in_turn(
    lengths: list[int], times: float, longest: int, seed: int
) -> None:
    speakers = {Speaker("", "s", times): [Piece(index, 0, length) for index, length in enumerate(lengths)]}
    lots = [lot for _, lot in lots_of(speakers, longest, 100, np.random.default_rng(seed))]
    total = sum(piece.frames for lot in lots for piece in lot)
    assert times * sum(lengths) <= total < times * sum(lengths) + longest
    assert all(sum(piece.frames for piece in lot) <= longest for lot in lots)
    counts = Counter(piece.utterance for lot in lots for piece in lot)
    assert max(counts.values()) - min(counts.get(index, 0) for index in range(len(lengths))) <= 1


def test_nothing_is_made_longer_than_the_recipe_takes(cut_manifest: Path, tmp_path: Path) -> None:
    data = Data(train=(Source(str(cut_manifest), spliced=3.0),), validation=(), longest_seconds=1.0)
    spliced = open_training_data(data, FEATURES, Training(), tmp_path)
    made = spliced.group(0, 0).store.frames[8:]
    assert len(made) > 8 and max(made) <= 100
    with pytest.raises(RecipeError, match="no piece of at most"):
        open_training_data(replace(data, longest_seconds=0.05), FEATURES, Training(), tmp_path)


def test_the_phonemes_of_what_is_made_are_those_of_its_words(cut_manifest: Path, tmp_path: Path) -> None:
    words = sorted({word for u in read_manifest(cut_manifest) for word in u.text.split()})
    (tmp_path / "p.txt").write_text("".join(f"{word}\t{' '.join(word)}\n" for word in words))
    source, path = Source(str(cut_manifest), spliced=3.0), str(tmp_path / "p.txt")
    beside = open_training_data(Data((source,), (), pronunciations=path), FEATURES, Training(), tmp_path).group(0, 0)
    assert beside.phonemes is not None
    for utterance, phonemes in zip(beside.utterances, beside.phonemes, strict=True):
        assert len(phonemes) == len(utterance.text.replace(" ", ""))
    spoken = Data((source,), (), pronunciations=path, spoken=True)
    epoch = open_training_data(spoken, FEATURES, Training(), tmp_path).group(0, 0)
    assert all(len(u.text) == len(labels) for u, labels in zip(epoch.utterances, epoch.labels, strict=True))


def test_a_manifest_without_cuts_is_refused(
    tiny_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    with pytest.raises(RecipeError) as caught:
        opened(tiny_manifest, tmp_path)
    one_sentence(str(caught.value))


def test_an_alphabet_without_a_space_is_refused(
    cut_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    data = Data(train=(Source(str(cut_manifest), spliced=3.0),), validation=(), alphabet="abc")
    with pytest.raises(RecipeError, match="no space") as caught:
        open_training_data(data, FEATURES, Training(), tmp_path)
    one_sentence(str(caught.value))


def test_cuts_behind_the_end_of_the_audio_are_a_fault(cut_manifest: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in cut_manifest.read_text().splitlines()]
    rows[1]["cuts"] = [[word, 1000 * second] for word, second in rows[1]["cuts"]]  # milliseconds
    rows[2]["cuts"][-1][1] += 0.05
    spliced = opened(written(tmp_path / "m.jsonl", rows), tmp_path)
    assert [fault.kind for fault in spliced.corpus.faults] == ["cuts behind the end"]
    assert len(spliced.corpus.utterances) == 7


def test_how_much_is_made_is_told_and_noted(spliced: Spliced) -> None:
    census = take_census(spliced, Data(train=(), validation=()), 4)
    made = sum(u.cuts[-1][1] - u.cuts[0][1] for u in spliced.corpus.utterances) * 3 / 3600
    assert census.described()["spliced_hours"] == pytest.approx(made, abs=0.01)
    assert "more an epoch in another order" in str(census)
    assert "in another order" not in str(take_census(spliced.corpus, Data(train=(), validation=()), 4))


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
        [[0, 0.3], [1, float("inf")]],
        [[0, 0.3], [1, 1e308]],
        [[0, 0], [1, 10**400]],
    ],
)
def test_cuts_that_are_none_are_a_fault_of_the_line(cuts: object, one_sentence: Callable[[str], None]) -> None:
    line = json.dumps({"audio": "a.flac", "text": "one two three", "cuts": cuts})
    found = read_row(Path(), "line 1", line)
    assert isinstance(found, Fault)
    one_sentence(str(found))


def test_a_run_does_not_go_on_with_more_or_less_of_it(
    tiny_recipe: Callable[..., Recipe], cut_manifest: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    recipe = tiny_recipe(epochs=1)

    def with_splices(times: float) -> Recipe:
        train = (Source(str(cut_manifest), spliced=times),)
        return replace(recipe, data=replace(recipe.data, train=train))

    fit(with_splices(1.0), tmp_path)
    with pytest.raises(RecipeError, match="another spliced") as caught:
        fit(with_splices(2.0), tmp_path)
    one_sentence(str(caught.value))


def test_validation_is_not_spliced(tiny_recipe: Callable[..., Recipe], one_sentence: Callable[[str], None]) -> None:
    recipe = tiny_recipe()
    data = replace(recipe.data, validation=(replace(recipe.data.validation[0], spliced=1.0),))
    with pytest.raises(RecipeError, match="validation") as caught:
        check(replace(recipe, data=data))
    one_sentence(str(caught.value))
