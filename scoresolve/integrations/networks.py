"""Networks of diffusers, called as ours are: ``net(x, label, **conditioning)``, a tensor of x's shape in return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..predictions import Prediction

ADDED = ("text_embeds", "time_ids", "image_embeds", "resolution", "aspect_ratio")
"""Conditioning that their networks want inside ``added_cond_kwargs``."""


class DiffusersNetwork(nn.Module):
    """A diffusers model called by its time as a keyword, its answer taken out and learned variances cut off.

    Args: net, any of their models with an argument ``timestep``. Conditioning goes by its own names; what SDXL and
    PixArt nest in ``added_cond_kwargs`` may be given flat (``text_embeds=``, ``time_ids=``).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.training = net, net.training

    def forward(self, x: Tensor, label: Tensor, **conditioning: Any) -> Tensor:
        """The mean that the network predicts, (batch, ...)."""
        added = {name: conditioning.pop(name) for name in ADDED if name in conditioning}
        if added:
            conditioning["added_cond_kwargs"] = {**conditioning.get("added_cond_kwargs", {}), **added}
        answer: Tensor = without_variance(self.net(x, timestep=label, **conditioning, return_dict=False)[0], x)
        return answer


class Preconditioned(nn.Module):
    r"""The denoiser made of an EDM inner network F: ``D = c_skip x + c_out F(c_in x, log(sigma) / 4)``.

    With d = sigma_data and ``S = sqrt(sigma^2 + d^2)``: ``c_in = 1/S``, ``c_skip = d^2/S^2``, ``c_out = sigma d/S``,
    its sign changed for networks of v. x and D keep their precision around an F in half precision.

    Source: Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    def __init__(self, net: Any, sigma_data: float, predicts: Prediction) -> None:
        super().__init__()
        self.net, self.sigma_data, self.sign = net, sigma_data, -1.0 if predicts == "v" else 1.0
        inner = (
            next((p for p in net.parameters() if p.is_floating_point()), None) if isinstance(net, nn.Module) else None
        )
        self.inner_dtype = None if inner is None else inner.dtype
        if inner is not None:  # the first parameter of a network says in which precision it is called, and where it is
            wide = torch.promote_types(inner.dtype, torch.float32)
            first = nn.Parameter(torch.zeros((), dtype=wide, device=inner.device), requires_grad=False)
            self._parameters = {"precision": first, **self._parameters}

    def forward(self, x: Tensor, sigma: Tensor, **conditioning: Any) -> Tensor:
        """The denoised x."""
        level = sigma.to(torch.promote_types(sigma.dtype, x.dtype)).reshape(-1, *[1] * (x.ndim - 1))
        total = (level**2 + self.sigma_data**2).rsqrt()
        inner = self.net((x * total).to(self.inner_dtype or x.dtype), 0.25 * sigma.log(), **conditioning)
        weight = self.sign * self.sigma_data * level * total
        denoised: Tensor = x * (self.sigma_data * total) ** 2 + weight * inner.to(x.dtype)
        return denoised.to(x.dtype)


def without_variance(answer: Any, x: Tensor) -> Any:
    """The first half of the channels where the answer has twice those of x: a mean beside a learned variance."""
    doubled = isinstance(answer, Tensor) and answer.ndim == x.ndim > 1 and answer.shape[1] == 2 * x.shape[1]
    return answer[:, : x.shape[1]] if doubled else answer
