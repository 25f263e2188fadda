from __future__ import annotations

import gzip
import lzma
import math
import random
from pathlib import Path

import pytest

from asr_export.language_model import Counts, Settings, build_language_model, find_tool
from asr_runtime.errors import ExportError

SMALL = Settings(order=3, prune=(0, 0, 1), vocabulary_minimum=2, discount_fallback=True, memory="200M")


def sentences(number: int) -> list[str]:
    """Sentences of a small grammar, so that some word pairs are far more likely than others."""
    chance = random.Random(1)
    nouns = ["dog", "cat", "house", "tree", "man's hat"]
    return [
        f"{chance.choice(['the', 'a', 'my'])} {chance.choice(nouns)} {chance.choice(['sees', 'is', 'likes'])} "
        f"{chance.choice(['the', 'a', 'no'])} {chance.choice(nouns)}"
        for _ in range(number)
    ] + ["rare words stand once"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(sentences(3000)) + "\n")
    return path


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    try:
        find_tool("lmplz")
    except ExportError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def built(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Counts, list[str]]:
    out, said = tmp_path_factory.mktemp("lm") / "lm.binary", list[str]()
    counts = build_language_model([text], out, SMALL, report=said.append)
    return out, counts, said


def test_counts_and_progress_are_said(built: tuple[Path, Counts, list[str]]) -> None:
    _, counts, said = built
    assert counts.sentences == 3001
    assert counts.distinct == 17
    assert b"man's" in counts.kept
    assert b"rare" not in counts.kept
    assert "3,001 lines" in said[0]
    assert "13 are seen 2 times or more" in said[0]
    assert ["lmplz" in said[1], "build_binary" in said[2]] == [True, True]


def test_the_folder_holds_the_model_alone(built: tuple[Path, Counts, list[str]]) -> None:
    assert [path.name for path in built[0].parent.iterdir()] == ["lm.binary"]


def test_probabilities_are_normalised_and_prefer_the_grammar(built: tuple[Path, Counts, list[str]]) -> None:
    kenlm = pytest.importorskip("kenlm", reason="the kenlm module is not installed")
    model = kenlm.Model(str(built[0]))
    assert model.order == 3
    assert "rare" not in model
    before, after = kenlm.State(), kenlm.State()
    model.BeginSentenceWrite(before)
    model.BaseScore(before, "the", after)
    words = [word.decode() for word in built[1].kept]
    total = sum(10 ** model.BaseScore(after, word, kenlm.State()) for word in [*words, "</s>", "<unk>"])
    assert total == pytest.approx(1, abs=0.05)  # 8-bit probabilities
    assert model.score("the dog sees a tree") > model.score("tree a sees dog the") + 2
    assert model.perplexity("the dog sees a tree") < 8


def test_the_decoder_reads_it(built: tuple[Path, Counts, list[str]]) -> None:
    import numpy as np

    from asr_runtime.decoder import BeamConfig, BeamSearchDecoder

    tokens = [*"' abcdefghijklmnopqrstuvwxyz", ""]
    spoken = "the dog sees a tree"
    log_probs = np.full((2 * len(spoken), len(tokens)), -12.0, np.float32)
    for i, character in enumerate(spoken):
        log_probs[2 * i, tokens.index(character)] = log_probs[2 * i + 1, -1] = -1e-3
    log_probs[2 * spoken.index("dog"), tokens.index("n")] = 0  # heard "nog", which is no word
    (best,) = BeamSearchDecoder(tokens, language_model=built[0], config=BeamConfig(token_floor=-20)).decode(log_probs)
    assert best.text == spoken
    assert -20 < best.lm_score < 0


@pytest.mark.parametrize(("suffix", "compress"), [(".xz", lzma.compress), (".gz", gzip.compress)])
def test_compressed_text_gives_the_same_model(
    suffix: str, compress: object, text: Path, built: tuple[Path, Counts, list[str]], tmp_path: Path
) -> None:
    packed = tmp_path / f"text{suffix}"
    packed.write_bytes(compress(text.read_bytes()))  # type: ignore[operator]
    build_language_model([packed], tmp_path / "lm.binary", SMALL)
    assert (tmp_path / "lm.binary").read_bytes() == built[0].read_bytes()


