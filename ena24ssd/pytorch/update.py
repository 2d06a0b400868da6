"""How do gradients move the weights?"""

from __future__ import annotations

from collections.abc import Mapping
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
LEAST_RATE = 1e-30  # stands for zero where rates are divided by


class Update:
    """Shortens the gradients, and lets PyTorch's fused optimizers move the weights as MXNet's would.

    What MXNet does otherwise is put into the optimizer's options before every step. Parameters: ``net``, on its device;
    its gradients are those of the whole batch.
    """

    def __init__(self, net: nn.Module, config: OptimConfig):
        self._learnt = dict(net.named_parameters())
        self._longest, self._momentum, self._is_adam = config.clip_norm, config.momentum, config.name == "adam"
        self.learning_rate: float = config.lr
        self._count = 0
        self._before = 1.0  # the rate of the step before
        options = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
        if self._is_adam:
            self._optimizer = torch.optim.Adam(self._learnt.values(), betas=BETAS, **options)
        else:
            self._optimizer = torch.optim.SGD(self._learnt.values(), momentum=config.momentum, **options)

    def forget_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """Move the weights by the gradients there are. Returns the norm they had, (1,), still on the device."""
        gradients = [parameter.grad for parameter in self._learnt.values()]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if self._longest is not None:
            torch._foreach_mul_(gradients, (self._longest / (norm + EPSILON)).clamp(max=1))
        self._count += 1
        (group,) = self._optimizer.param_groups
        group["lr"] = self.learning_rate
        if self._is_adam:
            # PyTorch corrects the mean of squares before it adds epsilon, MXNet does not.
            group["eps"] = EPSILON / sqrt(1 - BETAS[1] ** self._count)
        elif self._momentum:
            # MXNet remembers steps taken, PyTorch a sum of gradients, which a new rate would make another step.
            group["lr"] = max(self.learning_rate, LEAST_RATE)
            group["momentum"] = self._momentum * self._before / group["lr"]
            self._before = group["lr"]
        self._optimizer.step()
        return norm.reshape(1)

    def gradients(self) -> dict[str, numpy.ndarray]:
        return {name: parameter.grad.cpu().numpy().copy() for name, parameter in self._learnt.items()}

    def state(self) -> dict[str, numpy.ndarray]:
        """What the optimizer remembers of each weight, as ``<name>/<number>`` in MXNet's terms, and how often it has
        moved them.
        """
        kept = {UPDATES: numpy.array(self._count, dtype=numpy.int64)}
        for name, parameter in self._learnt.items() if self._count else ():
            for number, array in enumerate(self._parts(parameter)):
                array = array if self._is_adam else -self._before * array
                kept[f"{name}/{number}"] = array.cpu().numpy().copy()
        return kept

    def load(self, state: Mapping[str, numpy.ndarray]) -> None:
        """The inverse of `state`, before the first step. Raises ValueError for the state of another optimizer."""
        known = dict(state)
        count = numpy.asarray(known.pop(UPDATES, 0)).item()  # safetensors knows no number without a dimension
        for name, parameter in self._learnt.items() if count else ():
            self._begin(parameter, count)
            for number, array in enumerate(self._parts(parameter)):
                kept = known.pop(f"{name}/{number}", None)
                if kept is None or kept.shape != tuple(array.shape):
                    raise ValueError(
                        f"the state has no {name}/{number} of shape {tuple(array.shape)} for this optimizer; "
                        "go on with the optimizer it was kept from"
                    )
                array.copy_(torch.from_numpy(kept if self._is_adam else -kept))
        if known:
            raise ValueError(
                f"the state of another optimizer: unknown {min(known)}; go on with the one it was kept from"
            )
        self._count, self._before = count, 1.0

    def _begin(self, parameter: nn.Parameter, count: int) -> None:
        """Give the optimizer a memory of a weight, as it makes itself in its first step."""
        if self._is_adam:
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(count), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        elif self._momentum:
            self._optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}

    def _parts(self, parameter: nn.Parameter) -> list[torch.Tensor]:
        """An optimizer remembers nothing, an array or several of a weight."""
        if self._is_adam:
            return [self._optimizer.state[parameter][part] for part in ("exp_avg", "exp_avg_sq")]
        return [self._optimizer.state[parameter]["momentum_buffer"]] if self._momentum else []
