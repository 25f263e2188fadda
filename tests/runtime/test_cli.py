"""`asr-run` as people run it: what goes to which stream, exit codes, and what happens to bad input."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_runtime.bundle import NewFile, update_bundle

Run = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-c", "from asr_runtime.cli import main; main()"]


@pytest.fixture
def run(tone_bundle: Path, tmp_path: Path) -> Run:
    def asr_run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--model", str(tone_bundle), "--greedy", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, **options)  # type: ignore[call-overload]

    return asr_run


@pytest.fixture
def recordings(spell: Callable[[str], np.ndarray], tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.wav", tmp_path / "two.flac", tmp_path / "three.wav"]
    for path, text in zip(paths, ["hello", "to you", "all"], strict=True):
        soundfile.write(path, spell(text), 16000)
    return paths


def test_one_file_gives_its_text_alone(run: Run, recordings: list[Path]) -> None:
    done = run(recordings[0])
    assert (done.returncode, done.stdout) == (0, "hello\n")
    (account,) = done.stderr.splitlines()
    assert "s of audio in" in account
    assert "real-time factor" in account
    assert "cpu (ONNX Runtime" in account


def test_several_files_give_path_tab_text_in_order(run: Run, recordings: list[Path]) -> None:
    done = run("one.wav", "two.flac", "three.wav")
    assert done.stdout == "one.wav\thello\ntwo.flac\tto you\nthree.wav\tall\n"


def test_json_of_one_is_an_object_and_of_several_a_list(run: Run, recordings: list[Path]) -> None:
    one = json.loads(run("one.wav", "--format", "json").stdout)
    assert list(one) == ["audio", "duration", "text", "confidence", "words", "segments", "model", "device", "language"]
    assert one["words"] == [{"word": "hello", "start": 0.04, "end": 0.6, "confidence": one["confidence"]}]
    assert 0 < one["confidence"] <= 1
    assert (one["duration"], one["device"]) == (0.64, "cpu")
    several = json.loads(run("one.wav", "absent.wav", "two.flac", "-f", "json").stdout)
    assert [item["text"] for item in several] == ["hello", "to you"]
    assert json.loads(run("absent.wav", "gone.wav", "-f", "json").stdout) == []


def test_a_dash_for_the_output_is_standard_output(run: Run, recordings: list[Path]) -> None:
    done = run("one.wav", "-o", "-")
    assert done.stdout == "hello\n"
    assert not (recordings[0].parent / "-").exists()


def test_standard_input(run: Run, recordings: list[Path]) -> None:
    with recordings[1].open("rb") as stream:
        assert run("-", stdin=stream).stdout == "to you\n"


def test_broken_files_are_a_line_each_and_the_others_come_out(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "letter.wav").write_text("Dear reader")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16000, subtype="FLOAT")
    (tmp_path / "cut.wav").write_bytes(recordings[0].read_bytes()[:5000])
    broken = ["absent.wav", "empty.wav", "letter.wav", "none.wav", "nan.wav", "cut.wav"]
    done = run(*broken[:3], "one.wav", *broken[3:], "two.flac", "--quiet")
    assert (done.returncode, done.stdout) == (1, "one.wav\thello\ntwo.flac\tto you\n")
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [["asr-run", name] for name in broken]


def test_where_nothing_was_heard_the_error_is_all(run: Run) -> None:
    long = "x" * 300
    for name, fault in (("absent.wav", "there is no such file"), (long, "the file cannot be opened (File name too")):
        done = run(name)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"asr-run: {name}: {fault}")
        assert line.count(name) == 1


def test_beam_search_and_its_settings(tone_bundle: Path, arpa: Path, cat_or_cut: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "c.wav", cat_or_cut, 16000, subtype="FLOAT")

    def asr_run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--model", str(tone_bundle), str(tmp_path / "c.wav"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    assert asr_run("--no-lm", "--beam-size", 8).stdout == "cut\n"
    assert asr_run("--lm", arpa).stdout == "cat\n"
    assert asr_run("--lm", arpa, "--alpha", 0, "--beta", 0).stdout == "cut\n"
    for wrong in (["--lm", tmp_path / "c.wav"], ["--lm", "absent"], ["--lm", arpa, "--alpha", "nan"]):
        done = asr_run(*wrong)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr
    for wrong in (["--lm", arpa, "--no-lm"], ["--greedy", "--beam-size", 5], ["--no-lm", "--alpha", 0.5]):
        done = asr_run(*wrong)
        assert (done.returncode, done.stdout) == (2, "")
    assert "no language model for alpha to weigh" in asr_run("--alpha", 0.5).stderr  # the bundle has none either


def test_a_hot_word_may_say_how_it_sounds(
    tone_bundle: Path, spell: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "lexicon.txt").write_text("cooper\tc u p e r\nnetties\tn e t i s\n")
    shutil.copytree(tone_bundle, tmp_path / "spoken")
    update_bundle(tmp_path / "spoken", [NewFile(source=tmp_path / "lexicon.txt", role="lexicon")])
    soundfile.write(tmp_path / "a.wav", spell("cupernetis netis"), 16000)

    def heard(word: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "--model", str(tmp_path / "spoken"), str(tmp_path / "a.wav"), "--quiet", "--hotword", word]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    done = heard("kubernetes=cooper netties:4")
    assert (done.stdout, done.stderr, done.returncode) == ("kubernetes netties\n", "", 0)
    done = heard("kubernetes:4")
    assert (done.stdout, done.returncode) == ("", 2)
    assert "has no pronunciation for 'kubernetes'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_windows_may_have_another_length(
    run: Run, tone_bundle: Path, spell: Callable[[str], np.ndarray], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "long.wav", spell("cut cat act " * 20), 16000)
    expected = run("long.wav").stdout
    assert len(expected.split()) == 60
    assert run("long.wav", "--window-seconds", 6).stdout == expected
    done = run("long.wav", "--window-seconds", 2)
    assert (done.returncode, done.stdout) == (2, "")
    assert "got windows of 2 seconds; give 5 to 3600" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_unusable_bundle_is_one_line_and_code_2(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    for model in ("absent", ".", "one.wav"):
        done = run("one.wav", "--model", model)
        assert (done.returncode, done.stdout) == (2, "")
        assert len(done.stderr.splitlines()) == 1
    assert "Traceback" in run("one.wav", "--model", "absent", "--debug").stderr


@pytest.mark.parametrize(
    "settings",
    ['{"end_of_sentence": "no"}', '{"look_ahead": 7}', '{"alpha": 1%s}' % ("0" * 400), '{"hot_words": 3}'],
    ids=["text", "number", "huge", "list"],
)
def test_unusable_settings_of_a_bundle_are_one_line_and_code_2(
    tone_bundle: Path, recordings: list[Path], tmp_path: Path, settings: str
) -> None:
    shutil.copytree(tone_bundle, tmp_path / "wrong")
    manifest = tmp_path / "wrong" / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"decoder": {}', f'"decoder": {settings}'))
    command = [*COMMAND, "--model", str(tmp_path / "wrong"), str(recordings[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["one.wav", "--format", "doc"],
        ["one.wav", "--device", "tpu"],
        ["one.wav", "--beam-size", "0"],
        ["one.wav", "--surprise"],
    ],
)
def test_wrong_usage_is_code_2_without_a_traceback(run: Run, recordings: list[Path], arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_that_is_not_there_is_never_another(run: Run, recordings: list[Path], device: str) -> None:
    done = run("one.wav", "--device", device)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"device {device} cannot be had" in done.stderr


def test_output_is_whole_and_nothing_is_overwritten(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    done = run("one.wav", "two.flac", "--output", "out.txt")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "out.txt").read_text() == "one.wav\thello\ntwo.flac\tto you\n"
    done = run("three.wav", "--output", "out.txt")
    assert done.returncode == 2
    assert "out.txt" in done.stderr
    assert "hello" in (tmp_path / "out.txt").read_text()
    assert run("three.wav", "--output", "out.txt", "--force").returncode == 0
    assert (tmp_path / "out.txt").read_text() == "all\n"
    assert run("three.wav", "--output", "absent/out.txt").returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.wav", "out.txt", "three.wav", "two.flac"]


def test_verbose_quiet_version_and_help(run: Run, recordings: list[Path]) -> None:
    assert run("one.wav", "--quiet").stderr == ""
    verbose = run("one.wav", "--verbose").stderr
    for word in ("tones", "read", "inference", "decode"):
        assert word in verbose
    assert run("--version").stdout.startswith("asr-run ")
    assert "Exit codes: 0" in run("--help").stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_leaves_nothing_half_written(tone_bundle: Path, tmp_path: Path, number: int, code: int) -> None:
    pipe, temporary = tmp_path / "speech.pipe", tmp_path / "temporary"
    os.mkfifo(pipe)
    temporary.mkdir()
    with zipfile.ZipFile(tmp_path / "tones.asr", "w") as archive:
        for file in tone_bundle.iterdir():
            archive.write(file, file.name)
    command = [*COMMAND, "--model", str(tmp_path / "tones.asr"), "--greedy", str(pipe), "-o", str(tmp_path / "out.txt")]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    # It waits in the pipe for audio that never comes.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process, pipe.open("wb"):
        time.sleep(0.5)  # until it does
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (code, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.pipe", "temporary", "tones.asr"]
    assert not list(temporary.glob("asr-bundle-*"))


@pytest.mark.parametrize("module", ["onnxruntime", "numpy"])
def test_interrupted_while_its_modules_are_imported(
    run: Run, recordings: list[Path], tmp_path: Path, module: str
) -> None:
    """Compiled modules turn an interrupt during their import into ImportError."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\n"
        "try: os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: raise ImportError('initialization failed')\n"
    )
    done = run("one.wav", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_engine_that_cannot_be_imported_is_not_called_absent(
    run: Run, recordings: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime.py").write_text("import libsomething")
    done = run("one.wav", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "cannot be imported (No module named 'libsomething')" in done.stderr


def test_a_pipe_as_output_is_written_to_and_stays(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    pipe = tmp_path / "text.pipe"
    os.mkfifo(pipe)
    for force in ([], ["--force"]):
        with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True) as reader:
            done = run("one.wav", "--output", pipe, *force)
            assert reader.communicate(timeout=30)[0] == "hello\n"
        assert (done.returncode, pipe.is_fifo()) == (0, True)


def test_a_link_as_output_stays_a_link(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to("real.txt")
    assert run("one.wav", "--output", "link.txt").returncode == 0
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "hello\n"


def test_when_all_inputs_fail_an_earlier_output_stays(run: Run, recordings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("earlier")
    assert run("absent.wav", "--output", "out.txt", "--force").returncode == 1
    assert (tmp_path / "out.txt").read_text() == "earlier"
    assert run("absent.wav", "--output", "new.txt").returncode == 1
    assert not (tmp_path / "new.txt").exists()


def test_standard_input_twice_is_refused(run: Run) -> None:
    done = run("-", "-", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert "only once" in done.stderr


def shell(tone_bundle: Path, arguments: list[object]) -> subprocess.CompletedProcess[str]:
    """The command in bash; `{}` stands for `asr-run` with the bundle."""
    command = " ".join(f"'{part}'" for part in [*COMMAND, "--model", tone_bundle, "--greedy"])
    line = " ".join(map(str, arguments)).replace("{}", command)
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)


def test_a_reader_that_leaves_has_its_own_code(tone_bundle: Path, recordings: list[Path]) -> None:
    done = shell(tone_bundle, ["{}", *recordings * 3, "--quiet | true; echo ${PIPESTATUS[0]}"])
    assert (done.stdout, done.stderr) == ("141\n", "")


def test_closed_streams(tone_bundle: Path, recordings: list[Path], tmp_path: Path) -> None:
    done = shell(tone_bundle, ["{}", recordings[0], ">&-"])
    assert (done.returncode, done.stderr) == (2, "asr-run: standard output is closed; open it or give --output.\n")
    done = shell(tone_bundle, ["{}", recordings[0], "-o", tmp_path / "out.txt", ">&-"])
    assert (done.returncode, (tmp_path / "out.txt").read_text()) == (0, "hello\n")
    done = shell(tone_bundle, ["{}", recordings[0], "-o", "/dev/full", ">&-"])
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    done = shell(tone_bundle, ["{}", recordings[0], "2>&-"])
    assert (done.returncode, done.stdout) == (0, "hello\n")
    done = shell(tone_bundle, ["{} - <&-"])
    assert (done.returncode, done.stderr) == (
        2,
        "asr-run: standard input is closed; give a file, or pipe a recording in.\n",
    )


def test_what_was_said_before_an_error_comes_out(tmp_path: Path) -> None:
    """Into a file or pipe Python holds lines back, unless PYTHONUNBUFFERED is set."""
    code = (
        "import asr_runtime.command as command, asr_runtime.errors as errors\n"
        "from asr_runtime.cli import main\n"
        "def verify(options):\n"
        "    print('float32: another text')\n"
        "    raise errors.BundleError('the next model is damaged')\n"
        "command._verify = verify\n"
        "main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code, "--verify", "bundle"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout) == (2, "float32: another text\n")
    assert done.stderr == "asr-run: the next model is damaged\n"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as left:
        done = subprocess.run(command, stdout=left, stderr=subprocess.PIPE, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (2, "asr-run: the next model is damaged\n")


def test_a_signal_ends_it_though_nobody_reads_what_it_says() -> None:
    code = (
        "import os, signal, sys\n"
        "from asr_runtime import cli, command\n"
        "def run(arguments):\n"
        "    os.set_blocking(1, False)\n"
        "    try:\n"
        "        while True: os.write(1, bytes(4096))\n"
        "    except BlockingIOError: os.set_blocking(1, True)\n"
        "    print('held back')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "command.run = run\n"
        "cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.wait(timeout=30) == 143
        finally:
            process.kill()


def test_a_full_disk_is_one_line(tone_bundle: Path, recordings: list[Path]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*COMMAND, "--model", str(tone_bundle), "--greedy", "--quiet", str(recordings[0])]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "asr-run: the output cannot be written (No space left on device); free some space or give another --output."
    ]


def test_names_that_are_no_text_and_any_locale(tone_bundle: Path, recordings: list[Path], tmp_path: Path) -> None:
    names = [b"caf\xe9.wav", "naïve\nfile.wav".encode()]
    for name in names:
        shutil.copy(recordings[0], os.fsencode(tmp_path) + b"/" + name)
    command = [*COMMAND, "--model", str(tone_bundle), "--greedy", "--quiet"]
    done = subprocess.run([*command, *names], capture_output=True, cwd=tmp_path, env={**os.environ, "LC_ALL": "C"})
    assert (done.returncode, done.stdout) == (0, b"".join(name + b"\thello\n" for name in names))
    done = subprocess.run([*command, b"ab\nsent\xff"], capture_output=True, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def on_a_terminal(command: list[str], **environment: str) -> str:
    """What a command writes to standard error when that is a terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=follower, env={**os.environ, **environment}
    ) as done:
        os.close(follower)
        seen = b""
        while True:
            try:
                block = os.read(leader, 4096)
            except OSError:  # how Linux says that the terminal's other side is closed
                break
            seen += block
    os.close(leader)
    assert done.returncode == 0
    return seen.decode()


def test_progress_shows_on_a_terminal_only(tone_bundle: Path, recordings: list[Path], run: Run) -> None:
    command = [*COMMAND, "--model", str(tone_bundle), "--greedy", "--batch-size", "1", *map(str, recordings)]
    shown = on_a_terminal(command, COLUMNS="60")
    assert "  0% [....................] 0/3 files, 0.00 h of audio" in shown
    assert all(len(line) < 60 for line in re.split("\r|\x1b\\[K|\n", shown) if "files" in line)
    assert "files" not in on_a_terminal(command, NO_COLOR="1")
    assert "files" not in on_a_terminal([*command, "--quiet"])
    assert "files" not in run(*recordings).stderr
