"""transformers' side of engine.mjs: python engine_peer.py FOLDER THREADS DTYPE"""

import sys
import time

import torch
from qwen_peer import Peer, floats

peer = Peer(sys.argv[1], int(sys.argv[2]), sys.argv[3])


def decode(names: list[str], tokens: int):
    """One forward over the prompts, then steps of a plain greedy loop: the cheapest that transformers offers (logits of
    the last row only; generate() does more). Yields per step: token, logits."""
    inputs = peer.inputs(names)
    mask = inputs["attention_mask"]
    positions = peer.positions(inputs)
    following = positions.amax((0, 2))[:, None] + 1  # (B, 1)
    out = peer.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    for step in range(tokens):
        logits = out.logits[:, -1]
        token = logits.argmax(-1, keepdim=True)
        yield token[:, 0], logits
        if step + 1 == tokens:
            return
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
        out = peer.model(
            input_ids=token,
            attention_mask=mask,
            position_ids=(following + step).expand(3, -1, -1),
            past_key_values=out.past_key_values,
            use_cache=True,
        )


def check(request):
    steps = list(decode(request["prompts"], request["tokens"]))
    top = torch.stack([logits.float().topk(2, -1).values for _, logits in steps], 1)
    spread = torch.stack([logits.float().std(-1) for _, logits in steps], 1)
    return dict(
        logits=[floats(row) for row in steps[0][1]],
        tokens=torch.stack([token for token, _ in steps], 1).tolist(),
        gaps=((top[..., 0] - top[..., 1]) / spread).tolist(),
    )


def time_request(request):
    """`ms`: the whole request; `decodeMs`: its steps after the first token."""
    start = time.perf_counter()
    steps = decode(request["prompts"], request["tokens"])
    next(steps)
    first = time.perf_counter()
    for _ in steps:
        pass
    end = time.perf_counter()
    return dict(ms=1e3 * (end - start), decodeMs=1e3 * (end - first))


peer.serve(dict(check=check, time=time_request))
