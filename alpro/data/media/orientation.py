"""Orientation of a video: the quarter turns and the mirroring that its display matrix asks of a player.

Phones store what the sensor saw and a matrix (a, b, c, d): (x, y) is shown at (a x + c y, b x + d y). Selfies are mirrored.
decord and PyAV's `rotation` know only the turn of the x axis and show a mirrored video upside down or unmirrored.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of eight orientations: turned by `x_axis`, then flipped if mirrored."""

    x_axis: int = 0  # degrees clockwise by which the x axis is turned: 0, 90, 180, 270
    mirrored: bool = False
    exact: bool = True  # False for another matrix, such as a turn by 45 degrees, of which the nearest quarter turn is kept

    @property
    def rotation(self) -> int:
        """Degrees clockwise by which a player turns the video, after it has exchanged left and right if mirrored."""
        return (self.x_axis + 180 * self.mirrored) % 360

    @property
    def swaps_sides(self) -> bool:
        """True if width and height are exchanged."""
        return self.x_axis in (90, 270)

    @property
    def turns(self) -> list[str]:
        """Quarter turns by `x_axis`, as arguments of FFmpeg's `transpose` filter."""
        return {0: [], 90: ["clock"], 180: ["clock", "clock"], 270: ["cclock"]}[self.x_axis]

    @property
    def flip(self) -> str | None:
        """FFmpeg's filter that mirrors the turned frame, or None."""
        return ("hflip" if self.swaps_sides else "vflip") if self.mirrored else None

    def mirror(self, frames: np.ndarray) -> np.ndarray:
        """Mirror frames (T, H, W, 3) that are turned already, if the video is mirrored."""
        if not self.mirrored:
            return frames
        return np.ascontiguousarray(frames[:, :, ::-1] if self.swaps_sides else frames[:, ::-1])


UPRIGHT = Orientation()


def orientation_of(frame: Any) -> Orientation:
    """Return the orientation of a frame of PyAV; upright if it has no usable display matrix."""
    side_data = frame.side_data.get("DISPLAYMATRIX")  # before PyAV 19, iteration gave the values instead of the types
    matrix = bytes(side_data) if side_data is not None else b""
    if len(matrix) < 36:
        return UPRIGHT
    a, b, _, c, d = struct.unpack("=5i", matrix[:20])
    if not (a or b) or not (c or d):
        return UPRIGHT
    x_axis = round(math.degrees(math.atan2(b, a)) / 90) * 90 % 360
    return Orientation(x_axis, a * d - b * c < 0, exact=a * b == 0 and c * d == 0)
