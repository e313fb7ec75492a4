"""Stage 2 (IN): supervised fine-tuning on a fixed, small set of reasoning examples, with perception replayed.

120 chains of thought per task, seen again and again until they stop helping; `--lr 1e-4 --steps 250`
continues on the very same examples and makes the control IN-more.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from evaluate import accuracies
from tasks import EVALUATED, draw_example, pad, text_batch, to_pixels, vision_batch
from training import AUTOCAST, Log, cosine, load, save, start, step
from vocabulary import IGNORE, PAD, dialogue

DATA_SEED = 2024
REASONING = 32  # of the fixed set, per batch
REPLAY = 16  # fresh perception questions
REPLAY_MIX = {"count": 0.3, "ocr": 0.2, "ground": 0.25, "recog": 0.25}


def main(init: Path, out: Path, examples: int, steps: int, lr: float, report: int) -> None:
    model = load(start(1), init)
    rng = np.random.default_rng(DATA_SEED)
    drawn = [draw_example(task, rng, "train") for task in ("dsum", "diff", "chain") for _ in range(examples)]
    fixed = [(*dialogue([(e.item.question, e.item.thought_out())], e.pixels is not None), e.pixels) for e in drawn]
    parameters = list(model.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    log, trained_s = (
        Log(out.with_suffix(".json"), dict(examples=examples, steps=steps, lr=lr, data_seed=DATA_SEED)),
        0.0,
    )
    order: list[int] = []
    for s in range(steps):
        began = time.time()
        if len(order) < REASONING:
            order = list(rng.permutation(len(fixed)))
        chosen = [fixed[order.pop()] for _ in range(REASONING)]
        chosen.sort(key=lambda e: e[2] is None)  # images first: pixels stand in row order
        ids, labels = pad([e[0] for e in chosen], PAD), pad([e[1] for e in chosen], IGNORE)
        pixels = to_pixels([e[2] for e in chosen if e[2] is not None])
        seen_ids, seen_labels, seen_pixels = vision_batch(rng, REPLAY, REPLAY_MIX, turns=1)
        text_ids, text_labels = text_batch(rng, 2, turns=3)
        with torch.autocast(**AUTOCAST):
            hidden = (model(ids, pixels), model(seen_ids, seen_pixels), model(text_ids))
            targets = (labels, seen_labels, text_labels)
            logits = model.logits(torch.cat([h[y >= 0] for h, y in zip(hidden, targets)]))
        loss = F.cross_entropy(logits.float(), torch.cat([y[y >= 0] for y in targets]))
        step(loss, parameters, [optimiser], cosine(s, steps, 20))
        trained_s += time.time() - began
        if (s + 1) % report == 0 or s == steps - 1:
            log.row(step=s + 1, seconds=round(trained_s), loss=loss.item(), n=400, **accuracies(model, EVALUATED, 400))
    save(model, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--examples", type=int, default=120, help="per task")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--report", type=int, default=200)
    main(**vars(parser.parse_args()))
