"""Read-outs that are kernels of their own, beside PyTorch eager, which holds the S×S probabilities to get them: how much
each key receives (attn_probe, from the final lse) and the largest keys of every row (attn_mma with run maxima, then
topk_refine). One sequence; eager goes head by head, so that it fits."""

import torch

from problem import Launches, Planner, Problem, reference
from stage import Stage, relative_error
from timing import sets_needed

stage = Stage("readouts")
planner = Planner(stage.args.planner, stage.backend.abi)
dry, device = stage.dry, stage.device
SHAPE = dict(heads=4, kv_heads=2) if dry else dict(heads=28, kv_heads=4)
TOP = 8


def probabilities(problem, instance, head, rows):
    """(rows, keys) of one head, for the last `rows` tokens of the only block."""
    k, *_ = problem.gather(instance, 0)
    q = instance["q"][-rows:, head]
    scores = (q @ k[head * problem.kv_heads // problem.heads].T).float() * problem.dim**-0.5
    keys = k.shape[1]
    later = torch.arange(keys, device=device)[None, :] > torch.arange(keys - rows, keys, device=device)[:, None]
    return torch.softmax(scores.masked_fill_(later, float("-inf")), -1)


def row_for(kernel, what, length, error, tolerance, ours, eager):
    row = dict(kernel=kernel, what=what, length=length, errors=dict(ours=error), agrees=error <= tolerance, **SHAPE)
    row["sides"], row["clocks"] = stage.time(dict(ours=ours, eager=eager) if row["agrees"] else {})
    stage.add(row)


LENGTHS = [150] if dry else [2048, 16384]
if stage.left_out("attn_mma"):
    stage.skip("everything", "attn_mma was found wrong")
    LENGTHS = []
for length in LENGTHS:
    if not stage.enough_time(f"{length}"):
        continue
    problem = Problem(**SHAPE)
    problem.add_block(length, problem.keys([length // 3, length - length // 3]))
    count = sets_needed(2 * length * problem.heads * problem.dim * 2, stage.info["l2_bytes"], most=8)
    sets = [problem.instance(device) for _ in range(count)]

    launches = Launches(stage.backend, planner, problem, kernel="attn_mma", readouts=("lse", "run_max"), top_k=TOP)
    calls = [launches.bind(instance) for instance in sets]
    for call in calls:
        call()
    stage.backend.synchronize()
    rows = sorted({0, 5, length // 2, length - 1})
    expected = reference(problem, sets[0], 0, rows)
    weight, _ = expected["p"].topk(min(TOP, 6 if 5 in rows else TOP), -1)  # row 5 sees six keys
    got = calls[0].outputs["top_weight"][expected["tokens"]].double()
    error = float((got[1:, :, : weight.shape[-1]] - weight[1:]).abs().max())  # row 0 has one key
    error = error if error == error else float("inf")

    def eager_top(instance):
        return lambda: [probabilities(problem, instance, h, length).topk(TOP, -1) for h in range(problem.heads)]

    row_for("topk_refine", f"top {TOP}", length, error, 1e-3, calls, [eager_top(i) for i in sets])

    for rows in (min(64, length), length):
        probes = [launches.bind_probe(instance, call.outputs["lse"], rows) for instance, call in zip(sets, calls)]
        probes[0]()
        stage.backend.synchronize()
        if length <= 4096:
            want = reference(problem, sets[0], 0, range(length - rows, length))["p"].sum(0)
        else:
            want = torch.stack([probabilities(problem, sets[0], h, rows).double().sum(0) for h in range(problem.heads)])
        error = relative_error(probes[0].outputs["key_mass"], want)

        def eager_mass(instance, rows=rows):
            return lambda: [probabilities(problem, instance, h, rows).sum(0) for h in range(problem.heads)]

        what = "key mass" if rows == length else f"key mass of the last {rows} rows"
        row_for("attn_probe", what, length, error, 1e-2, probes, [eager_mass(i) for i in sets])
    del sets, calls, probes
stage.finish()
