"""What the commands show on the terminal."""

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

if TYPE_CHECKING:
    from gatewise.tasks.forecast.training import Summary
    from gatewise.train import Epoch, Plan, Step

STEPS_SHOWN = 12
_FORMATS = {"sMAPE": "{:.2f}", "MASE": "{:.3f}", "mean weighted quantile loss": "{:.4f}"}


class Progress:
    """Prints the summary, then a bar with loss and time left, and a line for each epoch."""

    def __init__(self) -> None:
        self._console = Console()
        self._bar = Bar(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._steps = 0
        self._task = self._bar.add_task("fit", visible=False, total=None, epoch=1, loss=float("nan"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, summary: "Summary", plan: "Plan") -> None:
        """Print the summary and start the bar."""
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for label, value in summary:
            table.add_row(label, value)
        self._console.print(table)
        self._steps = plan.steps
        self._bar.update(self._task, total=plan.epochs * plan.steps, visible=True)
        self._bar.start()

    def step(self, step: "Step") -> None:
        """Move the bar."""
        done = (step.epoch - 1) * self._steps + step.step
        self._bar.update(self._task, completed=done, epoch=step.epoch, loss=step.loss)

    def epoch(self, epoch: "Epoch", is_best: bool) -> None:
        """Print the epoch."""
        validation = "" if epoch.val_loss is None else f"  validation {epoch.val_loss:.4f}"
        best = "  best" if is_best else ""
        self._console.print(
            f"epoch {epoch.epoch:>3}  training {epoch.train_loss:.4f}{validation}  {epoch.seconds:.1f} s{best}",
            highlight=False,
        )

    def event(self, name: str, **values: Any) -> None:
        """Say where training goes on from, and what could not be saved."""
        place = f"epoch {values.get('epoch')}, step {values.get('step')}"
        if name == "resume":
            for note in values["notes"]:
                self.note(note)
            self._console.print(f"going on from {place}", highlight=False)
        elif name == "unsaved":
            self._console.print(f"no checkpoint was saved at {place}: {values['error']}", style="red", highlight=False)

    def note(self, text: str) -> None:
        """Print a note."""
        self._console.print(f"note: {text}", highlight=False)


def print_scores(metrics: Mapping[str, Any], *, by_step: bool = False) -> None:
    """Print the scores of the model and the baselines, overall and for some steps of the horizon."""
    console = Console()
    if not metrics:
        console.print("not scored: there were no rows to hold out.")
        return
    windows = f"{metrics['windows']:,} window{'s' * (metrics['windows'] != 1)}"
    console.print(f"scored: {metrics['scored']} ({windows}, {metrics['values']:,} values)")
    overall = Table()
    overall.add_column("")
    for model in metrics["models"]:
        overall.add_column(model, justify="right")
    for name in next(iter(metrics["overall"].values())):
        if name != "coverage":
            overall.add_row(name, *(_text(name, metrics["overall"][model][name]) for model in metrics["models"]))
    for band, share in (metrics["overall"][metrics["models"][0]]["coverage"] or {}).items():
        overall.add_row(f"coverage {band}", f"{share:.0%}", *("–" for _ in metrics["models"][1:]))
    console.print(overall)
    if by_step:
        console.print(_step_table(metrics))


def _step_table(metrics: Mapping[str, Any]) -> Table:
    table = Table(title="by step of the horizon")
    table.add_column("step", justify="right")
    shown = [(metric, model) for metric in ("MAE", "MASE") for model in metrics["models"]]
    for metric, model in shown:
        table.add_column(f"{metric}\n{model}", justify="right")
    horizon = len(metrics["by_step"][metrics["models"][0]]["MAE"])
    stride = -(-horizon // STEPS_SHOWN)
    for step in sorted({1, *range(stride, horizon + 1, stride), horizon}):
        cells = (_text(metric, metrics["by_step"][model][metric][step - 1]) for metric, model in shown)
        table.add_row(str(step), *cells)
    return table


def _text(name: str, value: float | None) -> str:
    return "–" if value is None else _FORMATS.get(name, "{:.4g}").format(value)
