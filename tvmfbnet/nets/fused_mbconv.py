"""A band of a mixture as one operation that keeps little and stays in the caches: expand, depthwise, project, add up.

Block by block, each of the wide tensors inside (behind the first conv, the depthwise conv, their batch norms and
activations) is written to memory and read again, several times over, and most are kept for the backward pass. Here the
images go through in portions that fit the caches. Of the wide tensors only the depthwise conv's output is kept, as
its batch norm needs the statistics of all images; what lies between is computed again in the backward pass, from the
input or from that output, with cheap operations. All portions use the same scratch tensors: a product written to memory
that the caches do not hold takes twice as long. The gradients of both batch norms are written out by hand (Ioffe and
Szegedy 2015, section 3), as autograd would need the tensors that are never there.

All matrices have a row for each pixel: (N * H * W, channels), which is what a channels-last image is in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from tvmfbnet.nets.depthwise import input_gradient, weight_gradient

# Bytes of a portion's widest tensor.
PORTION = 4 << 20


@dataclass(frozen=True)
class Shape:
    """Images before the depthwise conv, and that conv's stride."""

    count: int
    height: int
    width: int
    stride: int

    @property
    def inner(self) -> tuple[int, int, int]:
        """Images and their size behind the depthwise conv."""
        return self.count, -(-self.height // self.stride), -(-self.width // self.stride)


@dataclass(frozen=True)
class Statistics:
    """Mean and variance (without correction) of each channel over all pixels."""

    mean: torch.Tensor
    var: torch.Tensor


class _Sums:
    """Gathers statistics portion by portion (Chan et al. 1983)."""

    def __init__(self, scratch: torch.Tensor) -> None:
        self._count, self._scratch = 0, scratch
        self._mean, self._squares = scratch.new_zeros(scratch.shape[1]), scratch.new_zeros(scratch.shape[1])

    def add(self, rows: torch.Tensor) -> None:
        """Another portion, (pixels, channels)."""
        count, mean = len(rows), rows.mean(dim=0)
        squares = torch.sub(rows, mean, out=self._scratch[:count]).square_().sum(dim=0)
        total = self._count + count
        moved = mean - self._mean
        self._squares += squares + moved.square() * (self._count * count / total)
        self._mean += moved * (count / total)
        self._count = total

    def finish(self) -> Statistics:
        """The statistics of all portions."""
        return Statistics(self._mean, self._squares / self._count)


def fused_band(
    x: torch.Tensor,
    inputs: torch.Tensor,
    shape: Shape,
    matrix: torch.Tensor,
    kernels: torch.Tensor,
    middle: tuple[torch.Tensor, torch.Tensor],
    projections: Sequence[torch.Tensor],
    last: tuple[torch.Tensor, torch.Tensor],
    eps: float,
) -> tuple[torch.Tensor, Statistics, Statistics]:
    """``sum_b norm3_b(relu(norm2_b(depthwise_b(relu(inputs @ matrix_b)))) @ projections[b])`` in training.

    Args:
        x: (pixels, cin): the images, channels last.
        inputs: (pixels, cin + 1): the same without gradient, with a column of ones.
        shape: of the images.
        matrix: (cin + 1, channels): the first conv with its batch norm folded in, and its bias.
        kernels: (channels, 1, size, size) of the depthwise conv.
        middle: weight and bias of the batch norm behind it, (channels,) each.
        projections: for each block its last conv's matrix (its channels, cout).
        last: weight and bias of the batch norms behind those, (blocks * cout,) each, scaled as the sum wants them.
        eps: of both.

    Returns:
        The sum (pixels behind the stride, cout); statistics that the two norms saw, without gradient.
    """
    outputs = _Band.apply(x, inputs, matrix, kernels, *middle, *last, shape, eps, *projections)
    return outputs[0], Statistics(outputs[1], outputs[2]), Statistics(outputs[3], outputs[4])


class _Band(torch.autograd.Function):
    """The operation with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        inputs: torch.Tensor,
        matrix: torch.Tensor,
        kernels: torch.Tensor,
        weight2: torch.Tensor,
        bias2: torch.Tensor,
        weight3: torch.Tensor,
        bias3: torch.Tensor,
        shape: Shape,
        eps: float,
        *projections: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        channels, cout = matrix.shape[1], projections[0].shape[1]
        count, height, width = shape.inner
        pixels = count * height * width
        z = inputs.new_empty(pixels, channels)
        size = z.element_size()
        scratch = z.new_empty(_largest(_images(shape, channels, size), _rows(pixels, channels, size)), channels)
        sums = _Sums(torch.empty_like(scratch))
        for span, inner in _images(shape, channels, size):
            y = _as_images(_expand(inputs[span], matrix, scratch), shape.height, shape.width)
            portion = _as_rows(F.conv2d(y, kernels, None, shape.stride, kernels.shape[-1] // 2, groups=channels))
            sums.add(portion)
            z[inner] = portion
        stats2 = sums.finish()
        scale2 = weight2 * (stats2.var + eps).rsqrt()
        shift2 = bias2 - stats2.mean * scale2
        raw = z.new_empty(pixels, len(projections) * cout)
        narrow = z.new_empty(_largest(_rows(pixels, channels, size), _rows(pixels, raw.shape[1], size)), raw.shape[1])
        sums = _Sums(narrow)
        for span in _rows(pixels, channels, size):
            hidden = torch.addcmul(shift2, z[span], scale2, out=scratch[: _length(span)]).relu_()
            _project(hidden, projections, raw[span])
            sums.add(raw[span])
        stats3 = sums.finish()
        scale3 = weight3 * (stats3.var + eps).rsqrt()
        shift3 = (bias3 - stats3.mean * scale3).view(-1, cout).sum(dim=0)
        total = z.new_empty(pixels, cout)
        for span in _rows(pixels, raw.shape[1], size):
            scaled = torch.mul(raw[span], scale3, out=narrow[: _length(span)])
            torch.sum(scaled.view(-1, len(projections), cout), dim=1, out=total[span])
        total += shift3
        stats = (stats2.mean, stats2.var, stats3.mean, stats3.var)
        ctx.mark_non_differentiable(*stats)
        ctx.save_for_backward(inputs, matrix, kernels, weight2, bias2, weight3, z, raw, *stats, *projections)
        ctx.shape, ctx.eps = shape, eps
        return total, *stats

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, matrix, kernels, weight2, bias2, weight3, z, raw, mean2, var2, mean3, var3, *projections = (
            ctx.saved_tensors
        )
        shape: Shape = ctx.shape
        needs = dict(zip(("x", "inputs", "matrix", "kernels"), ctx.needs_input_grad, strict=False))
        needs["projections"] = any(ctx.needs_input_grad[10:])
        grad = gradients[0].contiguous()
        (pixels, channels), cout, size = z.shape, grad.shape[1], z.element_size()
        narrow = z.new_empty(_largest(_rows(pixels, channels, size), _rows(pixels, raw.shape[1], size)), raw.shape[1])
        last = _Norm(weight3, mean3, var3, ctx.eps, pixels)
        for span in _rows(pixels, raw.shape[1], size):
            sides = (-1, len(projections), cout)
            product = narrow[: _length(span)]
            torch.mul(raw[span].view(sides), grad[span, None], out=product.view(sides))
            last.add(grad[span].sum(dim=0).repeat(len(projections)), product.sum(dim=0))
        last.finish()
        if not any(ctx.needs_input_grad[:6]) and not needs["projections"]:
            return (None,) * 6 + (last.weight_grad, last.bias_grad, None, None) + (None,) * len(projections)

        middle = _Norm(weight2, mean2, var2, ctx.eps, pixels)
        shift2 = bias2 - mean2 * middle.scale
        hidden_grad = torch.empty_like(z)
        wide, scratch = (
            z.new_empty(_largest(_images(shape, channels, size), _rows(pixels, channels, size)), channels)
            for _ in range(2)
        )
        projection_grads = [torch.zeros_like(p) for p in projections] if needs["projections"] else []
        for span in _rows(pixels, channels, size):
            raw_grad = last.input_grad(grad[span], raw[span], narrow)
            hidden = torch.addcmul(shift2, z[span], middle.scale, out=wide[: _length(span)]).relu_()
            portion = hidden_grad[span]
            for place, (start, end) in enumerate(_borders(projections)):
                mine = raw_grad[:, place * cout : (place + 1) * cout]
                torch.mm(mine, projections[place].t(), out=portion[:, start:end])
                if projection_grads:
                    projection_grads[place].addmm_(hidden[:, start:end].t(), mine)
            _through_relu(portion, hidden)
            middle.add(portion.sum(dim=0), torch.mul(portion, z[span], out=hidden).sum(dim=0))
        middle.finish()

        x_grad = grad.new_empty(len(inputs), inputs.shape[1] - 1) if needs["x"] else None
        matrix_grad, kernels_grad = torch.zeros_like(matrix), torch.zeros_like(kernels)
        for span, inner in _images(shape, channels, size):
            z_grad = _as_images(middle.input_grad(hidden_grad[inner], z[inner], scratch), *shape.inner[1:])
            y = _expand(inputs[span], matrix, wide)
            seen = _as_images(y, shape.height, shape.width)
            if needs["kernels"]:
                kernels_grad += weight_gradient(seen, z_grad, kernels.shape[-1], shape.stride)
            if needs["x"] or needs["matrix"]:
                y_grad = _as_rows(input_gradient(seen, kernels, z_grad, shape.stride))
                _through_relu(y_grad, y)
                matrix_grad.addmm_(inputs[span].t(), y_grad)
                if x_grad is not None:
                    torch.mm(y_grad, matrix[:-1].t(), out=x_grad[span])
        before = (x_grad, None, matrix_grad, kernels_grad, middle.weight_grad, middle.bias_grad)
        after = tuple(projection_grads) if projection_grads else (None,) * len(projections)
        return (*before, last.weight_grad, last.bias_grad, None, None, *after)


class _Norm:
    """The backward pass of a batch norm, given sums over all pixels that are gathered portion by portion."""

    def __init__(self, weight: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, eps: float, pixels: int) -> None:
        self._mean, self._inverse, self._pixels = mean, (var + eps).rsqrt(), pixels
        self.scale = weight * self._inverse
        self.bias_grad, self.weight_grad = torch.zeros_like(mean), torch.zeros_like(mean)
        self._slope, self._constant = torch.zeros_like(mean), torch.zeros_like(mean)

    def add(self, grad: torch.Tensor, grad_times_input: torch.Tensor) -> None:
        """A portion's sums over its pixels of the output's gradient, and of that times the input."""
        self.bias_grad += grad
        self.weight_grad += (grad_times_input - self._mean * grad) * self._inverse

    def finish(self) -> None:
        """Called once all portions have been added."""
        self._slope = -self.scale * self._inverse * self.weight_grad / self._pixels
        self._constant = -self.scale * self.bias_grad / self._pixels - self._slope * self._mean

    def input_grad(self, grad: torch.Tensor, x: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
        """The gradient of the input, (pixels, channels), of a portion.

        Args:
            grad: of the output; fewer channels are those of several norms side by side, which have it in common.
            x: the input.
            scratch: where the result is put.
        """
        gradient = torch.addcmul(self._constant, x, self._slope, out=scratch[: len(x)])
        sides = gradient.view(len(x), -1, grad.shape[1])
        sides.addcmul_(grad[:, None], self.scale.view(1, -1, grad.shape[1]))
        return gradient


def _through_relu(grad: torch.Tensor, output: torch.Tensor) -> None:
    """Turns the gradient of a ReLU's output into that of its input, in place."""
    torch.ops.aten.threshold_backward.grad_input(grad, output, 0.0, grad_input=grad)


def _expand(inputs: torch.Tensor, matrix: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """The first conv and its ReLU, written to ``scratch``."""
    return torch.mm(inputs, matrix, out=scratch[: len(inputs)]).relu_()


def _project(hidden: torch.Tensor, projections: Sequence[torch.Tensor], out: torch.Tensor) -> None:
    """Each block's channels times its matrix, side by side in ``out``."""
    cout = projections[0].shape[1]
    for place, (start, end) in enumerate(_borders(projections)):
        torch.mm(hidden[:, start:end], projections[place], out=out[:, place * cout : (place + 1) * cout])


def _borders(projections: Sequence[torch.Tensor]) -> Iterator[tuple[int, int]]:
    start = 0
    for projection in projections:
        yield start, start + len(projection)
        start += len(projection)


def _length(span: slice) -> int:
    return int(span.stop - span.start)


def _largest(images: Iterable[slice | tuple[slice, slice]], rows: Iterable[slice]) -> int:
    """Rows of the largest portion."""
    slices = [span for item in images for span in (item if isinstance(item, tuple) else (item,))]
    return max(_length(span) for span in [*slices, *rows])


def _rows(pixels: int, channels: int, size: int) -> Iterator[slice]:
    step = max(1, PORTION // (channels * size))
    return (slice(start, min(start + step, pixels)) for start in range(0, pixels, step))


def _images(shape: Shape, channels: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Portions of whole images: their pixels before and behind the depthwise conv."""
    _, height, width = shape.inner
    before, behind = shape.height * shape.width, height * width
    step = max(1, PORTION // (before * channels * size))
    for start in range(0, shape.count, step):
        end = min(start + step, shape.count)
        yield slice(start * before, end * before), slice(start * behind, end * behind)


def _as_images(rows: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(pixels, channels) as (N, channels, H, W) in the same memory."""
    return rows.view(-1, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def _as_rows(images: torch.Tensor) -> torch.Tensor:
    """(N, channels, H, W) as (pixels, channels)."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
