"""Resident weights, on the largest matrix of a 7B model in bf16: every statistic of two and three versions beside torch's
own reductions (norms, dot, maximum alone) and as a share of the measured copy bandwidth; row and column masses; the Gram
matrix of the update beside cuBLAS in float64; inner products and weighted sums beside torch; eigenvalues through our binding of
cuSOLVER, which torch calls too."""

import ctypes
import os

import torch

os.environ.setdefault("GALVANI_CUSOLVER", "auto")  # before the library reads it

from stage import Stage, relative_error
from timing import sets_needed

stage = Stage("weights")
backend, dry, device = stage.backend, stage.dry, stage.device
ROWS, COLUMNS = (60, 1021) if dry else (3584, 18944)
BF16 = 2  # WeightType::kBF16
DOUBLES = ["w0", "w1", "w2", "dot", "sum", "square", "cube", "fourth", "sum 2", "square 2", "cube 2", "fourth 2"]
# Summands are exact in float64: what is left is the order of n additions, far below this.
TOLERANCE = 1e-11


def versions(count):
    """Weights, and after each step the same with a tenth of the entries moved by about one bf16 step."""
    out = [(0.02 * torch.randn(ROWS, COLUMNS, device=device)).bfloat16()]
    for _ in range(count - 1):
        moved = torch.rand(ROWS, COLUMNS, device=device) < 0.1
        out.append(torch.where(moved, (out[-1].float() * (1 + 0.008 * torch.randn(ROWS, COLUMNS, device=device))).bfloat16(),
                               out[-1]))
    return out


def exact(w):
    """What the kernel finds, in float64 by torch: sums (a sum that may cancel as a share of √(n Σ²)), maxima, counts."""
    deltas = [(b.float() - a.float()) for a, b in zip(w, w[1:])]
    sums = [x.double().square().sum() for x in w] + [torch.zeros((), device=device, dtype=torch.float64)] * (3 - len(w))
    sums.append((deltas[0].double() * deltas[-1].double()).sum() if len(w) == 3 else torch.zeros_like(sums[0]))
    maxima, counts = [], []
    for delta in deltas:
        d = delta.double()
        sums += [d.sum(), d.square().sum(), (d.square() * d).sum(), d.square().square().sum()]
        maxima.append(delta.abs().max().double())
        counts += [(delta == 0).sum().double()]
    return sums, maxima, counts


def found(totals, count):
    """The same of our DeltaTotals: 12 sums, 2 maxima, then integers."""
    wide = totals.view(torch.float64)
    integers = totals.view(torch.int64)[14:]
    zeros = [integers[3 + 18 * step + 1].double() for step in range(count - 1)]
    return list(wide[: 4 + 4 * (count - 1)]), list(wide[12 : 12 + count - 1]), zeros


def parts(sums, maxima, counts, elements):
    scaled = []
    for i, value in enumerate(sums):
        name = DOUBLES[i]
        if name == "dot":
            scale = (sums[5] * sums[9]).sqrt() if len(sums) > 9 else torch.ones_like(value)
        elif name.startswith("sum"):
            scale = (elements * sums[i + 1]).sqrt()
        elif name.startswith("cube"):
            scale = (sums[i - 1] * sums[i + 1]).sqrt()
        else:
            scale = torch.ones_like(value)
        scaled.append((value / scale, name.split()[0] in ("dot", "sum", "cube")))
    return scaled, maxima, counts


def error(got, want, elements):
    """Largest of the relative errors; sums that may cancel are already shares, so theirs are absolute."""
    (a, maxima_a, counts_a), (b, maxima_b, counts_b) = parts(*got, elements), parts(*want, elements)
    errors = [float((x - y).abs()) if absolute else relative_error(x, y) for (x, absolute), (y, _) in zip(a, b)]
    same = all(bool(x == y) for x, y in zip([*maxima_a, *counts_a], [*maxima_b, *counts_b]))
    return max(errors) if same else float("inf")


def torch_some(w):
    """Less than ours finds: squared norms, dot, largest change. In float32, which is what people write."""
    deltas = [b.float() - a.float() for a, b in zip(w, w[1:])]
    out = [x.float().square().sum() for x in w] + [d.square().sum() for d in deltas] + [d.abs().max() for d in deltas]
    return out + ([(deltas[0] * deltas[1]).sum()] if len(w) == 3 else [])


