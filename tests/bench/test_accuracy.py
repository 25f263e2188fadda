"""Error rates against counts by hand, intervals and reliability against their definitions, and the command itself."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_bench.manifest import Utterance, normalise, read_manifest
from asr_bench.scenarios.accuracy import align, count_errors, rate, reliability, summary
from asr_export.pack import add_lexicon
from asr_runtime import Transcript, Word
from asr_runtime.errors import RecipeError

Bench = Callable[..., "subprocess.CompletedProcess[str]"]


def transcript(text: str, confidence: float = 0.5) -> Transcript:
    words = tuple(Word(word, 0.0, 1.0, confidence) for word in text.split())
    return Transcript("a.wav", 1.0, text, confidence, words, ())


def utterance(text: str, source: str = "") -> Utterance:
    return Utterance(Path("a.wav"), text, "a.wav", source)


def test_substitutions_insertions_and_deletions_count_and_right_words_are_known() -> None:
    errors = count_errors(utterance("the cat sat down"), transcript("the cut sat all down"))
    assert (errors.word_errors, errors.words) == (2, 4)
    assert (errors.character_errors, errors.characters) == (5, 16)
    assert [right for _, right in errors.confidences] == [True, False, True, False, True]


words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=8)


@given(words, words)
def test_an_alignment_holds_both_texts_in_order_and_has_the_fewest_errors(said: list[str], heard: list[str]) -> None:
    pairs = list(align(said, heard))
    assert [word for word, _ in pairs if word is not None] == said
    assert [word for _, word in pairs if word is not None] == heard
    assert sum(one != other for one, other in pairs) == fewest_errors(said, heard)


def fewest_errors(said: list[str], heard: list[str]) -> int:
    """Wagner and Fischer's recursion, without a library."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        above, row = row, [number]
        for place, other in enumerate(heard):
            row.append(min(row[place] + 1, above[place + 1] + 1, above[place] + (word != other)))
    return row[-1]


@pytest.mark.parametrize(("said", "heard", "wrong"), [("", "", 0), ("", "uh huh", 2), ("yes no", "", 2)])
def test_empty_texts(said: str, heard: str, wrong: int) -> None:
    assert count_errors(utterance(said), transcript(heard)).word_errors == wrong


def test_rates_are_of_all_words_not_means_of_utterances() -> None:
    errors = [
        count_errors(utterance("a b c d e f g h i", "x"), transcript("a b c d e f g h i")),
        count_errors(utterance("k", "y"), transcript("z")),
    ]
    rates = summary(errors)["rates"]
    assert rates["all"]["wer"] == 10.0
    assert (rates["x"]["wer"], rates["y"]["wer"]) == (0.0, 100.0)
    low, high = rates["all"]["wer_interval"]
    assert low <= 10.0 <= high


def test_the_interval_narrows_with_more_utterances() -> None:
    right, wrong = (count_errors(utterance("a b"), transcript(text)) for text in ("a b", "a c"))
    widths = [np.diff(rate([right, wrong] * count)["wer_interval"])[0] for count in (10, 1000)]
    assert widths[1] < widths[0] / 5
    assert widths[1] == pytest.approx(2 * 1.96 * 25 / np.sqrt(2000), rel=0.1)  # of a mean of 0 and 50 %


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=200))
def test_reliability_counts_every_word_once(pairs: list[tuple[float, bool]]) -> None:
    found = reliability(pairs)
    assert sum(item["words"] for item in found["bins"]) == len(pairs)
    if pairs:
        assert 0 <= found["expected_calibration_error"] <= 1


def test_reliability_of_honest_and_boastful_confidences() -> None:
    honest = [(0.75, index % 4 > 0) for index in range(400)]
    assert reliability(honest)["expected_calibration_error"] == 0
    assert reliability([(0.95, index % 2 == 0) for index in range(400)])["expected_calibration_error"] == 0.45


def test_normalising() -> None:
    assert normalise("  It’s 5 o'clock—NOW, Zoë! ") == "it's 5 o'clock now zoë"


@pytest.mark.parametrize("line", ["{", "[]", '{"audio": "a.wav"}', '{"audio": 1, "text": "a"}', "null"])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio": "a.wav", "text": "A"}\n' + line + "\n")
    with pytest.raises(RecipeError, match=r"m\.jsonl, line 2"):
        read_manifest(tmp_path / "m.jsonl")


@pytest.mark.parametrize("separator", ["\u2028", "\x85"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, separator: str) -> None:
    rows = [{"audio": f"a{separator}b.wav", "text": "one"}, {"audio": "c.wav", "text": "two"}]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "m.jsonl").write_bytes(lines.encode())
    assert [(each.name, each.text) for each in read_manifest(tmp_path / "m.jsonl")] == [
        (f"a{separator}b.wav", "one"),
        ("c.wav", "two"),
    ]


