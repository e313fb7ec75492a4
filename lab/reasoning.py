"""Checks a reply's chain of thought: a right answer may stand on wrong steps, and RL rewards answers only."""

import re
from dataclasses import dataclass

from tasks import Example
from vocabulary import decode, text_of

_EQUATION = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+)")
_APPLY = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}

Equation = tuple[int, str, int, int]  # a, operation, b, result


@dataclass(frozen=True)
class Steps:
    hold: bool  # as many equations as the gold chain has, all true
    read: bool  # the operands that come from image or question are the gold chain's


def _equations(text: str) -> list[Equation]:
    thought = text.partition("</think>")[0]
    return [(int(a), op, int(b), int(c)) for a, op, b, c in _EQUATION.findall(thought)]


def check(reply: list[int], example: Example) -> Steps:
    found, gold = _equations(decode(reply)), _equations(text_of(example.item.thought_out()))
    if len(found) != len(gold):
        return Steps(False, False)
    hold = all(_APPLY[op](a, b) == c for a, op, b, c in found)
    # later first operands are results of the chain itself
    read = found[0][0] == gold[0][0] and all(f[1:3] == g[1:3] for f, g in zip(found, gold))
    return Steps(hold, read)
