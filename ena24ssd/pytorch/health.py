"""Which of PyTorch's works does this machine really do?

``python -m ena24ssd.pytorch.health STARTED PROBE...`` tells it, in the way of `ena24ssd.trials`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from ena24ssd import trials
from ena24ssd.pytorch.devices import CPU_HINT, check_gpu, multiplies_bfloat16, use_all_cores
from ena24ssd.threads import count_cores
from ena24ssd.trials import Judgement, Trial

CPU = torch.device("cpu")


def main(arguments: list[str]) -> None:
    trials.report_trials(arguments, _trials, trials.first_line)


def _trials(probe: str) -> Iterator[tuple[str, Trial]]:
    """What a probe tries, one thing after another."""
    if probe == "cpu":
        yield "CPU: a gradient", _try_cpu
        yield "CPU: bfloat16", lambda: _try_bfloat16(CPU)
    elif probe == "cores":
        yield "CPU: cores in use", _try_cores
    elif probe == "board":
        yield "TensorBoard reads torch", _try_board
    elif probe != "gpus":
        yield from _gpu_trials(int(probe.partition(":")[2] or os.environ.get("LOCAL_RANK", 0)), "cannot work")
    elif torch.backends.cuda.is_built():
        yield "GPUs that PyTorch sees", _try_driver
        for index in range(torch.cuda.device_count()):
            yield from _gpu_trials(index, "doubtful")


def _gpu(index: int) -> torch.device:
    return torch.device("cuda", index)


def _gpu_trials(index: int, failure: str) -> Iterator[tuple[str, Trial]]:
    yield f"gpu:{index}: a gradient", lambda: _try_gpu(index, failure)
    if check_gpu(index) is None:
        yield f"gpu:{index}: bfloat16", lambda: _try_bfloat16(_gpu(index))


def _try_cpu() -> Judgement:
    (first, right), (again, _) = _gradient(CPU), _gradient(CPU)
    return trials.judge_gradient(first, again, right)


def _try_gpu(index: int, failure: str) -> Judgement:
    started = time.perf_counter()
    fault = check_gpu(index)
    if fault is not None:
        return failure, fault.removesuffix(f", {CPU_HINT}"), ""
    product = time.perf_counter() - started
    (first, right), (again, _) = _gradient(_gpu(index)), _gradient(_gpu(index))
    return trials.judge_gpu(product + first, again, right)


def _try_driver() -> Judgement:
    count = torch.cuda.device_count()
    return trials.judge_driver(count, None if count else (check_gpu(0) or "none").removesuffix(f", {CPU_HINT}"))


def _gradient(device: torch.device) -> tuple[float, bool]:
    """Seconds of a convolution and its gradient on ``device``, and whether the result is right."""
    started = time.perf_counter()
    images = torch.ones((4, 3, 32, 32), device=device)
    weight = torch.ones((8, 3, 3, 3), device=device, requires_grad=True)
    total = F.conv2d(images, weight).sum()
    total.backward()
    # Each weight has met 4 x 30 x 30 ones. Fast convolutions round a little, even ones.
    right = abs(float(total.detach()) / (4 * 8 * 30 * 30 * 27) - 1) < 1e-3
    right = right and float((weight.grad / (4 * 30 * 30) - 1).abs().max()) < 1e-3
    return time.perf_counter() - started, right


def _try_bfloat16(device: torch.device) -> Judgement:
    """Whether the device multiplies bfloat16 itself, and then rightly."""
    if not multiplies_bfloat16(device):
        return "ok", "not multiplied natively: float32 is faster here", ""
    ones = torch.ones((256, 256), dtype=torch.bfloat16, device=device)
    product = ones @ ones
    if not bool((product == 256).all()):  # a power of two, which bfloat16 holds exactly
        return "cannot work", f"a product of ones is {float(product.float().mean()):g} instead of 256", ""
    return "ok", "multiplied natively", ""


def _try_cores() -> Judgement:
    use_all_cores()
    threads, left = torch.get_num_threads(), torch.ones((1024, 1024))
    return trials.judge_cores(threads, count_cores() or threads, lambda: left @ left)


def _try_board() -> Judgement:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ena24ssd.pytorch.board import TorchBoard  # not above: TensorBoard may be what breaks

    net, pixels = torch.nn.Conv2d(3, 1, 3), torch.ones((1, 3, 8, 8))
    return trials.judge_board(lambda folder: TorchBoard(folder, net, pixels), EventAccumulator)


if __name__ == "__main__":
    main(sys.argv[1:])
