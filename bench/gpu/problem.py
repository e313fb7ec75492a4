"""Attention problems for our kernels: pages filled with random keys, work lists from the real planner, launches.

A Problem is data only (blocks of query tokens against runs of pages, hooks, read-outs); `Problem.instance()` draws q, k
and v for it, `Launches` runs the planner and calls the backend. `gather` lays a block's keys out densely for peers and
references.
"""

import ctypes
from dataclasses import dataclass, field

import numpy as np
import torch

from abi import Abi, ROOT

PAGE = 64
BLOCKED = -1e30
NO_LIMIT = np.iinfo(np.int32).max


class Planner:
    def __init__(self, path, abi=None):
        self.abi = abi or Abi()
        self.library = ctypes.CDLL(str(path))
        self.library.galvani_plan_error.restype = ctypes.c_char_p
        self.library.galvani_plan_free.argtypes = [ctypes.c_void_p]

    def plan(self, given, options):
        """Numpy copies of the plan's arrays by name, and its counts."""
        result = self.abi.structs["PlanResult"]()
        if self.library.galvani_plan(ctypes.byref(given), ctypes.byref(options), ctypes.byref(result)):
            raise RuntimeError(self.library.galvani_plan_error().decode())
        out = dict(slots=result.slots, run_max_stride=result.run_max_stride)
        for name, kind in [("mma", "AttnItem"), ("decode", "AttnItem"), ("wgmma", "AttnItem"), ("run", "PageRun"),
                           ("row", "CombineRow"), ("part", "AttnPart"), ("top_row", "CombineRow"),
                           ("top_part", "AttnPart")]:
            pointer = getattr(result, name if name in ("mma", "decode", "wgmma") else name + "s")
            count, size = getattr(result, name + "_count"), ctypes.sizeof(self.abi.structs[kind])
            raw = ctypes.string_at(pointer, count * size) if count else b""
            out[name] = np.frombuffer(raw, dtype=np.uint8).copy()
            out[name + "_count"] = count
        self.library.galvani_plan_free(result.owner)
        return out

    def probe(self, block, heads, token0, tokens, run0, base):
        """Bytes of attn_probe's items for one block, and how many they are."""
        most = block.run_count * heads
        items = (self.abi.structs["ProbeItem"] * most)()
        count = self.library.galvani_plan_probe(ctypes.byref(block), heads, token0, tokens, run0, ctypes.c_int64(base), items,
                                                most)
        if count != most:
            raise RuntimeError(self.library.galvani_plan_error().decode() if count < 0 else f"{count} of {most} items")
        return np.frombuffer(bytes(items), np.uint8), count


@dataclass
class Hooks:
    """Edits: edges[head class][row class][segment] = (gamma, beta in nats, post); the classes of heads and tokens."""

    edges: np.ndarray
    head_class: np.ndarray
    token_class: np.ndarray
    head_scale: np.ndarray | None = None

    def edge_records(self):
        """As struct Edge: four floats, gamma at least kLeastGamma."""
        out = np.zeros((*self.edges.shape[:3], 4), np.float32)
        out[..., :3] = self.edges
        out[..., 0] = np.maximum(out[..., 0], 1e-6)
        return out


