"""Math-Verify over the grading cases: {"indices": [...]} per line in, {"ms", "verdicts"} out."""

import json
import sys
import time

from math_verify import parse, verify

with open(sys.argv[1], encoding="utf-8") as file:
    cases = [json.loads(line) for line in file]


def right(case: dict) -> bool:
    # gold first: verify() has a direction, and LaTeX is read only inside its marks
    try:
        gold = parse(f"${case['gold']}$", raise_on_error=False)
        answer = parse(case["text"], raise_on_error=False)
        return bool(verify(gold, answer, raise_on_error=False))
    except Exception:
        return False  # unreadable is not right


for line in sys.stdin:
    indices = json.loads(line)["indices"]
    start = time.perf_counter()
    verdicts = [right(cases[i]) for i in indices]
    print(json.dumps({"ms": 1000 * (time.perf_counter() - start), "verdicts": verdicts}), flush=True)
