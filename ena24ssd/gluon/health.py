"""Which of MXNet's works does this machine really do?

``python -m ena24ssd.gluon.health STARTED PROBE...`` tells it, in the way of `ena24ssd.trials`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import mxnet
from mxnet import autograd, np, npx
from mxnet.gluon import nn

from ena24ssd import trials
from ena24ssd.gluon.devices import CPU_HINT, check_gpu
from ena24ssd.threads import count_cores, count_threads
from ena24ssd.trials import Judgement, Trial


def main(arguments: list[str]) -> None:
    trials.report_trials(arguments, _trials, _describe)


def _trials(probe: str) -> Iterator[tuple[str, Trial]]:
    """What a probe tries, one thing after another."""
    if probe == "cpu":
        yield "CPU: a gradient", _try_cpu
    elif probe == "cores":
        yield "CPU: cores in use", _try_cores
    elif probe == "board":
        yield "TensorBoard reads mxboard", _try_board
    elif probe != "gpus":
        index = int(probe.partition(":")[2] or 0)
        yield f"gpu:{index}: a gradient", lambda: _try_gpu(index, "cannot work")
    elif mxnet.runtime.Features().is_enabled("CUDA"):
        yield "GPUs that MXNet sees", _try_driver
        for index in range(_gpu_count()):
            yield f"gpu:{index}: a gradient", lambda index=index: _try_gpu(index, "doubtful")


def _try_cpu() -> Judgement:
    (first, right), (again, _) = _gradient(mxnet.cpu()), _gradient(mxnet.cpu())
    return trials.judge_gradient(first, again, right)


def _try_gpu(index: int, failure: str) -> Judgement:
    started = time.perf_counter()
    fault = check_gpu(index)
    if fault is not None:
        return failure, fault.removesuffix(f", {CPU_HINT}"), ""
    product = time.perf_counter() - started
    (first, right), (again, _) = _gradient(mxnet.gpu(index)), _gradient(mxnet.gpu(index))
    return trials.judge_gpu(product + first, again, right)


def _try_driver() -> Judgement:
    count = _gpu_count()
    fault = None if count else (check_gpu(0) or "none").removesuffix(f", {CPU_HINT}")
    return trials.judge_driver(count, fault)


def _gpu_count() -> int:
    try:
        return mxnet.context.num_gpus()
    except mxnet.MXNetError:  # the driver does not answer; `check_gpu` says so
        return 0


def _gradient(context: mxnet.Context) -> tuple[float, bool]:
    """Seconds of a convolution and its gradient on ``context``, and whether the result is right."""
    started = time.perf_counter()
    images, weight = np.ones((4, 3, 32, 32), ctx=context), np.ones((8, 3, 3, 3), ctx=context)
    weight.attach_grad()
    with autograd.record():
        total = npx.convolution(images, weight, kernel=(3, 3), num_filter=8, no_bias=True).sum()
    total.backward()
    # Each weight has met 4 x 30 x 30 ones. Fast convolutions round a little, even ones.
    right = abs(float(total) / (4 * 8 * 30 * 30 * 27) - 1) < 1e-3
    right = right and float(abs(weight.grad / (4 * 30 * 30) - 1).max()) < 1e-3
    return time.perf_counter() - started, right


def _try_cores() -> Judgement:
    threads = count_threads()
    if threads is None:
        return "ok", "left to MXNet; this system does not say", ""
    left = np.ones((1024, 1024))
    return trials.judge_cores(threads, count_cores() or threads, lambda: np.dot(left, left).wait_to_read())


def _try_board() -> Judgement:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from ena24ssd.gluon.board import MxBoard  # not above: mxboard may be what breaks

    net = nn.HybridSequential()
    net.add(nn.Dense(1))
    net.initialize()
    net.hybridize()
    net(np.ones((1, 2))).wait_to_read()
    return trials.judge_board(lambda folder: MxBoard(folder, net), EventAccumulator)


def _describe(fault: Exception) -> str:
    """The line that says most: the first, but MXNet's last, below its stack."""
    return (trials.last_line if isinstance(fault, mxnet.MXNetError) else trials.first_line)(fault)


if __name__ == "__main__":
    main(sys.argv[1:])
