"""Word language models from text, with KenLM's own `lmplz` and `build_binary` (Heafield et al. 2013).

`scripts/install-kenlm` builds the two programs. Text is taken as it is: words are what stands between blanks.
"""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from asr_runtime.errors import ExportError

RESERVED = (b"<s>", b"</s>", b"<unk>")
LARGEST_ORDER = 6  # of KenLM as it is built here and in the decoder


@dataclass(frozen=True)
class Settings:
    """How the model is estimated and stored; the defaults are those of the model that ships."""

    order: int = 4
    prune: tuple[int, ...] = (0, 1, 3, 6)  # n-grams of each order seen this often or less are dropped
    vocabulary_minimum: int = 5  # words seen less often count as unknown
    alphabet: str | None = None  # characters that words may have; None: any
    discount_fallback: bool = False  # for texts too small for Kneser-Ney discounts of their own
    memory: str = "40%"  # of the machine, for sorting


@dataclass(frozen=True)
class Counts:
    """What the text holds."""

    sentences: int
    words: int
    distinct: int
    kept: tuple[bytes, ...]


def build_language_model(
    texts: Sequence[Path],
    out: Path,
    settings: Settings | None = None,
    *,
    force: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Counts:
    """Write a quantised KenLM trie (8 bits for probability and back-off, compressed pointers) as `out`.

    `report` gets a line at each step. Raises ExportError; then `out` is as it was.
    """
    settings = settings or Settings()
    lmplz, build_binary = check(texts, out, settings, force)
    counts = count_words(texts, settings)
    report(
        f"{counts.sentences:,} lines, {counts.words:,} words, {counts.distinct:,} distinct, "
        f"of which {len(counts.kept):,} are seen {settings.vocabulary_minimum} times or more"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        work = Path(folder)
        vocabulary, arpa, binary = work / "vocabulary.txt", work / "lm.arpa", work / "lm.binary"
        vocabulary.write_bytes(b"\n".join(counts.kept))
        report(f"estimating {settings.order}-grams with lmplz")
        run([lmplz, *estimation(settings, work), "--limit_vocab_file", vocabulary, "--arpa", arpa], lines(texts), work)
        report("quantising with build_binary")
        run([build_binary, "-q", "8", "-b", "8", "-a", "255", "-T", f"{work}/", "trie", arpa, binary], (), work)
        binary.replace(out)
    return counts


def estimation(settings: Settings, work: Path) -> list[str]:
    """The options of lmplz."""
    options = ["--order", str(settings.order), "--memory", settings.memory, "--temp_prefix", f"{work}/"]
    if settings.prune:
        options += ["--prune", *map(str, settings.prune)]
    return [*options, *(["--discount_fallback"] if settings.discount_fallback else [])]


def check(texts: Sequence[Path], out: Path, settings: Settings, force: bool) -> tuple[Path, Path]:
    """Refuse what cannot work before any work is done; return the two programs."""
    if not 2 <= settings.order <= LARGEST_ORDER:
        raise ExportError(f"the order is {settings.order}; take 2 to {LARGEST_ORDER}.")
    prune = settings.prune
    if len(prune) > settings.order or any(a > b for a, b in zip((0, *prune), prune, strict=False)):
        wanted = f"up to {settings.order} counts that do not fall, like 0 1 3 6"
        raise ExportError(f"the pruning is {' '.join(map(str, prune))!r}; give {wanted}.")
    for text in texts:
        if not text.is_file():
            raise ExportError(f"{text}: there is no such file; give text with one sentence a line.")
    if out.exists() and not force:
        raise ExportError(f"{out}: something lies here already; give another path, or --force to replace it.")
    if out.is_dir():
        raise ExportError(f"{out} is a folder; give the path of the model's file.")
    return find_tool("lmplz"), find_tool("build_binary")


def find_tool(name: str) -> Path:
    """One of KenLM's programs: in KENLM_TOOLS if that is set, else beside this Python, on PATH or in ~/.local/bin."""
    if tools := os.environ.get("KENLM_TOOLS"):
        if found := shutil.which(name, path=tools):
            return Path(found)
        raise ExportError(f"KENLM_TOOLS is {tools}, which holds no program {name}; set it to where KenLM's tools lie.")
    places = [f"{sys.prefix}/bin", os.environ.get("PATH", os.defpath), str(Path.home() / ".local/bin")]
    if found := shutil.which(name, path=os.pathsep.join(places)):
        return Path(found)
    raise ExportError(f"KenLM's program {name} is not installed; run scripts/install-kenlm, or set KENLM_TOOLS.")


def lines(texts: Iterable[Path]) -> Iterator[bytes]:
    """The lines of plain, .gz and .xz files, each with its line end."""
    for text in texts:
        try:
            with opened(text) as stream:
                for line in stream:
                    yield line if line.endswith(b"\n") else line + b"\n"
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise ExportError(f"{text} cannot be read ({error}); give whole plain, .gz or .xz text.") from error


def opened(text: Path) -> IO[bytes]:
    """A text for reading, decompressed where its name says so."""
    if text.suffix == ".xz":
        return lzma.open(text)
    if text.suffix == ".gz":
        return gzip.open(text)  # type: ignore[return-value]  # a GzipFile reads as any binary file does
    return text.open("rb")


def count_words(texts: Sequence[Path], settings: Settings) -> Counts:
    """Count the text's words and check them."""
    seen: Counter[bytes] = Counter()
    sentences = 0
    for line in lines(texts):
        sentences += 1
        seen.update(line.split())
    refuse_words(texts, seen, settings.alphabet)
    kept = tuple(sorted(word for word, count in seen.items() if count >= settings.vocabulary_minimum))
    if not kept:
        raise ExportError(
            f"no word of the text is seen {settings.vocabulary_minimum} times;"
            " give more text, or a lower --vocabulary-minimum."
        )
    return Counts(sentences, seen.total(), len(seen), kept)


def refuse_words(texts: Sequence[Path], seen: Iterable[bytes], alphabet: str | None) -> None:
    """Raise ExportError for KenLM's reserved words, for what is not UTF-8 and for characters outside the alphabet."""
    for word in seen:
        fault = word_fault(word, alphabet)
        if fault:
            place, number = next(
                (text, i) for text in texts for i, line in enumerate(lines([text]), 1) if word in line.split()
            )
            raise ExportError(f"{place}, line {number}: {fault}; clean the text.")


def word_fault(word: bytes, alphabet: str | None) -> str:
    """What is wrong with a word, or ""."""
    if word in RESERVED:
        return f"{word.decode()} is a word that KenLM keeps for itself"
    try:
        text = word.decode()
    except UnicodeDecodeError:
        return f"{word!r} is not UTF-8"
    outside = next((c for c in text if alphabet is not None and c not in alphabet), None)
    return f"the word {text!r} has {outside!r}, which is not in the alphabet" if outside else ""


def run(command: Sequence[str | Path], text: Iterable[bytes], work: Path) -> None:
    """Run one of KenLM's programs with `text` as its input; raises ExportError with what it said when it failed."""
    said = work / "said.txt"
    with said.open("wb") as stderr, said.open("rb") as reader:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr)
        try:
            feed(process, text)
            failed = process.wait()
        finally:
            process.kill()
            process.wait()
        if failed:
            raise ExportError(f"{Path(command[0]).name} failed: {reason(reader.read())}.")


def feed(process: subprocess.Popen[bytes], text: Iterable[bytes]) -> None:
    """Write the text to a program's input; that the program ended early is for its exit status to tell."""
    assert process.stdin is not None  # it was opened with a pipe
    try:
        with process.stdin as stdin:
            for line in text:
                stdin.write(line)
    except BrokenPipeError:
        pass


def reason(said: bytes) -> str:
    """The sentence of KenLM's output that tells what went wrong, and the way out if we know one."""
    found = [line.strip() for line in said.decode(errors="replace").splitlines() if line.strip()]
    if any("discount" in line.lower() and "could not calculate" in line.lower() for line in found):
        return "the text is too small for Kneser-Ney discounts; give more text, or --discount-fallback"
    return found[-1].rstrip(".") if found else "it said nothing"
