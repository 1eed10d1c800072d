"""TensorBoard's event files of a training, written only if `tracking.tensorboard` names a folder for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpro.errors import TrackingError
from alpro.terminal import logs
from alpro.tracking.records import row_points

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logs.get(__name__)
FLUSH_S = 30


class Board:
    """Writes the history rows of one training to a folder. A failure to write ends only this."""

    def __init__(self, folder: Path) -> None:
        """Raise TrackingError if TensorBoard is not installed."""
        try:
            import torch.utils.tensorboard  # noqa: F401  takes a second, so only if it is asked for
        except ImportError as error:
            raise TrackingError(
                f"tracking.tensorboard needs TensorBoard ({error}); run `pip install 'alpro[tensorboard]'`, or set it to null"
            ) from None
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._failed = False

    def log(self, row: Mapping[str, Any]) -> None:
        """Write a row of the history. Points that a killed predecessor wrote at this step or later are replaced."""
        if self._failed:
            return
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder), purge_step=int(row["step"]), flush_secs=FLUSH_S)
            for name, step, value in row_points(row):
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            self._failed = True
            log.warning("%s: TensorBoard's files cannot be written (%s)", self._folder, error.strerror)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None and not self._failed:
            self._writer.close()
