"""Decode attention: one row per sequence after 2k or 16k keys, one sequence or 28 variants of it, with and without a
shared prefix, beside SDPA over dense caches. attn_decode's partial states and attn_combine are timed together."""

from functools import partial

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from problem import Launches, Planner, Problem, reference
from stage import Stage, relative_error
from timing import sets_needed

stage = Stage("decode")
planner = Planner(stage.args.planner, stage.backend.abi)
dry, device = stage.dry, stage.device
SHAPE = dict(heads=4, kv_heads=2) if dry else dict(heads=28, kv_heads=4)
PREFIXES, BATCHES = ([640], [1, 12]) if dry else ([2048, 16384], [1, 28])
OWN = 64  # keys of its own each variant has after the prefix
TOLERANCE = 1e-2


def build(prefix, batch, shared):
    """One row per variant, `prefix` keys in three segments and OWN of its own; shared: the same pages for all."""
    problem = Problem(**SHAPE)
    lengths = [prefix // 64, prefix // 2 + 1]
    lengths.append(prefix - sum(lengths))
    common = problem.keys(lengths) if shared else None
    for _ in range(batch):
        runs = list(common) if shared else problem.keys(lengths)
        runs.append((problem.pages, prefix, OWN, 3))
        problem.pages += 1
        problem.add_block(1, runs)
    problem.segments = 4
    return problem


def peer(backend):
    def call(q, k, v):
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, enable_gqa=True)

    return call


def agrees(problem, launch, errors, name):
    worst = 0.0
    for block in {0, len(problem.blocks) - 1}:
        expected = reference(problem, launch.instance, block, [0])
        worst = max(worst, relative_error(launch.instance["out"][expected["tokens"]], expected["out"]))
        if "mass" in launch.outputs:
            off = float((launch.outputs["mass"][expected["tokens"]].double() - expected["mass"]).abs().max())
            worst = worst if off <= 1e-4 else float("inf")
    errors[name] = worst
    return worst <= TOLERANCE


if stage.left_out("attn_decode") or stage.left_out("attn_mma"):  # a shared prefix is read by attn_mma
    stage.skip("everything", "attn_decode or attn_mma was found wrong")
    PREFIXES = []
for prefix in PREFIXES:
    for batch in BATCHES:
        if not stage.enough_time(f"{prefix} keys × {batch}"):
            continue
        own = build(prefix, batch, shared=False)
        row = dict(prefix=prefix, batch=batch, own=OWN, key_bytes=own.key_bytes(), agrees=True, errors={}, **SHAPE)
        count = sets_needed(own.key_bytes(), stage.info["l2_bytes"])
        problems = {"ours": (own, False, ()), "ours, all read-outs": (own, False, ("lse", "entropy", "mass"))}
        if batch > 1:
            together = build(prefix, batch, shared=True)
            row["shared_key_bytes"] = (prefix + batch * OWN) * together.kv_heads * together.dim * 4
            problems |= {"ours, shared prefix": (together, True, ()),
                         "ours, shared pages read by each": (together, False, ())}
        sides, instances = {}, {}
        for name, (problem, cascade, readouts) in problems.items():
            try:
                if id(problem) not in instances:
                    instances[id(problem)] = [problem.instance(device) for _ in range(count)]
                launches = Launches(stage.backend, planner, problem, readouts=readouts, cascade=cascade)
                row.setdefault("work", {})[name] = launches.counts()
                calls = [launches.bind(instance) for instance in instances[id(problem)]]
                instances[id(problem)][0]["out"].fill_(float("nan"))
                calls[0]()
                stage.backend.synchronize()
                if agrees(problem, calls[0], row["errors"], name):
                    sides[name] = calls
                else:
                    row["agrees"] = False
            except Exception as error:
                row.setdefault("unavailable", {})[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                row["agrees"] = row["agrees"] and not isinstance(error, AssertionError)

        dense = []
        for instance in instances[id(own)]:
            gathered = [own.gather(instance, b)[:2] for b in range(batch)]
            q = instance["q"].view(batch, own.heads, 1, own.dim)
            dense.append((q, *(torch.stack([g[i] for g in gathered]).contiguous() for i in (0, 1))))
        for name, backend in [("sdpa flash", SDPBackend.FLASH_ATTENTION), ("sdpa cudnn", SDPBackend.CUDNN_ATTENTION)]:
            call = peer(backend)
            try:
                out = call(*dense[0]).view(batch, own.heads, own.dim)
                instances[id(own)][0]["out"].fill_(float("nan"))
                sides["ours"][0]()
                stage.backend.synchronize()
                row["errors"][name] = relative_error(out, instances[id(own)][0]["out"])
                if row["errors"][name] <= 2 * TOLERANCE:
                    sides[name] = [partial(call, *each) for each in dense]
                else:
                    row["agrees"] = False
            except Exception as error:
                row.setdefault("unavailable", {})[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"
        row["sides"], row["clocks"] = stage.time(sides)
        for name, side in row["sides"].items():
            if "us" in side:
                side["tb_per_s"] = round(row["key_bytes"] / side["us"] * 1e-6, 3)
        stage.add(row)
        del sides, instances, dense
stage.finish()
