"""Scenes: 4x4 cells with coloured shapes and three digits, and the renderer that turns one into 64x64 pixels.

A scene is fully described by its objects, digits and `noise_seed`; rendering draws nothing from the
caller's generator, so images can be re-rendered at any time.
"""

from dataclasses import dataclass

import numpy as np

from vocabulary import COLOURS, SHAPES

GRID = 4
CELL = 16  # pixels per cell side
SIDE = GRID * CELL

RGB = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (230, 210, 40),
    "purple": (170, 50, 200),
}

# 5x7 bitmaps, row by row, drawn at twice the size
FONT = (
    "01110100011001110101110011000101110",
    "00100011000010000100001000010001110",
    "01110100010000100010001000100011111",
    "11111000100010000010000011000101110",
    "00010001100101010010111110001000010",
    "11111100001111000001000011000101110",
    "00110010001000011110100011000101110",
    "11111000010001000100010000100001000",
    "01110100011000101110100011000101110",
    "01110100011000101111000010001001100",
)
OBJECT_SIZES = (9, 10, 11, 12, 13)


@dataclass(frozen=True)
class Object:
    """One coloured shape. `cell` counts in raster order; colour and shape index COLOURS and SHAPES."""

    cell: int
    colour: int
    shape: int


@dataclass(frozen=True)
class Scene:
    digit_cells: tuple[int, ...]  # three neighbouring cells of one row
    digits: tuple[int, ...]
    objects: tuple[Object, ...]  # raster order, distinct cells
    noise_seed: int

    def count(self, *, colour: int | None = None, shape: int | None = None) -> int:
        return sum((colour is None or o.colour == colour) and (shape is None or o.shape == shape) for o in self.objects)


def held_out_digits(digits: tuple[int, ...] | list[int]) -> bool:
    """True for the 20 % of digit strings that occur in test scenes only, so no test image is a training image."""
    return (digits[0] * 37 + digits[1] * 11 + digits[2] * 7) % 5 == 0


def draw_scene(rng: np.random.Generator, split: str = "train") -> Scene:
    """One scene of a split ('train' or 'test')."""
    row, start = rng.integers(4), rng.integers(2)
    digit_cells = tuple(int(row * GRID + start + i) for i in range(3))
    while True:
        digits = tuple(int(x) for x in rng.integers(0, 10, 3))
        if held_out_digits(digits) == (split == "test"):
            break
    n = int(rng.integers(1, 10))
    free = [i for i in range(GRID * GRID) if i not in digit_cells]
    cells = sorted(rng.permutation(free)[:n].tolist())
    # few colours and shapes dominate a scene, else counts are nearly always 0, 1 or 2
    colour_odds = rng.dirichlet([0.7] * len(COLOURS))
    shape_odds = rng.dirichlet([1.0] * len(SHAPES))
    colours = rng.choice(len(COLOURS), n, p=colour_odds)
    shapes = rng.choice(len(SHAPES), n, p=shape_odds)
    objects = tuple(Object(cell, int(c), int(s)) for cell, c, s in zip(cells, colours, shapes))
    return Scene(digit_cells, digits, objects, int(rng.integers(1 << 31)))


def cell_words(scene: Scene) -> list[list[str]]:
    """For each of the 16 cells the words that describe it: what is there, then row and column."""
    words = [["none"] for _ in range(GRID * GRID)]
    for o in scene.objects:
        words[o.cell] = [COLOURS[o.colour], SHAPES[o.shape]]
    for cell, digit in zip(scene.digit_cells, scene.digits):
        words[cell] = ["digits", str(digit)]
    return [w + place(i) for i, w in enumerate(words)]


def place(cell: int) -> list[str]:
    """Row and column words of a cell."""
    return [f"r{cell // GRID + 1}", f"c{cell % GRID + 1}"]


def _stamp(shape: str, size: int, oversample: int = 4) -> np.ndarray:
    """Anti-aliased coverage of a shape, (size, size) in 0..1."""
    n = size * oversample
    y, x = np.mgrid[0:n, 0:n]
    u, v = (x + 0.5) / n * 2 - 1, (y + 0.5) / n * 2 - 1
    if shape == "circle":
        inside = u * u + v * v <= 1
    elif shape == "square":
        inside = (abs(u) < 0.9) & (abs(v) < 0.9)
    elif shape == "triangle":
        inside = abs(u) <= (v + 1) / 2
    else:
        inside = (abs(u) < 0.34) | (abs(v) < 0.34)
    return inside.reshape(size, oversample, size, oversample).mean((1, 3)).astype(np.float32)


_STAMPS = {(shape, size): _stamp(shape, size) for shape in SHAPES for size in OBJECT_SIZES}
_GLYPHS = [
    np.kron(np.array([int(bit) for bit in bits], np.float32).reshape(7, 5), np.ones((2, 2), np.float32))
    for bits in FONT
]
_RAMP = np.linspace(0, 60, SIDE, dtype=np.float32)
# Red light grows to the right, blue light grows downwards: Qwen's vision tower has no absolute
# position, so without it `r2 c3` could only be read from the decoder's M-RoPE.
_LIGHT = np.stack(
    (
        np.broadcast_to(_RAMP[None, :], (SIDE, SIDE)),
        np.zeros((SIDE, SIDE), np.float32),
        np.broadcast_to(_RAMP[:, None], (SIDE, SIDE)),
    ),
    -1,
)


def render(scene: Scene) -> np.ndarray:
    """(64, 64, 3) uint8. Rounded to bytes here, so that a PNG holds exactly what the model is trained on."""
    rng = np.random.default_rng(scene.noise_seed)
    image = np.empty((SIDE, SIDE, 3), np.float32)
    image[:] = rng.uniform(0, 15)
    image += _LIGHT

    def put(cell: int, coverage: np.ndarray, rgb: np.ndarray | tuple[float, float, float]) -> None:
        h, w = coverage.shape
        y = cell // GRID * CELL + int(rng.integers(0, CELL + 1 - h))
        x = cell % GRID * CELL + int(rng.integers(0, CELL + 1 - w))
        alpha = coverage[:, :, None]
        image[y : y + h, x : x + w] = image[y : y + h, x : x + w] * (1 - alpha) + np.asarray(rgb, np.float32) * alpha

    for o in scene.objects:
        coverage = _STAMPS[SHAPES[o.shape], int(rng.choice(OBJECT_SIZES))]
        put(o.cell, coverage, np.clip(np.array(RGB[COLOURS[o.colour]]) * rng.uniform(0.8, 1.15), 0, 255))
    grey = rng.uniform(190, 255)
    for cell, digit in zip(scene.digit_cells, scene.digits):
        put(cell, _GLYPHS[digit], (grey, grey, grey))
    image += rng.normal(0, 8, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
