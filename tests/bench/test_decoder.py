"""The comparison of decoders: its inputs, the processes it starts, how it measures, and the command itself."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asr_bench.contestants import KNOWN, WORKER, DecoderFailed, Worker, choose
from asr_bench.decoder_report import at_equal_accuracy
from asr_bench.emissions import ENGLISH, Emissions, compute_emissions, read_emissions
from asr_bench.manifest import Utterance
from asr_bench.peers.worker import forget_peak, memory
from asr_bench.plots import HEIGHT, WIDTH, Axis, Line, chart
from asr_bench.scenarios.decoder import Task, error_rates, interleaved, pieces
from asr_runtime import BeamSearchDecoder
from asr_runtime.errors import DecoderError

PEERS = "ASR_BENCH_PEERS"


def spelt(text: str, rival: str = "", tokens: tuple[str, ...] = ENGLISH) -> np.ndarray:
    """Log-probabilities [2 * letters, tokens] that say `text`, and a little less clearly `rival`."""
    frames = np.full((2 * len(text), len(tokens)), 0.001)
    frames[1::2, tokens.index("")] = 1
    for row, (letter, other) in enumerate(zip(text, rival or text, strict=True)):
        frames[2 * row, tokens.index(other)] = 0.9
        frames[2 * row, tokens.index(letter)] = 1
    return np.log(frames / frames.sum(axis=1, keepdims=True)).astype(np.float32)


def save(path: Path, texts: list[str], parts: list[np.ndarray], **more: object) -> Path:
    np.savez(path, emis=np.concatenate(parts), offs=np.cumsum([0, *map(len, parts)]), refs=np.array(texts), **more)
    return path


@pytest.fixture
def clear(tmp_path: Path) -> Path:
    texts = ["cat", "cut cat", "cat cat cat", "cut", "cat", "cut cut"]
    return save(tmp_path / "clear.npz", texts, [spelt(text) for text in texts])


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "cats.words").write_text("cat\ncut\n")
    return tmp_path / "cats.words"


# --- emissions


def test_columns_come_in_one_order_whatever_theirs_was(tmp_path: Path) -> None:
    tokens = ("", "'", " ", *"zyxwvutsrqponmlkjihgfedcba")
    save(tmp_path / "e.npz", ["it's a"], [spelt("it's a", tokens=tokens)], tokens=np.array(tokens), frame_seconds=0.02)
    found = read_emissions(tmp_path / "e.npz")
    assert found.tokens == ENGLISH
    assert found.seconds([0]) == pytest.approx(12 * 0.02)
    np.testing.assert_array_equal(found.log_probs, spelt("it's a"))


def test_half_precision_and_fewer_utterances(clear: Path, tmp_path: Path) -> None:
    with np.load(clear) as file:
        np.savez(tmp_path / "half.npz", **{**file, "emis": file["emis"].astype(np.float16)})
    found = read_emissions(tmp_path / "half.npz", slice(1, 3))
    assert (found.references, found.log_probs.dtype) == (("cut cat", "cat cat cat"), np.float32)
    assert len(found.log_probs) == found.offsets[-1] == 14 + 22


@pytest.mark.parametrize(
    "changes",
    [
        {"emis": np.zeros((6, 28), np.float32)},
        {"emis": np.zeros((6, 29), int)},
        {"emis": np.zeros(29, np.float32)},
        {"offs": np.array([0, 4, 7])},
        {"offs": np.array([0, 6])},
        {"offs": np.array([0, 4, 4])},
        {"offs": np.array([-1, 4, 6])},
        {"refs": np.array([]), "offs": np.array([0])},
        {"tokens": np.array(["", *ENGLISH[1:]])},
        {"tokens": np.array(["b", *ENGLISH[1:]])},
    ],
)
def test_what_is_no_emissions_is_refused(
    tmp_path: Path, changes: dict[str, np.ndarray], one_sentence: Callable[[str], None]
) -> None:
    good = {"emis": np.zeros((6, 29), np.float32), "offs": np.array([0, 4, 6]), "refs": np.array(["a", "b"])}
    np.savez(tmp_path / "e.npz", **{**good, **changes})
    with pytest.raises(DecoderError) as error:
        read_emissions(tmp_path / "e.npz")
    one_sentence(str(error.value))


def test_a_bundle_hears_a_manifest(tone_bundle: Path, spell: Callable[[str], np.ndarray], tmp_path: Path) -> None:
    texts = ["hello world", "it's so"]
    said = [Utterance(tmp_path / f"{number}.flac", text, "") for number, text in enumerate(texts)]
    for utterance in said:
        soundfile.write(utterance.audio, spell(utterance.text), 16000)
    found = compute_emissions(tone_bundle, said)
    assert (found.tokens, found.references) == (ENGLISH, tuple(texts))
    parts = np.split(found.log_probs, found.offsets[1:-1])
    assert [BeamSearchDecoder(found.tokens).decode(part)[0].text for part in parts] == texts


# --- contestants and their processes


def test_peers_are_taken_from_their_interpreters_and_settings_changed() -> None:
    chosen = choose(["pyctcdecode=py311", "flashlight-text"], ["pyctcdecode:alpha=1,token_min_logp=-7.5"], {})
    assert [(one.name, one.python) for one in chosen] == [
        ("ours", sys.executable),
        ("ours tight", sys.executable),
        ("flashlight-text", sys.executable),
        ("flashlight-text tight", sys.executable),
        ("pyctcdecode", "py311"),
    ]
    assert chosen[-1].settings(True) == {"alpha": 1, "beta": 7.0, "token_min_logp": -7.5, "beam_prune_logp": -10.0}
    assert chosen[-1].settings(False) == {"token_min_logp": -7.5, "beam_prune_logp": -10.0}


def test_our_defaults_are_stated_and_the_bonus_needs_a_model() -> None:
    ours = choose(["ours"], ["ours:look_ahead=false,beam_threshold=inf"], {})[0]
    assert ours.stated(True).items() >= {"look_ahead": False, "beam_threshold": "inf", "token_floor": -7.0}.items()
    assert ours.settings(False)["beta"] == 0


def test_peers_run_on_the_last_python_that_they_have() -> None:
    for path in WORKER.parent.glob("*.py"):
        ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_peak_of_memory_is_that_since_it_was_forgotten() -> None:
    block = np.ones(40_000_000, np.uint8)
    del block
    assert memory()["peak"] > 40
    forget_peak()
    before = memory()
    block = np.ones(40_000_000, np.uint8)
    del block
    assert memory()["peak"] - before["resident"] == pytest.approx(40, abs=4)


def worker(clear: Path, arpa: Path, words: Path, **changes: object) -> Worker:
    ours = replace(KNOWN[0], **changes)
    return Worker(ours, ENGLISH, {"lm": arpa, "words": words}, clear, 10)


def test_a_process_gives_what_the_decoder_gives(clear: Path, arpa: Path, words: Path) -> None:
    emissions = read_emissions(clear)
    decoder = BeamSearchDecoder(ENGLISH, language_model=arpa, lexicon=words)
    with closing(worker(clear, arpa, words)) as process:
        answer = process.decode(10, [[0], [1], [3, 1]])
        assert answer["texts"][:2] == ["cat", "cut cat"]
        joined = np.concatenate(np.split(emissions.log_probs, emissions.offsets[1:-1])[3:0:-2])
        assert answer["texts"][2] == decoder.decode(joined)[0].text
        assert process.decode(1, [[0]])["texts"] == ["cat"]  # another beam
    assert all(time > 0 for time in answer["nanoseconds"])
    assert process.loaded["python"] == sys.version.split()[0]


BEST_PATH = """
#include <stdlib.h>
static const char kTokens[] = " abcdefghijklmnopqrstuvwxyz'";
void *pr_load(const char *lm, const char **words, int count) { return malloc(1); }
int pr_decode(void *decoder, const float *x, int frames, int tokens, int beam, float alpha, float beta, float floor,
              float threshold, int look_ahead, char *text, int capacity) {
  int length = 0, last = tokens - 1;
  for (int t = 0; t < frames; ++t) {
    int best = 0;
    for (int k = 1; k < tokens; ++k) best = x[t * tokens + k] > x[t * tokens + best] ? k : best;
    if (best != last && best != tokens - 1 && length < capacity - 1) text[length++] = kTokens[best];
    last = best;
  }
  text[length] = 0;
  return length;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_c_library_is_a_peer_by_its_path(clear: Path, arpa: Path, words: Path, tmp_path: Path) -> None:
    (tmp_path / "best.c").write_text(BEST_PATH)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "best.so", tmp_path / "best.c"], check=True)
    chosen = choose([f"library={tmp_path / 'best.so'}"], ["library:alpha=0.5"], {})
    assert [one.name for one in chosen] == ["ours", "ours tight", "library"]
    assert "library" not in chosen[-1].stated(True) and chosen[-1].stated(True)["alpha"] == 0.5
    with closing(Worker(chosen[-1], ENGLISH, {"lm": arpa, "words": words}, clear, 10)) as process:
        assert process.decode(10, [[0], [1]])["texts"] == ["cat", "cut cat"]
        assert process.loaded["version"].startswith("sha256 ")
    with pytest.raises(DecoderFailed, match="needs a language model"):
        Worker(chosen[-1], ENGLISH, {}, clear, 10)


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_c_library_that_fails_is_one_sentence(
    clear: Path, arpa: Path, words: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    def library(name: str, old: str, new: str) -> Worker:
        (tmp_path / f"{name}.c").write_text(BEST_PATH.replace(old, new))
        command = ["cc", "-shared", "-fPIC", "-o", tmp_path / f"{name}.so", tmp_path / f"{name}.c"]
        subprocess.run(command, check=True)
        peer = choose([f"library={tmp_path / name}.so"], [], {})[-1]
        return Worker(peer, ENGLISH, {"lm": arpa, "words": words}, clear, 10)

    with pytest.raises(DecoderFailed, match="pr_load returned NULL for") as error:
        library("refuses", "return malloc(1)", "return NULL")
    one_sentence(str(error.value))
    with closing(library("fails", "return length", "return -3")) as process:
        with pytest.raises(DecoderFailed, match="pr_decode returned -3") as error:
            process.decode(10, [[0]])
        one_sentence(str(error.value))


def test_an_error_in_a_process_is_one_sentence(
    clear: Path, arpa: Path, words: Path, tmp_path: Path, one_sentence: Callable[[str], None]
) -> None:
    for changes in ({"python": str(tmp_path / "absent")}, {"pruning": {"wings": 2}}, {"package": "not_a_package"}):
        with pytest.raises(DecoderError) as error:
            worker(clear, arpa, words, **changes)
        one_sentence(str(error.value))
    with closing(worker(clear, arpa, words)) as process:
        with pytest.raises(DecoderFailed, match="index 77"):
            process.decode(10, [[77]])
        assert process.decode(10, [[0]])["texts"] == ["cat"]
        process._process.kill()
        with pytest.raises(DecoderFailed, match="ended with code -9"):
            process.decode(10, [[0]])


def test_a_process_that_hangs_is_ended(clear: Path, arpa: Path, words: Path) -> None:
    with closing(worker(clear, arpa, words)) as process:
        process._patience = 0.3
        process._process.send_signal(signal.SIGSTOP)
        with pytest.raises(DecoderFailed, match=r"no answer in 0\.3 s"):
            process.decode(10, [[0]])


def test_who_ends_early_is_left_out_and_the_others_go_on(clear: Path, arpa: Path, words: Path) -> None:
    task = Task(read_emissions(clear), {}, clear)
    with closing(worker(clear, arpa, words)) as one, closing(worker(clear, arpa, words, name="other")) as other:
        other._process.kill()
        runs = interleaved({"ours": one, "other": other}, task, 10, 2)
        assert list(interleaved({"ours": one, "other": other}, task, 5, 1)) == ["ours"]
    assert list(runs) == ["ours"]
    assert "beam 10" in task.failures["other"]
    assert tuple(runs["ours"].texts[number] for number in range(6)) == task.emissions.references
    assert all(len(times) == 2 for times in runs["ours"].nanoseconds.values())


def test_error_rates() -> None:
    rates = error_rates(["cat sat", "dog"], ["cat sat", "dig"])
    assert (rates["wer"], rates["cer"]) == (33.33, 10.0)


@given(st.lists(st.integers(25, 500), min_size=1, max_size=20), st.lists(st.integers(1, 60), min_size=2, max_size=4))
@settings(deadline=None)
def test_pieces_of_every_length_hold_the_same_utterances(frames: list[int], lengths: list[int]) -> None:
    parts = [np.zeros((count, len(ENGLISH)), np.float32) for count in frames]
    emissions = Emissions.ordered(parts, ["a"] * len(frames), ENGLISH, 0.04)
    cuts = [pieces(emissions, seconds, max(lengths)) for seconds in lengths]
    utterances = [[number for piece in cut for number in piece] for cut in cuts]
    assert utterances.count(utterances[0]) == len(lengths)
    assert emissions.seconds(utterances[0]) >= max(lengths) - 1e-6
    for seconds, cut in zip(lengths, cuts, strict=True):
        assert len(cut) == 1 or emissions.seconds(cut[-1]) >= seconds / 2 - 1e-6
        assert all(emissions.seconds(piece[:-1]) < seconds for piece in cut[:-1])


def test_the_longest_length_is_one_piece() -> None:
    emissions = Emissions.ordered([np.zeros((350, len(ENGLISH)), np.float32)] * 100, ["a"] * 100, ENGLISH, 0.04)
    assert [len(pieces(emissions, seconds, 900)) for seconds in (10, 60, 300, 900)] == [65, 16, 3, 1]


# --- charts


@given(st.lists(st.tuples(st.floats(1e-3, 1e6), st.floats(0, 1e4)), min_size=1, max_size=9), st.booleans())
@example([(1.0, 5e-324)], True)
@example([(1.0, 1e-322)], False)
def test_a_chart_is_xml_and_holds_its_points(points: list[tuple[float, float]], logarithmic: bool) -> None:
    picture = chart("a <b> & c", "x", "y", [Line("one", points), Line("two", points[:1])], log_up=logarithmic)
    lines = [element for element in ElementTree.fromstring(picture).iter() if element.tag.endswith("polyline")]
    assert [len(line.attrib["points"].split()) for line in lines] == [1, len(points)]
    for place in lines[1].attrib["points"].split():
        across, up = map(float, place.split(","))
        assert 0 < across < WIDTH
        assert 0 < up < HEIGHT


def test_ticks_are_round() -> None:
    assert Axis.around([0.3, 30], True, 0, 1).ticks() == pytest.approx([0.5, 1, 2, 5, 10, 20])
    assert Axis.around([5, 18], False, 0, 1).ticks() == [4, 6, 8, 10, 12, 14, 16, 18]


# --- the report


def test_ours_at_equal_accuracy_is_the_cheapest_that_is_no_worse() -> None:
    ours = [(5, 9.0, 1.0), (10, 8.0, 2.0), (20, 7.0, 4.0), (50, 7.5, 3.0)]
    points = [{"decoder": "ours", "beam": beam, "wer": wer, "ms": ms} for beam, wer, ms in ours]
    points += [{"decoder": "theirs", "beam": 7, "wer": wer, "ms": 30.0} for wer in (8.0, 7.8, 6.9)]
    rows = [line.split(" | ")[4:] for line in at_equal_accuracy(points).splitlines()[2:]]
    assert [row[0] for row in rows] == ["10", "50", "—"]
    assert [row[3] for row in rows] == ["15.0 |", "10.0 |", "not reached |"]
    assert at_equal_accuracy(points[:4]) == ""


# --- the command


def bench(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from asr_bench.cli import main; main()", "decoder", *map(str, arguments)]
    surroundings = {**os.environ, "NO_COLOR": "1", "COLUMNS": "400", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=surroundings)


def test_with_and_without_a_language_model(tmp_path: Path, arpa: Path, words: Path) -> None:
    emissions = save(tmp_path / "cats.npz", ["cat"] * 3, [spelt("cut", rival="cat")] * 3)
    options = ["--emissions", emissions, "--peer", f"ours={sys.executable}", "--beams", "5,20", "--repeats", 2]
    model = ["--lm", arpa, "--words", words, "--lengths", "1,3"]
    done = bench(*options, *model, "--output", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results" / "decoder-cats.json").read_text())
    points = {(p["decoder"], p["beam"], p["wer"]) for p in result["sweep"]}
    assert points == {("ours", 5, 0), ("ours", 20, 0), ("ours tight", 5, 0), ("ours tight", 20, 0)}
    assert [p["pieces"] for p in result["length"] if p["decoder"] == "ours"] == [3, 1]
    assert result["decoders"]["ours"]["loads"] == 5
    assert result["files"]["lm"]["name"] == arpa.name
    assert done.stdout == (tmp_path / "results" / "decoder-cats.md").read_text()
    for path in (tmp_path / "results").iterdir():
        assert str(tmp_path) not in path.read_text()
    assert len(list((tmp_path / "results").glob("decoder-cats-*.svg"))) == 3

    done = bench(*options, "--lengths", "", "--name", "plain", "--output", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results" / "plain.json").read_text())
    assert {p["wer"] for p in result["sweep"]} == {100}
    assert "without a language model" in done.stdout


@pytest.mark.skipif(PEERS not in os.environ, reason=f"{PEERS} names no interpreters of other decoders")
def test_installed_peers_read_what_is_clear(clear: Path, tmp_path: Path) -> None:
    done = bench("--emissions", clear, "--beams", 20, "--lengths", "", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "decoder-clear.json").read_text())
    assert {p["decoder"]: p["wer"] for p in result["sweep"]} == dict.fromkeys(result["settings"], 0)
    assert not result["failures"]


def test_phonemes_are_for_ours_alone(tmp_path: Path, arpa: Path, one_sentence: Callable[[str], None]) -> None:
    tokens = ("AH", "AE", "K", "T", " ", "")
    (tmp_path / "words.txt").write_text("cat\tK AE T\ncut\tK AH T\n")
    rows = np.full((3, len(tokens)), np.log(0.02), np.float32)
    rows[range(3), [tokens.index(token) for token in ("K", "AE", "T")]] = np.log(0.9)
    save(tmp_path / "cat.npz", ["cat"], [rows], tokens=np.array(tokens))
    options = ["--emissions", tmp_path / "cat.npz", "--lm", arpa, "--words", tmp_path / "words.txt", "--lengths", ""]
    done = bench(*options, "--beams", 5, "--peer", "ours", "--output", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "results" / "decoder-cat.json").read_text())
    assert {p["decoder"]: p["wer"] for p in result["sweep"]} == {"ours": 0, "ours tight": 0}
    done = bench(*options, "--beams", 5, "--peer", "ctc-beam-decoder", "--output", tmp_path / "others")
    assert done.returncode == 1
    one_sentence(done.stderr)
    assert "ctc-beam-decoder: wanted tokens of one character each" in done.stderr


def test_a_decoder_that_refuses_all_is_told(tmp_path: Path, one_sentence: Callable[[str], None]) -> None:
    broken = save(tmp_path / "nan.npz", ["cat"], [np.full((5, 29), np.nan, np.float32)])
    done = bench("--emissions", broken, "--peer", "ours", "--beams", 5, "--lengths", "", "--output", tmp_path / "r")
    assert done.returncode == 1
    one_sentence(done.stderr)
    assert "NaN" in done.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "either as --emissions, or as --bundle"),
        (["--emissions", "E", "--bundle", "folder/b", "--manifest", "m"], "either as --emissions"),
        (["--bundle", "folder/b"], "--bundle and --manifest"),
        (["--bundle", "englsh"], "no such bundle"),
        (["--bundle", "english", "--manifest", "absent.jsonl"], "absent.jsonl"),
        (["--emissions", "absent.npz"], "absent.npz"),
        (["--emissions", "E", "--skip", "6"], "skip fewer"),
        (["--emissions", "E", "--lm", "E"], "--words"),
        (["--emissions", "E", "--scorer", "E"], "--lm and --words"),
        (["--emissions", "E", "--lm", "absent.lm", "--words", "E"], "absent.lm"),
        (["--emissions", "E", "--lm", "E", "--words", "E", "--peer", "ours"], "ours: "),
        (["--emissions", "E", "--peer", "kaldi"], "'kaldi'"),
        (["--emissions", "E", "--peer", "library"], "library=PATH"),
        (["--emissions", "E", "--peer", "ours=absent-python"], "absent-python"),
        (["--emissions", "E", "--peer", f"pyctcdecode={sys.executable}-none"], "cannot be run"),
        (["--emissions", "E", "--lm", "E", "--words", "E", "--peer", "ds_ctcdecoder"], "--scorer"),
        (["--emissions", "E", "--settings", "ours:wings=2"], "'wings'"),
        (["--emissions", "E", "--settings", "ours:alpha=two"], "'two'"),
        (["--emissions", "E", "--settings", "ours:alpha=-1"], "alpha -1"),
        (["--emissions", "E", "--settings", "theirs:alpha=1"], "'theirs'"),
    ],
)
def test_wrong_inputs_are_one_sentence(
    clear: Path, tmp_path: Path, arguments: list[str], told: str, one_sentence: Callable[[str], None]
) -> None:
    given = [str(clear) if argument == "E" else argument for argument in arguments]
    done = bench(*given, "--output", tmp_path / "results")
    assert done.returncode == 1
    one_sentence(done.stderr)
    assert told in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("beams", ["0", "ten", "10,", "-5"])
def test_beams_that_are_no_numbers_are_wrong_usage(clear: Path, beams: str) -> None:
    done = bench("--emissions", clear, f"--beams={beams}")
    assert done.returncode == 2
    assert "--beams" in done.stderr
    assert "Traceback" not in done.stderr
