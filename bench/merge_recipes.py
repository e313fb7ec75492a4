"""The recipes under which galvani and mergekit are compared, and the random checkpoints they read.

    python merge_recipes.py pair DIR HIDDEN LAYERS VOCAB             two large ones in bf16, sharded: base, a
    python merge_recipes.py models DIR HIDDEN LAYERS VOCAB [DTYPE]    four Qwen2 checkpoints: base, a, b, c

float32 by default: in bf16 many updates have equal magnitudes, and which of them a "largest half" holds is then chance
(torch's sort is not stable); galvani takes the first in storage order.
"""

import json
import sys
from pathlib import Path

# name → (models beside the base, has base, parameters, parameters of each model)
METHODS = {
    "linear": (["a", "b", "c"], False, {}, [{"weight": 0.2}, {"weight": 0.5}, {"weight": 0.7}]),
    "linear_raw": (["a", "b"], False, {"normalize": False}, [{"weight": 0.3}, {"weight": 0.9}]),
    "slerp": (["a"], True, {"t": 0.3}, []),
    "nuslerp": (["a", "b"], False, {}, [{"weight": 0.4}, {"weight": 0.6}]),
    "nuslerp_base": (["a", "b"], True, {}, [{"weight": 0.4}, {"weight": 0.6}]),
    "nuslerp_rows": (["a", "b"], True, {"nuslerp_flatten": False}, [{"weight": 0.4}, {"weight": 0.6}]),
    "nuslerp_columns": (
        ["a", "b"],
        True,
        {"nuslerp_flatten": False, "nuslerp_row_wise": True},
        [{"weight": 0.4}, {"weight": 0.6}],
    ),
    "multislerp": (["a", "b", "c"], False, {}, [{"weight": 0.2}, {"weight": 0.3}, {"weight": 0.5}]),
    "multislerp_base": (["a", "b", "c"], True, {}, [{"weight": 0.2}, {"weight": 0.3}, {"weight": 0.5}]),
    "karcher": (["a", "b", "c"], False, {}, []),
    "task_arithmetic": (["a", "b"], True, {"lambda": 0.8}, [{"weight": 0.6}, {"weight": 0.7}]),
    "ties": (["a", "b", "c"], True, {}, [{"weight": 1.0, "density": 0.5}] * 3),
    "breadcrumbs": (["a", "b"], True, {}, [{"weight": 0.6, "density": 0.7, "gamma": 0.05}] * 2),
    "breadcrumbs_ties": (["a", "b", "c"], True, {"normalize": True}, [{"weight": 0.6, "density": 0.6, "gamma": 0.1}] * 3),
    "sce": (["a", "b", "c"], True, {"select_topk": 0.6}, []),
    "model_stock": (["a", "b", "c"], True, {}, []),
    "model_stock_rows": (["a", "b", "c"], True, {"filter_wise": True}, []),
    "nearswap": (["a"], True, {"t": 0.002}, []),
    "ram": (["a", "b", "c"], True, {"epsilon": 0.004}, []),
    "ramplus_tl": (["a", "b", "c"], True, {"epsilon": 0.004}, []),
    "arcee_fusion": (["a"], True, {}, []),
    "passthrough": (["a"], False, {}, [{"scale": 0.7}]),
    "gradient": (["a"], True, {"t": [0.0, 0.4, 1.0]}, []),
    "filters": (
        ["a", "b"],
        True,
        {},
        [
            {"weight": [{"filter": "mlp", "value": [0.1, 0.9]}, {"value": 0.5}], "density": 0.6},
            {"weight": [{"filter": "self_attn", "value": 0.2}, {"filter": "*", "value": 0.7}], "density": [0.3, 0.8]},
        ],
    ),
    "dare_linear": (["a", "b"], True, {}, [{"weight": 0.6, "density": 0.5}] * 2),
    "dare_ties": (["a", "b"], True, {}, [{"weight": 0.6, "density": 0.5}] * 2),
    "della": (["a", "b"], True, {}, [{"weight": 0.6, "density": 0.5, "epsilon": 0.2}] * 2),
    "della_linear": (["a", "b"], True, {}, [{"weight": 0.6, "density": 0.5, "epsilon": 0.2}] * 2),
}
STOCHASTIC = ("dare_linear", "dare_ties", "della", "della_linear")
BASES = {"gradient": "slerp", "filters": "ties"}


def method_of(case):
    if case in BASES:
        return BASES[case]
    for suffix in ("_raw", "_base", "_rows", "_columns"):
        if case.endswith(suffix):
            return case[: -len(suffix)]
    return case


