"""Progress of many runs at once: bars on a terminal, one line per event elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from common.experiment.arm import Run

HEARTBEAT_SECONDS = 20.0


class TerminalWatcher:
    """Shows every active run with its phase and the table as a whole.

    Args:
        console: where to; bars are drawn only on a terminal, else a line when a run starts a phase, every 20 s, and at its end.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars: Progress | None = None
        self.overall: TaskID | None = None
        self.tasks: dict[str, TaskID] = {}
        self.phases: dict[str, str] = {}
        self.spoken: dict[str, float] = {}
        self.finished = self.total = 0

    def begin(self, total: int, finished: int) -> None:
        """Announce the table; nothing is drawn when there is nothing to do."""
        self.total, self.finished = total, finished
        if finished == total:
            self.console.print(f"all {total} runs are in the store: nothing to train", highlight=False)
            return
        self.console.print(f"{total} runs, {finished} finished before, {total - finished} to do", highlight=False)
        if self.console.is_terminal:
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            self.overall = self.bars.add_task("table", total=total, completed=finished, note="runs")
            self.bars.start()

    def event(self, run: Run, event: dict[str, Any]) -> None:
        """A run says where it is."""
        if "error" in event:
            self._say(f"{run.label}: FAILED: {event['error']}")
        elif self.bars is not None:
            self._move_bar(run, event)
        else:
            self._say_line(run, event)

    def end(self, run: Run, status: str, seconds: float) -> None:
        """A run is over; its bar goes, a line stays."""
        self.finished += 1
        self._say(f"[{self.finished}/{self.total}] {run.label}: {status} after {seconds:.0f} s")
        if self.bars is not None:
            if run.digest in self.tasks:
                self.bars.remove_task(self.tasks.pop(run.digest))
            assert self.overall is not None
            self.bars.update(self.overall, completed=self.finished)
            if self.finished == self.total:
                self.close()

    def note(self, text: str) -> None:
        """Something that concerns no single run."""
        self._say(text)

    def close(self) -> None:
        """Take the bars off the terminal."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None

    def _move_bar(self, run: Run, event: dict[str, Any]) -> None:
        assert self.bars is not None
        phase = str(event["phase"])
        if run.digest not in self.tasks:
            self.tasks[run.digest] = self.bars.add_task(run.label, total=None, note=phase)
        task = self.tasks[run.digest]
        if "step" in event:
            loss = f" loss {event['loss']:.4g}" if event["loss"] is not None else ""
            self.bars.update(task, total=event["steps"], completed=event["step"], note=phase + loss)
        else:
            self.bars.reset(task, total=None, note=phase)

    def _say_line(self, run: Run, event: dict[str, Any]) -> None:
        phase, now = str(event["phase"]), time.monotonic()
        if "step" not in event:
            if phase != self.phases.get(run.digest):
                self._say(f"{run.label}: {phase}")
            self.phases[run.digest], self.spoken[run.digest] = phase, now
        elif now - self.spoken.get(run.digest, 0.0) > HEARTBEAT_SECONDS:
            self.spoken[run.digest] = now
            loss = f", loss {event['loss']:.4g}" if event["loss"] is not None else ""
            self._say(f"{run.label}: {phase} {event['step']}/{event['steps']}{loss}")

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
