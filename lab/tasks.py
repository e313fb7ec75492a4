"""Questions about scenes and about numbers, and the batches made of them.

    count   how many red ? | how many circle ? | how many shapes ?         7
    ocr     read digits ?                                                  384
    ground  where is the red circle ?                                      r2 c3
    recog   is there a red circle ?                                        yes
    lookup  what is at r2 c3 ?                          (training only)    red circle
    desc    describe ?                                  (training only)    every object in raster order
    arith   calc 34 + 5 ?                                                  39
    chain   calc 3 + 4 then * 2 ?                                          14
    dsum    sum of digits ?                                                15
    diff    how many more red than blue times 3 ?                          6

`dsum` and `diff` are the visual reasoning tasks (V2R): perception first, then arithmetic on what was seen.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from scenes import Object, Scene, draw_scene, place, render
from vocabulary import COLOURS, IGNORE, PAD, SHAPES, dialogue, digits, encode, prompt

PERCEPTION = ("count", "ocr", "ground", "recog")
VISUAL_REASONING = ("dsum", "diff")
TEXT = ("arith", "chain")
EVALUATED = (*PERCEPTION, *TEXT, *VISUAL_REASONING)

# CLIP statistics at full precision, in bytes: (x/255 - mean)/std = (x - 255 mean)/(255 std)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_MEAN = np.array(CLIP_MEAN, np.float32) * 255
_STD = np.array(CLIP_STD, np.float32) * 255


@dataclass(frozen=True)
class Item:
    """A question with its gold answer. `reasoning` is the chain of thought that leads to it, where there is one."""

    question: list[str]
    answer: list[str]
    reasoning: list[str] | None = None

    def thought_out(self) -> list[str]:
        """The answer with its reasoning, in the lab's markup."""
        assert self.reasoning is not None
        return ["<think>", *self.reasoning, "</think>", "<answer>", *self.answer, "</answer>"]


def _cell_contents(o: Object) -> list[str]:
    return [COLOURS[o.colour], SHAPES[o.shape]]


def count(scene: Scene, rng: np.random.Generator) -> Item:
    if rng.random() < 0.6:
        kind, names = "colour", COLOURS
    elif rng.random() < 0.7:
        kind, names = "shape", SHAPES
    else:
        return Item("how many shapes ?".split(), digits(scene.count()))
    present = sorted({getattr(o, kind) for o in scene.objects})
    value = int(rng.choice(present)) if rng.random() < 0.85 else int(rng.integers(len(names)))
    return Item(["how", "many", names[value], "?"], digits(scene.count(**{kind: value})))


def ocr(scene: Scene, rng: np.random.Generator) -> Item:
    return Item("read digits ?".split(), [str(d) for d in scene.digits])


def ground(scene: Scene, rng: np.random.Generator) -> Item | None:
    """None when no object of the scene is the only one of its colour and shape."""
    times = Counter((o.colour, o.shape) for o in scene.objects)
    unique = [o for o in scene.objects if times[o.colour, o.shape] == 1]
    if not unique:
        return None
    o = unique[int(rng.integers(len(unique)))]
    return Item(["where", "is", "the", *_cell_contents(o), "?"], place(o.cell))


def recog(scene: Scene, rng: np.random.Generator) -> Item:
    """Half yes. 70 % of the noes are hard: the colour is there and the shape is there, but never together."""
    have = {(o.colour, o.shape) for o in scene.objects}
    if rng.random() < 0.5:
        asked = sorted(have)[int(rng.integers(len(have)))]
    else:
        colours, shapes = sorted({c for c, _ in have}), sorted({s for _, s in have})
        hard = [(c, s) for c in colours for s in shapes if (c, s) not in have]
        if hard and rng.random() < 0.7:
            asked = hard[int(rng.integers(len(hard)))]
        else:
            while True:
                asked = int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES)))
                if asked not in have:
                    break
    return Item(["is", "there", "a", COLOURS[asked[0]], SHAPES[asked[1]], "?"], ["yes" if asked in have else "no"])


