"""What the trainers share: set-up of a run, Muon, the learning-rate schedule, checkpoints and the log."""

import json
import math
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor, nn

from model import Model

# Weights and optimiser state are float32; matrix products run in bfloat16, about three times faster
# on AVX512-BF16. Sampling must use the same precision as the update (see grpo.py).
AUTOCAST = {"device_type": "cpu", "dtype": torch.bfloat16}


def start(seed: int) -> Model:
    """One thread (two-thread runs collapse on a busy machine), no denormals, fresh weights from `seed`."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    return Model()


def save(model: Model, path: Path) -> None:
    """Weights rounded to bfloat16, as exported; the next stage starts from the rounded ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: w.to(torch.bfloat16) for name, w in model.state_dict().items()}, path)


def load(model: Model, path: Path) -> Model:
    model.load_state_dict({name: w.float() for name, w in torch.load(path).items()})
    return model


def cosine(step: int, steps: int, warmup: int, floor: float = 0.05) -> float:
    """Linear warm-up to 1, cosine to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    x = (step - warmup) / max(1, steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1, x)))


def step(loss: Tensor, parameters: list[nn.Parameter], optimisers: list[torch.optim.Optimizer], scale: float) -> None:
    """One clipped update at `scale` times each group's peak rate."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = scale * group.setdefault("peak", group["lr"])
        optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimiser in optimisers:
        optimiser.step()


class Log:
    """One JSON file per run: what it was asked, and a row per report."""

    def __init__(self, path: Path, settings: dict) -> None:
        self.path, self.record = path, {"settings": settings, "rows": []}

    def row(self, **values: object) -> None:
        self.record["rows"].append(values)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.record, indent=1))
        print(json.dumps(values), flush=True)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps (Jordan et al. 2024), for 2-D weights.

    Equal shapes are orthogonalised in one batch. Used for the base only: its updates have nearly
    flat spectra, which would spoil a spectral comparison of the later stages.
    """

    def __init__(
        self, weights: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.1
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["velocity"] = torch.zeros_like(p)
                state["velocity"].mul_(group["momentum"]).add_(p.grad)
                by_shape.setdefault(p.shape, []).append(p)
            for (rows, columns), weights in by_shape.items():
                nesterov = [p.grad + group["momentum"] * self.state[p]["velocity"] for p in weights]
                update = self._orthogonal(torch.stack(nesterov))
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                for p, direction in zip(weights, update):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(direction, alpha=-rate)

    @staticmethod
    def _orthogonal(update: Tensor) -> Tensor:
        """(n, rows, columns) -> nearest semi-orthogonal matrices, roughly."""
        tall = update.shape[1] > update.shape[2]
        x = update.transpose(1, 2) if tall else update
        x = (x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)).bfloat16()
        for _ in range(5):
            a = x @ x.transpose(1, 2)
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
        return (x.transpose(1, 2) if tall else x).float()
