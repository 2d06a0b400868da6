"""How do gradients move the weights?"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING

import numpy
import torch
from torch import nn

if TYPE_CHECKING:
    from ena24ssd.config import OptimConfig

UPDATES = "updates"  # how often the optimizer has moved the weights; Adam corrects its means by it

BETAS = 0.9, 0.999  # Adam's, as in MXNet
EPSILON = 1e-8


class Update:
    """Shortens the gradients, and lets an optimizer move the weights as MXNet's would.

    Parameters: ``net``, on its device; its gradients are those of the whole batch.
    """

    def __init__(self, net: nn.Module, config: OptimConfig):
        self._learnt = dict(net.named_parameters())
        self._longest = config.clip_norm
        self.learning_rate: float = config.lr
        kind = Adam if config.name == "adam" else SGD
        self._optimizer = kind(list(self._learnt.values()), config)

    def forget_gradients(self) -> None:
        for parameter in self._learnt.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """Move the weights by the gradients there are. Returns the norm they had, (1,), still on the device."""
        gradients = [parameter.grad for parameter in self._learnt.values()]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self._longest is not None:
            torch._foreach_mul_(gradients, (self._longest / (norm + EPSILON)).clamp(max=1))
        self._optimizer.step(gradients, self.learning_rate)
        return norm.reshape(1)

    def gradients(self) -> dict[str, numpy.ndarray]:
        return {name: parameter.grad.cpu().numpy().copy() for name, parameter in self._learnt.items()}

    def state(self) -> dict[str, numpy.ndarray]:
        """What the optimizer remembers of each weight, as ``<name>/<number>`` in MXNet's order, and how often it has
        moved them.
        """
        count = self._optimizer.count
        kept = {UPDATES: numpy.array(count, dtype=numpy.int64)}
        for name, parts in zip(self._learnt, self._optimizer.memory()) if count else ():
            kept |= {f"{name}/{number}": part.cpu().numpy().copy() for number, part in enumerate(parts)}
        return kept

    def load(self, state: Mapping[str, numpy.ndarray]) -> None:
        """The inverse of `state`, before the first step. Raises ValueError for the state of another optimizer."""
        known = dict(state)
        count = numpy.asarray(known.pop(UPDATES, 0)).item()  # safetensors knows no number without a dimension
        for name, parts in zip(self._learnt, self._optimizer.begin(count)) if count else ():
            for number, part in enumerate(parts):
                kept = known.pop(f"{name}/{number}", None)
                if kept is None or kept.shape != tuple(part.shape):
                    raise ValueError(
                        f"the state has no {name}/{number} of shape {tuple(part.shape)} for this optimizer; "
                        "go on with the optimizer it was kept from"
                    )
                part.copy_(torch.from_numpy(kept))
        if known:
            raise ValueError(
                f"the state of another optimizer: unknown {min(known)}; go on with the one it was kept from"
            )


class SGD:
    """MXNet's: it remembers steps taken, where PyTorch's own remembers a sum of gradients, which a new learning rate
    would make another step.
    """

    def __init__(self, parameters: list[nn.Parameter], config: OptimConfig):
        self._parameters, self._momentum, self._decay = parameters, config.momentum, config.weight_decay
        self.count = 0
        self._steps = [torch.zeros_like(each) for each in parameters] if self._momentum else []

    def step(self, gradients: list[torch.Tensor], rate: float) -> None:
        self.count += 1
        if self._decay:
            gradients = torch._foreach_add(gradients, self._parameters, alpha=self._decay)
        if not self._momentum:
            torch._foreach_add_(self._parameters, gradients, alpha=-rate)
            return
        torch._foreach_mul_(self._steps, self._momentum)
        torch._foreach_add_(self._steps, gradients, alpha=-rate)
        torch._foreach_add_(self._parameters, self._steps)

    def begin(self, count: int) -> list[tuple[torch.Tensor, ...]]:
        """Where to put what it remembered after so many steps."""
        self.count = count
        return self.memory()

    def memory(self) -> list[tuple[torch.Tensor, ...]]:
        return list(zip(self._steps)) if self._momentum else [() for _ in self._parameters]


class Adam:
    """PyTorch's, fused, with MXNet's epsilon."""

    def __init__(self, parameters: list[nn.Parameter], config: OptimConfig):
        self._parameters, self._decay, self.count = parameters, config.weight_decay, 0

    @cached_property
    def _adam(self) -> torch.optim.Adam:
        # When it is needed: to make one takes PyTorch two seconds, and whoever detects needs none.
        return torch.optim.Adam(self._parameters, betas=BETAS, weight_decay=self._decay, fused=True)

    def step(self, gradients: list[torch.Tensor], rate: float) -> None:
        self.count += 1
        (group,) = self._adam.param_groups
        # PyTorch corrects the mean of squares before it adds epsilon, MXNet does not.
        group["lr"], group["eps"] = rate, EPSILON / sqrt(1 - BETAS[1] ** self.count)
        self._adam.step()

    def begin(self, count: int) -> list[tuple[torch.Tensor, ...]]:
        """Where to put what it remembered after so many steps."""
        self.count = count
        for parameter in self._parameters:
            self._adam.state[parameter] = {
                "step": torch.tensor(float(count), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return self.memory()

    def memory(self) -> list[tuple[torch.Tensor, ...]]:
        states = (self._adam.state[parameter] for parameter in self._parameters)
        return [(state["exp_avg"], state["exp_avg_sq"]) for state in states]
