"""Exponential moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class MovingAverage:
    r"""Average of the weights over the recent steps, which predicts better than the last ones do.

    .. math::
        \bar\theta_{t+1} = d_t\, \bar\theta_t + (1 - d_t)\, \theta_{t+1}, \qquad
        d_t = \min\Big(d, \frac{1 + t}{10 + t}\Big)

    The smaller :math:`d_t` of the first steps keeps the random initial weights from lingering.
    :math:`d = 0` follows the weights exactly.

    Args:
        parameters: the parameters that are averaged, by name.
        decay: :math:`d`.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
        self.decay, self.steps = decay, 0
        self.parameters = dict(parameters)
        self.average = {name: value.detach().clone() for name, value in parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.parameters.items():
            self.average[name].lerp_(value, 1 - decay)
        self.steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged weights into the model for as long as the context lasts."""
        with weights_of(self.parameters, self.average):
            yield


@contextmanager
def weights_of(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Lend the model other weights; its own come back afterwards, bit for bit."""
    own = {name: value.detach().clone() for name, value in parameters.items()}
    _copy(values, parameters)
    try:
        yield
    finally:
        _copy(own, parameters)


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, value in target.items():
        value.copy_(source[name])
