"""The training loop: takes a module, a loss and batches, and knows no task."""

from gatewise.train.loop import Epoch, History, Plan, train

__all__ = ["Epoch", "History", "Plan", "train"]
