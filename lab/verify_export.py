"""Shows that an exported folder, read by transformers, is the model that was trained.

For each folder: no missing or unexpected tensors; the processor and the chat template give the
training pipeline's token ids and pixels, from PNG bytes; logits agree to 1e-4 in float32; greedy
replies are equal on every item. The eight evaluated tasks give 200 items with an image or more, and 100 without.
"""

import argparse
import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from tasks import EVALUATED, Example, held_out_set, to_pixels
from training import start
from vocabulary import EOS, IMAGE, decode, text_of

try:  # the default processor needs torchvision; the Pillow one computes the same
    from transformers import Qwen2VLImageProcessorPil as ImageProcessor
except ImportError:
    from transformers import Qwen2VLImageProcessor as ImageProcessor

TOLERANCE = 1e-4


def messages(example: Example) -> list[dict]:
    parts = [{"type": "text", "text": text_of(example.item.question)}]
    if example.pixels is not None:
        parts.insert(0, {"type": "image"})
    return [{"role": "user", "content": parts}]


def png(pixels: np.ndarray) -> Image.Image:
    """Through PNG bytes, as a user of the exported folder would have it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return Image.open(io.BytesIO(buffer.getvalue()))


@torch.no_grad()
def verify(folder: Path, per_task: int, seed: int) -> None:
    reference, info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    reference.eval()
    problems = {kind: names for kind, names in info.items() if names}
    assert not problems, problems
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), ImageProcessor.from_pretrained(folder)
    ours = start(0)
    stored = {name: w.float() for name, w in load_file(folder / "model.safetensors").items()}
    ours.load_state_dict(stored)
    ours.eval()

    worst_logit = worst_pixel = 0.0
    n = {True: 0, False: 0}
    for task in EVALUATED:
        for example in held_out_set(task, per_task, seed):
            text = tokenizer.apply_chat_template(messages(example), tokenize=False, add_generation_prompt=True)
            image, pixels = {}, None
            if example.pixels is not None:
                inputs = processor(images=[png(example.pixels)], return_tensors="pt")
                text = text.replace("<|image_pad|>", "<|image_pad|>" * (int(inputs["image_grid_thw"].prod()) // 4))
                pixels = to_pixels([example.pixels])
                image = {"pixel_values": inputs["pixel_values"], "image_grid_thw": inputs["image_grid_thw"]}
                # (B, 3, 64, 64) in the processor's layout: per merged cell, per patch, channel x frame x 8 x 8
                flat = pixels.view(1, 3, 1, 4, 2, 8, 4, 2, 8).expand(1, 3, 2, 4, 2, 8, 4, 2, 8)
                flat = flat.permute(0, 3, 6, 4, 7, 1, 2, 5, 8).reshape(64, -1)
                worst_pixel = max(worst_pixel, float((flat - inputs["pixel_values"]).abs().max()))
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            assert ids[0].tolist() == example.prompt(), (text, ids[0].tolist(), example.prompt())

            reply = ours.generate(ids, torch.tensor([ids.shape[1]]), pixels, max_new=48, eos=EOS)
            reply_ids = reply.tokens[0][reply.kept[0]].tolist()
            kinds = {"mm_token_type_ids": (ids == IMAGE).long()} if image else {}
            theirs = reference.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False, **image, **kinds
            )[0, ids.shape[1] :].tolist()
            assert theirs == reply_ids, (task, decode(reply_ids), decode(theirs))
            assert tokenizer.decode([i for i in reply_ids if i != EOS]) == decode(reply_ids)

            whole = torch.cat((ids, torch.tensor([reply_ids])), 1)
            kinds = {"mm_token_type_ids": (whole == IMAGE).long()} if image else {}
            a = ours.logits(ours(whole, pixels))
            b = reference(input_ids=whole, **image, **kinds).logits
            worst_logit = max(worst_logit, float((a - b).abs().max()))
            n[bool(image)] += 1
    assert worst_logit < TOLERANCE and worst_pixel < 1e-5, (worst_logit, worst_pixel)
    print(
        f"{folder.name}: {n[True]} image and {n[False]} text items: ids equal, greedy replies equal, "
        f"logits within {worst_logit:.1e}, pixels within {worst_pixel:.1e}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--per-task", type=int, default=50)
    parser.add_argument("--seed", type=int, default=777)
    options = parser.parse_args()
    for path in options.folders:
        verify(path, options.per_task, options.seed)
