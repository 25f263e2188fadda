"""Published weights, against a model written here from the published code's description alone."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr_export.cli import main
from asr_export.importers.packing import Imported
from asr_export.importers.seed import import_seed
from asr_export.signals import speech_like
from asr_export.verify import Verified, verify
from asr_runtime.bundle import Bundle
from asr_runtime.engines import choose
from asr_runtime.errors import ExportError, RecipeError

SHAPES = [(5, 1, nn.ReLU), (3, 2, nn.GELU), (7, 1, nn.GELU)]
CHANNELS, SIZE = 3, 10


class Convolution(nn.Module):
    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.norm, self.act = nn.LayerNorm(64), activation()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.act(self.norm(x.permute(0, 1, 3, 2)).permute(0, 1, 3, 2)))


class Single(Convolution):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


class Double(nn.Module):
    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.cnn1, self.cnn2 = Convolution(activation), Convolution(activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.cnn2(self.cnn1(x)) + x


class Recurrent(nn.Module):
    def __init__(self, size: int, activation: type[nn.Module], batch_first: bool) -> None:
        super().__init__()
        self.norm, self.act = nn.LayerNorm(size), activation()
        self.gru = nn.GRU(size, SIZE, batch_first=batch_first, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.act(self.norm(x)))[0]


class Published(nn.Module):
    """`published` sets batch_first on the first GRU only, as the published code does."""

    def __init__(self, blocks: int, convolutions: int, activation: type[nn.Module], published: bool) -> None:
        super().__init__()
        block = Single if convolutions == 1 else Double
        self.cnn = nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1)
        self.res_cnn = nn.Sequential(*[block(activation) for _ in range(blocks)])
        self.fc = nn.Linear(CHANNELS * 64, SIZE)
        layers = [Recurrent(SIZE if i == 0 else 2 * SIZE, activation, i == 0 or not published) for i in range(3)]
        self.rnn = nn.Sequential(*layers)
        self.dense = nn.Sequential(nn.Linear(2 * SIZE, SIZE), activation(), nn.Dropout(0.2), nn.Linear(SIZE, 29))

    def forward(self, waveform: Tensor) -> Tensor:
        x = self.res_cnn(self.cnn(power_mel(waveform)[None, None]))
        x = self.fc(x.flatten(1, 2).permute(0, 2, 1))
        return self.dense(self.rnn(x)).log_softmax(-1)[0]


def power_mel(waveform: Tensor) -> Tensor:
    """[128, frames]: torch's own Fourier transform, mirrored at the ends; triangles on the HTK scale, one by one."""
    window = torch.hann_window(400)
    spectrum = torch.stft(waveform, 400, 200, window=window, center=True, pad_mode="reflect", return_complex=True)
    power, hertz = spectrum.abs() ** 2, torch.arange(201) * 40.0
    points = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(0, 2595 * math.log10(1 + 8000 / 700), 130)]
    bands = []
    for low, middle, high in zip(points, points[1:], points[2:], strict=False):
        triangle = torch.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)).clamp(min=0)
        bands.append(triangle @ power)
    return torch.stack(bands)


