"""Recordings to text on a Ray cluster: Ray Data feeds a pool of actors, each of which loads the bundle once.

A part is the recordings that one call of an actor takes. Where an actor or its machine is lost, Ray runs its part again
on another and throws away what the lost one had not handed over; the rows of a part are handed over together, so that
each recording gives one row. The package ray belongs to the extra `ray`; nothing else of the runtime imports it.
"""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import ray
import ray.data
from pyarrow import fs
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from asr_runtime.audio import AudioSource
from asr_runtime.errors import AsrError, AudioError
from asr_runtime.inputs import AUDIO, expand
from asr_runtime.recognizer import Recognizer, load
from asr_runtime.transcript import Alternative, Segment, Transcript, Word

PART = 16  # recordings: a lost worker costs at most these, and a part's cost of passing on is below 1 %
RETRIES = 4  # of a part: a recording that brings each worker down ends the job, which else would never end
CONNECT_SECONDS = 10.0

_WORD = pyarrow.struct({"word": pyarrow.string()} | dict.fromkeys(("start", "end", "confidence"), pyarrow.float64()))
_SEGMENT = pyarrow.struct(
    {"start": pyarrow.float64(), "end": pyarrow.float64(), "text": pyarrow.string(), "confidence": pyarrow.float64()}
)
_READING = pyarrow.struct({"text": pyarrow.string(), "score": pyarrow.float64(), "confidence": pyarrow.float64()})
# What becomes of one recording; `error` is null, or all that comes after it is.
FIELDS = {
    "error": pyarrow.string(),
    "duration": pyarrow.float64(),
    "text": pyarrow.string(),
    "confidence": pyarrow.float64(),
    "words": pyarrow.list_(_WORD),
    "segments": pyarrow.list_(_SEGMENT),
    "model": pyarrow.string(),
    "device": pyarrow.string(),
    "language": pyarrow.string(),
    "alternatives": pyarrow.list_(_READING),
}


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to the cluster at `address` (host:port). Raises AsrError where there is none."""
    host, _, port = address.rpartition(":")
    try:
        # Ray itself would try for minutes.
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (RayError, RuntimeError, ValueError, OSError) as error:
        fault = str(error).split("\n")[0].rstrip(".")
        raise AsrError(f"{address}: there is no Ray cluster to be had ({fault}); give its HOST:PORT.") from error
    try:
        context = DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        yield
    except RayError as error:
        fault = str(error).strip().splitlines()[-1].rstrip(".")
        raise AsrError(f"{address}: the cluster gave up ({fault}); see Ray's logs there.") from error
    finally:
        ray.shutdown()


def recordings(sources: Iterable[str]) -> Dataset:
    """Rows with `number` and `audio`, the place of a recording, for files, manifests and folders here or in a store.

    What pyarrow's filesystems reach (`s3://`, `gs://`, `abfs://`, `hdfs://`, `file://`) is given as URI; paths are made
    absolute, and must lead to the same files on every node. Raises AudioError where a source names nothing.
    """
    return listed(place for source in sources for place in _places(source))


def listed(places: Iterable[str]) -> Dataset:
    """Rows with `number`, from 0, and `audio` for paths or URIs of recordings, in blocks of a part each."""
    rows = [{"number": number, "audio": place} for number, place in enumerate(places)]
    return ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // PART))


def transcribe(
    dataset: Dataset,
    model: str | os.PathLike[str] | None = None,
    *,
    workers: int | tuple[int, int] | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
    part: int = PART,
    **settings: Any,
) -> Dataset:
    """The rows of `dataset`, each with the transcript of its recording or with the `error` that this one gave.

    The recording is the row's `audio`, a path or URI, or its `bytes` (then named by `path`), as
    `ray.data.read_binary_files(…, include_paths=True)` gives them; `bytes` are left out of the result. `workers`
    actors, a number or from so many to so many, by default from one to as many as the cluster has room for, each take
    `cpus` cores and `gpus`, load the bundle `model` once, and get `part` recordings at a time. `settings` are those of
    `load`.
    """
    most = max(1, int(ray.cluster_resources().get("CPU", 1) / cpus)) if cpus else None
    fewest, most = workers if isinstance(workers, tuple) else (workers or 1, workers or most)
    return dataset.map_batches(
        Worker,
        fn_constructor_args=(_everywhere(model), {"threads": max(1, int(cpus)), **settings}),
        batch_size=part,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=cpus,
        num_gpus=gpus,
        max_task_retries=RETRIES,
    )


def _everywhere(model: str | os.PathLike[str] | None) -> str | None:
    """A bundle's path as workers find it; a name, like `english`, stays."""
    if model is None:
        return None
    return str(Path(model).absolute()) if Path(model).exists() else os.fspath(model)


