"""Torch modules built from a description, and back: what a model file holds becomes a network and the reverse."""

from gatewise.models.exchange import Imported, export_onnx, from_onnx
from gatewise.models.network import Network, QuantileMixture, from_file

__all__ = ["Imported", "Network", "QuantileMixture", "export_onnx", "from_file", "from_onnx"]
