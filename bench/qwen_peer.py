"""transformers' side of a bench: a process that loads the folder and answers one JSON request a line (peer.mjs)."""

import base64
import json
import re
import sys
import traceback

import torch
from safetensors.torch import load_file
from transformers import Qwen2_5_VLForConditionalGeneration


def memory() -> dict:
    """VmHWM and VmRSS of this process in MiB, as the kernel counts them."""
    status = open("/proc/self/status").read()
    keys = dict(peakMiB="VmHWM", nowMiB="VmRSS", anonymousMiB="RssAnon", mappedMiB="RssFile")
    return {name: round(int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) / 1024) for name, key in keys.items()}


def floats(values: torch.Tensor) -> str:
    return base64.b64encode(values.float().contiguous().numpy().tobytes()).decode()


class Peer:
    def __init__(self, folder: str, threads: int, dtype: str):
        self.before = memory()["peakMiB"]
        torch.set_num_threads(threads)
        self.dtype = getattr(torch, dtype)
        self.model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, dtype=self.dtype, attn_implementation="sdpa"
        ).eval()
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = 0
        self.prompts = json.load(open(f"{folder}/inputs.json"))
        self.pixels = load_file(f"{folder}/inputs.safetensors")

    def inputs(self, names: list[str]) -> dict:
        """A batch, left-padded where the prompts differ in length."""
        prompts = [self.prompts[name] for name in names]
        longest = max(len(p["ids"]) for p in prompts)
        pad = [longest - len(p["ids"]) for p in prompts]
        ids = torch.tensor([[0] * n + p["ids"] for n, p in zip(pad, prompts)])
        mask = torch.tensor([[0] * n + [1] * len(p["ids"]) for n, p in zip(pad, prompts)])
        batch = dict(input_ids=ids, attention_mask=mask)
        images = [p for p in prompts if "image" in p]
        if images:
            batch["pixel_values"] = torch.cat([self.pixels[p["image"]] for p in images]).to(self.dtype)
            batch["image_grid_thw"] = torch.tensor([p["grid"] for p in images])
            batch["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        return batch

    def positions(self, inputs: dict) -> torch.Tensor:
        """M-RoPE positions (3, B, rows), as transformers computes them."""
        if "image_grid_thw" in inputs:
            keys = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
            return self.model.model.get_rope_index(**{key: inputs[key] for key in keys})[0]
        return (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0).expand(3, -1, -1)

    def serve(self, handlers: dict) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                with torch.inference_mode():
                    if request["op"] == "memory":
                        answer = memory() | dict(beforeModelMiB=self.before)
                    else:
                        answer = handlers[request["op"]](request)
            except Exception:
                answer = dict(error=traceback.format_exc())
            print(json.dumps(answer), flush=True)
