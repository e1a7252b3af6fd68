"""The training loop: takes a module, a loss and batches, and knows no task."""

from gatewise.train.checkpoint import Checkpoints, DamagedCheckpointError, read_checkpoint
from gatewise.train.group import Group, Part, joined_group
from gatewise.train.history import Epoch, History, Step
from gatewise.train.loop import DivergedError, train
from gatewise.train.plan import Plan
from gatewise.train.run import CHANGEABLE, Stateful
from gatewise.train.streams import Streams, Window
from gatewise.train.truncated import Truncated

__all__ = [
    "CHANGEABLE",
    "Checkpoints",
    "DamagedCheckpointError",
    "DivergedError",
    "Epoch",
    "Group",
    "History",
    "Part",
    "Plan",
    "Stateful",
    "Step",
    "Streams",
    "Truncated",
    "Window",
    "joined_group",
    "read_checkpoint",
    "train",
]
