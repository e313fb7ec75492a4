"""Trains and exports the whole family from nothing, resumably: a stage whose checkpoint exists is not run again.

lab/logs tells how long each stage took, on two cores shared with much else. Checkpoints and logs of the
trainers go to --runs; finished members are exported to lab/checkpoints.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from export import export
from family import CHECKPOINTS, LAB, MEMBERS, STAGES
from training import load, start


def main(runs: Path, until: str | None) -> None:
    runs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for stage in STAGES:
        weights = runs / f"{stage.name}.pt"
        if not weights.exists():
            print(f"== {stage.name}", flush=True)
            init = ["--init", str(runs / f"{stage.init}.pt")] if stage.init else []
            command = [sys.executable, str(LAB / stage.trainer), *init, "--out", str(weights), *stage.options]
            subprocess.run(command, check=True, env=environment)
        if stage.name in MEMBERS:
            export(load(start(0), weights), CHECKPOINTS / stage.name)
        if stage.name == until:
            break


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=LAB.parent / "runs" / "lab")
    parser.add_argument("--until", choices=[stage.name for stage in STAGES], help="stop after this stage")
    main(**vars(parser.parse_args()))
