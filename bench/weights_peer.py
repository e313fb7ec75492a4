"""The other sides of the weights bench: one job per line, its time and what it found.

published   the method of the paper's scripts: both state dicts in memory as float16, a loop over the parameters;
            singular values by torch.linalg.svdvals in float32.
loop        a straightforward PyTorch loop over lazily opened files, in float32, for the statistics galvani computes.
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

torch.set_num_threads(int(sys.argv[1]))
torch.set_grad_enabled(False)


def shards(folder):
    path = Path(folder)
    return [path] if path.is_file() else sorted(path.glob("*.safetensors"))


def published(before, after):
    """Norms alone, as the script prints them: it computes no other statistic."""

    def load(folder):
        return {name: value.to(torch.float16) for file in shards(folder) for name, value in load_file(file).items()}

    a, b = load(before), load(after)
    total = 0.0
    for name, value in a.items():
        delta = (b[name] - value).float()
        norm, base = torch.norm(delta, p="fro").item(), torch.norm(value.float(), p="fro").item()
        total += norm**2 if base else 0.0
    return {"norm": math.sqrt(total)}


def loop(before, after):
    total = 0.0
    for file_a, file_b in zip(shards(before), shards(after)):
        with safe_open(file_a, "pt") as a, safe_open(file_b, "pt") as b:
            for name in a.keys():
                x_stored, y_stored = a.get_tensor(name), b.get_tensor(name)
                x, y = x_stored.float(), y_stored.float()
                d = y - x
                square = (d.double() ** 2).sum().item()
                total += square
                found = [x.double().norm().item(), y.double().norm().item(), d.abs().max().item()]
                found += [d.mean().item(), (d.double() ** 3).sum().item(), (d.double() ** 4).sum().item()]
                found += [(x_stored == y_stored).sum().item(), (d == 0).sum().item()]
                ulp = torch.ldexp(torch.ones_like(x), torch.frexp(x)[1] - 8)
                steps = d.abs() / ulp
                found.append((steps < 0.5).sum().item())
                changed = steps[steps > 0]
                found.append(torch.histc(torch.log2(changed), 16, -8, 8).tolist())
                if d.dim() > 1:
                    m = d.reshape(d.shape[0], -1).double() ** 2
                    found += [m.sum(0), m.sum(1)]
    return {"norm": math.sqrt(total)}


def spectra(before, after, dtype="float32"):
    with safe_open(before, "pt") as a, safe_open(after, "pt") as b:
        (name,) = a.keys()
        delta = b.get_tensor(name).float() - a.get_tensor(name).float()
    return {"values": torch.linalg.svdvals(delta.to(getattr(torch, dtype))).tolist()}


JOBS = {"published": published, "loop": loop, "spectra": spectra}

for line in sys.stdin:
    request = json.loads(line)
    op = request.pop("op")
    try:
        if op == "memory":
            status = Path("/proc/self/status").read_text()
            print(json.dumps({"peakMiB": int(status.split("VmHWM:")[1].split()[0]) // 1024}), flush=True)
            continue
        start = time.perf_counter()
        found = JOBS[op](**request)
        print(json.dumps({"ms": (time.perf_counter() - start) * 1000, **found}), flush=True)
    except Exception as error:  # noqa: BLE001
        print(json.dumps({"error": repr(error)}), flush=True)
