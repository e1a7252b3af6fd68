"""Packed weights that several processes map."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_problem import IDENTITY, build, draw, same_bits

from architectures import with_weights
from gatewise import _native, runtime
from gatewise.errors import InputError
from gatewise.format import Block, Conv1d, LayerNorm, Linear, Lstm, ModelFile, save_model
from gatewise.runtime import Model
from gatewise.runtime.mapped import _LAYOUT

BLOCKS: tuple[Block, ...] = (Lstm(3, 19, 2), Conv1d(19, 5, 3), Linear(5, 2))


def _only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def test_shared_weights_give_the_same_bits(tmp_path: Path) -> None:
    x = draw(BLOCKS, 3, 7)
    expected = build(*BLOCKS).run(x)
    for _ in range(2):
        model = build(*BLOCKS, shared=tmp_path)
        assert same_bits(model.run(x), expected)
        assert same_bits(np.stack([model.stream().step(row[0]) for row in x]), expected[:, 0])
    assert _only(tmp_path).name.startswith(f"{IDENTITY}-f32-{_native.isa()}-")


def test_the_second_load_only_reads(tmp_path: Path) -> None:
    build(*BLOCKS, shared=tmp_path)
    path = _only(tmp_path)
    path.chmod(0o400)
    before = path.stat()
    build(*BLOCKS, shared=str(tmp_path))
    after = _only(tmp_path).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_each_model_and_instruction_set_has_its_own(tmp_path: Path) -> None:
    former = _native.isa()
    try:
        for isa in _native.available_isas():
            _native.use_isa(isa)
            for identity in (IDENTITY, "cd" * 32):
                build(*BLOCKS, identity=identity, shared=tmp_path)
    finally:
        _native.use_isa(former)
    assert len(list(tmp_path.iterdir())) == 2 * len(_native.available_isas())


def test_the_file_holds_nothing_but_the_weights(tmp_path: Path) -> None:
    """Gaps between parts are zeros, not what memory held: the same model gives the same bytes."""
    contents = []
    for name in "ab":
        (tmp_path / name).mkdir()
        # What comes back to the core's store of memory is what it hands out next.
        _native.empty(4096).fill(ord(name))
        build(*BLOCKS, shared=tmp_path / name)
        contents.append(_only(tmp_path / name).read_bytes())
    assert contents[0] == contents[1]


PACKED = {"avx2": "a2d6e4bb00bd18e5", "wide": "74e4a71cac3767b1", "baseline": "0502b331c7c3d11c"}


@pytest.mark.parametrize("isa", _native.available_isas())
def test_a_file_says_how_it_is_packed(isa: str, tmp_path: Path) -> None:
    """Where these digests change, files on disk are read wrongly unless ``_LAYOUT`` is raised with them."""
    blocks = (Conv1d(3, 5, 2), Lstm(5, 19, 2, proj_size=3, learned_state=True), LayerNorm(3), Linear(3, 2))
    shapes = ModelFile("t", blocks, {}).shapes()
    weights = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in shapes.items()}
    former = _native.isa()
    _native.use_isa(isa)
    try:
        Model(ModelFile("t", blocks, weights), IDENTITY, shared=tmp_path)
    finally:
        _native.use_isa(former)
    path = _only(tmp_path)
    assert path.name == f"{IDENTITY}-f32-{isa}-{_LAYOUT}.packed"
    if isa in PACKED:
        assert (_LAYOUT, path.read_bytes()[-32:].hex()[:16]) == (2, PACKED[isa])


HOLD = """
import sys
from pathlib import Path
import numpy as np
from gatewise import runtime
model = runtime.load(sys.argv[1], threads=1, shared=sys.argv[2])
print(model.run(np.ones((4, 3))).tobytes().hex(), flush=True)
(path,) = Path(sys.argv[2]).iterdir()
print([line.split()[1] for line in Path("/proc/self/maps").read_text().splitlines()
       if line.split()[4] == str(path.stat().st_ino)], flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_map_one_file_read_only(tmp_path: Path) -> None:
    save_model(with_weights(BLOCKS), tmp_path / "m")
    (tmp_path / "shared").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "m"), str(tmp_path / "shared")]
    held = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [(process.stdout.readline(), process.stdout.readline()) for process in held if process.stdout]
    for process in held:
        process.communicate("")
        assert process.returncode == 0
    expected = runtime.load(tmp_path / "m", threads=1).run(np.ones((4, 3))).tobytes().hex()
    assert said == [(expected + "\n", "['r--s']\n")] * 4


DAMAGE = {
    "empty": lambda data: b"",
    "short": lambda data: data[: len(data) // 2],
    "without its digest": lambda data: data[:-32],
    "cut off": lambda data: data[:-1],
    "long": lambda data: data + b"\0",
    "a bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "another's digest": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused(name: str, tmp_path: Path) -> None:
    build(*BLOCKS, shared=tmp_path)
    path = _only(tmp_path)
    data = path.read_bytes()
    path.write_bytes(DAMAGE[name](data))
    says = "cannot be read: cannot mmap an empty file" if name == "empty" else "are damaged: remove the file"
    with pytest.raises(InputError, match=rf"the shared weights .*{path.name}.* {says}"):
        build(*BLOCKS, shared=tmp_path)
    path.unlink()
    build(*BLOCKS, shared=tmp_path)
    assert path.read_bytes() == data


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, says in (("missing", "No such file or directory"), ("file", "Not a directory")):
        with pytest.raises(InputError, match=rf"the folder for shared weights, .*/{name}, cannot be used: {says}"):
            build(*BLOCKS, shared=tmp_path / name)
    build(*BLOCKS, shared=tmp_path)
    path = next(each for each in tmp_path.iterdir() if each.suffix == ".packed")
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"the shared weights .* cannot be read: .*Is a directory"):
        build(*BLOCKS, shared=tmp_path)
    assert not [each for each in os.listdir(tmp_path) if each.endswith(".tmp")]
