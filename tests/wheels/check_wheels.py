"""What a wheel and an sdist must be before anybody gets them; each check says what is wrong in a sentence.

python tests/wheels/check_wheels.py dist/*
"""

import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection
from packaging.utils import parse_wheel_filename

MOST_BYTES = 5_000_000
NEWEST_GLIBC = (2, 34)
PYTHONS = {("cp311", "cp311"), ("cp312", "abi3")}
# Those of the manylinux policy that make up the C and C++ libraries; the last one is the loader itself.
LINKED = re.compile(r"lib(c|m|dl|pthread|gcc_s|stdc\+\+)\.so\.\d+|ld-linux.*\.so\.\d+")
ISAS = {"EM_X86_64": {"avx512", "avx2", "baseline"}, "EM_AARCH64": {"neon", "baseline"}}
CORE = re.compile(r"gatewise/_native\.[\w.-]+\.so")
SHIPPED = re.compile(r"gatewise/[\w/]+\.(py|pyi|css|html\.j2)|gatewise/py\.typed|gatewise-[\w.]+\.dist-info/[\w./-]+")
NEEDED = {"CMakeLists.txt", "LICENSE", "PKG-INFO", "README.md", "csrc/bindings.cc", "pyproject.toml"}
BUILT = re.compile(r"(^|/)(build|dist|runs|__pycache__|\.[^/]+)(/|$)|\.(so|o|a|pyc|whl)$")
FOLDERS = re.compile(rb"/(?:home|root|Users|tmp|private|var|opt|usr/(?:src|local))/[\w.@/+-]+")
SECRETS = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY|AKIA[0-9A-Z]{16}|gh[opsu]_\w{36}|pypi-AgEI\w{20}")


def faults_of_wheel(path: Path) -> Iterator[str]:
    """What is wrong with a wheel: its tag, size, files, and its core."""
    tags = parse_wheel_filename(path.name)[3]
    if not {(tag.interpreter, tag.abi) for tag in tags} <= PYTHONS:
        yield f"it is for {', '.join(sorted(map(str, tags)))}; wheels are for cp311-cp311 and cp312-abi3."
    glibc = [tuple(map(int, found)) for tag in tags for found in re.findall(r"^manylinux_(\d+)_(\d+)_", tag.platform)]
    if not glibc or max(glibc) > NEWEST_GLIBC:
        yield f"its platform is {', '.join(sorted({tag.platform for tag in tags}))}, not a manylinux_2_34 or older."
    if path.stat().st_size > MOST_BYTES:
        yield f"it has {path.stat().st_size:,} bytes, more than {MOST_BYTES:,}."
    with zipfile.ZipFile(path) as wheel:
        files = {each.filename: wheel.read(each) for each in wheel.infolist() if not each.is_dir()}
    cores = [name for name in files if CORE.fullmatch(name)]
    if len(cores) != 1:
        yield f"it holds {len(cores)} cores, not one."
    for name in sorted(files.keys() - cores):
        if not SHIPPED.fullmatch(name):
            yield f"{name} does not belong in it."
    yield from _leaks(files.items())
    for name in cores:
        oldest = max(glibc, default=NEWEST_GLIBC)
        yield from (f"{name} {fault}" for fault in faults_of_core(files[name], oldest))


def faults_of_core(core: bytes, glibc: tuple[int, ...]) -> Iterator[str]:
    """What is wrong with the compiled core, which may need at most that glibc."""
    elf = ELFFile(BytesIO(core))
    for section in elf.iter_sections():
        if section.name == ".symtab" or section.name.startswith(".debug"):
            yield f"is not stripped: it has a section {section.name}."
        if isinstance(section, DynamicSection):
            yield from _faults_of_links(section)
        if isinstance(section, GNUVerNeedSection) and (oldest := needed_glibc(section)) > glibc:
            yield f"needs glibc {'.'.join(map(str, oldest))}, more than its tag says."
        if isinstance(section, SymbolTableSection) and section.name == ".dynsym":
            exported = {each.name for each in section.iter_symbols() if each.entry.st_shndx != "SHN_UNDEF"} - {""}
            if exported != {"PyInit__native"}:
                yield f"exports {', '.join(sorted(exported)[:5]) or 'nothing'}, not PyInit__native alone."
    found = {isa.decode() for isa in re.findall(rb"\0(avx512|avx2|wide|neon|baseline)(?=\0)", core)}
    if found != ISAS.get(str(elf["e_machine"])):
        yield f"has the instruction sets {', '.join(sorted(found)) or '(none)'}."


def _faults_of_links(section: DynamicSection) -> Iterator[str]:
    for tag in section.iter_tags():
        if tag.entry.d_tag == "DT_NEEDED" and not LINKED.fullmatch(tag.needed):  # pyright: ignore[reportAttributeAccessIssue]
            yield f"is linked with {tag.needed}."  # pyright: ignore[reportAttributeAccessIssue]
        if tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
            yield "looks for libraries in a folder of its own."


def needed_glibc(section: GNUVerNeedSection) -> tuple[int, ...]:
    """The oldest glibc that has all that a core needs."""
    names = [each.name for _, versions in section.iter_versions() for each in versions]
    return max(
        (tuple(map(int, name[6:].split("."))) for name in names if re.fullmatch(r"GLIBC_[\d.]+", name)), default=()
    )


def faults_of_sdist(path: Path) -> Iterator[str]:
    """What is wrong with an archive of the source."""
    with tarfile.open(path) as archive:
        files = {
            str(PurePosixPath(*PurePosixPath(each.name).parts[1:])): archive.extractfile(each).read()  # pyright: ignore[reportOptionalMemberAccess]
            for each in archive.getmembers()
            if each.isfile()
        }
    for name in sorted(NEEDED - files.keys()):
        yield f"{name} is missing."
    for name in sorted(files):
        if BUILT.search(name):
            yield f"{name} does not belong in it."
    yield from _leaks(files.items(), all_folders=False)


def _leaks(files: Iterable[tuple[str, bytes]], all_folders: bool = True) -> Iterator[str]:
    """Folders of the machine it was built on (in source, only of this one), and secrets."""
    here = {bytes(path) for path in (Path.cwd(), Path(tempfile.gettempdir()) / "pip-", Path.home() / ".")}
    for name, content in files:
        folders = {each for each in here if each in content}
        if all_folders and name.endswith(".so"):
            folders |= set(FOLDERS.findall(content))
        for folder in sorted(folders):
            yield f"{name} names a folder of this machine, {folder.decode()}."
        if SECRETS.search(content):
            yield f"{name} holds what looks like a secret."


def main() -> None:
    if not sys.argv[1:]:
        sys.exit("Name the files to check: python tests/wheels/check_wheels.py dist/*")
    wrong = 0
    for path in map(Path, sys.argv[1:]):
        faults = list((faults_of_wheel if path.suffix == ".whl" else faults_of_sdist)(path))
        wrong += len(faults)
        print(f"{path.name}: {path.stat().st_size:,} bytes,", "as it should be" if not faults else "not fit to ship:")
        print(*(f"  {fault}" for fault in faults), sep="\n", end="\n" if faults else "")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
