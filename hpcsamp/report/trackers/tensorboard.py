"""Write one TensorBoard event file per run, replaced at each start of the job and each export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hpcsamp.report.trackers import Identity


class Run:
    """The event file of a run in ``out/NAME-IDENTITY``, which replaces those of earlier starts.

    The writer has its own thread, but starts no process.
    """

    def __init__(self, run: Identity, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = out / f"{run.name}-{run.identity}"
        before = list(folder.glob("events.out.tfevents.*"))
        # with a suffix, files of two starts within a second have different names
        self._writer = SummaryWriter(str(folder), filename_suffix=f".{len(before)}")
        table = "\n".join(f"    {k} = {v}" for k, v in run.settings.items())
        self._writer.add_text("configuration", table, 0)
        for file in before:
            file.unlink(missing_ok=True)

    def add(self, event: str, step: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of one line."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        if event != "train":
            self._writer.flush()

    def close(self) -> None:
        """Write buffered numbers to the file and end the thread."""
        self._writer.close()