@dataclass
class Problem:
    heads: int = 28
    kv_heads: int = 4
    dim: int = 128
    blocks: list = field(default_factory=list)  # (tokens, [(page, index, count, segment)])
    pages: int = 0
    segments: int = 1
    low: list = field(default_factory=list)
    high: list = field(default_factory=list)
    hooks: Hooks | None = None

    @property
    def tokens(self):
        return sum(tokens for tokens, _ in self.blocks)

    def keys(self, lengths):
        """Runs over fresh pages: segment i has lengths[i] keys and starts on a page of its own."""
        runs, index = [], 0
        for segment, length in enumerate(lengths):
            for done in range(0, length, PAGE):
                count = min(PAGE, length - done)
                runs.append((self.pages, index, count, segment))
                self.pages += 1
                index += count
        self.segments = max(self.segments, len(lengths))
        return runs

    def add_block(self, tokens, runs, causal=True):
        """Causal rows are the last `tokens` of the list."""
        total = sum(count for _, _, count, _ in runs)
        self.blocks.append((tokens, runs))
        self.high += [total - tokens + i if causal else NO_LIMIT for i in range(tokens)]

    def key_bytes(self):
        """Of K and V that the blocks read if each reads its own list once."""
        return sum(count for _, runs in self.blocks for _, _, count, _ in runs) * self.kv_heads * self.dim * 4

    def instance(self, device):
        def draw(*shape):
            return torch.randn(*shape, device=device, dtype=torch.float32).bfloat16()

        q = draw(self.tokens, self.heads, self.dim)
        k, v = draw(self.pages, self.kv_heads, PAGE, self.dim), draw(self.pages, self.kv_heads, PAGE, self.dim)
        counts = torch.zeros(self.pages, dtype=torch.int32)
        for _, runs in self.blocks:
            for page, _, count, _ in runs:
                counts[page] = max(int(counts[page]), count)
        unwritten = torch.arange(PAGE)[None, :] >= counts[:, None]  # such rows of a page are zero
        for arena in (k, v):
            arena.masked_fill_(unwritten[:, None, :, None].to(device), 0.0)
        return dict(q=q, k=k, v=v, out=torch.full_like(q, float("nan")))

    def gather(self, instance, block):
        """k, v (KV heads, keys, D), logical index (keys) and segment (keys) of a block's list."""
        _, runs = self.blocks[block]
        whole = torch.tensor([page for page, *_ in runs])
        slots = torch.cat([torch.arange(count) + i * PAGE for i, (_, _, count, _) in enumerate(runs)])
        index = torch.cat([torch.arange(count) + at for _, at, count, _ in runs])
        segment = torch.cat([torch.full((count,), s) for _, _, count, s in runs])
        device = instance["k"].device
        rows = [instance[n][whole.to(device)].transpose(0, 1).reshape(self.kv_heads, -1, self.dim)[:, slots.to(device)]
                for n in ("k", "v")]
        return *rows, index.to(device), segment.to(device)


READOUTS = dict(lse=(), entropy=(), mass=("segments",), run_max=("run_max_stride",))


