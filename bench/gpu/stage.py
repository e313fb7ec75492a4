"""What every benchmark stage shares: its arguments, its record on disk after every row, agreement before timing."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch

from backend import Backend
from timing import Clock, compare


class Stage:
    """`rows` go to --out as they come (written beside, then renamed), so that a killed stage loses one row."""

    def __init__(self, name):
        parser = argparse.ArgumentParser()
        parser.add_argument("--library", required=True, help="galvani_cuda.so or its emulated twin")
        parser.add_argument("--planner", help="the planner's shared object")
        parser.add_argument("--out", required=True, type=Path)
        parser.add_argument("--seconds", type=float, default=1e9, help="starts no row after this long")
        parser.add_argument("--without", type=lambda s: s.split(","), default=[], help="kernels found wrong before")
        self.args = parser.parse_args()
        self.name, self.start, self.rows, self.skipped = name, time.monotonic(), [], []
        self.backend = Backend(self.args.library)
        self.dry = self.backend.emulated
        self.device = self.backend.device
        self.info = self.backend.info()
        self.clock = Clock(enabled=not self.dry)
        torch.manual_seed(20251126)
        torch.set_grad_enabled(False)
        self.write()

    def write(self, done=False):
        seconds = round(time.monotonic() - self.start, 1)
        record = dict(stage=self.name, done=done, seconds=seconds, timed=not self.dry, device=self.info,
                      torch=torch.__version__, rows=self.rows, skipped=self.skipped)
        part = self.args.out.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(part, self.args.out)

    def enough_time(self, what):
        """False once the stage's time is nearly spent; what is left out is named in the record."""
        if time.monotonic() - self.start < self.args.seconds:
            return True
        self.skip(what, "no time left")
        return False

    def left_out(self, kernel):
        """Whether this kernel has been found wrong: one illegal access would take the whole process along."""
        return kernel in self.args.without

    def skip(self, what, why):
        self.skipped.append(dict(what=what, why=why))
        print(f"  not run: {what}: {why}", flush=True)
        self.write()

    def add(self, row):
        if "errors" in row and not any(side.startswith(("ours", "attn_")) for side in row["errors"]):
            row["agrees"] = None  # nothing of ours was compared
        self.rows.append(row)
        self.write()
        line = " ".join(f"{k}={v}" for k, v in row.items() if not isinstance(v, (dict, list)))
        times = ", ".join(f"{n} {t['us']:.1f}" if "us" in t else f"{n}: {t['error']}"
                          for n, t in row.get("sides", {}).items())
        print(f"  {line}{' | µs: ' + times if times else ''}", flush=True)
        what = " ".join(str(row[k]) for k in ("op", "what", "layout", "length", "prefix", "batch") if k in row)
        for side, why in row.get("unavailable", {}).items():
            self.skip(f"{what}: {side}", why)

    def time(self, sides):
        """Medians per side, and clocks. Without a GPU every call is made once and nothing is timed."""
        if not self.dry:
            return compare(sides, self.clock)
        for calls in sides.values():
            calls[0]()
        return {}, None

    def finish(self):
        self.clock.close()
        self.write(done=True)
        bad = [row for row in self.rows if row.get("agrees") is False]
        for row in bad:
            print(f"  DISAGREES: {json.dumps(row)}", flush=True)
        sys.exit(1 if bad else 0)


def relative_error(got, expected):
    """‖got − expected‖ / ‖expected‖ in float64; NaN anywhere gives infinity."""
    got, expected = got.double().flatten(), expected.double().flatten()
    if got.shape != expected.shape:
        raise ValueError(f"expected {tuple(expected.shape)}, got {tuple(got.shape)}")
    error = torch.linalg.vector_norm(got - expected) / torch.linalg.vector_norm(expected).clamp_min(1e-30)
    return float(error) if torch.isfinite(error) else float("inf")
