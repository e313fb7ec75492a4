"""transformers' side of sweep.mjs: python sweep_peer.py FOLDER THREADS DTYPE

The published procedure of visual token swapping (arXiv 2602.12395; METHODS 1a): per pair one generate() of the source
image that records the post-RoPE K and V of the image span, one of the target image, and one per layer l in which a
patched attention puts the source's K and V in place at every layer >= l. The cache is edited once, at prefill (the
published script appends the span again at every step, which costs it more), and attention stays sdpa.
"""

import sys
import time

import torch
from qwen_peer import Peer, floats
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


class Swap:
    """What the patched attention does: record the span's K and V, or replace them from `layer` on."""

    span = slice(0, 0)
    record = False
    layer = None  # first swapped layer
    source: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}


def swap_attention(module, query, key, value, attention_mask, **kwargs):
    if query.shape[2] > 1:  # prefill; key and value are the cache's own tensors, so decoding reads the edit
        index, span = module.layer_idx, Swap.span
        if Swap.record:
            Swap.source[index] = (key[:, :, span].clone(), value[:, :, span].clone())
        elif Swap.layer is not None and index >= Swap.layer:
            key[:, :, span], value[:, :, span] = Swap.source[index]
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register("swap", swap_attention)
AttentionMaskInterface.register("swap", sdpa_mask)
peer = Peer(sys.argv[1], int(sys.argv[2]), sys.argv[3])
decoder = peer.model.model.language_model
decoder.config._attn_implementation = "swap"


def generate(name: str, tokens: int, logits: bool):
    peer.model.model.rope_deltas = None
    return peer.model.generate(
        **peer.inputs([name]),
        do_sample=False,
        max_new_tokens=tokens,
        output_logits=logits,
        return_dict_in_generate=True,
    )


def sweep(request, logits: bool):
    runs = []
    for pair in request["pairs"]:
        prompt = peer.prompts[pair["target"]]
        Swap.span = slice(prompt["start"], prompt["start"] + prompt["count"])
        Swap.record, Swap.layer, Swap.source = True, None, {}
        runs.append(generate(pair["source"], request["tokens"], logits))
        Swap.record = False
        runs.append(generate(pair["target"], request["tokens"], logits))
        for layer in range(len(decoder.layers)):
            Swap.layer = layer
            runs.append(generate(pair["target"], request["tokens"], logits))
    return runs


def check(request):
    runs = sweep(request, True)
    logits = torch.stack([torch.stack(run.logits, 1)[0] for run in runs]).float()  # (runs, steps, V)
    top = logits.topk(2, -1).values
    return dict(
        logits=[floats(row) for row in logits[:, 0]],
        tokens=[run.sequences[0, -request["tokens"] :].tolist() for run in runs],
        gaps=((top[..., 0] - top[..., 1]) / logits.std(-1)).tolist(),
    )


def time_request(request):
    start = time.perf_counter()
    sweep(request, False)
    return dict(ms=1e3 * (time.perf_counter() - start))


peer.serve(dict(check=check, time=time_request))
