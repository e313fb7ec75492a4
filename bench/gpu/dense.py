"""The rest of a decoder layer beside torch, at the shapes of a 7B model: time, and the share of the measured copy
bandwidth or matrix rate where the bytes and operations are known. torch eager and torch.compile both where they differ."""

import torch
import torch.nn.functional as F

from stage import Stage, relative_error
from timing import sets_needed

stage = Stage("dense")
backend, dry, device = stage.backend, stage.dry, stage.device
ROWS = 20 if dry else 2048
WIDTH, FFN, VOCAB = (64, 128, 512) if dry else (3584, 18944, 152064)
HEADS, KV_HEADS, DIM = (4, 2, 64) if dry else (28, 4, 128)
TOLERANCE = 1e-2
PAGE = 64


def bf16(*shape, scale=1.0):
    return (scale * torch.randn(*shape, device=device)).bfloat16()


def compiled(function):
    return function if dry else torch.compile(function, dynamic=False)


def bench(name, what, make, bytes_moved, flop=0, tolerance=TOLERANCE, peers=()):
    """make() → (calls by side, the sides' first outputs after a run of each) for one buffer set."""
    if not stage.enough_time(f"{name} {what}"):
        return
    row = dict(op=name, what=what, bytes=bytes_moved, flop=flop, agrees=True, errors={})
    sets = []
    try:
        for _ in range(sets_needed(bytes_moved, stage.info["l2_bytes"], most=16)):
            sets.append(make())
    except torch.cuda.OutOfMemoryError:
        stage.skip(f"{name} {what}", "out of memory")
        return
    sides = {}
    for side in sets[0]["calls"]:
        try:
            result = sets[0]["calls"][side]()
            backend.synchronize()
            errors = [relative_error(got, want) for got, want in zip(sets[0]["outputs"](side, result), sets[0]["expected"])]
            row["errors"][side] = max(errors)
            if not max(errors) <= tolerance:
                row["agrees"] = False
                continue
            sides[side] = [each["calls"][side] for each in sets]
        except Exception as error:
            row.setdefault("unavailable", {})[side] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
    row["sides"], row["clocks"] = stage.time(sides)
    for side in row["sides"].values():
        if "us" in side:
            side["tb_per_s"] = round(bytes_moved / side["us"] * 1e-6, 3)
            if flop:
                side["tflop_per_s"] = round(flop / side["us"] * 1e-6, 1)
    stage.add(row)


def residual_norm(rows):
    eps = 1e-6
    def torch_norm(residual, delta, weight):
        total = residual + delta
        wide = total.float()
        return total, (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * weight).to(residual.dtype)
    fused = compiled(torch_norm)

    def make():
        start, delta, weight = bf16(rows, WIDTH), bf16(rows, WIDTH), torch.rand(WIDTH, device=device) + 0.5
        residual, normed = start.clone(), torch.full_like(start, float("nan"))
        params = backend.params("ResidualNormParams", rows=rows, width=WIDTH, residual=residual, delta=delta,
                                weight=weight, normed=normed, eps=eps)
        total = start.double() + delta.double()
        rounded = total.bfloat16().double()
        exact = rounded * torch.rsqrt(rounded.pow(2).mean(-1, keepdim=True) + eps) * weight.double()
        return dict(calls={"ours": lambda: backend.call("residual_norm", params),
                           "torch eager": lambda: torch_norm(start, delta, weight),
                           "torch compiled": lambda: fused(start, delta, weight)},
                    outputs=lambda side, result: (residual, normed) if side == "ours" else result,
                    expected=(total, exact))
    bench("residual_norm", f"{rows} × {WIDTH}", make, 2 * rows * WIDTH * 4)


