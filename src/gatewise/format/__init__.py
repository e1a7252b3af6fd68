"""A model's description as data, and the checked reading and writing of the model file. No torch.

One ``.safetensors`` file holds the weights and, in its metadata, one canonical JSON string: format version, task, the
architecture as a list of blocks, the task's own settings and statistics, the training record, and a SHA-256 over all
bytes of the file but its own field.
"""

from gatewise.format.atomic import atomic_file
from gatewise.format.blocks import BLOCKS, Block, Linear, Lstm, QuantileMix, parse_blocks
from gatewise.format.file import FORMAT_VERSION, ModelFile, load_model, save_model

__all__ = [
    "BLOCKS",
    "FORMAT_VERSION",
    "Block",
    "Linear",
    "Lstm",
    "ModelFile",
    "QuantileMix",
    "atomic_file",
    "load_model",
    "parse_blocks",
    "save_model",
]
