"""Stage 0: teach the vision tower the words. Each image token must name what is in its cell.

Every merged token's logits over the (tied) word embeddings are pulled to the uniform distribution
over its cell's words: colour, shape, row, column; or `digits`, the digit, row, column; or `none`, row,
column. The decoder takes no part. Without this stage the decoder ignores the image for long.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scenes import cell_words, draw_scene, render
from tasks import to_pixels
from training import AUTOCAST, Log, cosine, save, start, step
from vocabulary import ID, WORDS


def batch(rng: np.random.Generator, size: int) -> tuple[Tensor, Tensor]:
    """pixels (B, 3, 64, 64), target distributions (B, 16, V)."""
    scenes = [draw_scene(rng) for _ in range(size)]
    target = torch.zeros(size, 16, len(WORDS))
    for i, scene in enumerate(scenes):
        for cell, words in enumerate(cell_words(scene)):
            target[i, cell, [ID[word] for word in words]] = 1 / len(words)
    return to_pixels([render(scene) for scene in scenes]), target


def cells_named(logits: Tensor, target: Tensor) -> float:
    """Share of cells whose n words are exactly the n likeliest."""
    n = (target > 0).sum(-1)
    hit = (target.gather(-1, logits.topk(4, -1).indices) > 0) & (torch.arange(4) < n.unsqueeze(-1))
    return float((hit.sum(-1) == n).float().mean())


def main(out: Path, steps: int, size: int, lr: float, seed: int) -> None:
    model = start(seed)
    words = model.model.embed_tokens.weight
    trained = [*model.visual.parameters(), words]
    optimiser = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    rng, log, began = (
        np.random.default_rng(77 + seed),
        Log(out.with_suffix(".json"), dict(steps=steps, size=size, lr=lr, seed=seed)),
        time.time(),
    )
    for s in range(steps):
        pixels, target = batch(rng, size)
        with torch.autocast(**AUTOCAST):
            logits = model.visual(pixels) @ words.t()
        logits = logits.float()
        entropy = -(target * target.clamp_min(1e-9).log()).sum(-1).mean()
        loss = -(target * torch.log_softmax(logits, -1)).sum(-1).mean() - entropy  # KL(target || model)
        step(loss, trained, [optimiser], cosine(s, steps, 50))
        if (s + 1) % 50 == 0:
            log.row(
                step=s + 1, seconds=round(time.time() - began), kl=loss.item(), cells_named=cells_named(logits, target)
            )
    save(model, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
