"""How do gradients move the weights?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import sqrt
from typing import TYPE_CHECKING

import numpy
import torch
from torch import nn

from ena24ssd.stages import rate_of

if TYPE_CHECKING:
    from ena24ssd.config import OptimConfig
    from ena24ssd.stages import Stage

UPDATES = "updates"  # how often the optimizer has moved the weights; Adam corrects its means by it

BETAS = 0.9, 0.999  # Adam's, as in MXNet
EPSILON = 1e-8


class Update:
    """Shortens the gradients, and lets an optimizer move the weights as MXNet's would.

    Parameters: ``net``, on its device; its gradients are those of the whole batch. Of its parameters those are moved
    that require one, which ``stage`` has decided.
    """

    def __init__(self, net: nn.Module, config: OptimConfig, stage: Stage):
        self._learnt = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        self._longest = config.clip_norm
        self.learning_rate: float = stage.lr
        kind = {"adam": Adam, "adamw": AdamW, "sgd": SGD}[config.name]
        self._optimizer = kind(list(self._learnt.values()), [rate_of(name, stage) for name in self._learnt], config)

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


def _places(shares: Sequence[float]) -> dict[float, list[int]]:
    """Which parameters have this share of the learning rate."""
    return {share: [place for place, each in enumerate(shares) if each == share] for share in dict.fromkeys(shares)}


class SGD:
    """MXNet's: it remembers steps taken, where PyTorch's own remembers a sum of gradients, which a new learning rate
    would make another step.

    Each parameter has its own one of ``shares`` of the learning rate.
    """

    def __init__(self, parameters: list[nn.Parameter], shares: Sequence[float], config: OptimConfig):
        self._parameters, self._momentum, self._decay = parameters, config.momentum, config.weight_decay
        self._places, self.count = _places(shares), 0
        self._steps = [torch.zeros_like(each) for each in parameters] if self._momentum else []

    def step(self, gradients: list[torch.Tensor], rate: float) -> None:
        self.count += 1
        if self._decay:
            gradients = torch._foreach_add(gradients, self._parameters, alpha=self._decay)
        if self._momentum:
            torch._foreach_mul_(self._steps, self._momentum)
        moved = self._steps or self._parameters
        for share, places in self._places.items():
            taken = [gradients[place] for place in places]
            torch._foreach_add_([moved[place] for place in places], taken, alpha=-rate * share)
        if self._momentum:
            torch._foreach_add_(self._parameters, self._steps)

    def begin(self, count: int) -> list[tuple[torch.Tensor, ...]]:
        """Where to put what it remembered after so many steps."""
        self.count = count
        return self.memory()

    def memory(self) -> list[tuple[torch.Tensor, ...]]:
        return list(zip(self._steps)) if self._momentum else [() for _ in self._parameters]


class Adam:
    """PyTorch's, fused, with MXNet's epsilon (Kingma and Ba 2015).

    Each parameter has its own one of ``shares`` of the learning rate.
    """

    def __init__(self, parameters: list[nn.Parameter], shares: Sequence[float], config: OptimConfig):
        self._parameters, self._places, self.count = parameters, _places(shares), 0
        self._penalty = config.weight_decay

    @cached_property
    def _adam(self) -> torch.optim.Adam:
        # When it is needed: to make one takes PyTorch two seconds, and whoever detects needs none.
        groups = [{"params": [self._parameters[place] for place in places]} for places in self._places.values()]
        return torch.optim.Adam(groups, betas=BETAS, weight_decay=self._penalty, fused=True)

    def step(self, gradients: list[torch.Tensor], rate: float) -> None:
        self.count += 1
        for group, share in zip(self._adam.param_groups, self._places):
            # PyTorch corrects the mean of squares before it adds epsilon, MXNet does not.
            group["lr"], group["eps"] = rate * share, EPSILON / sqrt(1 - BETAS[1] ** self.count)
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


class AdamW(Adam):
    """With weight decay beside the gradient, where Adam's means do not even it out (Loshchilov and Hutter 2019).

    Of kernels alone: shifts and scales of channels are few, and have no reason to be small.
    """

    def __init__(self, parameters: list[nn.Parameter], shares: Sequence[float], config: OptimConfig):
        super().__init__(parameters, shares, config)
        self._decay, self._penalty = config.weight_decay, 0.0

    def step(self, gradients: list[torch.Tensor], rate: float) -> None:
        for share, places in self._places.items() if self._decay else ():
            kernels = [self._parameters[place] for place in places if self._parameters[place].dim() > 1]
            if kernels:
                torch._foreach_mul_(kernels, 1 - rate * share * self._decay)
        super().step(gradients, rate)
