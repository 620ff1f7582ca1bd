"""Progress of a job: bars on a terminal, plain lines elsewhere."""

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from liveedit_core.inputs.text import escaped
from liveedit_core.masking import masked

_LINE_INTERVAL_S = 5.0

_logger = logging.getLogger(__name__)


def say_on(console: Console) -> Callable[[str], None]:
    """Prints a line as it is written, but for secrets and control characters, on a console."""
    print_line = functools.partial(console.print, highlight=False, markup=False, soft_wrap=True)
    return lambda text: print_line(escaped(masked(text)))


class ProgressView:
    """Shows finished edits and pending evaluations."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, int] = {}
        self._most_waiting = 0
        self._next_line_s = 0.0

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show bars inside this context, if this is a terminal."""
        if self._console.is_terminal:
            with self._bars:
                yield
        else:
            yield

    def say(self, text: str) -> None:
        """Print one line, and log it."""
        _logger.info(escaped(text))
        say_on(self._console)(text)

    def edits(self, num_done: int, num_total: int) -> None:
        """Update the number of finished requests of this run."""
        self._show("edits", num_done, num_total)

    def evaluations(self, num_waiting: int) -> None:
        """Update the number of evaluation units that are not done."""
        self._most_waiting = max(self._most_waiting, num_waiting)
        self._show("evaluation", self._most_waiting - num_waiting, self._most_waiting)

    def _show(self, name: str, num_done: int, num_total: int) -> None:
        if self._console.is_terminal:
            if name not in self._tasks:
                self._tasks[name] = int(self._bars.add_task(name, total=num_total))
            task = self._bars.tasks[self._tasks[name]]
            self._bars.update(task.id, completed=num_done, total=num_total)
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _LINE_INTERVAL_S
            self.say(f"{name}: {num_done} of {num_total}")