def recipe(case, directory, dtype="float32"):
    """As mergekit's YAML; JSON is YAML. Random methods store float32, so that an entry left out is the base's exactly."""
    models, has_base, shared, each = METHODS[case]
    folder = lambda name: str(Path(directory) / name)
    value = {
        "merge_method": method_of(case),
        "models": [
            {"model": folder(name), **({"parameters": each[i]} if each else {})} for i, name in enumerate(models)
        ],
        "dtype": dtype,
        "out_dtype": "float32" if case in STOCHASTIC else "bfloat16",
    }
    if has_base:
        value["base_model"] = folder("base")
    if shared:
        value["parameters"] = shared
    return json.dumps(value, indent=1)


def write_models(directory, hidden, layers, vocab, dtype="float32"):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(20)
    heads = max(1, hidden // 32) if hidden >= 64 else 2
    head_dim = hidden // heads
    inner = hidden * 3 // 2
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128,
    }
    shapes = {"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}
    for layer in range(layers):
        p = f"model.layers.{layer}."
        shapes |= {p + "input_layernorm.weight": (hidden,), p + "post_attention_layernorm.weight": (hidden,)}
        for name in "qkv":
            shapes |= {p + f"self_attn.{name}_proj.weight": (heads * head_dim, hidden), p + f"self_attn.{name}_proj.bias": (heads * head_dim,)}
        shapes |= {p + "self_attn.o_proj.weight": (hidden, heads * head_dim)}
        shapes |= {p + "mlp.gate_proj.weight": (inner, hidden), p + "mlp.up_proj.weight": (inner, hidden), p + "mlp.down_proj.weight": (hidden, inner)}
    base = {name: torch.randn(shape) * 0.02 + (1.0 if name.endswith("norm.weight") else 0.0) for name, shape in shapes.items()}
    for name in ("base", "a", "b", "c"):
        folder = Path(directory) / name
        folder.mkdir(parents=True, exist_ok=True)
        # Updates of about a third of the weights' size: large enough that bf16 does not hide them.
        tensors = base if name == "base" else {k: v + torch.randn(v.shape) * 0.007 for k, v in base.items()}
        save_file({k: v.to(getattr(torch, dtype)).contiguous() for k, v in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def write_pair(directory, hidden, layers, vocab):
    """base and a, bf16, in shards of a few hundred MB made one at a time; returns the bytes of both."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(3)
    block = torch.randn(1 << 24, generator=generator) * 0.02
    inner, total = hidden * 3 // 2, 0
    heads = hidden // 64

    def draw(*shape):  # rows of one block of normal numbers, in an order of their own: drawing all would take minutes
        n = 1
        for d in shape:
            n *= d
        shift = int(torch.randint(0, block.numel(), (1,), generator=generator))
        rolled = torch.roll(block, shift)
        return rolled.repeat((n + block.numel() - 1) // block.numel())[:n].reshape(shape)

    config = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads, "vocab_size": vocab,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6, "max_position_embeddings": 128,
    }
    groups = [{"model.embed_tokens.weight": (vocab, hidden), "model.norm.weight": (hidden,)}, {"lm_head.weight": (vocab, hidden)}]
    for first in range(0, layers, 4):
        group = {}
        for layer in range(first, min(layers, first + 4)):
            p = f"model.layers.{layer}."
            group |= {p + "input_layernorm.weight": (hidden,), p + "post_attention_layernorm.weight": (hidden,)}
            for name in "qkvo":
                group |= {p + f"self_attn.{name}_proj.weight": (hidden, hidden)}
            for name in "qkv":
                group |= {p + f"self_attn.{name}_proj.bias": (hidden,)}
            group |= {p + "mlp.gate_proj.weight": (inner, hidden), p + "mlp.up_proj.weight": (inner, hidden), p + "mlp.down_proj.weight": (hidden, inner)}
        groups.append(group)
    for name in ("base", "a"):
        (Path(directory) / name).mkdir(parents=True, exist_ok=True)
        (Path(directory) / name / "config.json").write_text(json.dumps(config))
    maps = {"base": {}, "a": {}}
    for i, group in enumerate(groups):
        file = f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors"
        base = {key: draw(*shape) for key, shape in group.items()}
        for name in ("base", "a"):
            tensors = {k: (v if name == "base" else v + 0.2 * draw(*v.shape)).to(torch.bfloat16) for k, v in base.items()}
            save_file(tensors, Path(directory) / name / file, {"format": "pt"})
            maps[name] |= {key: file for key in group}
            total += sum(t.numel() * 2 for t in tensors.values())
    for name, weight_map in maps.items():
        index = {"metadata": {"total_size": total // 2}, "weight_map": weight_map}
        (Path(directory) / name / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


if __name__ == "__main__":
    if sys.argv[1] == "pair":
        print(json.dumps({"bytes": write_pair(sys.argv[2], *map(int, sys.argv[3:6]))}))
    if sys.argv[1] == "models":
        write_models(sys.argv[2], *map(int, sys.argv[3:6]), *sys.argv[6:7])
