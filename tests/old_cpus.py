"""Older processors, emulated by qemu-user: everything starts, chooses what there is, and computes the right bits.

    python tests/old_cpus.py FOLDER CASES PYTHON

FOLDER has what CMake built of tests/cpp, CASES is a file of tests/native/native_record.py, PYTHON an interpreter that
has a wheel, as users have it, and torch. ``make test-old-cpus``.
"""

import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from gatewise.format import Conv1d, LayerNorm, Linear, Lstm, ModelFile, save_model

CPUS = {"Nehalem": "baseline", "SandyBridge": "baseline", "Haswell,-fma": "baseline", "Haswell": "avx2"}
"""Models from 2008 on, with the best instruction set of ours that each has: SandyBridge has AVX, but not AVX2."""

LACKED = {"baseline": "avx2", "avx2": "avx512"}
"""The next better instruction set."""

OLDEST = "qemu64"
"""What every x86-64 processor can do, which is less than NumPy needs."""

RUNTIME = """
import hashlib, sys
import numpy as np
import gatewise
from gatewise import runtime
model, x = runtime.load(sys.argv[1]), np.load(sys.argv[2])
stream = model.stream()
steps = np.stack([stream.step(each) for each in x[0]])
print(",".join(gatewise.engine().isas), hashlib.sha256(model.run(x).tobytes() + steps.tobytes()).hexdigest())
"""

TORCH = """
import hashlib, sys
import numpy as np
import torch
import gatewise
torch.set_num_threads(1)
rng = np.random.default_rng(0)
layer = gatewise.LSTM(5, 24, 2, cell="peephole", bidirectional=True, backend="native")
for parameter in layer.parameters():
    parameter.data = torch.from_numpy(rng.uniform(-0.3, 0.3, parameter.shape).astype(np.float32))
x = torch.from_numpy(np.load(sys.argv[2])).requires_grad_()
y, _ = layer(x)
y.backward(torch.from_numpy(rng.normal(size=y.shape).astype(np.float32)))
found = b"".join(each.detach().numpy().tobytes() for each in (y, x.grad, *(p.grad for p in layer.parameters())))
print(",".join(gatewise.engine().isas), hashlib.sha256(found).hexdigest())
"""

IMPORT = "from gatewise import _native; print(_native.isa(), ','.join(_native.available_isas()))"
PLACE = "import sys, gatewise; print(sys.prefix, gatewise.__file__, sep='\\n')"


def emulated(cpu: str, *command: str | Path, isa: str = "") -> subprocess.CompletedProcess[str]:
    return _run(["qemu-x86_64", "-cpu", cpu, *command], isa)


def native(*command: str | Path, isa: str = "") -> str:
    run = _run(command, isa)
    assert run.returncode == 0, run.stderr
    return run.stdout