class Launches:
    """One plan on one device; bind(instance) gives a call that launches everything it takes."""

    def __init__(self, backend, planner, problem, kernel=None, readouts=(), cascade=False, top_k=0):
        self.backend, self.problem, self.readouts = backend, problem, tuple(readouts)
        structs, device = backend.structs, backend.device
        keep = self.keep = []

        def host(array, kind):
            array = np.ascontiguousarray(array, dtype=kind)
            keep.append(array)
            return array.ctypes.data

        def upload(array, kind):
            tensor = torch.from_numpy(np.array(array, dtype=kind)).to(device)  # a copy: torch wants it writable
            keep.append(tensor)
            return tensor

        hooks, tokens = problem.hooks, problem.tokens
        blocks, token0 = (structs["QueryBlock"] * len(problem.blocks))(), 0
        shared_runs = {}  # lists of the same runs are one array
        for block, (count, runs) in zip(blocks, problem.blocks):
            key = tuple(runs)
            if key not in shared_runs:
                records = (structs["PageRun"] * len(runs))()
                for record, (page, index, keys, segment) in zip(records, runs):
                    record.page, record.index, record.count, record.segment = page, index, keys, segment
                shared_runs[key] = records
            block.token0, block.tokens, block.run_count = token0, count, len(runs)
            block.runs = ctypes.addressof(shared_runs[key])
            token0 += count
        given = structs["AttnPlanInput"](
            heads=problem.heads, kv_heads=problem.kv_heads, head_dim=problem.dim, tokens=tokens,
            segments=problem.segments, blocks=ctypes.addressof(blocks), block_count=len(blocks),
            high=host(problem.high, np.int32), low=host(problem.low, np.int32) if problem.low else None,
            readouts=bool(readouts))
        program = structs["HookProgram"]()
        if hooks:
            program.row_classes, program.segments = hooks.edges.shape[1], hooks.edges.shape[2]
            program.edges = host(hooks.edge_records(), np.float32)
            program.head_class = host(hooks.head_class, np.uint8)
            if hooks.head_scale is not None:
                program.head_scale = host(hooks.head_scale, np.float32)
            given.programs, given.program_count = ctypes.addressof(program), 1
            given.token_class = host(hooks.token_class, np.uint8)
        info = backend.info()
        hopper = (info["compute_major"], info["compute_minor"]) == (9, 0) or backend.emulated
        kernels = dict(attn_mma=0, attn_decode=1, attn_wgmma=2)
        options = structs["PlanOptions"](
            multiprocessors=info["multiprocessors"], wgmma=int(hopper), kernel=kernels[kernel] if kernel else -1,
            cascade=int(cascade), balance_batch=int(cascade), top_k=int(top_k > 0))
        plan = self.plan = planner.plan(given, options)

        base = dict(heads=problem.heads, kv_heads=problem.kv_heads, head_dim=problem.dim, tokens=tokens,
                    scale=problem.dim**-0.5, segments=problem.segments, pages=problem.pages,
                    q_stride=problem.heads * problem.dim, out_stride=problem.heads * problem.dim,
                    high=upload(problem.high, np.int32), runs=upload(plan["run"], np.uint8))
        if problem.low:
            base["low"] = upload(problem.low, np.int32)
        if hooks:
            device_program = structs["HookProgram"](row_classes=program.row_classes, segments=program.segments)
            device_program.edges = upload(hooks.edge_records(), np.float32).data_ptr()
            device_program.head_class = upload(hooks.head_class, np.uint8).data_ptr()
            if hooks.head_scale is not None:
                device_program.head_scale = upload(hooks.head_scale, np.float32).data_ptr()
            base["has_edges"] = 1
            base["programs"] = upload(np.frombuffer(bytes(device_program), np.uint8), np.uint8)
            base["token_class"] = upload(hooks.token_class, np.uint8)
        slots, segments = max(1, plan["slots"]), problem.segments
        if plan["slots"]:
            base["part_o"] = torch.empty(slots, problem.dim, device=device)
            base["part_state"] = torch.empty(slots, 4, device=device)
            if "mass" in readouts:
                base["part_segment"] = torch.empty(slots, segments, 2, device=device)
        if "run_max" in readouts:
            base["run_max_stride"] = plan["run_max_stride"]
        self.base, self.top_k, self.planner = base, top_k, planner
        self.block_records, self.block_runs = blocks, shared_runs
        self.items = [(f"attn_{name}", upload(plan[name], np.uint8), plan[f"{name}_count"])
                      for name in ("mma", "decode", "wgmma") if plan[f"{name}_count"]]
        self.rows, self.parts = upload(plan["row"], np.uint8), upload(plan["part"], np.uint8)
        self.top_rows, self.top_parts = upload(plan["top_row"], np.uint8), upload(plan["top_part"], np.uint8)

    def counts(self):
        return {f"{name}_items": count for name, _, count in self.items} | dict(
            combine_rows=self.plan["row_count"], slots=self.plan["slots"])

    def outputs(self):
        """Read-out buffers of one instance, poisoned."""
        sizes = dict(segments=self.problem.segments, run_max_stride=self.plan["run_max_stride"])
        rows = (self.problem.tokens, self.problem.heads)
        out = {name: torch.full((*rows, *(sizes[s] for s in READOUTS[name])), float("nan"), device=self.backend.device)
               for name in self.readouts}
        if self.top_k:
            out["top_index"] = torch.full((*rows, self.top_k), -2, dtype=torch.int32, device=self.backend.device)
            out["top_weight"] = torch.full((*rows, self.top_k), float("nan"), device=self.backend.device)
        return out

    def bind(self, instance, outputs=None):
        outputs = self.outputs() if outputs is None else outputs
        tensors = {name: instance[name] for name in ("q", "k", "v", "out")}
        calls = []
        for op, items, count in self.items:
            calls.append((op, self.backend.params("AttnParams", **self.base, **tensors, **outputs, items=items,
                                                  item_count=count)))
        if self.plan["row_count"]:
            calls.append(("attn_combine", self.backend.params(
                "AttnParams", **self.base, **tensors, **outputs, rows=self.rows, row_count=self.plan["row_count"],
                parts=self.parts)))
        if self.top_k:
            calls.append(("topk_refine", self.backend.params(
                "AttnParams", **self.base, **tensors, **outputs, rows=self.top_rows,
                row_count=self.plan["top_row_count"], parts=self.top_parts, top_k=self.top_k)))

        def launch():
            for op, params in calls:
                self.backend.call(op, params)

        launch.outputs, launch.instance = outputs, instance
        return launch

    def bind_probe(self, instance, lse, rows):
        """attn_probe over the last `rows` tokens of a one-block problem, with the final lse; .outputs["key_mass"] (H, keys)."""
        [(tokens, runs)] = self.problem.blocks
        span = sum(count for _, _, count, _ in runs)
        block = self.block_records[0]
        items, count = self.planner.probe(block, self.problem.heads, tokens - rows, rows, 0, 0)
        device = self.backend.device
        table = torch.from_numpy(np.frombuffer(bytes(self.block_runs[tuple(runs)]), np.uint8).copy()).to(device)
        key_mass = torch.full((self.problem.heads, span), float("nan"), device=device)
        attention = self.backend.params("AttnParams", **{**self.base, "runs": table}, lse=lse,
                                        **{name: instance[name] for name in ("q", "k", "v", "out")})
        params = self.backend.params("ProbeParams", attn=attention, items=torch.from_numpy(items.copy()).to(device),
                                     item_count=count, key_mass=key_mass, key_span=span)

        def launch(keep=(attention, params)):
            self.backend.call("attn_probe", params)

        launch.outputs = dict(key_mass=key_mass)
        return launch