def bench(count):
    what = f"{count} × {ROWS} × {COLUMNS} bf16"
    if not stage.enough_time(what):
        return
    elements, bytes_moved = ROWS * COLUMNS, 2 * count * ROWS * COLUMNS
    blocks = -(-elements // backend.constants["kDeltaChunk"])
    size = 8 * (12 + 2 + 3 + 2 * 18)
    fused = torch_some if dry else torch.compile(torch_some, dynamic=False)
    calls, first = {"ours": [], "torch eager": [], "torch compiled": []}, None
    for _ in range(sets_needed(bytes_moved, stage.info["l2_bytes"], most=4)):
        w = versions(count)
        partial = torch.empty(blocks * size, dtype=torch.uint8, device=device)
        totals = torch.full((size,), 255, dtype=torch.uint8, device=device)
        params = backend.params("WeightDeltaParams", count=count, elements=elements, partial=partial, totals=totals)
        params.versions = tuple(x.data_ptr() for x in w) + (None,) * (3 - count)
        params.types = (BF16,) * 3
        params.weights_alive = w
        first = first or (w, totals)
        calls["ours"].append(lambda p=params: backend.call("weight_delta", p))
        calls["torch eager"].append(lambda w=w: torch_some(w))
        calls["torch compiled"].append(lambda w=w: fused(w))
    row = dict(op="weight_delta", what=what, bytes=bytes_moved, errors={}, agrees=True)
    calls["ours"][0]()
    backend.synchronize()
    w, totals = first
    row["errors"]["ours"] = error(found(totals, count), exact(w), elements)
    if not row["errors"]["ours"] <= TOLERANCE:
        row["agrees"] = False
        del calls["ours"]
    row["sides"], row["clocks"] = stage.time(calls)
    for side in row["sides"].values():
        if "us" in side:
            side["tb_per_s"] = round(bytes_moved / side["us"] * 1e-6, 3)
    stage.add(row)


TYPE = dict(after_type=BF16, before_type=BF16)


def timed(op, what, bytes_moved, ours, ours_out, want, others, tolerance, **more):
    """One row: ours is checked against `want` in float64 before anything is timed."""
    if not stage.enough_time(what):
        return
    ours()
    backend.synchronize()
    row = dict(op=op, what=what, bytes=bytes_moved, errors=dict(ours=relative_error(ours_out().double(), want.double())), **more)
    row["agrees"] = bool(row["errors"]["ours"] <= tolerance)
    calls = dict(ours=[ours] if row["agrees"] else [], **{name: [call] for name, call in others.items()})
    row["sides"], row["clocks"] = stage.time({name: list_ for name, list_ in calls.items() if list_})
    for side in row["sides"].values():
        if "us" in side:
            side["tb_per_s"] = round(bytes_moved / side["us"] * 1e-6, 3)
            if "flop" in more:
                side["tflop_per_s"] = round(more["flop"] / side["us"] * 1e-6, 2)
    stage.add(row)


def gram():
    before, after = versions(2)
    k = min(ROWS, COLUMNS)
    out = torch.zeros(k, k, dtype=torch.float64, device=device)
    p = backend.params("WeightGramParams", before=before, after=after, rows=ROWS, columns=COLUMNS, gram=out, **TYPE)
    delta = (after.float() - before.float()).double()
    timed("weight_gram", f"{ROWS} × {COLUMNS}", 4 * ROWS * COLUMNS, lambda: backend.call("weight_gram", p), lambda: out,
          torch.triu(delta @ delta.T), {"torch float64, whole": lambda: delta @ delta.T}, 1e-11,
          flop=k * (k + 1) * max(ROWS, COLUMNS))


def mass():
    w = versions(2)
    bands = -(-ROWS // backend.constants["kMassBand"])
    partial = torch.empty(bands, COLUMNS, dtype=torch.float64, device=device)
    out = torch.zeros(ROWS + COLUMNS, dtype=torch.float64, device=device)
    p = backend.params("WeightMassParams", count=2, step=0, rows=ROWS, columns=COLUMNS, partial=partial,
                       row_squares=out[:ROWS], column_squares=out[ROWS:])
    p.versions = tuple(x.data_ptr() for x in w) + (None,)
    p.types = (BF16,) * 3
    square = lambda: (w[1].float() - w[0].float()).square()
    exactly = (w[1].float() - w[0].float()).double().square()

    def torch_both():
        d = square()
        return d.sum(1), d.sum(0)

    timed("weight_mass", f"{ROWS} × {COLUMNS}", 4 * ROWS * COLUMNS, lambda: backend.call("weight_mass", p), lambda: out,
          torch.cat([exactly.sum(1), exactly.sum(0)]), {"torch eager": torch_both}, 1e-11)


def mix():
    w = versions(3)
    elements = ROWS * COLUMNS
    blocks = -(-elements // backend.constants["kDeltaChunk"])
    partial = torch.empty(blocks, 6, dtype=torch.float64, device=device)
    dots = torch.zeros(6, dtype=torch.float64, device=device)
    p = backend.params("WeightDotsParams", count=3, elements=elements, partial=partial, dots=dots)
    p.inputs = tuple(x.data_ptr() for x in w) + (None,) * 5
    p.types = (BF16,) * 8
    flat = [x.flatten().float() for x in w]
    want = torch.stack([flat[i].double() @ flat[j].double() for i in range(3) for j in range(i, 3)])
    timed("weight_dots", f"3 × {ROWS} × {COLUMNS}", 6 * elements, lambda: backend.call("weight_dots", p), lambda: dots, want,
          {"torch eager": lambda: [w[i].flatten().float() @ w[j].flatten().float() for i in range(3) for j in range(i, 3)]}, 1e-11)
    out = torch.zeros(ROWS, COLUMNS, dtype=torch.bfloat16, device=device)
    factors = (0.3, 0.5, 0.2)
    q = backend.params("WeightSumParams", count=3, elements=elements, out=out, out_type=BF16)
    q.inputs, q.types, q.factors = p.inputs, p.types, factors + (0.0,) * 5
    want = sum(f * x.double() for f, x in zip(factors, w)).float().bfloat16()
    eager = lambda: sum(f * x.float() for f, x in zip(factors, w)).bfloat16()
    timed("weight_sum", f"3 × {ROWS} × {COLUMNS}", 8 * elements, lambda: backend.call("weight_sum", q), lambda: out, want,
          {"torch eager": eager, "torch compiled": eager if dry else torch.compile(eager)}, 0.0)


def eigen():
    """Ours is a call of NVIDIA's library: what can be wrong is what we hand over, and what it costs beside torch's call."""
    what = "eigenvalues by cuSOLVER"
    status = backend.structs["EigenStatus"]()
    backend.table.eigen_status(ctypes.byref(status))
    if not status.name:
        return stage.skip(what, status.problem.decode() or "not asked for")
    k = 60 if dry else 2048
    x = torch.randn(k, 2 * k, dtype=torch.float64, device=device)
    gram = x @ x.T
    for vectors in (0, 1):
        matrix, values = torch.empty_like(gram), torch.zeros(k, dtype=torch.float64, device=device)
        info = torch.ones(1, dtype=torch.int32, device=device)
        p = backend.params("EigenParams", matrix=matrix, values=values, info=info, k=k, vectors=vectors)
        if backend.table.eigen_workspace(ctypes.byref(p)) != 0:
            return stage.skip(what, backend.table.last_error().decode())
        workspace = torch.empty(p.workspace_bytes, dtype=torch.uint8, device=device)
        host = torch.empty(max(1, p.host_workspace_bytes), dtype=torch.uint8)
        backend.set(p, workspace=workspace)
        p.host_workspace = host.data_ptr()

        def ours():
            matrix.copy_(torch.triu(gram))  # it is overwritten
            backend.call("eigen", p)

        theirs = torch.linalg.eigh if vectors else torch.linalg.eigvalsh
        # With vectors: G itself, put together again from what came back.
        found = (lambda: (matrix.T * values) @ matrix) if vectors else (lambda: values)
        want = gram if vectors else torch.linalg.eigvalsh(gram)
        timed("eigen", f"{k}, {'with' if vectors else 'without'} vectors, {status.name.decode()}", 8 * k * k, ours, found, want,
              {"torch": lambda: theirs(gram)}, 1e-11)


bench(2)
bench(3)
mass()
gram()
mix()
eigen()
stage.finish()
