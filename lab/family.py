"""The family's members and how each came to be: one row, one training run."""

from dataclasses import dataclass
from pathlib import Path

LAB = Path(__file__).parent
CHECKPOINTS = LAB / "checkpoints"

# shipped models, in the order of tables
MEMBERS = ("base", "in", "in-more", "rl", "rl-frozen-early", "rl-frozen-mid", "rl-frozen-late")


@dataclass(frozen=True)
class Stage:
    name: str  # of the checkpoint it leaves
    init: str | None  # the stage it starts from
    trainer: str
    options: tuple[str, ...]


STAGES = (
    Stage("align", None, "align.py", ("--steps", "250", "--lr", "3e-3", "--seed", "0")),
    Stage("base-phase-1", "align", "base.py", ("--phase", "1", "--steps", "1600", "--seed", "0")),
    Stage("base-phase-2", "base-phase-1", "base.py", ("--phase", "2", "--steps", "800", "--seed", "5")),
    Stage("base", "base-phase-2", "base.py", ("--phase", "3", "--steps", "450", "--seed", "6")),
    Stage("in", "base", "sft.py", ("--examples", "120", "--steps", "400", "--lr", "1e-3")),
    Stage("in-more", "in", "sft.py", ("--examples", "120", "--steps", "250", "--lr", "1e-4")),
    Stage("rl", "in", "grpo.py", ("--steps", "250", "--lr", "1e-4")),
    Stage("rl-frozen-early", "in", "grpo.py", ("--steps", "250", "--lr", "1e-4", "--freeze", "early")),
    Stage("rl-frozen-mid", "in", "grpo.py", ("--steps", "250", "--lr", "1e-4", "--freeze", "mid")),
    Stage("rl-frozen-late", "in", "grpo.py", ("--steps", "250", "--lr", "1e-4", "--freeze", "late")),
)
