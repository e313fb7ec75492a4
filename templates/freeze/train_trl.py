"""GRPO by TRL with the parameters of plan.json held fixed. Written by `galvani freeze plan --engine trl`.

    python train_trl.py --data train.jsonl --output out --steps 2000

The data are JSON lines with "question" and "answer", optional "image" (a path relative to the file); `galvani` reads the
same files. The reward is 1 for an answer whose last number (else whose text) is gold's, or your own:
--reward my_module:my_function, called as TRL calls reward functions (prompts, completions, answer, ...).
Everything GRPOConfig knows can be given as --set name=value. Recorded with TRL 1.16.
"""

import argparse
import importlib
import json
import pathlib
import re

import torch
from datasets import Dataset
from galvani_freeze import PLAN, freeze
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer


def read_rows(path: pathlib.Path, system: str | None, with_images: bool) -> Dataset:
    from PIL import Image

    rows = []
    for line in path.read_text().splitlines():
        if not line.strip():
            continue
        item = json.loads(line)
        if item.get("image") and not with_images:
            raise SystemExit(f"{path}: {item.get('id')}: has an image, which --text-only leaves out")
        prompt = [{"role": "system", "content": system}] if system else []
        prompt.append({"role": "user", "content": item["question"]})
        row = {"prompt": prompt, "answer": str(item["answer"])}
        if item.get("image"):
            row["image"] = Image.open(path.parent / item["image"]).convert("RGB")
        rows.append(row)
    if not rows:
        raise SystemExit(f"{path}: no rows")
    if any("image" in row for row in rows) and not all("image" in row for row in rows):
        raise SystemExit(f"{path}: TRL needs an image in every row or in none")
    return Dataset.from_list(rows)


def text_of(completion) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]


def last_number_or_text(completions, answer, **_):
    def value(text: str) -> str:
        numbers = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
        return numbers[-1] if numbers else text.strip().lower()

    return [float(value(text_of(one)) == value(gold)) for one, gold in zip(completions, answer)]


class StillHeld(TrainerCallback):
    """Looks after every step whether a held parameter changed: a run that lets go is stopped at once."""

    def on_train_begin(self, args, state, control, model=None, **_):
        self.before = {name: p.detach().cpu().clone() for name, p in model.named_parameters() if not p.requires_grad}
        assert self.before, "no parameter is held fixed"

    def on_step_end(self, args, state, control, model=None, **_):
        for name, parameter in model.named_parameters():
            if name in self.before and not torch.equal(parameter.detach().cpu(), self.before[name]):
                raise RuntimeError(f"galvani: {name} changed at step {state.global_step} although it is held fixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=PLAN["checkpoint"]["dir"], help="checkpoint folder; default: the plan's")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--system")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--learning-rate", type=float, default=1e-6)
    parser.add_argument("--generations", type=int, default=4)
    parser.add_argument("--prompts-per-step", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--reward", help="module:function")
    parser.add_argument("--text-only", action="store_true", help="no image processor: for data without images")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any field of GRPOConfig")
    args = parser.parse_args()

    reward = last_number_or_text
    if args.reward:
        module, function = args.reward.split(":")
        reward = getattr(importlib.import_module(module), function)
    more = {name: json.loads(value) for name, value in (item.split("=", 1) for item in args.set)}
    config = GRPOConfig(
        **{
            "output_dir": str(args.output / "trainer"),
            "max_steps": args.steps,
            "learning_rate": args.learning_rate,
            "num_generations": args.generations,
            "per_device_train_batch_size": args.generations,
            "gradient_accumulation_steps": args.prompts_per_step,
            "max_completion_length": args.max_tokens,
            "save_strategy": "no",
            "report_to": "none",
            "logging_steps": 1,
            "seed": args.seed,
            **more,
        }
    )
    # Weights are trained in float32 and stored as they were: a bf16 weight that nobody touched is then the same bits.
    model = AutoModelForImageTextToText.from_pretrained(args.model, dtype=torch.float32)
    freeze(model)
    trainer = GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=[reward],
        train_dataset=read_rows(args.data, args.system, not args.text_only),
        processing_class=(AutoTokenizer if args.text_only else AutoProcessor).from_pretrained(args.model),
        callbacks=[StillHeld()],
    )
    trainer.train()
    stored = trainer.accelerator.unwrap_model(trainer.model).to(getattr(torch, PLAN["checkpoint"]["dtype"]))
    stored.save_pretrained(args.output)
    for file in pathlib.Path(args.model).iterdir():  # tokenizer, processor and template as they were
        if file.suffix in {".json", ".jinja", ".txt"} and not (args.output / file.name).exists():
            (args.output / file.name).write_bytes(file.read_bytes())
    print(f"galvani: trained checkpoint in {args.output}", flush=True)


if __name__ == "__main__":
    main()
