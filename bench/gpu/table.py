"""The table at the end: python3 table.py report.json. Ratios against the aims of the project, from one run."""

import json
import sys
from pathlib import Path

# Published forward rates of FlashAttention-3, head dimension 128, causal, H100 SXM5, TFLOP/s by length (16k tokens in all).
FA3 = {512: 292, 1024: 423, 2048: 521, 4096: 579, 8192: 602, 16384: 616}


def us(row, side):
    return (row or {}).get("sides", {}).get(side, {}).get("us")


def ratio(a, b):
    return a / b if a and b else None


def rows_of(report, stage):
    return report.get("stages", {}).get(stage, {}).get("record", {}).get("rows", [])


def find(rows, **wanted):
    return next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), None)


def tflops(row, side):
    return row["flop"] / us(row, side) * 1e-6 if us(row, side) else None


def aims(report):
    """(name, aim, least value that meets it or most, measured) — measured None: not run."""
    attention, decode, ceilings = (rows_of(report, s) for s in ("attention", "decode", "ceilings"))
    plain = {r["length"]: r for r in attention if r["layout"] == "plain"}
    hooked = {r["length"]: r for r in attention if r["layout"] == "segmented"}
    out = []

    def at_each(name, aim, lengths, value, most=False):
        for length in lengths:
            out.append((f"{name}, {length}", aim, most, value(length)))

    lengths = sorted(FA3)
    at_each("attn_mma ÷ SDPA flash", 1.0, lengths,
            lambda n: ratio(us(plain.get(n), "sdpa flash"), us(plain.get(n), "attn_mma")))
    at_each("attn_wgmma ÷ SDPA cuDNN", 1.0, lengths,
            lambda n: ratio(us(plain.get(n), "sdpa cudnn"), us(plain.get(n), "attn_wgmma")))
    at_each("attn_wgmma ÷ FlashAttention-3 as published", 0.95, lengths,
            lambda n: ratio(tflops(plain[n], "attn_wgmma"), FA3[n]) if n in plain else None)
    for kernel in ("attn_mma", "attn_wgmma"):
        at_each(f"{kernel}: all hooks ÷ none (time)", 1.05, lengths,
                lambda n, k=kernel: ratio(us(hooked.get(n), f"{k} all"), us(hooked.get(n), f"{k} off")), most=True)

    def best(row, level):
        times = [t for t in (us(row, f"attn_mma {level}"), us(row, f"attn_wgmma {level}")) if t]
        return min(times) if times else None

    at_each("read-outs ÷ eager with probabilities", 20.0, [2048],
            lambda n: ratio(us(hooked.get(n), "eager"), best(hooked.get(n), "stats")))
    at_each("knockout and gains ÷ FlexAttention", 1.3, lengths,
            lambda n: ratio(us(hooked.get(n), "flex knockout"), best(hooked.get(n), "knockout")))
    copy = (find(ceilings, what="copy") or {}).get("tb_per_s")
    for prefix in (2048, 16384):
        for batch in (1, 28):
            row = find(decode, prefix=prefix, batch=batch)
            rate = (row or {}).get("sides", {}).get("ours", {}).get("tb_per_s")
            out.append((f"decode ÷ copy bandwidth, {prefix} × {batch}", 0.85, False, ratio(rate, copy)))
        row = find(decode, prefix=prefix, batch=28)
        out.append((f"28 variants: shared prefix ÷ unshared, {prefix}", 10.0, False,
                    ratio(us(row, "ours"), us(row, "ours, shared prefix"))))
    weights = rows_of(report, "weights")
    for row in (r for r in weights if r.get("op") == "weight_delta"):
        rate = row.get("sides", {}).get("ours", {}).get("tb_per_s")
        out.append((f"weight statistics ÷ copy bandwidth, {row['what']}", 0.9, False, ratio(rate, copy)))
    row = find(weights, op="weight_gram")
    out.append(("weight Gram ÷ torch in float64", 1.0, False, ratio(us(row, "torch float64, whole"), us(row, "ours"))))
    return out


def grid(head, rows):
    rows = [[("–" if c is None else f"{c:.4g}" if isinstance(c, float) else str(c)) for c in r] for r in [head, *rows]]
    widths = [max(len(r[i]) for r in rows) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))) for r in rows)


def disagreements(report):
    found = []
    for stage in report.get("stages", {}):
        for row in rows_of(report, stage):
            if row.get("agrees") is False:
                found.append(f"{stage}: {json.dumps({k: row[k] for k in row if k not in ('sides', 'clocks')})[:300]}")
    return found


