"""Recurrent layers as torch modules."""

from gatewise.nn.lstm import LSTM

__all__ = ["LSTM"]
