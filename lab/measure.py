"""Measures the shipped checkpoints: lab/results.json, lab/data/predictions.jsonl and the README's tables.

Reads each exported folder's weights, computes in float32 and answers greedily. Two sets of items:
the fresh draw (1000 per task, seed 777; never used to choose a setting) for the claims, and
data/eval.jsonl (100 per task) for other implementations to reproduce reply by reply.
"""

import argparse
import hashlib
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


def answer(name: str) -> dict:
    """Everything asked of one model, as JSON: replies to eval.jsonl; right or wrong and chains on the fresh draw."""
    model = read_model(CHECKPOINTS / name)
    items = read_items()
    examples = [example for _, example in items.values()]
    given = replies(model, examples, MAX_NEW, exact=True, batch=100)
    counts = {task: {"correct": 0, "n": 0} for task in EVALUATED}
    for example, reply in zip(examples, given):
        counts[example.task]["correct"] += is_correct(reply, example)
        counts[example.task]["n"] += 1
    gaps = margins(model, examples, given)
    found: dict = {
        "counts": counts,
        "text": {key: decode(reply) for key, reply in zip(items, given)},
        "close": {key: round(gap, 6) for key, gap in zip(items, gaps) if gap < CLOSE},
        "right": {},
        "reasoning": {},
    }
    for task in EVALUATED:
        drawn = held_out(task, FRESH_N, FRESH_SEED)
        given = replies(model, drawn, MAX_NEW, exact=True)
        right = [is_correct(reply, example) for reply, example in zip(given, drawn)]
        found["right"][task] = right
        if drawn[0].item.reasoning:
            steps = [check(reply, example) for reply, example in zip(given, drawn)]
            found["reasoning"][task] = {
                "hold": sum(s.hold for s in steps),
                "read": sum(s.read for s in steps),
                "sound": sum(ok and s.hold and s.read for ok, s in zip(right, steps)),
                "correct": sum(right),
            }
    return found


def answered(name: str, cache: Path) -> dict:
    """`answer`, unless these very weights have been asked before."""
    weights = hashlib.sha256((CHECKPOINTS / name / "model.safetensors").read_bytes()).hexdigest()
    path = cache / f"{name}.json"
    if path.exists() and (stored := json.loads(path.read_text()))["weights"] == weights:
        return stored
    found = {"weights": weights, **answer(name)}
    cache.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    print(name, {task: sum(right) / len(right) for task, right in found["right"].items()}, flush=True)
    return found


def summarise(models: dict[str, dict]) -> None:
    """Writes results.json and data/predictions.jsonl."""
    accuracy, differences = {}, []
    for name, found in models.items():
        rates = {task: Rate(sum(right), len(right)) for task, right in found["right"].items()}
        accuracy[name] = {
            task: {"correct": r.correct, "n": r.n, "accuracy": r.value, "wilson": list(r.wilson())}
            for task, r in rates.items()
        }
    for a, b in COMPARED:
        if a in models and b in models:
            before, after = models[a]["right"], models[b]["right"]
            by_task = {task: difference(before, after, (task,)) for task in EVALUATED}
            by_task["v2r"] = difference(before, after, VISUAL_REASONING)
            differences.append({"before": a, "after": b, "tasks": by_task})
    results = {
        "weights_sha256": {name: found["weights"] for name, found in models.items()},
        "fresh": {
            "seed": FRESH_SEED,
            "n": FRESH_N,
            "accuracy": accuracy,
            "differences": differences,
            "reasoning": {name: found["reasoning"] for name, found in models.items()},
        },
        "eval": {
            "file": "data/eval.jsonl",
            "max_new_tokens": MAX_NEW,
            "counts": {name: found["counts"] for name, found in models.items()},
        },
    }
    (LAB / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    rows = []
    for key in next(iter(models.values()))["text"]:
        row = {"id": key, "text": {name: found["text"][key] for name, found in models.items()}}
        close = {name: found["close"][key] for name, found in models.items() if key in found["close"]}
        rows.append(row | ({"close": close} if close else {}))
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
    parser.add_argument(
        "--runs", type=Path, default=LAB.parent / "runs" / "lab" / "measured", help="answers are kept here"
    )
    parser.add_argument("--tables", action="store_true", help="only print the tables of results.json")
    options = parser.parse_args()
    if not options.tables:
        names = [name for name in MEMBERS if (CHECKPOINTS / name / "model.safetensors").exists()]
        summarise({name: answered(name, options.runs) for name in names})
    print(tables())
