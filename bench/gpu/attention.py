"""Prefill attention beside PyTorch: every hook level × length, 28 query and 4 KV heads of 128, causal.

Each length is a batch of 16,384 tokens in all (16k: one sequence), the convention of the published FlashAttention
figures; `single` is one sequence alone, which leaves much of the card empty when it is short. Two layouts of the keys:
`plain` and `single`, one segment, for the kernels without hooks; `segmented`, four segments that start pages of their own
(their last pages are partly empty), for hooks and for peers with the same edits.
"""

import math
import warnings

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from problem import BLOCKED, Hooks, Launches, Planner, Problem, reference
from stage import Stage, relative_error
from timing import sets_needed

stage = Stage("attention")
planner = Planner(stage.args.planner, stage.backend.abi)
dry, device = stage.dry, stage.device
LENGTHS = [150] if dry else [2048, 16384, 8192, 4096, 1024, 512]  # the ones that matter most first: time may run out
TOKENS = 300 if dry else 16384
SHAPE = dict(heads=4, kv_heads=2) if dry else dict(heads=28, kv_heads=4)
TOLERANCE = 1e-2  # bfloat16 probabilities and output; measured near 2e-3
if dry:  # FlexAttention uncompiled says how slow it is; nothing is timed here
    warnings.filterwarnings("ignore", message="flex_attention called without")
KERNELS = [kernel for kernel in ("attn_mma", "attn_wgmma") if not stage.left_out(kernel)]
ALL_READOUTS = ("lse", "entropy", "mass", "run_max")


def segment_lengths(length):
    """System prompt, image, question, reasoning."""
    parts = [max(1, round(length * share)) for share in (0.01, 0.6, 0.09)]
    return [*parts, length - sum(parts)]


def edits(problem, lengths, batch, knockout):
    """Half of the heads: gain 1.2 on the question, −0.5 on the system prompt; reasoning rows lose the image."""
    edges = np.tile(np.array([1.0, 0.0, 1.0], np.float32), (2, 2, 4, 1))
    edges[1, :, 2, 0] = 1.2
    edges[1, :, 0, 1] = -0.5
    edges[1, 1, 1, 1] = BLOCKED if knockout else 0.25
    rows = np.concatenate([np.full(n, s == 3) for s, n in enumerate(lengths)]).astype(np.uint8)
    return Hooks(edges=edges, head_class=(np.arange(problem.heads) % 2).astype(np.uint8),
                 token_class=np.tile(rows, batch), head_scale=None)