def reference(problem, instance, block, rows):
    """float64 attention of some rows of a block (indices inside it): out, lse, entropy, mass, probabilities."""
    k, v, index, segment = problem.gather(instance, block)
    k, v = k.double(), v.double()
    token0 = sum(tokens for tokens, _ in problem.blocks[:block])
    device, ratio, hooks = k.device, problem.heads // problem.kv_heads, problem.hooks
    tokens = token0 + torch.as_tensor(rows, device=device)
    q = instance["q"][tokens].double()  # (rows, H, D)
    s = torch.einsum("rgad,gkd->rgak", q.unflatten(1, (problem.kv_heads, ratio)), k).flatten(1, 2) * problem.dim**-0.5
    high = torch.tensor(problem.high, device=device)[tokens]
    visible = (index[None, :] <= high[:, None])[:, None, :].expand_as(s)
    post = None
    if hooks:
        table = torch.from_numpy(hooks.edge_records()).double().to(device)  # [head class][row class][segment]
        head_class = torch.from_numpy(hooks.head_class.astype(np.int64)).to(device)
        token_class = torch.from_numpy(hooks.token_class.astype(np.int64)).to(device)[tokens]
        edge = table[head_class[None, :, None], token_class[:, None, None], segment[None, None, :]]  # (rows, H, keys)
        s = edge[..., 0] * s + edge[..., 1]
        visible = visible & (edge[..., 1] > BLOCKED / 2)
        post = edge[..., 2]
    s = s.masked_fill(~visible, float("-inf"))
    lse = torch.logsumexp(s, -1)
    p = torch.exp(s - lse[..., None]).masked_fill(~visible, 0.0)
    weights = p if post is None else p * post
    out = torch.einsum("rgak,gkd->rgad", weights.unflatten(1, (problem.kv_heads, ratio)), v).flatten(1, 2)
    if hooks is not None and hooks.head_scale is not None:
        out = out * torch.from_numpy(hooks.head_scale).double().to(device)[None, :, None]
    entropy = -torch.special.xlogy(p, p).sum(-1)
    mass = torch.stack([p[..., segment == g].sum(-1) for g in range(problem.segments)], -1)
    return dict(out=out, lse=lse, entropy=entropy, mass=mass, tokens=tokens, p=p)
