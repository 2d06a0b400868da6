"""How do gradients move the weights?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy
from mxnet import gluon, nd, np, optimizer
from mxnet.gluon.utils import clip_global_norm
from mxnet.kvstore import KVStore

from ena24ssd.config import OptimConfig

UPDATES = "updates"  # how often the optimizer has moved the weights; Adam corrects its means by it

LEAST_RATE = 10 * float(numpy.finfo(numpy.float32).tiny)


class Update:
    """Adds up the gradients of all devices and workers, shortens them, and lets the optimizer move the weights.

    Every device moves its own copy of the weights by the same gradient. Parameters: ``parameters`` by structural name,
    initialised, are all that ever learn; those without a gradient are left as they are, and ``lr_mult`` of each is its
    share of the learning rate; ``kvstore`` is what adds gradients up (on a single device MXNet leaves it out).
    """

    def __init__(self, parameters: Mapping[str, gluon.Parameter], config: OptimConfig, kvstore: KVStore | str):
        self._parameters = dict(parameters)
        self._longest = config.clip_norm
        options = {"learning_rate": config.lr, "wd": config.weight_decay}
        if config.name == "sgd":
            options["momentum"] = config.momentum
        # One trainer for all stages, since a store of several workers takes each of its keys once. A list, because the
        # names in a dict carry process-wide counters, and the order they sort in would change.
        moved, kind = list(self._parameters.values()), KINDS[config.name](**options)
        self._trainer = gluon.Trainer(moved, kind, kvstore=kvstore, update_on_kvstore=False)

    def begin(self, rate: float) -> None:
        """Forget everything; what has a gradient now is what learns from here on, at this rate at first."""
        kind = self._trainer.optimizer
        for updater in self._trainer._updaters:
            updater.states.clear()
            updater.states_synced.clear()
        kind.begin_num_update = kind.num_update = 0
        kind._all_index_update_counts = {0: {}}
        kind._set_current_context(0)
        self.learning_rate = rate

    def _learnt(self) -> dict[str, gluon.Parameter]:
        return {name: parameter for name, parameter in self._parameters.items() if parameter.grad_req != "null"}

    @property
    def learning_rate(self) -> float:
        return self._trainer.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        # MXNet's operators refuse what float32 cannot hold in full; Adam divides by up to 3 more in its first steps.
        least = min(parameter.lr_mult for parameter in self._parameters.values())
        self._trainer.set_learning_rate(rate if rate * least > LEAST_RATE else 0.0)

    def step(self) -> np.ndarray:
        """Move the weights by the gradients there are. Returns the norm they had, (1,), still on the device."""
        self._trainer.allreduce_grads()
        gradients = [parameter.list_grad() for parameter in self._learnt().values()]
        norms = []
        for copies in zip(*gradients):  # of one device
            classic = [gradient.as_nd_ndarray() for gradient in copies]
            if self._longest is None:
                norms.append(nd.sqrt(nd.sum(nd.multi_sum_sq(*classic, num_arrays=len(classic)))))
            else:
                norms.append(clip_global_norm(classic, self._longest, check_isfinite=False))
        self._trainer.update(1)  # the gradient is already that of a mean
        return norms[0].as_np_ndarray()

    def gradients(self) -> dict[str, numpy.ndarray]:
        return {name: parameter.list_grad()[0].asnumpy() for name, parameter in self._learnt().items()}

    def state(self) -> dict[str, numpy.ndarray]:
        """What the optimizer remembers of each weight, as ``<name>/<number>``, and the number of updates."""
        kept = {UPDATES: numpy.array(self._trainer.optimizer.num_update, dtype=numpy.int64)}
        states = self._trainer._updaters[0].states  # every device has the same
        for index, name in enumerate(self._parameters):
            for number, array in enumerate(_parts(states.get(index))):
                kept[f"{name}/{number}"] = array.asnumpy()
        return kept

    def load(self, state: Mapping[str, numpy.ndarray]) -> None:
        """The inverse of `state`, before the first step. Raises ValueError for the state of another optimizer."""
        known, kind, learnt = dict(state), self._trainer.optimizer, self._learnt()
        count = numpy.asarray(known.pop(UPDATES, 0)).item()  # safetensors knows no number without a dimension
        for device, updater in enumerate(self._trainer._updaters):
            for index, (name, parameter) in enumerate(self._parameters.items()) if count else ():
                if name not in learnt:
                    continue
                weight = parameter.list_data()[device].as_nd_ndarray()
                updater.states[index] = kind.create_state_multi_precision(index, weight)
                updater.states_synced[index] = True
                for number, array in enumerate(_parts(updater.states[index])):
                    kept = known.get(f"{name}/{number}")
                    if kept is None or kept.shape != array.shape:
                        raise ValueError(
                            f"the state has no {name}/{number} of shape {array.shape} for this optimizer; "
                            "go on with the optimizer it was kept from"
                        )
                    array[:] = kept
        foreign = known.keys() - self.state().keys() if count else known.keys()
        if foreign:
            raise ValueError(
                f"the state of another optimizer: unknown {min(foreign)}; go on with the one it was kept from"
            )
        kind.begin_num_update = kind.num_update = count


class AdamW(optimizer.Adam):
    """With weight decay beside the gradient, where Adam's means do not even it out (Loshchilov and Hutter 2019).

    Of kernels alone: shifts and scales of channels are few, and have no reason to be small.
    """

    def __init__(self, wd: float, **options):
        super().__init__(**options)
        self._decay = wd

    def update(self, index: int, weight: nd.NDArray, grad: nd.NDArray, state) -> None:
        if self._decay and len(weight.shape) > 1:
            weight *= 1 - self._get_lr(index) * self._decay
        super().update(index, weight, grad, state)


KINDS = {"adam": optimizer.Adam, "adamw": AdamW, "sgd": optimizer.SGD}


def _parts(state) -> tuple:
    """An optimizer remembers nothing, an array or several of a weight."""
    if state is None:
        return ()
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)
