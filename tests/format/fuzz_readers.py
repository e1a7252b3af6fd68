"""Feeds the readers of model files and of stream states with bytes that atheris grows, until one does what it must not.

    python tests/format/fuzz_readers.py model|state SECONDS [FOLDER]

Whatever the bytes are, a reader returns or raises InputError, within 1 GiB. Half of the model files get the SHA-256
that fits them, so that what lies behind it is reached too. FOLDER keeps the inputs that reached new code.
"""

import contextlib
import hashlib
import inspect
import json
import re
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from gatewise.errors import InputError
from gatewise.format import architecture, blocks, container, fields, file, load_model
from gatewise.runtime import state
from gatewise.runtime.state import read_state, write_state

atheris: Any = import_module("atheris")  # `make fuzz` installs it
for module in (architecture, blocks, container, fields, file, state, json.decoder):
    for _, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ == module.__name__:
            atheris.instrument_func(function)

EXAMPLES = Path(__file__).parent / "examples"
IDENTITY, VALUES = "5a" * 32, bytes(range(64))
_SHA = re.compile(rb'(\\"sha256\\":\\")[0-9a-f]{64}(?=\\")')


def mended(data: bytes) -> bytes:
    """The bytes with the SHA-256 that they would have."""
    blank = _SHA.sub(rb"\g<1>" + b"0" * 64, data)
    return _SHA.sub(rb"\g<1>" + hashlib.sha256(blank).hexdigest().encode(), data)


class ModelFiles:
    """``load_model`` of a file with these bytes; the first says whether the SHA-256 is mended."""

    def __init__(self, folder: Path):
        self._path = folder / "model.safetensors"

    def seeds(self) -> list[bytes]:
        files = sorted(EXAMPLES.glob("*.safetensors"), key=lambda path: path.stat().st_size)
        return [b"\x01" + path.read_bytes() for path in files[:8]]

    def __call__(self, data: bytes) -> None:
        self._path.write_bytes(mended(data[1:]) if data[:1] > b"\x7f" or data[:1] == b"\x01" else data[1:])
        load_model(self._path)


class States:
    """``read_state`` of these bytes: what it returns must be the values that were written."""

    def __init__(self, _: Path):
        self._whole = write_state(VALUES, IDENTITY)

    def seeds(self) -> list[bytes]:
        return [self._whole, self._whole[:-1]]

    def __call__(self, data: bytes) -> None:
        read = read_state(data, IDENTITY, len(VALUES))
        # A CRC-32 is no seal: other values are possible, but only with all that belongs to them.
        assert write_state(read, IDENTITY) == data


def main() -> None:
    kind, seconds, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as temporary:
        reader = {"model": ModelFiles, "state": States}[kind](Path(temporary))
        folder = Path(rest[0] if rest else temporary, f"{kind}-inputs")
        folder.mkdir(parents=True, exist_ok=True)
        for index, seed in enumerate(reader.seeds()):
            (folder / f"seed-{index}").write_bytes(seed)

        def once(data: bytes) -> None:
            with contextlib.suppress(InputError):
                reader(data)

        limits = [f"-max_total_time={seconds}", "-rss_limit_mb=1024", "-max_len=65536", "-timeout=10"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/", str(folder)], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
