"""Holds the parameters of plan.json fixed in verl's FSDP actor. Written by `galvani freeze plan --engine verl`.

verl imports it by actor_rollout_ref.model.external_lib=galvani_freeze_verl, in every worker, before the model is built.
verl itself has no way to hold a layer range fixed (0.9.1 declares actor.freeze_vision_tower and reads it nowhere), so
the one method that builds the module is wrapped: after it, and before FSDP wraps the module, the plan is applied.
"""

from galvani_freeze import freeze
from verl.workers.engine.fsdp import transformer_impl

BUILD = "_build_module"


def _wrap(engine) -> None:
    build = engine.__dict__.get(BUILD)
    if build is None or getattr(build, "galvani", False):
        return

    def build_and_freeze(self, *args, **kwargs):
        module = build(self, *args, **kwargs)
        if not self.engine_config.forward_only:  # the reference model trains nothing
            freeze(module)
        return module

    build_and_freeze.galvani = True
    setattr(engine, BUILD, build_and_freeze)


_engines = [value for value in vars(transformer_impl).values() if isinstance(value, type) and BUILD in vars(value)]
if not _engines:
    raise ImportError(f"galvani: this verl has no FSDP engine with {BUILD}; the plan was written for verl 0.9")
for _engine in _engines:
    _wrap(_engine)
