"""The page and the comparison of results, on results that the scenarios really made."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_bench import compare as comparison
from asr_bench.page import blocks
from asr_bench.results import METRICS

Bench = Callable[..., CompletedProcess[str]]
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
VOID = {"meta", "path", "rect", "polyline"}


class Checker(HTMLParser):
    """Every element is closed in order, and nothing is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.fetched += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def test_everything_and_its_page(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    results = manifest.parent / "results"
    options = ["--rounds", 1, "--seconds", "10,20", "--peer", "asr_runtime"]
    done = bench("all", tone_bundle, manifest, *options, "--output", results)
    assert done.returncode == 0, done.stderr
    names = ["test", "throughput", "latency", "cold-start", "memory", "roofline"]
    assert {path.stem for path in results.glob("*.md")} == {f"tones-{name}" for name in names} | {"tones"}
    html = (results / "tones.html").read_text(encoding="utf-8")
    found = check(html)
    assert len(html.encode()) < 300_000
    assert all(link.startswith("#") for link in found.fetched)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert found.found.count("svg") == 7  # throughput 2, latency 2, memory, roofline, accuracy
    assert found.found.count("section") == len(names)
    assert json.loads((results / "tones.json").read_text()).keys() == {f"tones-{name}" for name in names}
    assert "# Roofline of tones" in (results / "tones.md").read_text()


def test_committed_results_make_a_page(bench: Bench, tmp_path: Path) -> None:
    paths = sorted(path for path in RESULTS.glob("*.json") if "scenario" in json.loads(path.read_text()))
    done = bench("report", *paths, "--output", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "page.html").read_text()
    assert len(html.encode()) < 300_000
    assert check(html).found.count("section") == len(paths)


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "got no JSON"), ("[]", "is no result"), ('{"scenario": "latency", "machine": {}}', "measure it again")],
)
def test_what_is_no_result_is_one_sentence(bench: Bench, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.json").write_text(content)
    done = bench("report", tmp_path / "x.json", "--output", tmp_path / "page.html")
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_cells_and_titles_are_escaped() -> None:
    markdown = "# a < b\n\ntext `code` & more\n\n| x |\n| --- |\n| one \\| two <script> |\n"
    html = "\n".join(blocks(markdown))
    check(html)
    assert "<h2>a &lt; b</h2>" in html
    assert "<code>code</code> &amp; more" in html
    assert "<td>one | two &lt;script&gt;</td>" in html


# --- comparing ----------------------------------------------------------------------------------------------------


def speeds(path: Path, session: str, factors: list[float], rates: list[float]) -> Path:
    rounds = {"real_time_factor": factors, "rate": rates}
    points = [{"key": {"system": "asr_runtime", "threads": 1}, "rounds": rounds}]
    path.write_text(json.dumps({"scenario": "throughput", "machine": {}, "session": session, "points": points}))
    return path


def test_better_and_worse_are_told_by_the_figures_meaning(bench: Bench, tmp_path: Path) -> None:
    old = speeds(tmp_path / "old.json", "a", [0.10, 0.11, 0.10, 0.105], [10, 11, 10, 10.5])
    new = speeds(tmp_path / "new.json", "b", [0.05, 0.06, 0.05, 0.055], [5, 6, 5, 5.5])
    done = bench("compare", old, new)
    assert done.returncode == 3  # fewer requests a second are worse
    lines = done.stdout.splitlines()
    assert "requests a second" in lines[2] and lines[2].endswith("| worse |")
    assert "real-time factor" in lines[3] and lines[3].endswith("| better |")
    assert bench("compare", old, old).returncode == 0


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 1.2, 1.1, 0.9], [1.1, 1.0, 1.15, 0.95], comparison.SAME),
        ([1.0, 1.001, 1.0, 1.0], [1.01, 1.011, 1.012, 1.01], comparison.SAME),  # beyond the noise, but below 3 %
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], comparison.TOO_FEW),
        ([1.0, 1.1, 1.0, 1.0], [2.0, 2.1, 2.0, 2.0], comparison.WORSE),
    ],
)
def test_noise_is_no_change(tmp_path: Path, before: list[float], after: list[float], verdict: str) -> None:
    results = [
        json.loads(speeds(tmp_path / f"{name}.json", name, values, [1] * len(values)).read_text())
        for name, values in (("a", before), ("b", after))
    ]
    changes = {each.metric: each.verdict for each in comparison.compare(*results, least=0.03)}
    assert changes[METRICS["real_time_factor"]] == verdict