def _run(command: Sequence[str | Path], isa: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GATEWISE_ISA": isa, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def good(run: subprocess.CompletedProcess[str]) -> str:
    assert run.returncode == 0, f"exit {run.returncode}\n{run.stdout[-1000:]}{run.stderr[-1000:]}"
    return run.stdout


def check_instructions(bits: Path, library: Path) -> str:
    """Only the kernels have what not every processor has, and they share no function with anybody else."""
    newer = r"8gatewise\d+(avx512|avx2|wide)"
    function, strangers, kernels = "", set[str](), set[str]()
    for line in native("objdump", "-d", "--no-show-raw-insn", bits).splitlines():
        if header := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            function = header[1]
        # With this letter begin the instructions of AVX and all that came after it.
        elif re.match(r"\s+[0-9a-f]+:\s+v", line):
            (kernels if re.search(newer, function) else strangers).add(function)
    assert kernels, "no kernel has a vector instruction: objdump's output is not understood"
    assert not strangers, f"functions with instructions that not every processor has: {sorted(strangers)}"
    # Where several object files have a function, the linker keeps one of them for all callers.
    sources = {f"{path.name}.o" for path in Path("csrc").glob("*.cc") if "namespace GATEWISE_ISA" in path.read_text()}
    names = re.findall(r":([^:\n]+):[0-9a-f]+ [TWi] (\S+)$", native("nm", "-o", library), re.MULTILINE)
    own = [name for member, name in names if member in sources]
    shared = [name for name in own if not re.search(r"8gatewise\d+(avx512|avx2|wide|baseline)", name)]
    assert own, "the library has no kernels: nm's output is not understood"
    assert not shared, f"functions of kernels that others may be given: {shared}"
    return f"{len(kernels)} functions have newer instructions, all of them kernels; kernels share none with others"


def check_wheel(python: Path) -> str:
    """What is tested is a wheel, and not the working tree, whose core has more than a wheel's."""
    environment, package = native(python, "-c", PLACE).splitlines()
    assert Path(package).is_relative_to(environment), f"gatewise comes from {package}, not from {environment}"
    (wheel,) = Path(package).parents[1].glob("gatewise-*.dist-info/WHEEL")
    tags = re.findall(r"^Tag: (.+)$", wheel.read_text(), re.MULTILINE)
    return f"a wheel for {', '.join(tags)}, in {environment}"


def check_refusal(bits: Path) -> str:
    """The emulator refuses what a processor lacks; without that nothing here could fail."""
    for cpu, lacks in ((OLDEST, "avx2"), ("SandyBridge", "avx2"), ("Haswell,-fma", "avx2"), ("Haswell", "avx512")):
        died = emulated(cpu, bits, "unguarded", lacks).returncode
        assert died == -signal.SIGILL, f"{lacks} on {cpu}: exit {died}, where an illegal instruction was wanted"
    good(emulated("Haswell", bits, "unguarded", "avx2"))
    return "the emulator refuses AVX2 and AVX-512 where a processor lacks them"


def check_core(cpu: str, python: Path) -> str:
    """The compiled core alone, which needs no NumPy."""
    isa, isas = good(emulated(cpu, python, "-c", IMPORT)).split()
    assert isa == isas == "baseline", isas
    return f"{cpu}: the core without NumPy starts with {isas}"


def check_cases(cpu: str, isa: str, bits: Path, cases: Path) -> str:
    """All recorded cases."""
    return f"{cpu}: {good(emulated(cpu, bits, cases, isa)).strip()}"


def check_python(cpu: str, isa: str, python: Path, code: str, given: Sequence[Path]) -> str:
    """Python chooses the instruction set and gives the bits that it gives here."""
    isas, digest = good(emulated(cpu, python, "-c", code, *given)).split()
    assert isas.split(",")[0] == isa, isas
    assert "avx512" not in isas, isas
    _, expected = native(python, "-c", code, *given, isa=isa).split()
    assert digest == expected, f"{cpu} gives other bits than {isa} here"
    return f"{cpu}: {'a layer in torch' if code is TORCH else 'a saved model'} has {isas}, and the same bits as here"


def check_forced(cpu: str, isa: str, python: Path) -> str:
    """An instruction set that the processor lacks is an error that says which ones it has."""
    run = emulated(cpu, python, "-c", "import gatewise; gatewise.engine()", isa=isa)
    told = f"gatewise.errors.InputError: instruction set '{isa}' is not available here"
    last = run.stderr.strip().splitlines()[-1]
    assert run.returncode == 1, run.returncode
    assert last.startswith(told), last
    assert last.endswith("baseline."), last
    return f"{cpu}, GATEWISE_ISA={isa}: {last.removeprefix('gatewise.errors.')}"


def model(folder: Path) -> list[Path]:
    """A model file, and inputs for it."""
    rng = np.random.default_rng(0)
    blocks = (Conv1d(5, 6, 3), Lstm(6, 33, 2, "peephole"), LayerNorm(33), Linear(33, 7))
    shapes = ModelFile("demo", blocks, {}).shapes()
    weights = {name: rng.uniform(-0.3, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    save_model(ModelFile("demo", blocks, weights), folder / "model.safetensors")
    np.save(folder / "x.npy", rng.normal(size=(9, 12, 5)).astype(np.float32))
    return [folder / "model.safetensors", folder / "x.npy"]


def main() -> None:
    bits, cases, python = Path(sys.argv[1], "bits"), Path(sys.argv[2]), Path(sys.argv[3]).absolute()
    if platform.machine() != "x86_64":
        sys.exit("make test-old-cpus runs on x86-64 processors.")
    if not python.exists():
        sys.exit(f"make test-old-cpus: there is no {python} (OLD_CPUS_PYTHON).")
    print(check_instructions(bits, bits.parent / "libgatewise_engine.a"))
    print(check_refusal(bits))
    print(check_wheel(python))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as team:
        given = model(Path(folder))
        work = [
            # Not AVX2's: this emulator (7.2) reads all of what a masked load reads in part, and ends where
            # the rest is not there. Here, and on every processor that has it, `bits` compares them without it.
            team.submit(check_cases, OLDEST, "baseline", bits, cases),
            *(team.submit(check_python, cpu, CPUS[cpu], python, TORCH, given) for cpu in ("Nehalem", "Haswell")),
            team.submit(check_core, OLDEST, python),
            *(team.submit(check_python, cpu, isa, python, RUNTIME, given) for cpu, isa in CPUS.items()),
            *(team.submit(check_forced, cpu, LACKED[isa], python) for cpu, isa in CPUS.items()),
        ]
        for each in work:
            print(each.result(), flush=True)


if __name__ == "__main__":
    main()
