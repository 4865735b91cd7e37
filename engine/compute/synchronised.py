"""Batch normalisation over the batch of all workers: their number changes nothing. For CPUs; GPUs have timm's."""

from typing import Any

import timm
import torch
from torch import distributed, nn


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all workers; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> torch.Tensor:
        together = values.clone()
        distributed.all_reduce(together)
        return together

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        together = gradient.clone()
        distributed.all_reduce(together)
        return together


class _Synchronised(nn.BatchNorm2d):
    """Takes its statistics from all workers while it learns."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return self._finished(super().forward(input))
        n = input.new_tensor(input.numel() / input.shape[1])
        sums = _summed(torch.cat([input.sum((0, 2, 3)), n[None]]))
        n, mean = sums[-1], sums[:-1] / sums[-1]
        centred = input - mean[:, None, None]
        variance = _summed(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            momentum = self.momentum or 0.0
            self.running_mean.lerp_(mean, momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(variance * n / (n - 1), momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return self._finished(centred * scale[:, None, None] + self.bias[:, None, None])

    def _finished(self, normalised: torch.Tensor) -> torch.Tensor:
        for name in ("drop", "act"):  # Of timm's layer that normalises and activates.
            if hasattr(self, name):
                normalised = getattr(self, name)(normalised)
        return normalised


def _summed(values: torch.Tensor) -> torch.Tensor:
    return _Sum.apply(values)


def synchronise(network: nn.Module, device: str) -> nn.Module:
    """Replace every batch normalisation by one over all workers, with the same names of tensors."""
    if device != "cpu":
        return timm.layers.convert_sync_batchnorm(network)
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _synchronised(child))
    return network


def _synchronised(norm: nn.BatchNorm2d) -> _Synchronised:
    made = _Synchronised(norm.num_features, norm.eps, norm.momentum)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    for name in ("drop", "act"):
        if hasattr(norm, name):
            setattr(made, name, getattr(norm, name))
    return made.train(norm.training)
