"""A tiny llama written as GGUF must come back with the same logits, and convert only once."""

import json
from pathlib import Path

import gguf
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from riskalign.errors import InputError
from riskalign.models import load_model
from tests import tiny


def _permute(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF's llama layout interleaves the two rotary halves of every head's rows."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a llama model with a byte-level BPE tokenizer as an unquantised GGUF file."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)

    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = tokenizer.get_vocab()
    tokens = [f"<unused{i}>" for i in range(config.vocab_size)]
    for token, index in vocabulary.items():
        tokens[index] = token
    # transformers adds this token to every byte-level BPE read from GGUF that lacks it.
    tokens[-1] = "<|endoftext|>"
    special = set(tokenizer.all_special_ids)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
            for i in range(len(tokens))
        ]
    )
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tiny.CHAT_TEMPLATE)

    state = model.state_dict()
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for layer in range(config.num_hidden_layers):
        for source, target in parts.items():
            names[f"model.layers.{layer}.{source}.weight"] = f"blk.{layer}.{target}.weight"
    assert set(names) == set(state)
    for source, target in names.items():
        tensor = state[source]
        if "q_proj" in source:
            tensor = _permute(tensor, config.num_attention_heads)
        if "k_proj" in source:
            tensor = _permute(tensor, config.num_key_value_heads)
        writer.add_tensor(target, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_gguf_file_gives_the_same_logits_and_is_converted_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny.make_model(), tiny.make_tokenizer()
    path = tmp_path / "Tiny.F32.gguf"
    write_gguf(path, model, tokenizer)

    loaded = load_model(path)
    assert len(loaded.revision_or_hash) == 64
    assert not hasattr(loaded.model.config, "quantization_config")
    folders = list((cache / "models").iterdir())
    assert [folder.name for folder in folders] == [f"tiny.f32-{loaded.revision_or_hash[:12]}"]
    assert not list(folders[0].glob("*.bin"))

    text = "The door code is 4711."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert loaded.tokenizer(text)["input_ids"] == ids[0].tolist()
    assert loaded.tokenizer.chat_template == tiny.CHAT_TEMPLATE
    assert loaded.tokenizer.eos_token_id == tokenizer.eos_token_id
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5
        )

    monkeypatch.setattr("riskalign.models.folders.convert_gguf", None)  # a second call would fail
    again = load_model(path)
    assert again.revision_or_hash == loaded.revision_or_hash


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(InputError, match="not a GGUF file"):
        load_model(path)


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, cache: Path) -> None:
    whole, path = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    write_gguf(whole, tiny.make_model(), tiny.make_tokenizer())
    content = whole.read_bytes()
    for kept in (100, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(InputError, match="cut short"):
            load_model(path)
    assert not list((cache / "models").glob("cut*"))