def test_texts_without_a_last_line_end_do_not_run_together(tmp_path: Path, text: Path) -> None:
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("\n".join([*sentences(500)[:-1], "my dog"]))
    second.write_text("\n".join(["cat likes me", *sentences(500)]))
    counts = build_language_model([first, second], tmp_path / "lm.binary", SMALL)
    assert counts.sentences == 500 + 1 + 1 + 501
    assert b"dogcat" not in counts.kept


def refused(texts: list[Path], out: Path, settings: Settings, match: str) -> None:
    before = out.read_bytes() if out.exists() else None
    with pytest.raises(ExportError, match=match) as error:
        build_language_model(texts, out, settings)
    assert "\n" not in str(error.value)
    assert (out.read_bytes() if out.exists() else None) == before
    assert not list(out.parent.glob(f".{out.name}*"))


@pytest.mark.parametrize(
    ("content", "settings", "match"),
    [
        (b"", SMALL, "no word of the text is seen 2 times"),
        (b"good words\nthe <s> word\n" * 9, SMALL, r"line 2: <s> is a word that KenLM keeps for itself"),
        (b"good\nwords\nb\xe9d\n" * 9, SMALL, r"line 3: b'b\\xe9d' is not UTF-8"),
        (
            "good\nna\u00efve\n".encode() * 9,
            Settings(alphabet="' abcdefghijklmnopqrstuvwxyz"),
            "line 2: the word 'naïve' has 'ï'",
        ),
        (b"one two three\n" * 30, Settings(order=3, prune=(), memory="200M"), "give more text, or --discount-fallback"),
        (b"one two\n" * 30, Settings(order=7), "the order is 7; take 2 to 6"),
        (b"one two\n" * 30, Settings(order=2, prune=(0, 2, 3)), "the pruning is '0 2 3'"),
        (b"one two\n" * 30, Settings(order=3, prune=(0, 2, 1)), "the pruning is '0 2 1'"),
        (b"one two\n" * 30, Settings(memory="much"), "lmplz failed: "),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_what_cannot_be_estimated_is_refused(content: bytes, settings: Settings, match: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    refused([text], tmp_path / "lm.binary", settings, match)


def test_missing_and_broken_texts_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "lm.binary"
    refused([tmp_path / "none.txt"], out, SMALL, "none.txt: there is no such file")
    for name in ("broken.xz", "broken.gz"):
        (tmp_path / name).write_bytes(b"this is not compressed")
        refused([tmp_path / name], out, SMALL, f"{name} cannot be read")
    whole = lzma.compress("\n".join(sentences(3000)).encode())
    (tmp_path / "cut.xz").write_bytes(whole[: len(whole) // 2])
    refused([tmp_path / "cut.xz"], out, SMALL, "cut.xz cannot be read")


def test_nothing_is_overwritten_without_force(text: Path, tmp_path: Path) -> None:
    out = tmp_path / "lm.binary"
    out.write_bytes(b"mine")
    refused([text], out, SMALL, "something lies here already")
    build_language_model([text], out, SMALL, force=True)
    assert out.stat().st_size > 1000


def test_tools_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KENLM_TOOLS", str(tmp_path))
    with pytest.raises(ExportError, match="which holds no program lmplz"):
        find_tool("lmplz")
    monkeypatch.delenv("KENLM_TOOLS")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(ExportError, match="run scripts/install-kenlm"):
        find_tool("lmplz")
    tool = tmp_path / "lmplz"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert find_tool("lmplz") == tool


def test_more_text_gives_lower_perplexity(tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="the kenlm module is not installed")
    perplexities = []
    for number in (40, 3000):
        text, out = tmp_path / f"{number}.txt", tmp_path / f"{number}.binary"
        text.write_text("\n".join(sentences(number)))
        build_language_model([text], out, SMALL)
        model = kenlm.Model(str(out))
        tested = sentences(3100)[3000:3100]
        logs = sum(model.score(sentence) for sentence in tested)
        perplexities.append(math.pow(10, -logs / sum(len(sentence.split()) + 1 for sentence in tested)))
    assert perplexities[1] < perplexities[0]
