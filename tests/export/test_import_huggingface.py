"""Small models of transformers with random weights: equal to transformers' own, and padding that does not leak."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import asr_runtime
from asr_export.cli import main
from asr_export.signals import padded, speech_like
from asr_runtime.bundle import Bundle
from asr_runtime.engines import choose

transformers = pytest.importorskip("transformers", reason="transformers is not installed: the extra huggingface")

VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFG'"]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
    "apply_spec_augment": False,
}
FAMILIES = {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM"}
RATE = 16_000


def saved(folder: Path, kind: str, norm: str) -> Path:
    """A model as transformers saves it, with the files of its processor."""
    torch.manual_seed(2)
    stable = norm == "layer"
    settings = {**SIZES, "feat_extract_norm": norm, "do_stable_layer_norm": stable, "conv_bias": stable}
    config = getattr(transformers, f"{FAMILIES[kind]}Config")(**settings)
    model = getattr(transformers, f"{FAMILIES[kind]}ForCTC")(config)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(VOCABULARY)}))
    before = {"do_normalize": True, "sampling_rate": RATE, "return_attention_mask": stable, "feature_size": 1}
    (folder / "preprocessor_config.json").write_text(json.dumps(before))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return folder


def call(*arguments: str) -> int:
    kept, sys.argv = sys.argv, ["asr-export", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = kept
    return 0


def by_transformers(folder: Path, samples: np.ndarray) -> np.ndarray:
    """Log-probabilities by the library's own processor and model, of one recording alone."""
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    values = extractor(samples, sampling_rate=RATE, return_tensors="pt").input_values
    with torch.inference_mode():
        return model(values).logits.log_softmax(-1)[0].numpy()


@pytest.mark.parametrize("norm", ["layer", "group"])
@pytest.mark.parametrize("kind", list(FAMILIES))
def test_every_family_equals_transformers_in_the_batches_that_its_bundle_allows(
    kind: str, norm: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "small", kind, norm)
    assert call("import-huggingface", str(folder), str(tmp_path / "bundle")) == 0
    bundle = Bundle.load(tmp_path / "bundle")
    assert (bundle.name, bundle.licence, bundle.frame_seconds) == ("small", "apache-2.0", 0.02)
    assert bundle.tokens == ("", "<s>", "</s>", "<unk>", " ", *"ABCDEFG'")
    assert bundle.padding is (norm == "layer")
    assert bundle.provenance["import"]["feat_extract_norm"] == norm
    assert call("verify", str(tmp_path / "bundle"), "--against", str(folder)) == 0
    items = [
        speech_like(length, RATE, length) for length in ((16_000, 9_001, 30_123) if bundle.padding else (16_000,) * 3)
    ]
    batch = padded(items) if bundle.padding else np.stack(items)
    engine = choose(bundle, "cpu")
    for item, together in zip(items, engine.log_probs(batch, np.array([len(x) for x in items])), strict=True):
        np.testing.assert_allclose(together, by_transformers(folder, item), atol=1e-4, rtol=0)


def test_a_group_norm_model_would_hear_padding_and_the_pipeline_gives_it_none(tmp_path: Path) -> None:
    folder = saved(tmp_path / "small", "wav2vec2", "group")
    assert call("import-huggingface", str(folder), str(tmp_path / "bundle.asr"), "--licence", "MIT") == 0
    lengths = [8_000, 12_345, 8_000, 20_000, 12_345]
    items = [(speech_like(length, RATE, seed), RATE) for seed, length in enumerate(lengths)]
    alone, together = (asr_runtime.load(tmp_path / "bundle.asr", greedy=True, batch_size=n, threads=1) for n in (1, 4))
    texts = [each.text for each in alone.transcribe(items)]
    assert [each.text for each in together.transcribe(items)] == texts
    assert any(texts)
    model = transformers.AutoModelForCTC.from_pretrained(folder).eval()
    samples = torch.from_numpy(items[0][0])[None]
    with torch.inference_mode():
        whole = model(samples).logits
        longer = model(torch.nn.functional.pad(samples, (0, 8_000))).logits[:, : whole.shape[1]]
    assert (whole - longer).abs().max() > 1e-3  # transformers' own leak, which the bundle avoids


def test_without_transformers_its_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "small", "wav2vec2", "layer")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert call("import-huggingface", str(folder), str(tmp_path / "bundle")) == 1
    assert "pip install 'asr-deploy[huggingface]'" in capsys.readouterr().err


def changed(folder: Path, name: str, **values: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "there is no such file"),
        (lambda folder: (folder / "config.json").write_text("["), "this is no JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
        (lambda folder: changed(folder, "config.json", model_type="whisper"), "got a model of the type 'whisper'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights in safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 99), "transformers cannot load"),
        (lambda folder: (folder / "vocab.json").write_text('{"eng": {"a": 0}}'), "give the vocabulary of one"),
        (lambda folder: changed(folder, "vocab.json", more=99), "wanted a number from 0 to 12"),
        (lambda folder: changed(folder, "config.json", pad_token_id=99), "CTC's blank"),
    ],
)
def test_what_cannot_be_taken_is_said_in_one_sentence(
    fault: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(tmp_path / "small", "wav2vec2", "layer")
    fault(folder)
    capsys.readouterr()
    assert call("import-huggingface", str(folder), str(tmp_path / "bundle")) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asr-export:")]
    assert len(err) == 1
    assert message in err[0]
    assert not (tmp_path / "bundle").exists()
