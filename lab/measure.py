"""Measures the shipped checkpoints: lab/results.json, lab/data/predictions.jsonl and the README's tables.

Reads each exported folder's weights, computes in float32 and answers greedily. Two sets of items:
the fresh draw (1000 per task, seed 777; never used to choose a setting) for the claims, and
data/eval.jsonl (100 per task) for other implementations to reproduce reply by reply.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from evaluate import FRESH_SEED, Rate, collate, held_out, is_correct, replies
from export import tokenizer
from family import CHECKPOINTS, LAB, MEMBERS
from make_data import DATA, write_jsonl
from model import Model
from reasoning import check
from tasks import EVALUATED, VISUAL_REASONING, Example, Item, pad
from training import start
from vocabulary import PAD, WORDS, decode

FRESH_N = 1000
MAX_NEW = 48
RESAMPLES = 10_000
COMPARED = (
    ("base", "in"), ("in", "in-more"), ("in", "rl"), ("in-more", "rl"),
    ("rl", "rl-frozen-early"), ("rl", "rl-frozen-mid"), ("rl", "rl-frozen-late"),
)  # fmt: skip
# Below this gap between the two likeliest tokens another order of summation may choose differently.
CLOSE = 0.01


def read_model(folder: Path) -> Model:
    model = start(0)
    model.load_state_dict({name: w.float() for name, w in load_file(folder / "model.safetensors").items()})
    return model


def read_items() -> dict[str, tuple[dict, Example]]:
    """data/eval.jsonl through the exported tokenizer and the PNGs, as another implementation would read it."""
    read, found = tokenizer(), {}
    for line in (DATA / "eval.jsonl").read_text().splitlines():
        row = json.loads(line)
        words = [[WORDS[i] for i in read.encode(row[field]).ids] for field in ("question", "answer")]
        pixels = np.array(Image.open(DATA / row["image"])) if "image" in row else None
        found[row["id"]] = row, Example(row["task"], Item(*words), None, pixels)
    return found


@torch.no_grad()
def margins(model: Model, examples: list[Example], given: list[list[int]], batch: int = 100) -> list[float]:
    """Per reply the smallest gap between the logits of the two likeliest tokens, over its positions."""
    out: list[float] = []
    for i in range(0, len(examples), batch):
        part, answers = examples[i : i + batch], given[i : i + batch]
        _, lengths, pixels = collate(part)
        ids = pad([e.prompt() + a for e, a in zip(part, answers)], PAD)
        logits = model.logits(model(ids, pixels))
        top = logits.topk(2, -1).values
        gap = top[..., 0] - top[..., 1]
        for j, answer in enumerate(answers):
            first = int(lengths[j]) - 1
            at = slice(first, first + len(answer))
            # the teacher-forced pass must repeat the greedy choices, else the gap belongs to another reply
            agree = logits[j, at].argmax(-1) == torch.tensor(answer)
            out.append(float(gap[j, at].min()) if agree.all() else 0.0)
    return out


def paired(before: list[bool], after: list[bool]) -> dict:
    """Transition table and exact two-sided McNemar test."""
    a, b = np.array(before), np.array(after)
    gained, lost = int((~a & b).sum()), int((a & ~b).sum())
    n, k = gained + lost, min(gained, lost)
    # log-space: 2^-n underflows for the hundreds of changes seen here
    log_tail = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(k + 1)
    ]
    p = min(1.0, 2 * math.fsum(math.exp(x) for x in log_tail)) if n else 1.0
    return {"kept": int((a & b).sum()), "lost": lost, "gained": gained, "missed": int((~a & ~b).sum()), "mcnemar_p": p}


def difference(before: dict[str, list[bool]], after: dict[str, list[bool]], tasks: tuple[str, ...]) -> dict:
    """Mean over tasks of after - before, with a percentile bootstrap over items, resampled within each task."""
    rng = np.random.default_rng(1)
    estimate, draws = 0.0, np.zeros(RESAMPLES)
    for task in tasks:
        change = np.array(after[task], float) - np.array(before[task], float)
        estimate += change.mean() / len(tasks)
        # resampling items of three kinds (-1, 0, 1) is a multinomial draw of their counts
        share = np.array([(change == v).mean() for v in (-1, 0, 1)])
        counts = rng.multinomial(len(change), share, RESAMPLES)
        draws += (counts[:, 2] - counts[:, 0]) / len(change) / len(tasks)
    low, high = np.percentile(draws, (2.5, 97.5))
    pool_before = [x for task in tasks for x in before[task]]
    pool_after = [x for task in tasks for x in after[task]]
    return {"estimate": estimate, "interval": [float(low), float(high)], **paired(pool_before, pool_after)}


def measure(members: list[str]) -> None:
    items = read_items()
    examples = [example for _, example in items.values()]
    fresh: dict[str, dict[str, list[bool]]] = {}
    results: dict = {
        "fresh": {"seed": FRESH_SEED, "n": FRESH_N, "accuracy": {}, "differences": [], "reasoning": {}},
        "eval": {"file": "data/eval.jsonl", "max_new_tokens": MAX_NEW, "counts": {}},
    }
    texts: dict[str, dict[str, str]] = {key: {} for key in items}
    close: dict[str, dict[str, float]] = {key: {} for key in items}
    for name in members:
        model = read_model(CHECKPOINTS / name)
        given = replies(model, examples, MAX_NEW, exact=True, batch=100)
        counts = {task: {"correct": 0, "n": 0} for task in EVALUATED}
        for (key, (_, example)), reply, gap in zip(items.items(), given, margins(model, examples, given)):
            counts[example.task]["correct"] += is_correct(reply, example)
            counts[example.task]["n"] += 1
            texts[key][name] = decode(reply)
            if gap < CLOSE:
                close[key][name] = round(gap, 6)
        results["eval"]["counts"][name] = counts

        fresh[name], results["fresh"]["reasoning"][name] = {}, {}
        for task in EVALUATED:
            drawn = held_out(task, FRESH_N, FRESH_SEED)
            given = replies(model, drawn, MAX_NEW, exact=True)
            fresh[name][task] = [is_correct(r, e) for r, e in zip(given, drawn)]
            if drawn[0].item.reasoning:
                steps = [check(r, e) for r, e in zip(given, drawn)]
                results["fresh"]["reasoning"][name][task] = {
                    "hold": sum(s.hold for s in steps),
                    "read": sum(s.read for s in steps),
                    "sound": sum(ok and s.hold and s.read for ok, s in zip(fresh[name][task], steps)),
                    "correct": sum(fresh[name][task]),
                }
        rates = {task: Rate(sum(right), len(right)) for task, right in fresh[name].items()}
        results["fresh"]["accuracy"][name] = {
            task: {"correct": r.correct, "n": r.n, "accuracy": r.value, "wilson": list(r.wilson())}
            for task, r in rates.items()
        }
        print(name, {task: r.value for task, r in rates.items()}, flush=True)
    for a, b in COMPARED:
        if a in members and b in members:
            by_task = {task: difference(fresh[a], fresh[b], (task,)) for task in EVALUATED}
            by_task["v2r"] = difference(fresh[a], fresh[b], VISUAL_REASONING)
            results["fresh"]["differences"].append({"before": a, "after": b, "tasks": by_task})
    (LAB / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    rows = [{"id": key, "text": texts[key]} | ({"close": close[key]} if close[key] else {}) for key in items]
    write_jsonl(DATA / "predictions.jsonl", rows)


def tables() -> str:
    """results.json as the README's Markdown."""
    results = json.loads((LAB / "results.json").read_text())
    accuracy = results["fresh"]["accuracy"]
    columns = [*EVALUATED, "V2R"]
    lines = ["| model | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, by_task in accuracy.items():
        cells = [f"{t['accuracy']:.3f} [{t['wilson'][0]:.3f}, {t['wilson'][1]:.3f}]" for t in by_task.values()]
        v2r = np.mean([by_task[task]["accuracy"] for task in VISUAL_REASONING])
        lines.append(f"| {name} | " + " | ".join(cells) + f" | **{v2r:.3f}** |")
    lines += ["", "| change | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for row in results["fresh"]["differences"]:
        cells = [
            f"{d['estimate']:+.3f} [{d['interval'][0]:+.3f}, {d['interval'][1]:+.3f}] p={d['mcnemar_p']:.1g}"
            for d in row["tasks"].values()
        ]
        lines.append(f"| {row['before']} to {row['after']} | " + " | ".join(cells) + " |")
    tasks = ("dsum", "diff", "chain")
    lines += [
        "",
        "| model | " + " | ".join(f"{t}: hold / read / sound" for t in tasks) + " |",
        "|---|" + "---|" * len(tasks),
    ]
    for name, by_task in results["fresh"]["reasoning"].items():
        if name == "base":  # answers directly, there is no chain to check
            continue
        n = results["fresh"]["n"]
        steps = [by_task[task] for task in tasks]
        cells = [f"{s['hold'] / n:.3f} / {s['read'] / n:.3f} / {s['sound'] / max(1, s['correct']):.3f}" for s in steps]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", action="store_true", help="only print the tables of results.json")
    if not parser.parse_args().tables:
        measure([name for name in MEMBERS if (CHECKPOINTS / name).exists()])
    print(tables())
