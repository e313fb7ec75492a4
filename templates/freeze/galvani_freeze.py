"""Holds the parameters of a galvani freeze plan fixed. Reads plan.json beside this file; needs torch only.

    from galvani_freeze import freeze
    freeze(model)

Stored names are matched with the model's by what follows the wrappers' prefixes: "model.layers.6.mlp.up_proj.weight" of
the file is "model.language_model.layers.6.mlp.up_proj.weight" in newer versions of transformers. Every name must be
found, with its shape, or nothing is trained: a pattern that matches nothing would train everything in silence.
"""

import json
import pathlib

PLAN = json.loads((pathlib.Path(__file__).resolve().parent / "plan.json").read_text())
WRAPPERS = {"model", "language_model", "base_model", "module", "_orig_mod", "_fsdp_wrapped_module"}


def canonical(name: str) -> str:
    parts = [part for part in name.split(".") if part not in {"_orig_mod", "_fsdp_wrapped_module"}]
    while parts and parts[0] in WRAPPERS:
        parts.pop(0)
    return ".".join(parts)


def frozen_parameters(model) -> dict:
    """Name in the model -> parameter, for every tensor of the plan. Raises ValueError naming what is missing."""
    found: dict = {}
    lora = [name for name, _ in model.named_parameters() if ".lora_" in name]
    if lora:
        raise ValueError(f"galvani freeze plan: adapters leave every stored weight fixed; train without them ({lora[0]})")
    by_name = {canonical(name): (name, parameter) for name, parameter in model.named_parameters()}
    for tensor in PLAN["frozen"]:
        match = by_name.get(canonical(tensor["name"]))
        if match is None:
            raise ValueError(f"galvani freeze plan: the model has no parameter for {tensor['name']}")
        name, parameter = match
        # FSDP1 flattens a parameter in place; before wrapping the shape must agree.
        if parameter.numel() and list(parameter.shape) != tensor["shape"]:
            raise ValueError(f"galvani freeze plan: {name} has shape {list(parameter.shape)}, expected {tensor['shape']}")
        found[name] = parameter
    return found


def freeze(model) -> list:
    """Sets requires_grad on exactly the plan's parameters to False and on all others to True; returns the names held."""
    held = frozen_parameters(model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in held)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    fixed = sum(parameter.numel() for parameter in held.values())
    parts = ", ".join(PLAN["parts"])
    print(f"galvani: {parts}: {len(held)} parameters ({fixed:,} values) held fixed, {trained:,} values trained", flush=True)
    return list(held)
