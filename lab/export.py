"""Writes a trained model as a Hugging Face folder that transformers reads as Qwen2.5-VL."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from model import Config, Model
from tasks import CLIP_MEAN, CLIP_STD
from training import load, start
from vocabulary import CONTROL, EOS, ID, IMAGE, MARKUP, PAD, WORDS

# Qwen's own layout. Newlines and spaces carry no token here, so it costs nothing to keep it.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def tokenizer() -> Tokenizer:
    """Word-level: WordPiece without continuations, which the Python and the JavaScript library both implement.

    Splitting keeps digits single and cell names (r1..c4) whole. Decoding puts a space between tokens,
    but none between digits: `1 7` reads `17`. A word outside the vocabulary becomes <pad>.
    """
    t = Tokenizer(models.WordPiece(vocab=ID, unk_token="<pad>", continuing_subword_prefix="##"))
    t.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"[rc][1-4](?![0-9])|[0-9]|[A-Za-z]+|[^\sA-Za-z0-9]"), "removed", invert=True
    )
    t.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace(Regex(r"(?<![rc][0-9])(?<=[0-9]) (?=[0-9])"), ""),
        ]
    )
    words = [w for w in CONTROL if w.startswith("<")]
    t.add_special_tokens([AddedToken(w, normalized=False, special=True) for w in words])
    t.add_tokens([AddedToken(w, normalized=False, special=False) for w in MARKUP])
    assert t.get_vocab_size() == len(WORDS)
    return t


def tokenizer_config() -> dict:
    t = tokenizer()
    return {
        "added_tokens_decoder": {
            str(i): {"content": a.content, "special": a.special, "normalized": False}
            | {"lstrip": False, "rstrip": False, "single_word": False}
            for i, a in sorted(t.get_added_tokens_decoder().items())
        },
        "additional_special_tokens": [w for w in CONTROL if w.startswith("<") and w not in ("<pad>", "<|im_end|>")],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": WORDS[EOS],
        "model_max_length": 1024,
        "pad_token": WORDS[PAD],
        "padding_side": "left",
        "processor_class": "Qwen2_5_VLProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": WORDS[PAD],
    }  # fmt: skip


def config(c: Config) -> dict:
    """config.json, with the text settings nested as transformers 5 writes them."""
    text = {
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "hidden_act": "silu",
        "hidden_size": c.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": c.intermediate_size,
        "max_position_embeddings": 1024,
        "max_window_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_hidden_layers": c.num_layers,
        "num_key_value_heads": c.num_kv_heads,
        "pad_token_id": PAD,
        "rms_norm_eps": c.eps,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": c.vocab_size,
    }
    rope = {"mrope_section": list(c.mrope_section), "rope_theta": c.rope_theta, "rope_type": "default"}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "dtype": "bfloat16",
        "eos_token_id": EOS,
        "image_token_id": IMAGE,
        "model_type": "qwen2_5_vl",
        "pad_token_id": PAD,
        "text_config": {
            **text,
            "dtype": "bfloat16",
            "layer_types": ["full_attention"] * c.num_layers,
            "model_type": "qwen2_5_vl_text",
            "rope_parameters": rope,
        },
        "tie_word_embeddings": True,
        # no word stands for a video frame; the id is one past the vocabulary, so it can never occur
        "video_token_id": c.vocab_size,
        "vision_config": {
            "depth": c.vision_depth,
            "dtype": "bfloat16",
            "fullatt_block_indexes": list(c.full_attention_blocks),
            "hidden_act": "silu",
            "hidden_size": c.vision_hidden_size,
            "in_channels": 3,
            "in_chans": 3,
            "initializer_range": 0.02,
            "intermediate_size": c.vision_intermediate_size,
            "model_type": "qwen2_5_vl_vision",
            "num_heads": c.vision_heads,
            "out_hidden_size": c.hidden_size,
            "patch_size": c.patch_size,
            "spatial_merge_size": c.merge_size,
            "spatial_patch_size": c.patch_size,
            "temporal_patch_size": c.temporal_patch_size,
            "tokens_per_second": 2,
            "window_size": c.window_size,
        },
        "vision_end_token_id": ID["<|vision_end|>"],
        "vision_start_token_id": ID["<|vision_start|>"],
        "vision_token_id": IMAGE,
    }


def preprocessor_config(c: Config) -> dict:
    """64x64 lies within the pixel bounds and is a multiple of patch * merge, so it is never resized."""
    pixels = c.image_size**2
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(CLIP_MEAN),
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": list(CLIP_STD),
        "max_pixels": pixels,
        "merge_size": c.merge_size,
        "min_pixels": pixels,
        "patch_size": c.patch_size,
        "processor_class": "Qwen2_5_VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": pixels, "shortest_edge": pixels},
        "temporal_patch_size": c.temporal_patch_size,
    }


def export(model: Model, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, value: dict) -> None:
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")

    # visual.* and model.*, as published; lm_head is tied and not stored
    weights = {name: w.detach().to(torch.bfloat16).contiguous() for name, w in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write("config.json", config(model.config))
    write(
        "generation_config.json", {"do_sample": False, "eos_token_id": EOS, "max_new_tokens": 48, "pad_token_id": PAD}
    )
    write("preprocessor_config.json", preprocessor_config(model.config))
    write("tokenizer_config.json", tokenizer_config())
    tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="a trainer's checkpoint")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    export(load(start(0), options.weights), options.folder)