def test_rounds_in_turns_are_compared_round_by_round() -> None:
    drift = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 3.5])  # a machine that slows down hides 10 % between unpaired rounds
    assert comparison.paired_ratio(drift, 1.1 * drift)[1:] == pytest.approx((1.1, 1.1))
    _, low, high = comparison.all_ratios(drift, 1.1 * drift)
    assert low < 1 < high


@pytest.mark.parametrize(("first", "second"), [(1, 1), (3, 4), (5, 2)])
def test_rank_sums_are_those_of_all_orders(first: int, second: int) -> None:
    counts = np.zeros(first * second + 1)
    for chosen in combinations(range(first + second), first):
        counts[sum(place - rank for rank, place in enumerate(chosen))] += 1
    np.testing.assert_allclose(comparison.rank_sums(first, second), counts / counts.sum())


@given(st.integers(4, 8), st.integers(4, 8), st.randoms(use_true_random=False))
def test_the_interval_holds_its_middle(first: int, second: int, random: object) -> None:
    generator = np.random.default_rng(random.getrandbits(32))
    middle, low, high = comparison.all_ratios(generator.uniform(1, 2, first), generator.uniform(1, 2, second))
    assert 0.5 <= low <= middle <= high <= 2


def heard(wrong: list[int]) -> dict:
    rows = [[f"{number}.wav", errors, 10, errors, 50] for number, errors in enumerate(wrong)]
    return {"scenario": "accuracy", "machine": {}, "decoders": {"greedy": {"utterances": rows}}}


def test_error_rates_are_compared_by_utterance() -> None:
    generator = np.random.default_rng(0)
    before = generator.integers(0, 8, 200)  # utterances differ much more than the two recognisers do
    worse = before + (generator.uniform(size=200) < 0.3)
    changes = comparison.compare(heard(before.tolist()), heard(worse.tolist()), 0.03)
    assert [each.verdict for each in changes] == [comparison.WORSE] * 2
    assert changes[0].change == pytest.approx(100 * (worse - before).sum() / 2000)
    same = comparison.compare(heard(before.tolist()), heard(np.roll(before, 1).tolist()), 0.03)
    assert [each.verdict for each in same] == [comparison.SAME] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scenario": "memory"}, "of throughput and memory"),
        ({"points": []}, "no point in common"),
    ],
)
def test_results_that_cannot_be_compared(bench: Bench, tmp_path: Path, change: dict, said: str) -> None:
    old = speeds(tmp_path / "old.json", "a", [1], [1])
    (tmp_path / "new.json").write_text(json.dumps({**json.loads(old.read_text()), **change}))
    done = bench("compare", old, tmp_path / "new.json")
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_other_utterances_are_not_compared() -> None:
    with pytest.raises(Exception, match="other utterances"):
        comparison.compare(heard([1, 2]), heard([1]), 0.03)
    with pytest.raises(Exception, match="has no utterances"):
        comparison.compare(heard([]), heard([1]), 0.03)


def test_a_bundle_beside_may_be_one_that_comes_along(
    bench: Bench, tone_bundle: Path, manifest: Path, one_sentence: Callable[[str], None]
) -> None:
    done = bench("throughput", tone_bundle, manifest, "--beside", "englsh")
    assert done.returncode == 1
    one_sentence(done.stderr)
    assert "no such bundle; give its path, or one that comes along: english" in done.stderr


def test_two_bundles_in_turns(bench: Bench, tone_bundle: Path, manifest: Path) -> None:
    results = manifest.parent / "results"
    options = ["--threads", 1, "--batch-size", 1, "--rounds", 2, "--greedy", "--peer", "asr_runtime"]
    done = bench("throughput", tone_bundle, manifest, *options, "--beside", tone_bundle.resolve(), "-o", results)
    assert done.returncode == 0, done.stderr
    one, other = (json.loads((results / f"{name}.json").read_text()) for name in ("throughput", "throughput-beside"))
    assert one["session"] == other["session"]
    assert [len(each["points"]) for each in (one, other)] == [1, 1]
    assert "too few rounds" in bench("compare", results / "throughput-beside.json", results / "throughput.json").stdout
