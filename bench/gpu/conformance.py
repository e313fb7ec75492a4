"""Runs the conformance kernels on the card and keeps what it answered: conformance.py HARDWARE EMULATED OUT.json

OUT.json is a list of records in the form of test/fixtures/gpu (see its README): copy it there under the card's name and
the test suite replays it through the emulator ever after. Here the emulator is asked at once, on the same inputs.
`-` for HARDWARE: nothing is recorded, the emulator's own run is counted.
"""

import base64
import datetime
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def zipped(data):
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def query(what):
    text = subprocess.run(["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader", "-i", "0"], capture_output=True,
                          text=True, check=True).stdout
    return text.strip()


def differing(rule, got, wanted):
    """Words outside the rule. For sums of products the size is unknown here: 2^-12 relative, the test suite is stricter."""
    a, b = np.frombuffer(got, np.uint32), np.frombuffer(wanted, np.uint32)
    if rule == "bits":
        return int((a != b).sum())
    x, y = a.view(np.float32).astype(np.float64), b.view(np.float32).astype(np.float64)
    bound = dict(relative=2.0**-21, absolute=2.0**-20, sum=2.0**-12)[rule.split(" ")[0]]
    with np.errstate(invalid="ignore"):
        size = np.maximum(1.0, np.abs(y)) if rule.startswith(("absolute", "sum")) else np.abs(y)
        fine = (a == b) | (np.isnan(x) & np.isnan(y)) | (np.abs(x - y) <= bound * size)
    return int((~fine).sum())


def main():
    hardware, emulated, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    program = emulated if hardware == "-" else hardware
    cases = [json.loads(line) for line in subprocess.run([program, "list"], capture_output=True, text=True, check=True
                                                         ).stdout.splitlines()]
    meta = dict(device="emulator", compute="-", driver="-")
    if hardware != "-":
        meta = dict(device=query("name"), compute=query("compute_cap"), driver=query("driver_version"))
    meta["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    records, summary = [], []
    with tempfile.TemporaryDirectory() as folder:
        said = subprocess.run([program, "record", folder], capture_output=True, text=True)
        print(said.stderr, end="", flush=True)
        for case in cases:
            name = case["name"]
            try:
                given, got = (Path(folder, f"{name}.{end}").read_bytes() for end in ("in", "out"))
            except FileNotFoundError:
                line = next((l for l in said.stderr.splitlines() if l.startswith(f"{name}: ")), f"{name}: no output")
                summary.append(dict(case=name, ran=False, why=line.partition(": ")[2]))
                continue
            answer = subprocess.run([emulated, "run", name], input=given, capture_output=True)
            words = differing(case["compare"], answer.stdout, got) if answer.returncode == 0 else None
            unwritten = int((np.frombuffer(got, np.uint32) == 0xA5A5A5A5).sum())
            summary.append(dict(case=name, ran=True, words=len(got) // 4, differ=words, unwritten=unwritten))
            print(f"  {name}: {'the emulator agrees' if words == 0 else f'{words} of {len(got) // 4} words DIFFER'}",
                  flush=True)
            records.append(dict(case=name, instruction=case["instruction"], compare=case["compare"], **meta,
                                input=zipped(given), output=zipped(got)))
    if hardware != "-":
        part = out.with_suffix(".part")
        part.write_text(json.dumps(records, indent=1) + "\n")
        os.replace(part, out)
    ran = [s for s in summary if s["ran"]]
    good = bool(ran) and all(s["differ"] == 0 and s["unwritten"] == 0 for s in ran)
    report = dict(stage="conformance", done=True, recorded=hardware != "-", device=meta["device"], cases=summary, agrees=good)
    Path(sys.argv[4]).write_text(json.dumps(report, indent=1) + "\n")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
