"""Images turned about their centre."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from flctl.types import FloatArray, IntArray

__all__ = ["rotate"]

Images = npt.NDArray[np.generic]
BLOCK = 256


def rotate(images: Images, degrees: float) -> Images:
    """Images [n, channels, height, width] turned counter-clockwise, dtype and shape kept.

    Multiples of 90 move pixels and change none (90 and 270 need square images); other angles interpolate
    bilinearly on the same canvas, what comes from outside is 0, and integers are rounded.
    """
    turns, rest = divmod(degrees % 360, 90)
    if rest == 0 and (turns % 2 == 0 or images.shape[2] == images.shape[3]):
        return np.ascontiguousarray(np.rot90(images, int(turns), axes=(2, 3)))
    height, width = images.shape[2:]
    flat = images.reshape(*images.shape[:2], height * width)
    corners, weights = _bilinear(height, width, degrees)
    result = np.empty_like(flat)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        turned = sum(block[:, :, corners[i]].astype(np.float64) * weights[i] for i in range(4))
        result[start : start + BLOCK] = _as(np.asarray(turned), images.dtype)
    return result.reshape(images.shape)


def _bilinear(height: int, width: int, degrees: float) -> tuple[IntArray, FloatArray]:
    """For each target pixel the four source pixels [4, h*w] and their weights [4, h*w] (0 outside the image)."""
    angle = math.radians(degrees)
    row, column = np.mgrid[0:height, 0:width].reshape(2, -1).astype(np.float64)
    y, x = row - (height - 1) / 2, column - (width - 1) / 2
    # The inverse turn: where does the value of this pixel come from? Rows count downwards.
    source_y = math.cos(angle) * y + math.sin(angle) * x + (height - 1) / 2
    source_x = -math.sin(angle) * y + math.cos(angle) * x + (width - 1) / 2
    top, left = np.floor(source_y), np.floor(source_x)
    corners, weights = [], []
    for down in (0, 1):
        for right in (0, 1):
            r, c = top + down, left + right
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            share = (1 - np.abs(source_y - r)) * (1 - np.abs(source_x - c))
            corners.append(np.where(inside, r * width + c, 0).astype(np.int64))
            weights.append(np.where(inside, share, 0.0))
    return np.stack(corners), np.stack(weights)


def _as(values: FloatArray, dtype: np.dtype[np.generic]) -> Images:
    return np.rint(values).astype(dtype) if np.issubdtype(dtype, np.integer) else values.astype(dtype)
