"""Progress on its way from the engine to the caller, and cancelling on the way back."""

from __future__ import annotations

from savefmt.errors import OperationCancelled
from savefmt.model import OnProgress, Progress


class Meter:
    """Counts work against a total and tells the caller's callback.

    Parameters
    ----------
    on_progress : callable or None
        Gets a `Progress`; returning False cancels.
    total : int
        Bytes of the whole work, 0 where unknown.
    phase : str
        What is being done.
    """

    def __init__(self, on_progress: OnProgress | None, total: int = 0, phase: str = "") -> None:
        self._on_progress = on_progress
        self.total = total
        self.phase = phase

    def update(self, done: int) -> None:
        """Say that `done` bytes of the total are done.

        Raises
        ------
        OperationCancelled
            If the callback returned False.
        """
        if self._on_progress is None:
            return
        if self._on_progress(Progress(done, self.total, self.phase)) is False:
            raise OperationCancelled("cancelled by the progress callback")
