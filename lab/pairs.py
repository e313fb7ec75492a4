"""Image pairs for token swapping: one question, two images of the test split, two different gold answers.

The source is the target with the smallest edit that changes the answer. An edit keeps every object's
place in the drawing order, so size, offset, brightness and pixel noise stay the same and the images
differ only where the scene differs.

    count, recog  an object gets another colour or shape; half of recog's targets show what is asked for
    diff          an object gets another colour
    ocr, dsum     the three digits become others of the test split
    ground        the object asked for moves to a free cell
"""

from dataclasses import dataclass, replace

import numpy as np

from scenes import Scene, held_out_digits, place
from tasks import Item, diff_item
from vocabulary import COLOURS, SHAPES, digits


@dataclass(frozen=True)
class Pair:
    question: list[str]
    target: Scene
    source: Scene
    target_answer: list[str]
    source_answer: list[str]

    def swapped(self) -> "Pair":
        return Pair(self.question, self.source, self.target, self.source_answer, self.target_answer)


def _pick(rng: np.random.Generator, options: list):
    return options[int(rng.integers(len(options)))]


def _edit(scene: Scene, index: int, **changes: int) -> Scene:
    """The scene with one object changed, in the same drawing order."""
    objects = list(scene.objects)
    objects[index] = replace(objects[index], **changes)
    return replace(scene, objects=tuple(objects))


def _other(rng: np.random.Generator, names: tuple[str, ...], value: int) -> int:
    return _pick(rng, [i for i in range(len(names)) if i != value])


def _other_digits(scene: Scene, rng: np.random.Generator) -> Scene:
    """Digits differ in every place and in their sum, so one image serves ocr and dsum."""
    while True:
        new = tuple(int(x) for x in rng.integers(0, 10, 3))
        apart = all(a != b for a, b in zip(new, scene.digits)) and sum(new) != sum(scene.digits)
        if apart and held_out_digits(new):
            return replace(scene, digits=new)


def ocr_and_dsum_pairs(scene: Scene, rng: np.random.Generator) -> tuple[Pair, Pair]:
    source = _other_digits(scene, rng)
    read = Pair("read digits ?".split(), scene, source, digits_of(scene), digits_of(source))
    add = Pair("sum of digits ?".split(), scene, source, digits(sum(scene.digits)), digits(sum(source.digits)))
    return read, add


def digits_of(scene: Scene) -> list[str]:
    return [str(d) for d in scene.digits]


def _unique_objects(scene: Scene) -> list[int]:
    return [i for i, o in enumerate(scene.objects) if scene.count(colour=o.colour, shape=o.shape) == 1]


def ground_pair(scene: Scene, rng: np.random.Generator) -> Pair | None:
    unique = _unique_objects(scene)
    if not unique:
        return None
    index = _pick(rng, unique)
    o = scene.objects[index]
    taken = {x.cell for x in scene.objects} | set(scene.digit_cells)
    cell = _pick(rng, [i for i in range(16) if i not in taken])
    question = ["where", "is", "the", COLOURS[o.colour], SHAPES[o.shape], "?"]
    return Pair(question, scene, _edit(scene, index, cell=cell), place(o.cell), place(cell))


def count_and_recog_pairs(scene: Scene, rng: np.random.Generator) -> tuple[Pair, Pair] | None:
    """One object that is the only one of its kind gets another colour or shape."""
    unique = _unique_objects(scene)
    if not unique:
        return None
    index = _pick(rng, unique)
    o = scene.objects[index]
    kind, names = ("colour", COLOURS) if rng.random() < 0.5 else ("shape", SHAPES)
    before = getattr(o, kind)
    after = _other(rng, names, before)
    source = _edit(scene, index, **{kind: after})
    asked = _pick(rng, [before, after])  # its count falls or rises by one
    counts = [digits(x.count(**{kind: asked})) for x in (scene, source)]
    count = Pair(["how", "many", names[asked], "?"], scene, source, *counts)
    recog = Pair(["is", "there", "a", COLOURS[o.colour], SHAPES[o.shape], "?"], scene, source, ["yes"], ["no"])
    return count, recog


def diff_pair(scene: Scene, rng: np.random.Generator) -> Pair | None:
    """None when no recolouring of one object leaves the first colour the commoner one."""
    index = int(rng.integers(len(scene.objects)))
    before = scene.objects[index].colour
    after = _other(rng, COLOURS, before)
    source = _edit(scene, index, colour=after)
    other = _other(rng, COLOURS, before)
    n = [scene.count(colour=c) for c in range(len(COLOURS))]
    m = [source.count(colour=c) for c in range(len(COLOURS))]
    a, b = (before, other) if n[before] >= n[other] else (other, before)
    if m[a] < m[b]:
        return None
    factor = int(rng.integers(2, 6))
    target_item: Item = diff_item(a, n[a], b, n[b], factor)
    return Pair(target_item.question, scene, source, target_item.answer, diff_item(a, m[a], b, m[b], factor).answer)