def published_model(shape: tuple[int, int, type[nn.Module]], published: bool) -> Published:
    torch.manual_seed(3)
    model = Published(*shape, published).eval()
    for parameter in model.parameters():
        parameter.data += (
            0.1 * torch.randn_like(parameter) * (1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
        )
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(published_model(SHAPES[0], True).state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("recurrence", ["time", "published"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_equals_the_published_code_on_one_recording_alone(
    shape: tuple[int, int, type[nn.Module]], recurrence: str, tmp_path: Path
) -> None:
    model = published_model(shape, recurrence == "published")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    import_seed(tmp_path / "weights.pth", tmp_path / "bundle", recurrence, Imported())
    bundle = Bundle.load(tmp_path / "bundle")
    assert bundle.frame_seconds == 0.025
    assert bundle.provenance["import"]["recurrence"] == recurrence
    engine, lengths = choose(bundle, "cpu"), [16_000, 7_777, 201, 31_999]
    items = [speech_like(length, 16_000, length) for length in lengths]
    batch = np.ones((4, 40_000), np.float32)
    for row, item in zip(batch, items, strict=True):
        row[: len(item)] = item
    for item, together in zip(items, engine.log_probs(batch, np.array(lengths)), strict=True):
        with torch.inference_mode():
            alone = model(torch.from_numpy(item)).numpy()
        assert together.shape == alone.shape
        np.testing.assert_allclose(together, alone, atol=1e-4, rtol=0)


def test_verify_measures_again_and_refuses_the_other_recurrence(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    import_seed(weights, path, "published", Imported())
    (result,) = verify(path, weights)
    assert isinstance(result, Verified)
    assert result.passed
    stored = json.loads((path / "bundle.json").read_text())
    stored["provenance"]["import"]["recurrence"] = "time"
    (path / "bundle.json").write_text(json.dumps(stored))
    (other,) = verify(path, weights)
    assert isinstance(other, Verified)
    assert not other.passed
    with pytest.raises(RecipeError, match="no data at"):
        verify(path, weights, tmp_path / "manifest.jsonl")
    stored["provenance"]["import"] = {"kind": "else"}
    (path / "bundle.json").write_text(json.dumps(stored))
    with pytest.raises(ExportError, match="cannot verify"):
        verify(path, weights)


def test_the_two_recurrences_differ(weights: Path, tmp_path: Path) -> None:
    samples = speech_like(16_000, 16_000, 1)[None]
    found = []
    for recurrence in ("time", "published"):
        import_seed(weights, tmp_path / recurrence, recurrence, Imported())
        found += choose(Bundle.load(tmp_path / recurrence), "cpu").log_probs(samples, np.array([16_000]))
    assert np.abs(found[0] - found[1]).max() > 1e-2


def refusal(weights: Path, recurrence: str | None = "time") -> str:
    with pytest.raises(ExportError) as caught:
        import_seed(weights, weights.parent / "bundle", recurrence, Imported())
    assert not (weights.parent / "bundle").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("recurrence", [None, "batch"])
def test_without_the_recurrence_the_error_says_why(weights: Path, recurrence: str | None) -> None:
    message = refusal(weights, recurrence)
    assert "wanted time or published" in message
    assert "over the batch instead of over time" in message


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("evil"),))


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"cnn.weight": Evil()}, tmp_path / "weights.pth")
    assert "nothing was run" in refusal(tmp_path / "weights.pth")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"\x80\x02", b"not weights at all"])
def test_a_file_that_is_no_weights_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    assert "no file of plain PyTorch weights" in refusal(tmp_path / "weights.pth")


def test_weights_of_other_models_are_refused_with_what_was_got(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights)

    def saved(changed: dict[str, Tensor] | list[Tensor]) -> Path:
        torch.save(changed, tmp_path / "other.pth")
        return tmp_path / "other.pth"

    assert "there is no such file" in refusal(tmp_path / "none.pth")
    assert "wanted a state_dict" in refusal(saved([torch.zeros(1)]))
    assert "wanted a state_dict" in refusal(saved({"model": state}))
    assert "got 0 residual blocks" in refusal(saved({"encoder.weight": torch.zeros(2, 2)}))
    four = {name: value for name, value in state.items() if not name.startswith("res_cnn.4")}
    assert "got 4 residual blocks of 1" in refusal(saved(four))
    assert "lack 'fc.weight'" in refusal(saved({n: v for n, v in state.items() if n != "fc.weight"}))
    assert "wanted 3 channels of 64 bands and 29 tokens" in refusal(
        saved({**state, "dense.3.weight": torch.ones(30, 10)})
    )
    assert "another model" in refusal(saved({**state, "more.weight": torch.ones(2)}))
    assert "failed its proof" in refusal(saved({**state, "fc.bias": torch.full((SIZE,), math.nan)}))


def call(*arguments: str) -> int:
    kept, sys.argv = sys.argv, ["asr-export", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = kept
    return 0


def test_the_command_writes_licence_and_source_and_overwrites_only_by_force(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["import-seed", str(weights), str(tmp_path / "seed.asr"), "--recurrence", "time"]
    assert call(*command, "--licence", "MIT", "--source", "https://example.org/seed", "--name", "five") == 0
    assert "log-probabilities differ from PyTorch's by at most" in capsys.readouterr().out
    bundle = Bundle.load(tmp_path / "seed.asr")
    assert (bundle.name, bundle.licence) == ("five", "MIT")
    origin = bundle.provenance["import"]
    assert origin["source"] == "https://example.org/seed"
    assert (origin["kind"], origin["file"], origin["activation"]) == ("seed", "weights.pth", "relu")
    assert len(origin["sha256"]) == 64
    assert call(*command) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert call(*command, "--force") == 0
    assert call("import-seed", str(weights), str(tmp_path / "b")) == 1
    assert "over the batch" in capsys.readouterr().err