def build(length, segmented, batch=None):
    batch = batch or max(1, TOKENS // length)
    problem = Problem(**SHAPE)
    lengths = segment_lengths(length) if segmented else [length]
    for _ in range(batch):
        problem.add_block(length, problem.keys(lengths))
    return problem, lengths, batch


def dense(problem, instance, batch, length):
    """q (B, H, S, D) as a view of token-major rows, k and v (B, G, S, D)."""
    q = instance["q"].view(batch, length, problem.heads, problem.dim).transpose(1, 2)
    gathered = [problem.gather(instance, b)[:2] for b in range(batch)]
    return q, *(torch.stack([g[i] for g in gathered]).transpose(1, 2).contiguous().transpose(1, 2) for i in (0, 1))


def sdpa(backend, name, notes):
    def make(q, k, v):
        def call():
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def expanded():
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(q, ke, ve, is_causal=True)

        try:
            call()
            return call
        except RuntimeError:  # no grouped heads in this one: keys repeated beforehand, not timed
            ratio = q.shape[1] // k.shape[1]
            ke, ve = k.repeat_interleave(ratio, 1), v.repeat_interleave(ratio, 1)
            expanded()
            notes[name] = "keys and values repeated per query head"
            return expanded

    return make


def eager(q, k, v):
    """transformers' eager_attention_forward, which attention weights need: S×S scores in memory."""
    ratio, length = q.shape[1] // k.shape[1], q.shape[2]
    mask = torch.full((length, length), float("-inf"), device=q.device, dtype=q.dtype).triu(1)
    ke, ve = k.repeat_interleave(ratio, 1), v.repeat_interleave(ratio, 1)

    def call():
        call.weights = None  # the last ones make room
        scores = torch.matmul(q, ke.transpose(2, 3)) * q.shape[-1] ** -0.5 + mask
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
        call.weights = weights
        return torch.matmul(weights, ve)

    return call


def flex(problem, lengths, hooks):
    """Compiled FlexAttention with the same mask, gains, biases and knockouts, looked up per element."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()  # every length is a program of its own; dynamo would stop at eight
    length = sum(lengths)
    edges = torch.from_numpy(hooks.edge_records()).to(device)
    gamma, beta = edges[..., 0].contiguous(), edges[..., 1].contiguous()
    blocked = beta <= BLOCKED / 2
    head_class = torch.from_numpy(hooks.head_class.astype(np.int32)).to(device)
    row_class = torch.from_numpy(hooks.token_class[:length].astype(np.int32)).to(device)
    segment = torch.cat([torch.full((n,), s, dtype=torch.int32) for s, n in enumerate(lengths)]).to(device)

    def mask_mod(b, h, q, kv):
        return (q >= kv) & ~blocked[head_class[h], row_class[q], segment[kv]]

    def score_mod(score, b, h, q, kv):
        c, r, s = head_class[h], row_class[q], segment[kv]
        return gamma[c, r, s] * score + beta[c, r, s]

    # Compiled, else it would hold heads × S × S booleans and more.
    mask = create_block_mask(mask_mod, None, problem.heads, length, length, device=device.type, _compile=not dry)
    attend = flex_attention if dry else torch.compile(flex_attention, dynamic=False)

    def make(q, k, v):
        return lambda: attend(q, k, v, score_mod=score_mod, block_mask=mask, enable_gqa=True)

    return make


def check_ours(problem, launch, length):
    """A few rows of the first and last block against float64: out, and every read-out asked for."""
    worst = {}
    for block in {0, len(problem.blocks) - 1}:
        rows = sorted({0, 1, length // 2, length - 1, *np.random.default_rng(block).integers(0, length, 4).tolist()})
        expected = reference(problem, launch.instance, block, rows)
        at = expected["tokens"]
        worst["out"] = max(worst.get("out", 0.0), relative_error(launch.instance["out"][at], expected["out"]))
        for name, tensor in launch.outputs.items():
            if name in expected:
                error = (tensor[at].double() - expected[name]).abs().max()
                worst[name] = max(worst.get(name, 0.0), float(error) if torch.isfinite(error) else math.inf)
    return worst


LIMITS = dict(out=TOLERANCE, lse=1e-3, entropy=2e-3, mass=1e-4)


def ours(problem, sets, kernel, length, readouts=()):
    """Calls over the instances, checked first. Raises when they disagree."""
    launches = Launches(stage.backend, planner, problem, kernel=kernel, readouts=readouts)
    outputs = launches.outputs()
    calls = [launches.bind(instance, outputs) for instance in sets]
    sets[0]["out"].fill_(float("nan"))
    calls[0]()
    stage.backend.synchronize()
    worst = check_ours(problem, calls[0], length)
    bad = {name: error for name, error in worst.items() if not error <= LIMITS[name]}
    if bad:
        raise AssertionError(f"{kernel} is off by {bad}")
    return calls, worst


def peer_calls(make, operands, expected, name, errors):
    """Calls over dense copies; their first output must agree with ours."""
    calls = [make(*each) for each in operands]
    out = calls[0]().transpose(1, 2).flatten(0, 1)
    errors[name] = relative_error(out, expected)
    if not errors[name] <= 2 * TOLERANCE:
        raise AssertionError(f"{name} is off by {errors[name]:.2e}")
    return calls


def attempt(row, sides, name, make):
    """A side that cannot be had is named with its reason; a disagreement marks the row."""
    try:
        sides[name] = make()
    except AssertionError as error:
        row["agrees"] = False
        row.setdefault("unavailable", {})[name] = str(error)
    except Exception as error:
        row.setdefault("unavailable", {})[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        if device.type == "cuda":
            torch.cuda.empty_cache()


def measure(row, sides):
    row["sides"], row["clocks"] = stage.time(sides)
    stage.add(row)


def instances(problem):
    bytes_per_set = 4 * problem.tokens * problem.heads * problem.dim + problem.key_bytes()
    return [problem.instance(device) for _ in range(sets_needed(bytes_per_set, stage.info["l2_bytes"]))]


def flop(problem, length, batch):
    return 4 * problem.dim * problem.heads * batch * length * (length + 1) // 2


def without_hooks(layout, length, batch=None):
    """One segment: ours beside the fused kernels of torch."""
    if not stage.enough_time(f"{layout}, {length}"):
        return
    problem, lengths, batch = build(length, False, batch)
    sets = instances(problem)
    row = dict(layout=layout, length=length, batch=batch, flop=flop(problem, length, batch), agrees=True, errors={}, notes={},
               **SHAPE)
    sides = {}
    for kernel in KERNELS:
        def make_ours(kernel=kernel):
            calls, row["errors"][kernel] = ours(problem, sets, kernel, length)
            return calls
        attempt(row, sides, kernel, make_ours)
    operands = [dense(problem, instance, batch, length) for instance in sets]
    for name, backend in [("sdpa flash", SDPBackend.FLASH_ATTENTION), ("sdpa cudnn", SDPBackend.CUDNN_ATTENTION),
                          ("sdpa efficient", SDPBackend.EFFICIENT_ATTENTION)]:
        attempt(row, sides, name, lambda n=name, b=backend: peer_calls(
            sdpa(b, n, row["notes"]), operands, sets[0]["out"], n, row["errors"]))
    measure(row, sides)


def with_hooks(length):
    """Four segments: every level of ours, then the peers with the same edits or the same read-outs."""
    if not stage.enough_time(f"segmented, {length}"):
        return
    problem, lengths, batch = build(length, segmented=True)
    sets = instances(problem)
    bias, knockout = (edits(problem, lengths, batch, k) for k in (False, True))
    scaled = edits(problem, lengths, batch, False)
    scaled.head_scale = np.linspace(0.5, 1.5, problem.heads).astype(np.float32)
    levels = [("off", None, ()), ("mass", None, ("lse", "mass")), ("stats", None, ("lse", "entropy", "mass")),
              ("bias", bias, ()), ("all", scaled, ALL_READOUTS), ("knockout", knockout, ())]
    row = dict(layout="segmented", length=length, batch=batch, segments=lengths, flop=flop(problem, length, batch),
               agrees=True, errors={}, **SHAPE)
    sides, peers_wanted = {}, {}
    for kernel in KERNELS:
        for level, hooks, readouts in levels:
            def make_level(kernel=kernel, level=level, hooks=hooks, readouts=readouts):
                problem.hooks = hooks
                calls, row["errors"][f"{kernel} {level}"] = ours(problem, sets, kernel, length, readouts)
                if level in ("off", "knockout"):
                    peers_wanted[level] = sets[0]["out"].clone()
                return calls
            attempt(row, sides, f"{kernel} {level}", make_level)
    operands = [dense(problem, instance, batch, length) for instance in sets]
    if "knockout" in peers_wanted:
        attempt(row, sides, "flex knockout", lambda: peer_calls(
            flex(problem, lengths, knockout), operands, peers_wanted["knockout"], "flex knockout", row["errors"]))
    if "off" in peers_wanted:  # one buffer set: its scores alone are far larger than any cache
        attempt(row, sides, "eager", lambda: peer_calls(eager, operands[:1], peers_wanted["off"], "eager",
                                                        row["errors"]))
    measure(row, sides)


for length in LENGTHS:
    for work in [lambda: without_hooks("plain", length), lambda: with_hooks(length),
                 lambda: without_hooks("single", length, 1) if length < TOKENS else None]:
        work()
        if device.type == "cuda":
            torch.cuda.empty_cache()
stage.finish()
