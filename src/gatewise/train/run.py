"""Where a training run is, and all that it needs to go on from there."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import Signals
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from gatewise.errors import InputError
from gatewise.train.checkpoint import Checkpoints
from gatewise.train.group import Group, Part
from gatewise.train.history import Epoch, History, OnEvent, Step
from gatewise.train.plan import Plan, make_optimizer
from gatewise.train.steps import step_of
from gatewise.train.weights import Average, copy_of, random_states, restore_random_states

CHANGEABLE = (
    "epochs", "learning_rate", "warm_up", "clip_norm", "clip_value", "patience", "accumulate", "save_every",
)  # fmt: skip
"""What of a plan may change when a run goes on."""


class Stateful(Protocol):
    """What keeps something from step to step, such as the states of streams.

    Its tensors are never changed in place, and have this process' rows first.
    """

    def state_dict(self) -> dict[str, Any]:
        """What it keeps."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep that from now on."""
        ...


@dataclass
class Sums:
    """Over the steps of an epoch so far."""

    loss: float = 0.0
    norm: float = 0.0
    values: int = 0
    seconds: float = 0.0

    def add(self, step: Step) -> None:
        """Add what a step gave."""
        self.loss += step.loss
        self.norm += step.gradient_norm
        self.values += step.values
        self.seconds += step.seconds