def lookup(scene: Scene, rng: np.random.Generator) -> Item:
    contents = {o.cell: _cell_contents(o) for o in scene.objects}
    contents.update({cell: ["digits", str(d)] for cell, d in zip(scene.digit_cells, scene.digits)})
    cell = int(rng.choice(sorted(contents))) if rng.random() < 0.8 else int(rng.integers(16))
    return Item(["what", "is", "at", *place(cell), "?"], contents.get(cell, ["none"]))


def desc(scene: Scene, rng: np.random.Generator) -> Item:
    return Item(["describe", "?"], [word for o in scene.objects for word in _cell_contents(o)])


def dsum(scene: Scene, rng: np.random.Generator) -> Item:
    a, b, c = scene.digits
    reasoning = [
        *digits(a),
        "+",
        *digits(b),
        "=",
        *digits(a + b),
        ";",
        *digits(a + b),
        "+",
        *digits(c),
        "=",
        *digits(a + b + c),
    ]
    return Item("sum of digits ?".split(), digits(a + b + c), reasoning)


def diff(scene: Scene, rng: np.random.Generator) -> Item:
    per_colour = [scene.count(colour=c) for c in range(len(COLOURS))]
    present = [c for c in range(len(COLOURS)) if per_colour[c]]
    a = int(rng.choice(present))
    b = a
    while b == a:
        b = int(rng.choice(present)) if len(present) > 1 and rng.random() < 0.8 else int(rng.integers(len(COLOURS)))
    if per_colour[b] > per_colour[a]:
        a, b = b, a
    return diff_item(a, per_colour[a], b, per_colour[b], int(rng.integers(2, 6)))


def diff_item(a: int, n_a: int, b: int, n_b: int, factor: int) -> Item:
    """'how many more A than B times K ?' for colours a, b seen n_a >= n_b times."""
    more, result = n_a - n_b, (n_a - n_b) * factor
    reasoning = [COLOURS[a], *digits(n_a), ";", COLOURS[b], *digits(n_b), ";"]
    reasoning += [
        *digits(n_a),
        "-",
        *digits(n_b),
        "=",
        *digits(more),
        ";",
        *digits(more),
        "*",
        *digits(factor),
        "=",
        *digits(result),
    ]
    question = ["how", "many", "more", COLOURS[a], "than", COLOURS[b], "times", str(factor), "?"]
    return Item(question, digits(result), reasoning)


def arith(rng: np.random.Generator) -> Item:
    """One operation. Not held out: every fact occurs in training."""
    op = "+-*"[int(rng.integers(3))]
    if op == "+":
        a, b = int(rng.integers(0, 90)), int(rng.integers(0, 10))
        value = a + b
    elif op == "-":
        a, b = int(rng.integers(0, 99)), int(rng.integers(0, 10))
        a, b = max(a, b), min(a, b)
        value = a - b
    else:
        a, b = int(rng.integers(0, 10)), int(rng.integers(0, 10))
        value = a * b
    return Item(["calc", *digits(a), op, *digits(b), "?"], digits(value))


def held_out_chain(key: list[int]) -> bool:
    """True for the 20 % of chains that are asked in tests only (FNV-1a of start, operations and operands)."""
    h = 2166136261
    for value in key:
        h = ((h ^ value) * 16777619) & 0xFFFFFFFF
    return (h >> 7) % 5 == 0


