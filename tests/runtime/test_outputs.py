"""Where `asr-run` writes: one file, a file for each recording, a file that grows; resumed, stopped, never half."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_runtime.decoder import BeamConfig
from asr_runtime.options import destination, parse, search_settings

Spell = Callable[[str], np.ndarray]
COMMAND = [sys.executable, "-c", "from asr_runtime.cli import main; main()"]


@pytest.fixture
def talks(spell: Spell, tmp_path: Path) -> Path:
    folder = tmp_path / "talks"
    for name, text in {"one.wav": "hello", "two.flac": "to you", "late/three.wav": "all"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, spell(text), 16000)
    return folder


@pytest.fixture
def run(tone_bundle: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def asr_run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--model", str(tone_bundle), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    return asr_run


Run = Callable[..., subprocess.CompletedProcess[str]]


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_for_each_in_a_folder_in_whispers_words(run: Run, talks: Path, tmp_path: Path) -> None:
    done = run("talks", "--output_dir", "texts", "--output_format", "txt,srt", "--word_timestamps", "True", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = ["late/three.srt", "late/three.txt", "one.srt", "one.txt", "two.srt", "two.txt"]
    assert files(tmp_path / "texts") == expected
    assert (tmp_path / "texts" / "late" / "three.txt").read_text() == "all\n"
    assert "--> " in (tmp_path / "texts" / "two.srt").read_text()
    assert run("talks/one.wav", "-o", "texts", "-f", "all", "--resume", "-q").returncode == 0
    assert files(tmp_path / "texts") == sorted([*expected, "one.json", "one.tsv", "one.vtt"])


def test_beside_each_recording_and_nothing_is_replaced(run: Run, talks: Path) -> None:
    assert run("talks/one.wav", "--beside", "-f", "json").returncode == 0
    (talks / "one.json").write_text("mine")
    done = run("talks", "--beside", "-f", "json", "-q")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        f"asr-run: {Path('talks/one.wav')}: talks/one.json is there already; "
        "give --resume to keep it, or --force to replace it."
    ]
    assert json.loads((talks / "two.json").read_text())["text"] == "to you"
    assert (talks / "one.json").read_text() == "mine"
    assert run("talks", "--beside", "-f", "json", "--resume").returncode == 0
    assert (talks / "one.json").read_text() == "mine"
    assert run("talks/one.wav", "--beside", "-f", "json", "--force").returncode == 0
    assert json.loads((talks / "one.json").read_text())["text"] == "hello"


def test_a_file_in_place_of_the_folder_is_said_at_once(run: Run, talks: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").touch()
    done = run(talks, "--output-dir", "texts")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("asr-run: texts: this is a file where a folder for the texts is wanted; give another.\n")


def test_two_recordings_never_share_a_file(run: Run, talks: Path, spell: Spell, tmp_path: Path) -> None:
    soundfile.write(talks / "one.flac", spell("other"), 16000)
    done = run("talks/one.wav", "talks/one.flac", "-o", "texts/", "-q")
    assert done.returncode == 1
    assert done.stderr == (
        "asr-run: talks/one.flac: its text would be texts/one.txt, which is that of talks/one.wav; rename one.\n"
    )
    assert (tmp_path / "texts" / "one.txt").read_text() == "hello\n"


def test_subtitles_of_several_recordings_need_a_folder(run: Run, talks: Path) -> None:
    done = run("talks", "-f", "srt")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "--output-dir" in done.stderr


def test_json_lines_grow_and_resume_behind_a_line_that_was_cut(run: Run, talks: Path, tmp_path: Path) -> None:
    assert run("talks/one.wav", "-o", "all.jsonl", "-f", "jsonl", "--resume").returncode == 0
    out = tmp_path / "all.jsonl"
    first = out.read_text()
    out.write_text(first + '{"audio": "talks/two.fl')
    assert run("talks", "-o", "all.jsonl", "-f", "jsonl", "--resume").returncode == 0
    assert out.read_text().startswith(first)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["audio"]: row["text"] for row in rows} == {
        "talks/one.wav": "hello",
        "talks/two.flac": "to you",
        "talks/late/three.wav": "all",
    }
    assert len(rows) == 3
    before = out.stat().st_mtime_ns
    done = run("talks", "-o", "all.jsonl", "-f", "jsonl", "--resume")
    assert (done.returncode, done.stderr) == (0, "3 of 3 recordings have their output already and are left out\n")
    assert run("talks", "-o", "all.jsonl", "-f", "jsonl", "--resume", "--quiet").stderr == ""
    assert out.stat().st_mtime_ns == before
    out.write_text("a text\n")
    done = run("talks", "-o", "all.jsonl", "-f", "jsonl", "--resume")
    assert (done.returncode, done.stderr.count("\n"), out.read_text()) == (2, 1, "a text\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_leaves_whole_outputs_and_resumes(
    tone_bundle: Path, run: Run, talks: Path, tmp_path: Path, number: signal.Signals
) -> None:
    os.mkfifo(tmp_path / "never.wav")
    arguments = ["talks", "never.wav", "-f", "jsonl", "-o", "all.jsonl", "--resume", "-q", "--threads", "2"]
    command = [*COMMAND, "--model", str(tone_bundle), *arguments]
    with subprocess.Popen(command, cwd=tmp_path) as running:
        try:
            for _ in range(3000):
                if (tmp_path / "all.jsonl").exists() and b"\n" in (tmp_path / "all.jsonl").read_bytes():
                    break
                time.sleep(0.02)
            running.send_signal(number)
            running.wait(30)
        finally:
            running.kill()  # or it would wait for the pipe for ever
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert 1 <= len(rows) <= 3
    (tmp_path / "never.wav").unlink()
    assert run("talks", *arguments[2:]).returncode == 0
    rows = [json.loads(line)["audio"] for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert sorted(rows) == ["talks/late/three.wav", "talks/one.wav", "talks/two.flac"]


def test_other_readings_in_json(run: Run, cat_or_cut: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "c.wav", cat_or_cut, 16000, subtype="FLOAT")
    content = json.loads(run("c.wav", "--no-lm", "--n-best", 50, "-f", "json").stdout)
    texts = [reading["text"] for reading in content["alternatives"]]
    assert texts[0] == "cut"
    assert 1 < len(set(texts)) == len(texts) <= 50
    assert content["text"] == "cut"
    scores = [reading["score"] for reading in content["alternatives"]]
    assert scores == sorted(scores, reverse=True)


def test_hot_words_are_heard(run: Run, cat_or_cut: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "c.wav", cat_or_cut, 16000, subtype="FLOAT")
    assert run("c.wav", "--no-lm").stdout == "cut\n"
    assert run("c.wav", "--no-lm", "--hotword", "cat:30").stdout == "cat\n"
    assert run("c.wav", "--no-lm", "--hotword", "cat:0.1").stdout == "cut\n"
    (tmp_path / "hot.txt").write_text("# names\n\ncat:30\n")
    assert run("c.wav", "--no-lm", "--hotwords-file", "hot.txt").stdout == "cat\n"
    for wrong in (["--hotword", "cat:much"], ["--hotwords-file", "absent"], ["--hotword", " "], ["--hotword", "c:inf"]):
        done = run("c.wav", *wrong)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr


# --- options ---------------------------------------------------------------------------------------------------------


def test_words_of_whisper_mean_the_same() -> None:
    theirs = "a.wav --output_dir out --output_format=vtt --word_timestamps False --verbose True --max_line_width 30"
    ours = "a.wav --output-dir out -f vtt --no-word-timestamps -v --max-line-width=30"
    assert parse(theirs.split()) == parse(ours.split())
    assert parse(["--verbose=False", "--", "--odd_name.wav"]).files == ["--odd_name.wav"]
    assert parse(["True", "--verbose"]).files == ["True"]


@pytest.mark.parametrize(
    "line",
    [
        "a.wav -f json,txt",
        "a.wav -f json,verbose_json -o out/",
        "a.wav --resume",
        "a.wav --resume -o out.txt",
        "a.wav --resume --force -o out/",
        "a.wav --beside -o out.txt",
        "a.wav --greedy --hotword cat",
        "a.wav --greedy --n-best 3",
        "a.wav --n-best 0",
        "a.wav --n-best 2",
        "a.wav --n-best 2 -f srt,txt -o out/",
        "a.wav --task translate",
        "a.wav --max-batch-seconds nan",
        "a.wav --threads 1e3",
        "a.wav --thread 1",
    ],
)
def test_words_that_make_no_sense_are_one_line(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(line.split())
    assert exit.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_an_output_that_is_a_folder_is_one(tmp_path: Path) -> None:
    assert destination(parse(["a.wav", "-o", str(tmp_path)])).folder == tmp_path
    assert destination(parse(["a.wav", "-o", "new/"])).folder == Path("new")
    assert destination(parse(["a.wav", "-o", "new"])).file == Path("new")


def test_settings_of_the_search_are_those_of_the_decoder() -> None:
    options = parse(
        ["a", "--beam-size", "7", "--alpha", "0.5", "--beta", "-1", "--hotword", "x y:2", "--n-best", "2", "-f", "json"]
    )
    assert BeamConfig(**search_settings(options)) == BeamConfig(
        beam_size=7, alpha=0.5, beta=-1.0, n_best=2, hot_words={"x y": 2.0}
    )


def test_a_word_that_says_how_it_sounds_has_a_higher_boost_by_default() -> None:
    words = ["cat", "kubernetes=cooper net ease", "layla=lay la:3"]
    options = parse(["a", *(argument for word in words for argument in ("--hotword", word))])
    assert search_settings(options)["hot_words"] == dict(zip(words[:2], (4.0, 16.0), strict=True)) | {"layla=lay la": 3}


def test_another_language_is_refused(run: Run, talks: Path) -> None:
    assert run("talks/one.wav", "--language", "EN").stdout == "hello\n"
    done = run("talks/one.wav", "--language", "de")
    assert (done.returncode, done.stdout) == (2, "")
    assert "tones is for en, not for de" in done.stderr
