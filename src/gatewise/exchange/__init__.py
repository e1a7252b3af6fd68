"""Models as ONNX files, written from the blocks of an architecture and read back into them. No torch."""

from gatewise.exchange.files import export_file
from gatewise.exchange.reading import import_blocks
from gatewise.exchange.writing import export_blocks

__all__ = ["export_blocks", "export_file", "import_blocks"]
