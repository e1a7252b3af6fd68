"""Recurrent layers as torch modules."""

from gatewise.nn.cell import LSTMCell
from gatewise.nn.conv import ConvLSTM
from gatewise.nn.convert import from_torch, to_torch
from gatewise.nn.lstm import LSTM
from gatewise.nn.parameters import Init
from gatewise.nn.stack import Stack

__all__ = ["LSTM", "ConvLSTM", "Init", "LSTMCell", "Stack", "from_torch", "to_torch"]
