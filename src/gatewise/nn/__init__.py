"""Recurrent layers as torch modules."""

from gatewise.nn.lstm import LSTM
from gatewise.nn.parameters import Init

__all__ = ["LSTM", "Init"]