def swiglu(rows):
    def torch_swiglu(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up
    fused = compiled(torch_swiglu)

    def make():
        x, out = bf16(rows, 2 * FFN), torch.full((rows, FFN), float("nan"), device=device, dtype=torch.bfloat16)
        params = backend.params("SwigluParams", rows=rows, width=FFN, gate_up=x, out=out)
        return dict(calls={"ours": lambda: backend.call("swiglu", params), "torch eager": lambda: torch_swiglu(x),
                           "torch compiled": lambda: fused(x)},
                    outputs=lambda side, result: (out if side == "ours" else result,),
                    expected=(torch_swiglu(x.double()),))
    bench("swiglu", f"{rows} × {FFN}", make, rows * FFN * 6)


def embed(rows):
    def make():
        table, ids = bf16(VOCAB, WIDTH), torch.randint(0, VOCAB, (rows,), device=device, dtype=torch.int32)
        out, bad = torch.full((rows, WIDTH), float("nan"), device=device, dtype=torch.bfloat16), torch.zeros(
            1, device=device, dtype=torch.int32)
        params = backend.params("EmbedParams", rows=rows, width=WIDTH, vocab=VOCAB, table=table, ids=ids, out=out, bad=bad)
        return dict(calls={"ours": lambda: backend.call("embed", params), "torch": lambda: F.embedding(ids, table)},
                    outputs=lambda side, result: (out if side == "ours" else result,), expected=(table[ids.long()],))
    bench("embed", f"{rows} × {WIDTH}", make, 2 * rows * WIDTH * 2, tolerance=0.0)


def logits(rows):
    def torch_logits(x):
        lse = torch.logsumexp(x, -1)
        top, at = x.max(-1)
        return lse, at, top - lse
    fused = compiled(torch_logits)

    def make():
        x = 4 * torch.randn(rows, VOCAB, device=device)
        lse, best = (torch.full((rows,), float("nan"), device=device) for _ in range(2))
        argmax = torch.full((rows,), -1, device=device, dtype=torch.int32)
        params = backend.params("LogitsParams", rows=rows, vocab=VOCAB, logits=x, lse=lse, argmax=argmax, max_logprob=best)
        return dict(calls={"ours": lambda: backend.call("logits", params), "torch eager": lambda: torch_logits(x),
                           "torch compiled": lambda: fused(x)},
                    outputs=lambda side, result: (lse, argmax, best) if side == "ours" else result,
                    expected=torch_logits(x.double()))
    bench("logits", f"{rows} × {VOCAB}: lse, argmax, its log-probability", make, rows * VOCAB * 4, tolerance=1e-5)


def kv_append(rows):
    pages = -(-rows // PAGE)

    def rotate(x, cosine, sine):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)

    def torch_append(qkv, bias, cosine, sine, k_out, v_out, slots):
        x = (qkv + bias).unflatten(1, (HEADS + 2 * KV_HEADS, DIM))
        q, k, v = x.split([HEADS, KV_HEADS, KV_HEADS], 1)
        c, s = cosine[:, None], sine[:, None]
        q, k = rotate(q, c, s).to(torch.bfloat16), rotate(k, c, s).to(torch.bfloat16)
        k_out.index_copy_(0, slots, k)
        v_out.index_copy_(0, slots, v.to(torch.bfloat16))
        return q
    fused = compiled(torch_append)

    def make():
        qkv, bias = bf16(rows, (HEADS + 2 * KV_HEADS) * DIM), torch.randn((HEADS + 2 * KV_HEADS) * DIM, device=device)
        angle = torch.rand(rows, DIM // 2, device=device) * 6
        cosine, sine = angle.cos(), angle.sin()
        slots = torch.arange(rows, device=device)
        arena = [torch.full((pages, KV_HEADS, PAGE, DIM), float("nan"), device=device, dtype=torch.bfloat16)
                 for _ in range(2)]
        q = torch.full((rows, HEADS, DIM), float("nan"), device=device, dtype=torch.bfloat16)
        flat = [torch.zeros(rows, KV_HEADS, DIM, device=device, dtype=torch.bfloat16) for _ in range(2)]
        params = backend.params("KvAppendParams", heads=HEADS, kv_heads=KV_HEADS, head_dim=DIM, tokens=rows, qkv=qkv,
                                bias=bias, cosine=cosine, sine=sine, q=q, k=arena[0], v=arena[1],
                                qkv_stride=qkv.shape[1], q_stride=HEADS * DIM, slot=slots.int())
        exact = [torch.zeros(rows, KV_HEADS, DIM, device=device, dtype=torch.float64) for _ in range(2)]
        x = (qkv.double() + bias.double()).unflatten(1, (HEADS + 2 * KV_HEADS, DIM))
        c, s = cosine.double()[:, None], sine.double()[:, None]
        exact = (rotate(x[:, :HEADS], c, s), rotate(x[:, HEADS:HEADS + KV_HEADS], c, s), x[:, HEADS + KV_HEADS:])

        def rows_of(pages_of):
            return pages_of.transpose(1, 2).reshape(-1, KV_HEADS, DIM)[:rows]
        return dict(calls={"ours": lambda: backend.call("kv_append", params),
                           "torch eager": lambda: torch_append(qkv, bias, cosine, sine, *flat, slots),
                           "torch compiled": lambda: fused(qkv, bias, cosine, sine, *flat, slots)},
                    outputs=lambda side, result: (q, rows_of(arena[0]), rows_of(arena[1])) if side == "ours" else (
                        result, *flat), expected=exact)
    bench("kv_append", f"{rows} tokens, {HEADS} + 2·{KV_HEADS} heads of {DIM}", make,
          rows * (HEADS + 2 * KV_HEADS) * DIM * 4)


def gemm(m, n, k):
    def make():
        x, weight = bf16(m, k), bf16(n, k, scale=k**-0.5)
        out = {op: torch.full((m, n), float("nan"), device=device, dtype=torch.bfloat16) for op in ("gemm", "gemm_own")}
        params = {op: backend.params("GemmParams", m=m, n=n, k=k, **{"in": x}, weight=weight, out=out[op], in_stride=k,
                                     out_stride=n) for op in out}
        exact = (x.double() @ weight.double().T) if m * n * k < 2**31 else x.float() @ weight.float().T
        return dict(calls={"ours": lambda: backend.call("gemm_own", params["gemm_own"]),
                           "ours, fastest": lambda: backend.call("gemm", params["gemm"]),
                           "torch": lambda: F.linear(x, weight)},
                    outputs=lambda side, result: (out["gemm_own" if side == "ours" else "gemm"] if side.startswith("ours")
                                                  else result,), expected=(exact,))
    bench("gemm", f"{m} × {n} × {k}", make, 2 * (m * k + n * k + m * n), flop=2 * m * n * k)


torch.backends.cuda.matmul.allow_tf32 = False  # float32 references stay float32
for rows in [ROWS] if dry else [ROWS, 28]:
    residual_norm(rows)
    swiglu(rows)
    kv_append(rows)
embed(ROWS)
logits(3 if dry else 28)
for m in [20] if dry else [2048, 28, 1]:
    for n, k in [(96, 64)] if dry else [(4608, WIDTH), (2 * FFN, WIDTH), (WIDTH, FFN)]:
        gemm(m, n, k)
stage.finish()