class Worker:
    """An actor: a recognizer, and the parts that it is given."""

    def __init__(self, model: str | None, settings: Mapping[str, Any]) -> None:
        self._recognizer: Recognizer = load(model, **settings)

    def __call__(self, rows: pyarrow.Table) -> pyarrow.Table:
        """The rows of one part with what became of each."""
        names = rows.column("path" if "bytes" in rows.column_names else "audio").to_pylist()
        held = rows.column("bytes").to_pylist() if "bytes" in rows.column_names else [None] * len(names)
        outcomes = list(_outcomes(self._recognizer, names, held))
        if "bytes" in rows.column_names:
            rows = rows.drop_columns(["bytes", "path"]).append_column("audio", pyarrow.array(names))
        for field, kind in FIELDS.items():
            rows = rows.append_column(field, pyarrow.array([outcome.get(field) for outcome in outcomes], kind))
        return rows


def write(dataset: Dataset, folder: str, form: str) -> None:
    """Let the workers write `dataset` as files of form `jsonl` or `parquet` into `folder`, a path or URI.

    A file's name follows from its part, so that a part that is written again replaces its file. Raises AsrError where
    something lies there already.
    """
    filesystem, path = _filesystem(folder)
    if filesystem.get_file_info(path).type != fs.FileType.NotFound:
        raise AsrError(f"{folder}: something lies here already; give another --output.")
    if form == "parquet":
        dataset.write_parquet(path, filesystem=filesystem)
    else:
        dataset.write_json(path, filesystem=filesystem, force_ascii=False, lines=True)


def results(dataset: Dataset) -> Iterator[Transcript | AsrError]:
    """For each row that was `listed` and went through `transcribe`, in that order, its transcript or its error."""
    # Blocks come as they get done, and late where a worker was lost.
    early: dict[int, Transcript | AsrError] = {}
    due = 0
    for row in dataset.iter_rows():
        early[row["number"]] = _result(row)
        while due in early:
            yield early.pop(due)
            due += 1


def _result(row: Mapping[str, Any]) -> Transcript | AsrError:
    if row["error"] is not None:
        return AudioError(row["error"])
    parts = {
        "words": tuple(Word(**word) for word in row["words"]),
        "segments": tuple(Segment(**segment) for segment in row["segments"]),
        "alternatives": tuple(Alternative(**reading) for reading in row["alternatives"]),
    }
    return Transcript(**{name: row[name] for name in ("audio", *FIELDS) if name != "error"} | parts)


def _outcomes(recognizer: Recognizer, names: list[str], held: list[bytes | None]) -> Iterator[dict[str, Any]]:
    """What became of each recording of a part; one that cannot be fetched does not keep the others back."""
    faults: dict[int, str] = {}

    def fetched() -> Iterator[AudioSource]:
        for number, (name, content) in enumerate(zip(names, held, strict=True)):
            try:
                yield _fetched(name, content)
            except (OSError, pyarrow.ArrowException) as error:
                faults[number] = f"{name}: this cannot be fetched ({str(error).splitlines()[0]}); check it."

    through = iter(list(recognizer.results(fetched())))
    for number in range(len(names)):
        if number in faults:
            yield {"error": faults[number]}
            continue
        result = next(through)
        yield {"error": str(result)} if isinstance(result, AsrError) else asdict(result)


def _fetched(name: str, content: bytes | None) -> AudioSource:
    """A local path as it is; else the file's bytes under its name."""
    if content is None and "://" not in name:
        return name
    if content is None:
        filesystem, path = fs.FileSystem.from_uri(name)
        with filesystem.open_input_stream(path) as stream:
            content = stream.read()
    named = io.BytesIO(content)
    named.name = name  # for errors
    return named


def _places(source: str) -> Iterator[str]:
    if "://" not in source:
        for found in expand([source]):
            if isinstance(found, AudioError):
                raise found
            yield str(Path(found.name).absolute())
        return
    filesystem, path = _filesystem(source)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        root = source.removesuffix(path)
        for file in sorted(filesystem.get_file_info(fs.FileSelector(path, recursive=True)), key=lambda file: file.path):
            if file.extension.lower() in AUDIO.split():
                yield f"{root}{file.path}"
    elif source.endswith(".jsonl"):
        with filesystem.open_input_stream(path) as stream:
            for line in stream.read().decode().splitlines():
                yield _beside(source, json.loads(line)["audio"])
    else:
        yield source


def _beside(source: str, name: str) -> str:
    return name if "://" in name or name.startswith("/") else f"{source.rpartition('/')[0]}/{name}"


def _filesystem(place: str) -> tuple[fs.FileSystem, str]:
    try:
        filesystem, path = fs.FileSystem.from_uri(place if "://" in place else str(Path(place).absolute()))
    except (OSError, pyarrow.ArrowException) as error:
        raise AsrError(f"{place}: this place cannot be reached ({str(error).splitlines()[0]}); check it.") from error
    return filesystem, path
