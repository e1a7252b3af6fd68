"""Torch modules built from a description, and back: what a model file holds becomes a network and the reverse."""

from gatewise.models.network import Network, QuantileMixture, from_file

__all__ = ["Network", "QuantileMixture", "from_file"]
