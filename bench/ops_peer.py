"""PyTorch's side of matmul.mjs and attention.mjs: python ops_peer.py THREADS"""

import base64
import json
import sys
import time

import torch
from torch.nn.functional import linear, scaled_dot_product_attention

torch.set_num_threads(int(sys.argv[1]))
torch.set_grad_enabled(False)
DTYPES = dict(F32=torch.float32, BF16=torch.bfloat16)
made = dict(key="")


def values(count: int, seed: int, scale: float) -> torch.Tensor:
    """The same numbers as ops_ours.mjs makes."""
    i = torch.arange(count, dtype=torch.int64) % 1048573
    return ((i * 8121 + seed * 28411) % 134456 % 128).float() * scale - 64 * scale


CLOCKS = dict(wall=time.perf_counter, cpu=time.process_time)  # cpu: of all threads of this process


def timed(call, least_ms: float, fresh: bool, now) -> float:
    if fresh:
        call()
    calls, start = 0, now()
    while True:
        call()
        calls += 1
        if 1e3 * (now() - start) >= least_ms:
            return 1e3 * (now() - start) / calls


def once(key: str, make):
    global made
    fresh = made["key"] != key
    if fresh:
        made = dict(key="")
        made = dict(key=key, call=make())
    return made["call"], fresh


def matmul(r):
    def make():
        x = values(r["m"] * r["k"], 1, 2**-6).view(r["m"], r["k"]).to(DTYPES[r["dtype"]])
        w = values(r["n"] * r["k"], 2, 2**-9).view(r["n"], r["k"]).to(DTYPES[r["dtype"]])
        return lambda: linear(x, w)

    return once(f"{r['m']} {r['n']} {r['k']} {r['dtype']}", make)


def attention(r):
    heads, groups, dims, rows, keys = r["heads"], r["kvHeads"], r["headDim"], r["rows"], r["keys"]

    def make():
        q = values(rows * heads * dims, 1, 2**-5).view(1, rows, heads, dims).transpose(1, 2)
        k = values(groups * keys * dims, 2, 2**-5).view(1, groups, keys, dims)
        v = values(groups * keys * dims, 3, 2**-5).view(1, groups, keys, dims)
        causal = torch.full((rows, keys), float("-inf")).triu(keys - rows + 1)

        def sdpa():
            whole = rows == keys
            return scaled_dot_product_attention(
                q, k, v, attn_mask=None if whole or rows == 1 else causal, is_causal=whole, enable_gqa=True
            )

        def eager():
            # transformers' eager_attention_forward, which an output of attention weights needs.
            scores = q @ k.repeat_interleave(heads // groups, 1).transpose(2, 3) * dims**-0.5 + causal
            return torch.softmax(scores, -1, dtype=torch.float32) @ v.repeat_interleave(heads // groups, 1)

        return sdpa if r["how"] == "sdpa" else eager

    return once(json.dumps([heads, groups, dims, rows, keys, r["how"]]), make)


for line in sys.stdin:
    try:
        request = json.loads(line)
        call, fresh = dict(matmul=matmul, attention=attention)[request["op"]](request)
        if request.get("check"):
            out = call().float()
            out = out.flatten()[:64] if request["op"] == "matmul" else out[0, :, -1].flatten()
            answer = dict(y=base64.b64encode(out.contiguous().numpy().tobytes()).decode())
        else:
            answer = dict(ms=timed(call, request["leastMs"], fresh, CLOCKS[request.get("clock", "wall")]))
    except Exception as error:  # the asker sees it
        answer = dict(error=f"{type(error).__name__}: {error}")
    print(json.dumps(answer), flush=True)
