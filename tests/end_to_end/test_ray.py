"""A real Ray cluster of two nodes on this machine: the texts of `asr-run` alone, each once, also when a worker dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

ray = pytest.importorskip("ray", reason="ray is not installed; pip install 'asr-deploy[ray]'")
pytest.importorskip("pyarrow", reason="pyarrow is not installed; pip install 'asr-deploy[ray]'")

# Ray's own code, not ours, leaves sockets and processes to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore")

COMMAND = [sys.executable, "-c", "from asr_runtime.cli import main; main()"]
COUNT = 40
BROKEN, HELD = 7, 30  # a file that is no audio; one that a test can hold back


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture
def manifest(spell: Callable[[str], np.ndarray], tmp_path: Path) -> Path:
    """Recordings of their own numbers in letters, one of them broken."""
    rows = []
    for number in range(COUNT):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, spell("".join("abcdefghij"[int(digit)] for digit in f"{number:03}")), 16000)
        rows.append({"audio": path.name, "speaker": f"s{number % 3}"})
    (tmp_path / f"{BROKEN}.wav").write_bytes(b"no audio")
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "all.jsonl"


def started(bundle: Path, cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "--model", str(bundle), "--greedy", *arguments]
    return subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alone(bundle: Path, manifest: Path) -> list[str]:
    out, err = started(bundle, manifest.parent, manifest.name).communicate(timeout=60)
    assert f"{BROKEN}.wav" in err
    return out.splitlines()


def eventually(found: Callable[[], int | None], what: str, seconds: float = 90) -> int:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if (value := found()) is not None:
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come")


def reader_of(path: Path, *, but: int = 0) -> int | None:
    """The process that has `path` open; neither this one nor `but`."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path and (pid := int(link.parts[2])) not in (os.getpid(), but):
                return pid
        except OSError:
            continue
    return None


def writer_to(pipe: Path) -> int | None:
    """A pipe's end, once a worker opens the other."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_a_worker_killed_in_the_middle_loses_nothing_and_doubles_nothing(
    address: str, tone_bundle: Path, manifest: Path
) -> None:
    expected = alone(tone_bundle, manifest)
    pipe = manifest.parent / f"{HELD}.wav"
    content = pipe.read_bytes()
    pipe.unlink()
    os.mkfifo(pipe)
    process = started(tone_bundle, manifest.parent, "--ray", address, manifest.name)
    try:
        held = eventually(lambda: writer_to(pipe), "a worker in the middle of its part")
        lost = eventually(lambda: reader_of(pipe), "the worker")
        os.kill(lost, signal.SIGKILL)
        eventually(lambda: reader_of(pipe, but=lost), "another worker")
        os.set_blocking(held, True)
        with os.fdopen(held, "wb") as stream:
            stream.write(content)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert out.splitlines() == expected
    assert len(set(expected)) == COUNT - 1
    assert [f"{BROKEN}.wav: this is not audio" in line for line in err.splitlines() if "asr-run: " in line] == [True]
    assert "Traceback" not in err
    assert process.returncode == 1


@pytest.fixture
def session(address: str) -> Iterator[Any]:
    from asr_runtime import ray as cluster

    with cluster.connected(address):
        yield cluster


def test_rows_are_written_by_the_workers_as_parquet_and_jsonl(
    session: Any, tone_bundle: Path, manifest: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet

    expected = dict(line.split("\t") for line in alone(tone_bundle, manifest))
    done = session.transcribe(session.recordings([str(manifest)]), tone_bundle, greedy=True).materialize()
    for form in ("parquet", "jsonl"):
        session.write(done, str(tmp_path / form), form)
    parts = sorted((tmp_path / "jsonl").iterdir())
    lines = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    table = pyarrow.parquet.read_table(tmp_path / "parquet").to_pylist()
    for rows in (lines, table):
        assert len(rows) == COUNT
        assert {Path(row["audio"]).name: row["text"] for row in rows if row["error"] is None} == expected
        (failed,) = [row for row in rows if row["error"] is not None]
        assert failed["audio"].endswith(f"/{BROKEN}.wav")
        assert "this is not audio" in failed["error"]
    with pytest.raises(Exception, match="something lies here already"):
        session.write(done, str(tmp_path / "jsonl"), "jsonl")


def test_folders_and_files_behind_a_uri_and_bytes_give_the_same_texts(
    session: Any, tone_bundle: Path, manifest: Path
) -> None:
    """`file://` goes the way of `s3://`: listed and fetched by pyarrow, named by its URI."""
    (manifest.parent / f"{BROKEN}.wav").unlink()
    folder = f"file://{manifest.parent}"
    from_folder = session.transcribe(session.recordings([folder]), tone_bundle, greedy=True).take_all()
    assert len(from_folder) == COUNT - 1
    texts = {row["audio"]: row["text"] for row in from_folder}
    assert texts[f"{folder}/12.wav"] == "abc"
    from_manifest = session.transcribe(
        session.recordings([f"{folder}/all.jsonl"]), tone_bundle, workers=1, greedy=True
    ).take_all()
    assert {row["audio"]: row["text"] for row in from_manifest if row["error"] is None} == texts
    assert [row["audio"] for row in from_manifest if row["error"]] == [f"{folder}/{BROKEN}.wav"]
    held = ray.data.read_binary_files(str(manifest.parent / "12.wav"), include_paths=True)
    (row,) = session.transcribe(held, tone_bundle, greedy=True).take_all()
    assert (Path(row["audio"]).name, row["text"], row["error"]) == ("12.wav", "abc", None)
    assert "bytes" not in row


def test_the_command_takes_addresses_as_they_are(address: str, tone_bundle: Path, manifest: Path) -> None:
    there, nowhere = f"file://{manifest.parent}/12.wav", "nosuch://example.org/talk.flac"
    out, err = started(tone_bundle, manifest.parent, "--ray", address, there, nowhere).communicate(timeout=120)
    assert out == f"{there}\tabc\n", err
    assert f"asr-run: {nowhere}: this cannot be fetched" in err


def test_no_cluster_and_no_standard_input_are_one_sentence(
    tone_bundle: Path, manifest: Path, one_sentence: Callable[[str], None]
) -> None:
    for arguments in (["--ray", "127.0.0.1:1", manifest.name], ["--ray", "nowhere", manifest.name]):
        process = started(tone_bundle, manifest.parent, *arguments)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2
        assert "HOST:PORT" in err
        one_sentence(err)
    process = started(tone_bundle, manifest.parent, "--ray", "127.0.0.1:1", "-")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "--ray takes neither" in err) == (2, True)
