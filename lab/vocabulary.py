"""The 68 words of the lab and the turn format built from them.

One word is one token; a number is its decimal digits. A turn is

    <|im_start|> user [<|vision_start|> <|image_pad|> x 16 <|vision_end|>] QUESTION <|im_end|>
    <|im_start|> assistant ANSWER <|im_end|>

so that image tokens always stand in columns 3..18 of the first turn.
"""

from dataclasses import dataclass

COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("circle", "square", "triangle", "cross")
CONTROL = (
    "<pad>",
    "<|im_end|>",
    "<|im_start|>",
    "user",
    "assistant",
    "<|vision_start|>",
    "<|image_pad|>",
    "<|vision_end|>",
)
MARKUP = ("<think>", "</think>", "<answer>", "</answer>")
PLAIN = (
    "how many shapes read digits where is the there a what at yes no none sum of more than times describe calc then"
).split()
CELLS = ("r1", "r2", "r3", "r4", "c1", "c2", "c3", "c4")

WORDS: tuple[str, ...] = (*CONTROL, *MARKUP, *"0123456789", *"+-*=;?", *COLOURS, *SHAPES, *PLAIN, *CELLS)
ID: dict[str, int] = {word: i for i, word in enumerate(WORDS)}

PAD, EOS, IMAGE = ID["<pad>"], ID["<|im_end|>"], ID["<|image_pad|>"]
IMAGE_COLUMN = 3  # column of the first image token
IMAGE_TOKENS = 16
IGNORE = -100  # label of a position without loss


def encode(words: list[str]) -> list[int]:
    """Words -> token ids."""
    return [ID[word] for word in words]


def digits(number: int) -> list[str]:
    """A number as its digit words."""
    return list(str(number))


def text_of(words: list[str]) -> str:
    """Readable text: words joined by spaces, neighbouring digits joined into one number."""
    text = ""
    for before, word in zip(["", *words], words):
        text += word if not before or (before.isdigit() and word.isdigit()) else " " + word
    return text


def decode(ids: list[int]) -> str:
    """Token ids up to <|im_end|> -> readable text."""
    ids = ids[: ids.index(EOS)] if EOS in ids else ids
    return text_of([WORDS[i] for i in ids])


def prompt(question: list[str], with_image: bool) -> list[int]:
    """Token ids of one user turn and the opening of the assistant's."""
    image = ["<|vision_start|>", *["<|image_pad|>"] * IMAGE_TOKENS, "<|vision_end|>"] if with_image else []
    return encode(["<|im_start|>", "user", *image, *question, "<|im_end|>", "<|im_start|>", "assistant"])


def dialogue(turns: list[tuple[list[str], list[str]]], with_image: bool) -> tuple[list[int], list[int]]:
    """[(question, answer)] -> (input ids, labels), both of length T-1.

    Labels are already shifted: labels[t] is the token to predict at t. Only answers and their
    <|im_end|> carry loss. Only the first turn carries the image.
    """
    ids: list[int] = []
    trained: list[bool] = []
    for i, (question, answer) in enumerate(turns):
        opening, reply = prompt(question, with_image and i == 0), [*encode(answer), EOS]
        ids += opening + reply
        trained += [False] * len(opening) + [True] * len(reply)
    labels = [ids[t + 1] if trained[t + 1] else IGNORE for t in range(len(ids) - 1)]
    return ids[:-1], labels


@dataclass(frozen=True)
class Reply:
    """A generated reply, read by the grader."""

    answer: list[int] | None  # ids of the final answer; None when reasoning never reached an answer
    well_formed: bool  # exactly `<think> .. </think> <answer> .. </answer> <|im_end|>`


def read_reply(ids: list[int]) -> Reply:
    """Reads the final answer. A reply without markup is a direct answer: all of it."""
    think, end_think, answer, end_answer = (ID[word] for word in MARKUP)
    ended = EOS in ids
    if ended:
        ids = ids[: ids.index(EOS)]
    if answer in ids:
        start = ids.index(answer)
        stop = ids.index(end_answer, start) if end_answer in ids[start:] else None
        once = all(ids.count(i) == 1 for i in (think, end_think, answer, end_answer))
        ordered = ids[0] == think and ids[start - 1] == end_think and stop == len(ids) - 1
        return Reply(ids[start + 1 : stop], ended and once and ordered)
    if think in ids:
        return Reply(None, False)
    return Reply(ids, False)
