"""A few launches for a profiler to look at: prefill of 4k with and without hooks, decode after 16k keys."""

from problem import Launches, Planner, Problem
from stage import Stage

stage = Stage("profile")
planner = Planner(stage.args.planner, stage.backend.abi)
for kernel, tokens, keys, readouts in [("attn_wgmma", 4096, 4096, ()), ("attn_wgmma", 4096, 4096, ("lse", "entropy", "mass")),
                                       ("attn_mma", 4096, 4096, ()), ("attn_mma", 4096, 4096, ("lse", "entropy", "mass")),
                                       ("attn_decode", 1, 16384, ())]:
    what = f"{kernel}, {tokens} × {keys}, {'read-outs' if readouts else 'plain'}"
    try:
        problem = Problem()
        problem.add_block(tokens, problem.keys([keys // 4, keys - keys // 4]))
        Launches(stage.backend, planner, problem, kernel=kernel, readouts=readouts).bind(problem.instance(stage.device))()
        stage.backend.synchronize()
        stage.add(dict(what=what))
    except RuntimeError as error:
        stage.skip(what, str(error).splitlines()[0])
stage.finish()
