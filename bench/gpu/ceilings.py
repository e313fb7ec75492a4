"""What this machine gives at most: device-to-device copy (bytes read plus written) and a bf16 matrix product."""

import torch

from stage import Stage

stage = Stage("ceilings")
copy_bytes = 1 << 20 if stage.dry else 2 << 30
source = torch.randint(-100, 100, (copy_bytes,), dtype=torch.int8, device=stage.device)
target = torch.empty_like(source)
sides, clocks = stage.time({"torch copy": [lambda: target.copy_(source)]})
row = dict(what="copy", bytes=2 * copy_bytes, sides=sides, clocks=clocks, agrees=bool(torch.equal(source, target)))
if "torch copy" in sides and "us" in sides["torch copy"]:
    row["tb_per_s"] = round(2 * copy_bytes / sides["torch copy"]["us"] * 1e-6, 3)
stage.add(row)
del source, target

for n in [64] if stage.dry else [4096, 8192]:
    a = torch.randn(n, n, device=stage.device).bfloat16()
    b = torch.randn(n, n, device=stage.device).bfloat16()
    sides, clocks = stage.time({"torch matmul": [lambda: a @ b.T]})
    row = dict(what="bf16 matmul", n=n, flop=2 * n**3, sides=sides, clocks=clocks)
    if "us" in sides.get("torch matmul", {}):
        row["tflop_per_s"] = round(2 * n**3 / sides["torch matmul"]["us"] * 1e-6, 1)
    stage.add(row)
stage.finish()
