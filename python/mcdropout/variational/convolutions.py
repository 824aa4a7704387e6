"""Bayesian convolutions in one and two dimensions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..compute.torchscript import native
from ..sites.operations import weight_draw
from .layer import BayesLayer
from .options import BayesOptions
from .posteriors import Posterior
from .priors import Prior

FEW_PRODUCTS = 64  # with at most this many terms per output, a matrix product is faster on a CPU than a convolution

PRODUCT_BYTES = 512 << 10  # size of a block of products: two blocks and their terms about fill a core's L2 cache


def _largest_products(terms: Tensor, weight: Tensor, bias: Tensor, relu: bool, out: Tensor, rows: int) -> None:
    """Fill `out` (row, channel) with max over i of terms[i] @ weight, plus bias, with a relu on request.

    terms: (position in the pool's window, row, term); weight: (term, channel). Blocks of `rows` rows stay in the cache.
    Bias and relu are applied after the maximum, because neither changes the order of numbers.
    """
    buffer = torch.empty_like(out[:rows])
    for start in range(0, out.size(0), rows):
        largest = out[start : start + rows]
        torch.mm(terms[0, start : start + rows], weight, out=largest)
        for position in range(1, terms.size(0)):
            product = buffer[: largest.size(0)]
            torch.mm(terms[position, start : start + rows], weight, out=product)
            torch.maximum(largest, product, out=largest)
        largest.add_(bias)
        if relu:
            largest.relu_()


class _BayesConv(BayesLayer):
    plain_class: type[nn.Conv1d | nn.Conv2d]
    n_spatial: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: str | int | tuple[int, ...] = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
        bias_prior: Prior | None = None,
        estimator: str | None = None,
        kl_samples: int = 1,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        options = BayesOptions.checked(posterior, prior, bias_prior, estimator, kl_samples)
        geometry: dict[str, Any] = {  # the types differ between one dimension and two
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bias,
            "padding_mode": padding_mode,
        }
        # on the meta device nothing is allocated, so a layer that is too large is refused first
        meta = self.plain_class(in_channels, out_channels, device="meta", **geometry)
        options.posterior.check_room(sum(parameter.numel() for parameter in meta.parameters()))
        plain = self.plain_class(in_channels, out_channels, device=device, dtype=dtype, **geometry)
        super().__init__(plain.weight, plain.bias, options)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = plain.kernel_size, plain.stride, plain.dilation
        self.padding, self.padding_mode = plain.padding, plain.padding_mode
        self.sides = plain._reversed_padding_repeated_twice  # the padding in the order of F.pad

    @classmethod
    def of(cls, plain: nn.Conv1d | nn.Conv2d, **options: Any) -> _BayesConv:
        """The Bayesian copy of a plain layer; the plain layer's weights become the posterior means."""
        layer = cls(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,
            plain.stride,
            plain.padding,
            plain.dilation,
            plain.groups,
            plain.bias is not None,
            plain.padding_mode,
            device=plain.weight.device,
            dtype=plain.weight.dtype,
            **options,
        )
        layer.set_means(plain.weight, plain.bias)
        return layer

    def plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Outputs of the plain layer with these weights."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self.sides, mode=self.padding_mode), 0
        convolve: Any = F.conv2d if self.n_spatial == 2 else F.conv1d
        return convolve(x, weight, bias, self.stride, padding, self.dilation, self.groups)

    def _flipped(self, x: Tensor) -> Tensor:
        if x.ndim == self.n_spatial + 1:  # a single input without a batch axis
            return super()._flipped(x[None])[0]
        return super()._flipped(x)

    def _ones_after(self, out: Tensor) -> tuple[int, ...]:
        return (1,) * self.n_spatial

    def _input_axis(self, x: Tensor) -> int:
        return 1

    def _output_axis(self, out: Tensor) -> int:
        return 1

    def extra_repr(self) -> str:
        shape = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        return f"{shape}, padding={self.padding}, groups={self.groups}, {super().extra_repr()}"


class BayesConv1d(_BayesConv):
    """A Bayesian convolution in one dimension: `torch.nn.Conv1d` with a distribution over its weights.

    The arguments are those of `torch.nn.Conv1d`, followed by the keyword arguments of `BayesLinear`.

    Examples:
        >>> import mcdropout as mcd
        >>> import torch
        >>> mcd.BayesConv1d(2, 3, 3)(torch.ones(5, 2, 8)).shape
        torch.Size([5, 3, 6])
    """

    plain_class, n_spatial = nn.Conv1d, 1


class BayesConv2d(_BayesConv):
    """A Bayesian convolution in two dimensions: `torch.nn.Conv2d` with a distribution over its weights.

    The arguments are those of `torch.nn.Conv2d`, followed by the keyword arguments of `BayesLinear`.

    Examples:
        >>> import mcdropout as mcd
        >>> import torch
        >>> mcd.BayesConv2d(2, 3, 3)(torch.ones(5, 2, 8, 8)).shape
        torch.Size([5, 3, 6, 6])
    """

    plain_class, n_spatial = nn.Conv2d, 2

    def pooled(self, x: Tensor, pool: tuple[int, int]) -> Tensor:
        """Outputs in the current draw after a relu and a maximum pool without overlap."""
        anchor = self.mean if self.full else self.weight_mean
        if self._has_few_products(x):
            return self._products(x, anchor, pool, relu=True)
        x = self._without_unpooled_border(x, pool)
        return F.max_pool2d(self.plain(x, *weight_draw(anchor, self)), pool).relu_()

    def forward(self, x: Tensor, pool: tuple[int, int] | None = None) -> Tensor:
        """Outputs of the layer. `pool` is set only while draws are made: then the result is that of `pooled()`."""
        return super().forward(x) if pool is None else self.pooled(x, pool)

    def sampled(self, x: Tensor, anchor: Tensor) -> Tensor:
        """Outputs in the current draw; `anchor` is any tensor of the layer."""
        return self._products(x, anchor) if self._has_few_products(x) else super().sampled(x, anchor)

    def _has_few_products(self, x: Tensor) -> bool:
        is_small = self.groups == 1 and math.prod(self.weight_shape[1:]) <= FEW_PRODUCTS
        return is_small and x.ndim == 4 and x.device.type == "cpu"

    def _products(self, x: Tensor, anchor: Tensor, pool: tuple[int, int] = (1, 1), relu: bool = False) -> Tensor:
        """The convolution as matrix products. All draws share the terms, computed before the weights are drawn."""
        terms, (height, width) = self._terms(x, pool)
        weight, bias = weight_draw(anchor, self)
        weight = weight.flatten(-3).to(terms.dtype)
        if weight.ndim > 2:  # weights of many draws: one linear layer computes them together
            out = F.linear(terms.transpose(0, 1), weight, None if bias is None else bias.to(terms.dtype)).amax(dim=1)
            out = out.relu() if relu else out
        else:
            weight = weight.T
            bias = weight.new_zeros(self.out_channels) if bias is None else bias.to(terms.dtype)
            out = terms.new_empty(terms.shape[1], self.out_channels)
            native(_largest_products)(terms, weight, bias, relu, out, max(1, PRODUCT_BYTES // out[0].nbytes))
        return out.view(-1, height, width, self.out_channels).permute(0, 3, 1, 2)

    def _terms(self, x: Tensor, pool: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """The numbers that the weights multiply, (position in the pool's window, input x output pixel, term), and the
        height and width of the pooled output.
        """
        x = F.pad(x, self.sides, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        sides = self._output_sides(x)
        height, width = sides[0] // pool[0], sides[1] // pool[1]
        terms = F.unfold(x, self.kernel_size, self.dilation, 0, self.stride).unflatten(2, sides)
        terms = terms[:, :, : height * pool[0], : width * pool[1]]
        terms = terms.unflatten(3, (width, pool[1])).unflatten(2, (height, pool[0]))  # input, term, row, a, column, b
        return terms.permute(3, 5, 0, 2, 4, 1).reshape(pool[0] * pool[1], -1, terms.shape[1]), (height, width)

    def _output_sides(self, x: Tensor) -> list[int]:
        """Height and width of the outputs for padded inputs."""
        axes = zip(x.shape[-2:], self.kernel_size, self.dilation, self.stride, strict=True)
        return [(size - dilation * (kernel - 1) - 1) // stride + 1 for size, kernel, dilation, stride in axes]

    def _without_unpooled_border(self, x: Tensor, pool: tuple[int, int]) -> Tensor:
        """`x` without the last rows and columns that no complete window of the pool depends on."""
        if any(self.sides):
            return x
        rows, columns = (
            size - side % window * stride
            for size, side, window, stride in zip(x.shape[-2:], self._output_sides(x), pool, self.stride, strict=True)
        )
        cropped = x[..., :rows, :columns]
        return cropped if cropped.shape == x.shape else cropped.contiguous(memory_format=torch.channels_last)