@final
class Run:
    """A run and its place: ``step`` steps of ``epoch`` (from 1) are done.

    The arguments are those of ``train``.
    """

    def __init__(
        self,
        module: nn.Module,
        plan: Plan,
        carried: Stateful | None,
        checkpoints: Checkpoints | None,
        on_event: OnEvent,
    ):
        self.module, self.plan = module, plan
        self.group = Group()
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.device = self.parameters[0].device.type if self.parameters else "cpu"
        self.epoch, self.step, self.sums, self.history = 1, 0, Sums(), History()
        self._carried, self._held = carried, {}
        self._checkpoints, self._on_event = checkpoints, on_event

    def begin(self) -> None:
        """Start, or go on from the last checkpoint."""
        self.group.align(self.module)
        self.optimizer = make_optimizer(self.plan, self.parameters)
        self.take_step = step_of(self.optimizer)
        self.average = Average(self.module, self.plan.average)
        self._best = copy_of(self.module)
        if self._checkpoints is not None:
            if self.group.first:
                self._checkpoints.clear()
            if self._checkpoints.resume:
                self._resume(self._checkpoints)

    def steps_done(self) -> int:
        """Over all epochs."""
        return (self.epoch - 1) * self.plan.steps + self.step

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0 over all epochs."""
        return self.plan.learning_rate * self.plan.rate(step, self.history.losses())

    def over(self, *, early: bool) -> bool:
        """Whether the last epoch is done; with ``early``, or there was none better for as long as patience lasts."""
        waited = self.epoch - 1 - self.history.best
        return self.epoch > self.plan.epochs or (early and waited >= self.plan.patience)

    def keep(self, epoch: Epoch) -> bool:
        """End an epoch, and keep the module's weights if they are the best so far."""
        self.history.epochs.append(epoch)
        losses = self.history.losses()
        is_best = not self.history.best or losses[-1] < losses[self.history.best - 1]
        if is_best:
            self._best, self.history.best = copy_of(self.module), self.epoch
        self.epoch, self.step, self.sums = self.epoch + 1, 0, Sums()
        return is_best

    def hold_carried(self) -> None:
        """Note what is carried, before a step that may go wrong, if it can be saved."""
        if self._carried is not None and self._checkpoints is not None:
            self._held = self._carried.state_dict()

    def halt(self, number: int) -> History:
        """Stop early, for a signal that this process or another got: save, and end."""
        self.history.stopped = number
        self.history.saved = self.save() is not None
        self._tell("interrupted", signal=Signals(number).name)
        return self.end()

    def end(self) -> History:
        """Leave the module with the best weights."""
        self.module.load_state_dict(self._best)
        self.module.eval()
        return self.history

    def save(self, *, diverged: bool = False) -> Path | None:
        """Save a checkpoint, if there is a place for it; where it is.

        Args:
            diverged: whether a step was begun that must not count.
        """
        if self._checkpoints is None:
            return None
        carried = self._carried.state_dict() if self._carried is not None and not diverged else self._held
        by_process = self.group.gather({"random": random_states(), "carried": carried})
        if not self.group.first:
            return None
        try:
            path = self._checkpoints.save(self.steps_done(), {**self._state(), "processes": by_process})
        except InputError as error:
            self._tell("unsaved", error=str(error))
            return None
        self._tell("checkpoint", path=str(path))
        return path

    def _state(self) -> dict[str, Any]:
        return {
            "plan": asdict(self.plan),
            "versions": _versions(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": asdict(self.sums),
            "epochs": [asdict(epoch) for epoch in self.history.epochs],
            "best_epoch": self.history.best,
            "best": self._best,
            "module": self.module.state_dict(),
            "average": self.average.values,
            "optimizer": self.optimizer.state_dict(),
        }

    def _resume(self, checkpoints: Checkpoints) -> None:
        """Take the first process' last checkpoint, or begin."""
        found: Any = ""
        if self.group.first:
            try:
                found = checkpoints.last()
            except InputError as error:
                found = str(error)
        found = self.group.spread(found)
        if isinstance(found, str):
            raise InputError(found)
        state, notes = found
        if state is None:
            return
        notes = [*notes, *self._changes(state, checkpoints)]
        try:
            self._take(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"the checkpoint in {checkpoints.folder} is of another model: {why}") from None
        self._tell("resume", notes=notes)

    def _take(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, value in self.average.values.items():
            value.copy_(state["average"][name])
        self.epoch, self.step, self.sums = state["epoch"], state["step"], Sums(**state["sums"])
        self.history = History([Epoch(**epoch) for epoch in state["epochs"]], state["best_epoch"])
        self._best = state["best"]
        processes = state["processes"]
        if self._carried is not None:
            self._carried.load_state_dict(dealt_out([each["carried"] for each in processes], self.group.part()))
        if self.group.rank < len(processes):
            restore_random_states(processes[self.group.rank]["random"])

    def _changes(self, state: Mapping[str, Any], checkpoints: Checkpoints) -> list[str]:
        """What differs from the run that is continued, in words; what must not is refused."""
        saved, mine = state["plan"], asdict(self.plan)
        notes = []
        for name, value in mine.items():
            if saved.get(name) == value:
                continue
            # A plateau is found in the whole history, with the patience of now.
            if name not in CHANGEABLE or (name == "patience" and self.plan.schedule == "plateau"):
                raise InputError(
                    f"the run in {checkpoints.folder} has {name} {saved.get(name)!r}, not {value!r}: go on with the "
                    "same, or begin anew."
                )
            notes.append(f"{name} is {value!r} from here on, it was {saved.get(name)!r}")
        now = _versions()
        began = state["versions"]
        differing = [f"{name} {began.get(name)}" for name in now if began.get(name) != now[name]]
        if len(state["processes"]) != self.group.size:
            differing.append(f"{len(state['processes'])} processes")
        if differing:
            notes.append(f"the run began with {', '.join(differing)}: its bits may differ from here on")
        return notes

    def _tell(self, name: str, **values: Any) -> None:
        if self.group.first:
            self._on_event(name, epoch=self.epoch, step=self.step, **values)


def _versions() -> dict[str, Any]:
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}


def dealt_out(carried: list[dict[str, Any]], mine: Part) -> dict[str, Any]:
    """What a process carries, of what each process of the saved run did.

    Raises:
        InputError: the run has another number of processes now, and what they carried are not rows of tensors.
    """
    if len(carried) == mine.count:
        return carried[mine.index]
    found: dict[str, Any] = {}
    for name, value in carried[0].items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name}, which is carried from step to step, cannot be shared out anew: go on with {len(carried)} "
                "processes."
            )
        rows = torch.cat([each[name] for each in carried])
        found[name] = rows[mine.rows(len(rows))]
    return found