def render(report):
    parts, stages = ["", f"galvani GPU check, {report['date']}, commit {report['commit']}"], report["stages"]
    gpu = report.get("machine", {}).get("gpu", {})
    parts.append(f"{gpu.get('name', 'no GPU: dry run on the emulator')}, torch {report.get('machine', {}).get('torch')}")
    parts.append(grid(["stage", "status", "seconds"], [[n, s.get("status"), s.get("seconds")] for n, s in stages.items()]))
    for name, stage in stages.items():
        record = stage.get("record")
        if name.startswith("correctness ") and record:
            parts.append(f"random programs, {name[12:]}: {record['passed']} passed, {record['failed']} failed")
    cases = stages.get("conformance", {}).get("record", {})
    if cases:
        ran = [c for c in cases["cases"] if c["ran"]]
        same = sum(c["differ"] == 0 for c in ran)
        whose = cases["device"] if cases["recorded"] else "nothing recorded: the emulator against itself"
        said = f"{same} of {len(ran)} instructions answer as emulated" if ran else "no instruction could be run"
        parts.append(f"conformance: {said} ({whose})")
    attention = sorted((r for r in rows_of(report, "attention") if r.get("sides")), key=lambda r: (r["layout"], r["length"]))
    titles = dict(plain="plain, 16k tokens in all", segmented="segmented, 16k tokens in all", single="plain, one sequence")
    for layout in titles:
        rows = [r for r in attention if r["layout"] == layout]
        if rows:
            sides = list(dict.fromkeys(s for r in rows for s in r["sides"]))
            parts.append(f"\nprefill, {titles[layout]} (TFLOP/s of causal attention)\n" + grid(
                ["", *(str(r["length"]) for r in rows)], [[s, *(tflops(r, s) for r in rows)] for s in sides]))
    decode = [r for r in rows_of(report, "decode") if r.get("sides")]
    if decode:
        sides = list(dict.fromkeys(s for r in decode for s in r["sides"]))
        parts.append("\ndecode (µs)\n" + grid(["", *(f"{r['prefix']} × {r['batch']}" for r in decode)],
                                              [[s, *(us(r, s) for r in decode)] for s in sides]))
    readouts = [r for r in rows_of(report, "readouts") if r.get("sides")]
    if readouts:
        parts.append("\nread-outs that are kernels of their own (µs)\n" + grid(["", "ours", "eager", "eager ÷ ours"], [
            [f"{r['kernel']}: {r['what']}, {r['length']}", us(r, "ours"), us(r, "eager"), ratio(us(r, "eager"), us(r, "ours"))]
            for r in readouts]))
    dense = [r for r in rows_of(report, "dense") if r.get("sides")]
    if dense:
        sides = list(dict.fromkeys(s for r in dense for s in r["sides"]))
        parts.append("\nthe rest of a layer (µs)\n" + grid(["", *sides, "TB/s", "TFLOP/s"], [
            [f"{r['op']} {r['what']}", *(us(r, s) for s in sides), r["sides"].get("ours", {}).get("tb_per_s"),
             r["sides"].get("ours", {}).get("tflop_per_s")] for r in dense]))
    weights = [r for r in rows_of(report, "weights") if r.get("sides")]
    if weights:
        sides = list(dict.fromkeys(s for r in weights for s in r["sides"]))
        parts.append("\nresident weights (µs; weight_delta: torch does norms, dot and maximum alone)\n" + grid(["", *sides, "TB/s"], [
            [f"{r['op']} {r['what']}", *(us(r, s) for s in sides), r["sides"].get("ours", {}).get("tb_per_s")]
            for r in weights]))
    ceilings = rows_of(report, "ceilings")
    copy, matmul = find(ceilings, what="copy"), max((r.get("tflop_per_s") or 0 for r in ceilings), default=0)
    if matmul:
        parts.append(f"\nceilings: copy {copy.get('tb_per_s')} TB/s, bf16 matmul {matmul} TFLOP/s")
    lines = []
    for name, aim, most, value in aims(report):
        met = None if value is None else value <= aim if most else value >= aim
        verdict = "not run on hardware" if value is None else "met" if met else "MISSED"
        lines.append([name, f"{'≤' if most else '≥'} {aim}", value, verdict])
    parts.append("\naims (ratios of this run; above 1 = galvani is faster, unless it says time)\n" + grid(
        ["", "aim", "measured", ""], lines))
    bad = disagreements(report)
    if bad:
        parts.append("\nRESULTS THAT DISAGREE:\n" + "\n".join(bad))
    missing = [f"  {n['what']}: {n['why']}" for n in report["not_run"]]
    if missing:
        parts.append("\nnot run:\n" + "\n".join(missing))
    return "\n".join(parts)


if __name__ == "__main__":
    print(render(json.loads(Path(sys.argv[1]).read_text())))
