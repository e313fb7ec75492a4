"""Checks in ms-swift that exactly the parameters of plan.json are held fixed. Written by `galvani freeze plan`.

ms-swift imports it by --external_plugins. Its own --freeze_parameters_regex does the work, but a pattern that matches
nothing, or that does not compile, is no error there, and freeze_vit and freeze_aligner are on by default.
"""

from galvani_freeze import frozen_parameters
from transformers import Trainer

_train = Trainer.train


def train_checked(self, *args, **kwargs):
    held = set(frozen_parameters(self.model))
    fixed = {name for name, parameter in self.model.named_parameters() if not parameter.requires_grad}
    if held != fixed:
        missing, extra = sorted(held - fixed), sorted(fixed - held)
        raise RuntimeError(f"galvani freeze plan: {len(missing)} not held fixed {missing[:3]}, {len(extra)} too many {extra[:3]}")
    print(f"galvani: {len(held)} parameters are held fixed, as planned", flush=True)
    return _train(self, *args, **kwargs)


Trainer.train = train_checked
