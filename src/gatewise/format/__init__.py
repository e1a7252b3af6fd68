"""A model's description as data, and the checked reading and writing of the model file. No torch.

One ``.safetensors`` file holds the weights and, in its metadata, one canonical JSON string: format version, task, the
architecture as a list of blocks, the task's own settings and statistics, the vocabulary, the training record, and a
SHA-256 over all bytes of the file but its own field. docs/model-file.md defines it.
"""

from gatewise.format.architecture import FORMAT_VERSION, check_chain, parse_blocks
from gatewise.format.atomic import atomic_file
from gatewise.format.blocks import (
    BLOCKS,
    Block,
    Conv1d,
    Embedding,
    LayerNorm,
    Linear,
    Lstm,
    QuantileMix,
    Scaling,
    describe_block,
)
from gatewise.format.description import describe
from gatewise.format.file import MODEL_NAME, ModelFile, load_model, model_path, save_model
from gatewise.format.log import LOG_NAME, Log, LogReader

__all__ = [
    "BLOCKS",
    "FORMAT_VERSION",
    "LOG_NAME",
    "MODEL_NAME",
    "Block",
    "Conv1d",
    "Embedding",
    "LayerNorm",
    "Linear",
    "Log",
    "LogReader",
    "Lstm",
    "ModelFile",
    "QuantileMix",
    "Scaling",
    "atomic_file",
    "check_chain",
    "describe",
    "describe_block",
    "load_model",
    "model_path",
    "parse_blocks",
    "save_model",
]