def test_missing_and_empty_manifests(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no data at"):
        read_manifest(tmp_path / "absent.jsonl")
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(RecipeError, match="no utterances"):
        read_manifest(tmp_path / "m.jsonl")


def test_accuracy_of_a_bundle(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    results = manifest.parent / "results"
    done = bench("accuracy", tone_bundle, manifest, "--decoder", "greedy", "--output", results)
    assert (done.returncode, done.stderr) == (0, f"asr-bench: wrote {results}/accuracy-test.json and .md\n")
    assert "greedy: WER 14.29 %" in done.stdout  # one word of seven
    result = json.loads((results / "accuracy-test.json").read_text())
    assert result["decoders"]["greedy"]["rates"]["two"]["wer"] == 25.0
    assert result["machine"]["cores"] >= 1
    assert "| greedy | all | 3 | 14.3 (" in (results / "accuracy-test.md").read_text()
    rows = [json.loads(line) for line in (results / "accuracy-test-greedy.jsonl").read_text().splitlines()]
    assert [(row["audio"], row["text"], row["word_errors"]) for row in rows] == [
        ("one.flac", "hello world", 0),
        ("two.flac", "to be or not", 1),
        ("three.flac", "x", 0),
    ]
    assert rows[1]["alignment"][2:] == [["or", "or"], ["knot", "not"]]


def test_a_bundle_whose_confidences_are_tuned_is_drawn_with_and_without(
    bench: Bench, tone_bundle: Path, manifest: Path, tmp_path: Path
) -> None:
    tuned = shutil.copytree(tone_bundle, tmp_path / "tuned")
    told = json.loads((tuned / "bundle.json").read_text())
    told["decoder"] = {**told["decoder"], "confidence_scale": 0.5, "confidence_offset": -1.0}
    (tuned / "bundle.json").write_text(json.dumps(told))
    results = tmp_path / "results"
    decoders = ["--decoder", "beam", "--decoder", "plain-confidences"]
    done = bench("accuracy", tuned, manifest, *decoders, "--alpha", 1, "--output", results)
    assert done.returncode == 0, done.stderr
    found = json.loads((results / "accuracy-test.json").read_text())["decoders"]
    assert found["beam"]["rates"] == found["plain-confidences"]["rates"]
    (line,), (plain,) = (found[key]["confidence"]["bins"][-1:] for key in ("beam", "plain-confidences"))
    assert line["confidence"] < plain["confidence"]
    picture = (results / "accuracy-test-reliability.svg").read_text()
    assert ">beam<" in picture and ">plain-confidences<" in picture
    rows = (results / "accuracy-test.md").read_text()
    assert f"| plain-confidences | {found['plain-confidences']['confidence']['words']} |" in rows


def test_one_sentence_where_it_cannot_measure(bench: Bench, tone_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"audio": "absent.wav", "text": "a"}')
    for arguments in (["absent", tmp_path / "m.jsonl"], [tone_bundle, tmp_path / "m.jsonl", "--decoder", "greedy"]):
        done = bench("accuracy", *arguments, "--output", tmp_path / "results")
        assert done.returncode == 1
        assert "absent" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_results_go_where_it_was_started(bench: Bench, tone_bundle: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    done = bench("accuracy", tone_bundle, manifest, "--decoder", "greedy", cwd=tmp_path / "here")
    assert done.returncode == 0, done.stderr
    assert "wrote asr-bench-results/accuracy-test.json" in done.stderr
    assert (tmp_path / "here" / "asr-bench-results" / "accuracy-test.md").is_file()


def test_an_output_folder_that_cannot_be_made_is_one_sentence(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    done = bench("accuracy", tone_bundle, manifest, "--decoder", "greedy", "--output", manifest / "results")
    assert done.returncode == 1
    assert str(manifest) in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_package_is_one_sentence(tone_bundle: Path, manifest: Path) -> None:
    code = "import sys; sys.modules['whisper_normalizer'] = None; from asr_bench.cli import main; main()"
    command = [sys.executable, "-c", code, "accuracy", str(tone_bundle), str(manifest), "--normaliser", "english"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=manifest.parent)
    assert done.returncode == 1
    assert "whisper_normalizer.english is missing" in done.stderr
    assert "asr-deploy[bench]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_english_normaliser_undoes_spelling_and_contractions(
    bench: Bench, tone_bundle: Path, manifest: Path
) -> None:
    pytest.importorskip("whisper_normalizer")
    rows = [
        {"audio": "one.flac", "text": "Hello, world!"},
        {"audio": "three.flac", "text": "It's the colour, um, of 20"},
    ]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    options = ["--decoder", "greedy", "--normaliser", "english", "--output", manifest.parent / "results"]
    done = bench("accuracy", tone_bundle, manifest, *options)
    assert done.returncode == 0, done.stderr
    lines = (manifest.parent / "results" / "accuracy-test-greedy.jsonl").read_text().splitlines()
    assert [json.loads(line)["reference"] for line in lines] == ["hello world", "it is the color of 20"]


def test_the_bundle_that_comes_along_has_a_name(bench: Bench, manifest: Path) -> None:
    done = bench("accuracy", "english", manifest, "--decoder", "beam", cwd=manifest.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads((manifest.parent / "asr-bench-results" / "accuracy-test.json").read_text())
    assert found["bundle"]["name"] == "english"


def test_an_unknown_normaliser_is_refused(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    done = bench("accuracy", tone_bundle, manifest, "--normaliser", "french")
    assert done.returncode == 2
    assert "none of plain, english" in " ".join(done.stderr.split())


def test_a_bundle_of_phonemes_is_measured_by_its_words(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    words = sorted({word for line in manifest.read_text().splitlines() for word in json.loads(line)["text"].split()})
    bundle, lexicon = manifest.parent / "spoken", manifest.parent / "lexicon.txt"
    lexicon.write_text("".join(f"{word.upper()}\t{' '.join(word)}\n" for word in words))
    shutil.copytree(tone_bundle, bundle)
    add_lexicon(bundle, lexicon)
    done = bench("accuracy", bundle, manifest, "--output", manifest.parent / "results")
    assert done.returncode == 0, done.stderr
    assert "beam: WER" in done.stdout and "greedy" not in done.stdout
    done = bench("accuracy", bundle, manifest, "--decoder", "greedy")
    assert done.returncode == 2
    assert "the best path of this bundle is phonemes" in " ".join(done.stderr.split())
