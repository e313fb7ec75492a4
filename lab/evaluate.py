"""Greedy accuracy on held-out items, with Wilson intervals."""

import math
from dataclasses import dataclass

import torch

from model import Model
from tasks import Example, held_out_set, pad, to_pixels
from training import AUTOCAST
from vocabulary import EOS, PAD, read_reply

TUNING_SEED = 12345  # the draw that settings were tuned on
FRESH_SEED = 777  # the draw that results are reported on
_MAX_NEW = {"dsum": 48, "diff": 48, "chain": 48, "arith": 48, "desc": 26}


@dataclass(frozen=True)
class Rate:
    correct: int
    n: int

    @property
    def value(self) -> float:
        return self.correct / self.n

    def wilson(self, z: float = 1.959963984540054) -> tuple[float, float]:
        """95 % score interval (Wilson 1927)."""
        p, n = self.value, self.n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return centre - half, centre + half


def collate(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """-> prompt ids (B, T), lengths (B,), pixels of the examples that have an image."""
    prompts = [e.prompt() for e in examples]
    images = [e.pixels for e in examples if e.pixels is not None]
    return pad(prompts, PAD), torch.tensor([len(p) for p in prompts]), to_pixels(images) if images else None


def replies(model: Model, examples: list[Example], max_new: int, *, exact: bool, batch: int = 250) -> list[list[int]]:
    """Greedy replies, cut after <|im_end|>. `exact` runs in float32, else bfloat16 as in training."""
    out: list[list[int]] = []
    for i in range(0, len(examples), batch):
        ids, lengths, pixels = collate(examples[i : i + batch])
        with torch.autocast(**AUTOCAST, enabled=not exact):
            sampled = model.generate(ids, lengths, pixels, max_new, EOS)
        out += [row[kept].tolist() for row, kept in zip(sampled.tokens, sampled.kept)]
    return out


def is_correct(reply: list[int], example: Example) -> bool:
    return read_reply(reply).answer == example.gold()


_sets: dict[tuple[str, int, int], list[Example]] = {}


def held_out(task: str, n: int, seed: int) -> list[Example]:
    """`held_out_set`, kept: a trainer reports on the same items again and again."""
    key = task, n, seed
    if key not in _sets:
        _sets[key] = held_out_set(task, n, seed)
    return _sets[key]


def outcomes(model: Model, task: str, n: int, seed: int, *, exact: bool) -> list[bool]:
    """Right or wrong per item, in the set's order."""
    examples = held_out(task, n, seed)
    given = replies(model, examples, _MAX_NEW.get(task, 8), exact=exact)
    return [is_correct(reply, example) for reply, example in zip(given, examples)]


def accuracies(model: Model, tasks: tuple[str, ...], n: int, seed: int = TUNING_SEED) -> dict[str, float]:
    """Accuracy per task for a trainer's log: bfloat16, tuning draw."""
    return {task: sum(outcomes(model, task, n, seed, exact=False)) / n for task in tasks}
