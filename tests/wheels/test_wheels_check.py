"""The checks of wheels and sdists find what is wrong. The core is that of the tests, which has a fault itself."""

import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from check_wheels import MOST_BYTES, NEEDED, faults_of_core, faults_of_sdist, faults_of_wheel
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_D_TAG

from gatewise import _native

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads ELF files")

NAME = "gatewise-0.1.0-cp311-cp311-manylinux_2_34_x86_64.whl"
CORE = "gatewise/_native.abi3.so"
FILES = {
    "gatewise/__init__.py": b"",
    "gatewise/py.typed": b"",
    CORE: Path(_native.__file__).read_bytes(),
    "gatewise-0.1.0.dist-info/METADATA": b"Name: gatewise\n",
    "gatewise-0.1.0.dist-info/licenses/LICENSE": b"MIT\n",
}


def faults(folder: Path, files: dict[str, bytes | None], name: str = NAME) -> set[str]:
    """What is wrong with a wheel of the files above and these, None for one that it lacks."""
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for each, content in (FILES | files).items():
            if content is not None:
                wheel.writestr(each, content)
    return set(faults_of_wheel(folder / name))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The faults of the tests' core itself."""
    return faults(tmp_path_factory.mktemp("plain"), {})


def test_the_kernels_of_the_tests_are_not_shipped() -> None:
    core = FILES[CORE].replace(b"\0wide\0", b"\0what\0")
    assert any("instruction sets" in fault and "wide" in fault for fault in faults_of_core(FILES[CORE], (9, 9)))
    assert not any("wide" in fault for fault in faults_of_core(core, (9, 9)))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("gatewise-0.1.0-cp312-cp312-manylinux_2_34_x86_64.whl", "it is for cp312-cp312-manylinux_2_34_x86_64; "),
        ("gatewise-0.1.0-cp311-cp311-linux_x86_64.whl", "its platform is linux_x86_64, "),
        ("gatewise-0.1.0-cp311-cp311-manylinux_2_39_x86_64.whl", "its platform is manylinux_2_39_x86_64, "),
        ("gatewise-0.1.0-cp311-cp311-manylinux_2_12_x86_64.whl", f"{CORE} needs glibc 2."),
    ],
)
def test_tags(tmp_path: Path, plain: set[str], name: str, fault: str) -> None:
    (only,) = faults(tmp_path, {}, name) - plain
    assert only.startswith(fault)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({CORE: None}, "it holds 0 cores, not one."),
        ({"gatewise/_native.cpython-312-x86_64-linux-gnu.so": FILES[CORE]}, "it holds 2 cores, not one."),
        ({"gatewise/spec/__pycache__/row.cpython-311.pyc": b""}, "gatewise/spec/__pycache__/row.cpython-311.pyc does"),
        ({"gatewise.libs/libgomp.so.1": b""}, "gatewise.libs/libgomp.so.1 does not belong in it."),
        ({"tests/conftest.py": b""}, "tests/conftest.py does not belong in it."),
        (
            {"gatewise/key.py": b"'''-----BEGIN RSA " + b"PRIVATE KEY'''"},
            "gatewise/key.py holds what looks like a secret.",
        ),
        ({CORE: FILES[CORE] + b"\0/home/me/csrc/team.cc\0"}, f"{CORE} names a folder of this machine, /home/me/csrc"),
    ],
)
def test_files(tmp_path: Path, plain: set[str], files: dict[str, bytes | None], fault: str) -> None:
    assert any(each.startswith(fault) for each in faults(tmp_path, files) - plain)


def test_templates_and_entries_of_folders_may_be_there(tmp_path: Path, plain: set[str]) -> None:
    found = faults(tmp_path, {"gatewise/tasks/": b"", "gatewise/tasks/page.html.j2": b"", "gatewise/a.css": b""})
    assert not any("does not belong" in fault for fault in found | plain)


@pytest.mark.parametrize("name", [".symtab", ".debug_a"])
def test_sections_that_strip_removes(name: str) -> None:
    core = FILES[CORE].replace(b"\0.comment\0", b"\0" + name.encode().ljust(8, b"\0") + b"\0")
    assert f"is not stripped: it has a section {name}." in set(faults_of_core(core, (9, 9)))


def test_what_the_core_exports() -> None:
    core = FILES[CORE].replace(b"PyInit__native\0", b"PyInit__nativ0\0")
    assert "exports PyInit__nativ0, not PyInit__native alone." in set(faults_of_core(core, (9, 9)))


@pytest.mark.parametrize("tag", [ENUM_D_TAG["DT_RPATH"], ENUM_D_TAG["DT_RUNPATH"]])
def test_where_the_core_looks_for_libraries(tag: int) -> None:
    elf = ELFFile(BytesIO(FILES[CORE]))
    dynamic = elf.get_section_by_name(".dynamic")
    assert isinstance(dynamic, DynamicSection)
    number = next(i for i, each in enumerate(dynamic.iter_tags()) if each.entry.d_tag == "DT_FINI")
    at = dynamic["sh_offset"] + number * dynamic["sh_entsize"]
    core = FILES[CORE][:at] + tag.to_bytes(8, "little") + FILES[CORE][at + 8 :]
    fault = "looks for libraries in a folder of its own."
    assert fault in set(faults_of_core(core, (9, 9)))


def test_what_the_core_is_linked_with(tmp_path: Path) -> None:
    other = FILES[CORE].replace(b"libm.so.6\0", b"libz.so.1\0")
    assert f"{CORE} is linked with libz.so.1." in faults(tmp_path, {CORE: other})


def test_size(tmp_path: Path) -> None:
    large: dict[str, bytes | None] = {"gatewise/large.py": b"0" * (MOST_BYTES + 1)}
    assert any("more than 5,000,000" in fault for fault in faults(tmp_path, large))


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({}, None),
        ({"csrc/bindings.cc": None}, "csrc/bindings.cc is missing."),
        ({"build/dev/a.o": b""}, "build/dev/a.o does not belong in it."),
        ({".venv/lib/a.py": b""}, ".venv/lib/a.py does not belong in it."),
        ({"src/gatewise/_native.abi3.so": b""}, "src/gatewise/_native.abi3.so does not belong in it."),
        ({"docs/page.md": str(Path.cwd()).encode()}, f"docs/page.md names a folder of this machine, {Path.cwd()}."),
    ],
)
def test_sdists(tmp_path: Path, files: dict[str, bytes | None], fault: str | None) -> None:
    path = tmp_path / "gatewise-0.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in (dict.fromkeys(NEEDED, b"") | files).items():
            if content is not None:
                entry = tarfile.TarInfo(f"gatewise-0.1.0/{name}")
                entry.size = len(content)
                archive.addfile(entry, BytesIO(content))
    assert list(faults_of_sdist(path)) == ([fault] if fault else [])
