"""What a training tells: of each step, each epoch and of the whole."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """What one optimizer step gave.

    Attributes:
        epoch: from 1.
        step: within the epoch, from 1.
        loss: the mean over the batch.
        learning_rate: of this step.
        gradient_norm: before clipping.
        values: how many the loss is the mean of.
        seconds: that it took.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    values: int
    seconds: float


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave.

    Attributes:
        epoch: from 1.
        train_loss: the mean over its steps.
        val_loss: None without validation data.
        seconds: that it took, validation included.
        learning_rate: of its last step.
        gradient_norm: before clipping, the mean over its steps.
        values: that its losses are the means of, over all steps.
    """

    epoch: int
    train_loss: float
    val_loss: float | None
    seconds: float
    learning_rate: float
    gradient_norm: float
    values: int


@dataclass
class History:
    """What the training gave.

    Attributes:
        epochs: all that were finished.
        best: the epoch whose weights were kept, 0 before the first.
        stopped: the number of the signal that ended it early, else 0.
        saved: whether there is a checkpoint of where it was stopped.
    """

    epochs: list[Epoch] = field(default_factory=list[Epoch])
    best: int = 0
    stopped: int = 0
    saved: bool = False

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it early."""
        return self.stopped != 0

    def losses(self) -> list[float]:
        """What each epoch is judged by: its validation loss, else its training loss."""
        return [epoch.train_loss if epoch.val_loss is None else epoch.val_loss for epoch in self.epochs]


OnStep = Callable[[Step], None]
OnEpoch = Callable[[Epoch, bool], None]
OnEvent = Callable[..., None]
