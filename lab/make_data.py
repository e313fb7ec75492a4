"""Writes lab/data: held-out items, swapping pairs, and every model's replies to the items. See data/README.md."""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from pairs import Pair, count_and_recog_pairs, diff_pair, ground_pair, ocr_and_dsum_pairs
from scenes import Scene, draw_scene, render
from tasks import VISION_TASKS, Item, draw_example
from vocabulary import text_of

DATA = Path(__file__).parent / "data"
SEED = 2602
ITEMS, PAIRS = 100, 60
# Two sets of scenes; tasks of one set ask about the same images, which keeps the folder small.
# Every scene of the second set has an object to ask for.
SCENE_SETS = (("count", "ocr", "dsum"), ("ground", "recog", "diff"))


def caption(scene: Scene, item: Item) -> str:
    """What a describer would say: the answer to `describe ?`, and the digits, which that answer leaves out."""
    objects = VISION_TASKS["desc"](scene, np.random.default_rng(0)).answer
    return text_of(["digits", *map(str, scene.digits), ";", *objects])


class Images:
    """Writes each scene once, as a PNG of exactly the bytes that the model sees."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder, {}
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, scene: Scene, name: str) -> str:
        if scene not in self.names:
            self.names[scene] = f"images/{name}.png"
            pixels, buffer = render(scene), io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png", optimize=True, compress_level=9)
            assert np.array_equal(np.array(Image.open(io.BytesIO(buffer.getvalue()))), pixels)
            (self.folder / f"{name}.png").write_bytes(buffer.getvalue())
        return self.names[scene]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))


def draw_items(rng: np.random.Generator, images: Images) -> tuple[list[dict], list[list[Scene]]]:
    """Rows of eval.jsonl in task order, and the scenes of each set."""
    rows: dict[str, list[dict]] = {}
    scene_sets: list[list[Scene]] = []
    for letter, tasks in zip("ab", SCENE_SETS):
        scenes: list[Scene] = []
        while len(scenes) < ITEMS:
            scene = draw_scene(rng, "test")
            items = {task: VISION_TASKS[task](scene, rng) for task in tasks}
            if None in items.values():
                continue
            image = images.path(scene, f"{letter}{len(scenes):03d}")
            for task, item in items.items():
                row = {"id": f"{task}-{len(scenes):03d}", "task": task, "image": image}
                row |= {"question": text_of(item.question), "answer": text_of(item.answer)}
                if item.reasoning:
                    row["description"] = caption(scene, item)
                rows.setdefault(task, []).append(row)
            scenes.append(scene)
        scene_sets.append(scenes)
    for task in ("arith", "chain"):
        items = [draw_example(task, rng, "test").item for _ in range(ITEMS)]
        rows[task] = [
            {"id": f"{task}-{i:03d}", "task": task, "question": text_of(x.question), "answer": text_of(x.answer)}
            for i, x in enumerate(items)
        ]
    return [row for task_rows in rows.values() for row in task_rows], scene_sets


def draw_pairs(rng: np.random.Generator, images: Images, scene_sets: list[list[Scene]]) -> list[dict]:
    """Rows of pairs.jsonl. Targets are scenes of the items; sources are their edits."""
    found: dict[str, list[Pair]] = {"count": [], "ocr": [], "ground": [], "recog": [], "dsum": [], "diff": []}
    for scene in scene_sets[0][:PAIRS]:
        read, add = ocr_and_dsum_pairs(scene, rng)
        found["ocr"].append(read)
        found["dsum"].append(add)
    for i, scene in enumerate(scene_sets[1][:PAIRS]):
        # every scene of this set has an object that is the only one of its kind
        count, recog = count_and_recog_pairs(scene, rng)
        found["count"].append(count)
        found["recog"].append(recog.swapped() if i % 2 else recog)
        found["ground"].append(ground_pair(scene, rng))
    for scene in scene_sets[1] * 20:  # a scene whose edit leaves the answer as it was is passed by
        if len(found["diff"]) == PAIRS:
            break
        pair = diff_pair(scene, rng)
        if pair is not None and pair.target_answer != pair.source_answer:
            found["diff"].append(pair)
    assert all(len(pairs) == PAIRS for pairs in found.values())
    rows = []
    for task, pairs in found.items():
        name = {"ocr": "digits", "dsum": "digits", "count": "edited", "recog": "edited"}.get(task, task)
        for i, pair in enumerate(pairs):
            row = {"id": f"{task}-pair-{i:03d}", "task": task}
            row |= {"target_image": images.path(pair.target, f"{name}-{i:03d}")}
            row |= {"source_image": images.path(pair.source, f"{name}-{i:03d}"), "prompt": text_of(pair.question)}
            row |= {"target_answer": text_of(pair.target_answer), "source_answer": text_of(pair.source_answer)}
            rows.append(row)
    return rows


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    generator, store = np.random.default_rng(SEED), Images(DATA / "images")
    eval_rows, sets = draw_items(generator, store)
    write_jsonl(DATA / "eval.jsonl", eval_rows)
    write_jsonl(DATA / "pairs.jsonl", draw_pairs(generator, store, sets))
    print(f"{len(eval_rows)} items, {len(store.names)} images")
