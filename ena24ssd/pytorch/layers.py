"""Which of the network's layers are not as PyTorch has them?

`BatchNorm`, because MXNet keeps the batch's own variance where PyTorch keeps the unbiased estimate, and because
PyTorch's SyncBatchNorm runs on GPUs only. `Conv2d`, because of one slow gradient.
"""

from __future__ import annotations

import platform

import torch
from torch import nn
from torch.nn import functional as F

from ena24ssd.pytorch.cluster import Sum

KEPT = 0.9  # of a running statistic at every step; MXNet's momentum
EPSILON = 1e-5
IS_PLAIN_X86 = platform.machine() in ("x86_64", "AMD64") and "512" not in torch.backends.cpu.get_cpu_capability()


class BatchNorm(nn.Module):
    """MXNet's BatchNorm (Ioffe and Szegedy 2015) of (B, ``channels``, H, W), with its names.

    ``frozen``: it uses its running statistics in training too, and leaves them as they are.
    """

    def __init__(self, channels: int, frozen: bool = False, epsilon: float = EPSILON):
        super().__init__()
        self.frozen, self.epsilon = frozen, epsilon
        self.workers = 1  # whose pictures share statistics; set by `share_statistics`
        self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    @property
    def uses_running_statistics(self) -> bool:
        return self.frozen or not self.training

    def as_scale_and_shift(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What its running statistics make of a channel, (channels,) each: ``x * scale + shift``."""
        scale = self.gamma * (self.running_var + self.epsilon).rsqrt()
        return scale, self.beta - self.running_mean * scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.uses_running_statistics:
            return F.batch_norm(x, self.running_mean, self.running_var, self.gamma, self.beta, False, 0.0, self.epsilon)
        if self.workers > 1:
            return self._normalise_together(x)
        if not len(x):  # a worker without a picture
            return x * self.gamma.view(1, -1, 1, 1) + self.beta.view(1, -1, 1, 1)
        mean, variance = self.running_mean.clone(), self.running_var.clone()  # what the gradient holds on to
        count = x.numel() // x.shape[1]
        x = F.batch_norm(x, mean, variance, self.gamma, self.beta, True, 1 - KEPT, self.epsilon)
        with torch.no_grad():
            self.running_mean.copy_(mean)
            # PyTorch has added the unbiased variance: count / (count - 1) of the one that belongs there.
            biased = (count - 1) / count
            self.running_var.mul_((1 - biased) * KEPT).add_(variance, alpha=biased)
        return x

    def _normalise_together(self, x: torch.Tensor) -> torch.Tensor:
        """By mean and variance over the pictures of all workers, through which the gradient flows as well."""
        wide = x.float()
        here = torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), wide.new_full((1,), wide[:, 0].numel())])
        total, squares, count = Sum.apply(here).split([x.shape[1], x.shape[1], 1])
        mean = total / count.clamp(min=1)
        variance = (squares / count.clamp(min=1) - mean.square()).clamp(min=0)
        with torch.no_grad():
            taken = (1 - KEPT) * (count > 0)  # nothing of a round in which nobody has a picture
            self.running_mean.lerp_(mean, taken)
            self.running_var.lerp_(variance, taken)
        scale = self.gamma * (variance + self.epsilon).rsqrt()
        shift = self.beta - mean * scale
        return (wide * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(x.dtype)


class Conv2d(nn.Conv2d):
    """PyTorch's own, but on CPUs without AVX-512 oneDNN's gradient of float32 weights is taken another way.

    There its kernel for channels_last takes four times as long as the rest of the backward pass (stride 2, 300
    channels: 10 s of a training step; as matrix products: 1.9 s. Measured on an AMD EPYC with AVX2, torch 2.13).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        is_slow = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if is_slow and IS_PLAIN_X86 and self.weight.requires_grad and torch.is_grad_enabled() and x.shape[1] >= 16:
            return _Convolution.apply(x, self.weight, self.bias, self.stride, self.padding)
        return super().forward(x)


class _Convolution(torch.autograd.Function):
    """A convolution whose weight gradient is one product of matrices for each of its taps."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        of_input = None
        if ctx.needs_input_grad[0]:
            given = [weight.shape[0]], ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            of_input = torch.ops.aten.convolution_backward(gradient, x, weight, *given)[0]
        pixels, errors = x.permute(0, 2, 3, 1), gradient.permute(0, 2, 3, 1)  # (B, H, W, channels)
        of_weight = weight.new_empty(*weight.shape[2:], weight.shape[1], weight.shape[0])
        for i, row in enumerate(of_weight):
            for j, tap in enumerate(row):
                (top, high), (left, wide) = (
                    _meeting(at, *sizes)
                    for at, *sizes in zip((i, j), pixels.shape[1:3], errors.shape[1:3], ctx.stride, ctx.padding)
                )
                seen = pixels[:, top, left].reshape(-1, x.shape[1])
                torch.mm(seen.t(), errors[:, high, wide].reshape(-1, weight.shape[0]), out=tap)
        return of_input, of_weight.permute(3, 2, 0, 1), gradient.sum((0, 2, 3)), None, None


def _meeting(tap: int, entering: int, leaving: int, stride: int, padding: int) -> tuple[slice, slice]:
    """Along one side: the pixels of the input that this tap of the kernel lies on, and those of the output."""
    shift = tap - padding
    first = max(-(shift // stride), 0)  # the first output whose tap is not beyond the border
    last = min((entering - 1 - shift) // stride, leaving - 1)
    if last < first:  # it lies on the border only
        return slice(0), slice(0)
    return slice(first * stride + shift, last * stride + shift + 1, stride), slice(first, last + 1)


def share_statistics(net: nn.Module, workers: int) -> None:
    """Have every BatchNorm that learns statistics learn them over so many workers."""
    for layer in net.modules():
        if isinstance(layer, BatchNorm):
            layer.workers = workers
