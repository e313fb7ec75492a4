"""Stage 3 (RL): on-policy GRPO with verifiable rewards; a third of the decoder may be frozen.

Per step 32 fresh training prompts, 8 replies each at temperature 1. Reward 0.9 for a right and
well-formed answer, 0.1 for the form; advantage = (reward - group mean) / group standard deviation
(Shao et al. 2024); groups whose replies all score alike teach nothing and are dropped. One update per
rollout, so the ratio is 1 and clipping has nothing to clip; no KL term.

The prompt is encoded once per group, in sampling and in the update: replies attend to its
differentiable keys and values, which halves the tokens computed.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluate import accuracies, collate
from model import Model, causal, padding_mask
from tasks import EVALUATED, draw_example
from training import AUTOCAST, Log, load, save, start, step
from vocabulary import EOS, read_reply

PROMPTS, GROUP, MAX_NEW = 32, 8, 40
MIX = {"dsum": 0.35, "diff": 0.35, "chain": 0.3}
FORMAT_REWARD = 0.1
REGIONS = {"early": range(0, 3), "mid": range(3, 6), "late": range(6, 9)}  # thirds of the decoder


@dataclass(frozen=True)
class Reward:
    correct: bool
    well_formed: bool

    @property
    def value(self) -> float:
        return (1 - FORMAT_REWARD) * self.correct + FORMAT_REWARD * self.well_formed


def reward(reply: list[int], gold: list[int]) -> Reward:
    read = read_reply(reply)
    return Reward(read.well_formed and read.answer == gold, read.well_formed)


def log_probs(model: Model, ids: Tensor, lengths: Tensor, pixels: Tensor | None, replies: Tensor) -> Tensor:
    """Log-probability of every reply token, (B * GROUP, R), for prompts ids (B, T) and replies (B * GROUP, R)."""
    width, length = ids.shape[1], replies.shape[1]
    last, kvs, position = model.prefill(ids, lengths, pixels)
    last, position = last.repeat_interleave(GROUP, 0), position.repeat_interleave(GROUP)
    past = [(k.repeat_interleave(GROUP, 0), v.repeat_interleave(GROUP, 0)) for k, v in kvs]
    to_prompt = padding_mask(width, lengths).repeat_interleave(GROUP, 0)[:, None, :].expand(-1, length - 1, -1)
    within = causal(length - 1).expand(len(replies), -1, -1)
    mask = torch.cat((to_prompt, within), 2)[:, None, None]
    positions = (position[:, None] + torch.arange(length - 1)[None]).expand(3, -1, -1)
    hidden, _ = model.run(model.model.embed_tokens(replies[:, :-1]), positions, mask, past)
    logits = model.logits(torch.cat((last[:, None], hidden), 1)).float()
    return torch.log_softmax(logits, -1).gather(-1, replies.unsqueeze(-1)).squeeze(-1)


def main(init: Path, out: Path, steps: int, lr: float, freeze: str | None, seed: int, report: int) -> None:
    model = load(start(seed), init)
    if freeze:
        for i in REGIONS[freeze]:
            model.model.layers[i].requires_grad_(False)
    frozen = {name: w.detach().clone() for name, w in model.named_parameters() if not w.requires_grad}
    trained = [w for w in model.parameters() if w.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    rng, sampler = np.random.default_rng(555 + seed), torch.Generator().manual_seed(seed)
    tasks, odds = list(MIX), np.array(list(MIX.values()))
    odds /= odds.sum()
    log = Log(
        out.with_suffix(".json"),
        dict(steps=steps, lr=lr, freeze=freeze, seed=seed, trained=sum(w.numel() for w in trained)),
    )
    sample_s = update_s = 0.0
    since: list[dict[str, float]] = []  # per step, since the last report
    for s in range(steps):
        began = time.time()
        examples = [draw_example(tasks[rng.choice(len(tasks), p=odds)], rng, "train") for _ in range(PROMPTS)]
        examples.sort(key=lambda e: e.pixels is None)  # images first: pixels stand in row order
        ids, lengths, pixels = collate(examples)
        with torch.autocast(**AUTOCAST):
            sampled = model.generate(
                ids, lengths, pixels, MAX_NEW, EOS, temperature=1.0, group=GROUP, generator=sampler
            )
        sample_s += time.time() - began
        began = time.time()

        scored = [reward(row.tolist(), examples[i // GROUP].gold()) for i, row in enumerate(sampled.tokens)]
        rewards = torch.tensor([r.value for r in scored]).view(PROMPTS, GROUP)
        spread = rewards.std(1, keepdim=True)
        advantage = (rewards - rewards.mean(1, keepdim=True)) / (spread + 1e-4)
        used = spread[:, 0] > 1e-6
        since.append(
            dict(
                reward=float(rewards.mean()), correct=float(np.mean([r.correct for r in scored])),
                well_formed=float(np.mean([r.well_formed for r in scored])),
                tokens=float(sampled.kept.float().sum(1).mean()), groups_used=float(used.float().mean()),
            )
        )  # fmt: skip
        if used.any():
            groups = used.nonzero().squeeze(1)
            rows = (groups[:, None] * GROUP + torch.arange(GROUP)[None]).flatten()
            longest = int(sampled.kept[rows].sum(1).max())
            tokens, kept = sampled.tokens[rows, :longest], sampled.kept[rows, :longest].float()
            has_image = torch.tensor([e.pixels is not None for e in examples])
            seen = pixels[used[has_image]] if pixels is not None else None
            with torch.autocast(**AUTOCAST):
                log_prob = log_probs(model, ids[groups], lengths[groups], seen, tokens)
            if s == 0:
                # In one precision they agree to rounding; a gap means that sampler and update disagree on the model.
                gap = float(((log_prob.detach() - sampled.log_probs[rows, :longest]).abs() * kept).max())
                assert gap < 1e-2, f"log-probabilities of sampling and update differ by {gap}"
                print(f"largest log-probability gap between sampling and update: {gap:.1e}", flush=True)
            # a token weighs the same whatever share of the groups is used
            loss = -(advantage[groups].flatten()[:, None] * log_prob * kept).sum() / (kept.sum() / used.float().mean())
            step(loss, trained, [optimiser], min(1, (s + 1) / 20))
        update_s += time.time() - began
        if (s + 1) % report == 0 or s == steps - 1:
            means = {key: float(np.mean([row[key] for row in since])) for key in since[0]}
            since.clear()
            log.row(
                step=s + 1, sample_seconds=round(sample_s), update_seconds=round(update_s), **means,
                n=200, held_out=accuracies(model, EVALUATED, 200),
            )  # fmt: skip
    for name, w in model.named_parameters():
        assert name not in frozen or torch.equal(w, frozen[name]), f"{name} was to stay frozen"
    save(model, out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--freeze", choices=REGIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=int, default=125)
    main(**vars(parser.parse_args()))
