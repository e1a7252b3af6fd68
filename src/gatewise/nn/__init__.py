"""Recurrent layers as torch modules."""

from gatewise.nn.cell import LSTMCell
from gatewise.nn.convert import from_torch, to_torch
from gatewise.nn.lstm import LSTM
from gatewise.nn.parameters import Init

__all__ = ["LSTM", "Init", "LSTMCell", "from_torch", "to_torch"]
