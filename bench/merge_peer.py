"""mergekit's side of the merge bench.

    python merge_peer.py parity DIR DTYPE CASE...      writes DIR/theirs-CASE for every case, computed in DTYPE
    python merge_peer.py one RECIPE OUT [SEED]   one merge; prints {seconds, peakMiB, importSeconds}
"""

import json
import os
import resource
import sys
import time

start = time.perf_counter()
import torch  # noqa: E402
import yaml  # noqa: E402
from mergekit.config import MergeConfiguration  # noqa: E402
from mergekit.merge import run_merge  # noqa: E402
from mergekit.options import MergeOptions  # noqa: E402

from merge_recipes import recipe  # noqa: E402

imported = time.perf_counter() - start


def merge(text, out, seed=None):
    config = MergeConfiguration.model_validate(yaml.safe_load(text))
    options = MergeOptions(quiet=True, copy_tokenizer=False, write_model_card=False, random_seed=seed)
    run_merge(config, out, options)


if sys.argv[1] == "parity":
    # ramplus_tl divides two integer counts, which gives torch's default dtype: with it that factor is float64 too.
    torch.set_default_dtype(getattr(torch, sys.argv[3]))
    directory = sys.argv[2]
    for case in sys.argv[4:]:
        merge(recipe(case, directory, sys.argv[3]), f"{directory}/theirs-{case}", seed=7)
        print(case, flush=True)
else:
    from importlib.metadata import version

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    begin = time.perf_counter()
    merge(open(sys.argv[2]).read(), sys.argv[3], int(sys.argv[4]) if len(sys.argv) > 4 else None)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - begin,
                "importSeconds": imported,
                "peakMiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "versions": {name: version(name) for name in ("mergekit", "torch", "transformers")},
            }
        )
    )