def chain(rng: np.random.Generator, split: str | None = "train", operations: int = 2) -> Item:
    """Operations applied one after another, every value within 0..99. split None: both splits."""
    while True:
        start = int(rng.integers(0, 10))
        value, key, question, reasoning = start, [start], ["calc", *digits(start)], []
        for i in range(operations):
            allowed = [0] + ([1] if value > 0 else []) + ([2] if value <= 9 else [])
            op = int(rng.choice(allowed))
            b = int(rng.integers(0, 10)) if op != 1 else int(rng.integers(0, min(value, 9) + 1))
            result = (value + b, value - b, value * b)[op]
            question += (["then"] if i else []) + ["+-*"[op], *digits(b)]
            reasoning += ([";"] if i else []) + [*digits(value), "+-*"[op], *digits(b), "=", *digits(result)]
            key += [op, b]
            value = result
        if value <= 99 and (split is None or held_out_chain(key) == (split == "test")):
            return Item([*question, "?"], digits(value), reasoning)


VISION_TASKS: dict[str, Callable[[Scene, np.random.Generator], Item | None]] = {
    "count": count, "ocr": ocr, "ground": ground, "recog": recog, "lookup": lookup, "desc": desc,
    "dsum": dsum, "diff": diff,
}  # fmt: skip


@dataclass(frozen=True)
class Example:
    """An item ready to be asked. `scene` is None for text tasks."""

    task: str
    item: Item
    scene: Scene | None
    pixels: np.ndarray | None  # (64, 64, 3) uint8

    def prompt(self) -> list[int]:
        return prompt(self.item.question, self.pixels is not None)

    def gold(self) -> list[int]:
        return encode(self.item.answer)


def draw_example(task: str, rng: np.random.Generator, split: str) -> Example:
    """One example with a scene of its own."""
    if task == "arith":
        return Example(task, arith(rng), None, None)
    if task == "chain":
        return Example(task, chain(rng, split), None, None)
    while True:
        scene = draw_scene(rng, split)
        item = VISION_TASKS[task](scene, rng)
        if item is not None:
            return Example(task, item, scene, render(scene))


def held_out_set(task: str, n: int, seed: int) -> list[Example]:
    """n test-split examples, the same for every caller with the same seed."""
    rng = np.random.default_rng([seed, sum(map(ord, task))])
    return [draw_example(task, rng, "test") for _ in range(n)]


def to_pixels(images: list[np.ndarray]) -> torch.Tensor:
    """[(64, 64, 3) uint8] -> (B, 3, 64, 64) float32, normalised with the CLIP statistics."""
    return torch.from_numpy(((np.stack(images) - _MEAN) / _STD).transpose(0, 3, 1, 2).copy()).float()


def pad(rows: list[list[int]], fill: int) -> torch.Tensor:
    """Ragged rows -> (B, T), filled on the right."""
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def vision_batch(
    rng: np.random.Generator, size: int, mix: dict[str, float], turns: int = 5, max_tokens: int = 56
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Dialogues of direct answers about one image each -> ids (B, T), labels (B, T), pixels (B, 3, 64, 64)."""
    names, odds = list(mix), np.array(list(mix.values()))
    odds /= odds.sum()
    ids, labels, images = [], [], []
    for _ in range(size):
        scene = draw_scene(rng)
        said: list[tuple[list[str], list[str]]] = []
        length = 0
        while len(said) < turns:
            item = VISION_TASKS[names[rng.choice(len(names), p=odds)]](scene, rng)
            if item is None:
                continue
            tokens = len(item.question) + len(item.answer) + 5
            if said and length + tokens > max_tokens:
                break
            said.append((item.question, item.answer))
            length += tokens
        x, y = dialogue(said, True)
        ids.append(x)
        labels.append(y)
        images.append(render(scene))
    return pad(ids, PAD), pad(labels, IGNORE), to_pixels(images)


def text_batch(
    rng: np.random.Generator, size: int, turns: int, arith_share: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dialogues of direct arithmetic -> ids (B, T), labels (B, T). The rest are three-operation chains."""
    ids, labels = [], []
    for _ in range(size):
        items = [arith(rng) if rng.random() < arith_share else chain(rng, operations=3) for _ in range(turns)]
        x, y = dialogue([(i.question, i.answer) for i in items], False)
        ids.append(x)
        labels.append(y)
    return pad(ids, PAD), pad(labels, IGNORE)
