"""Facts of the machine, without which a figure means nothing."""

import math
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gatewise

PACKAGES = ("gatewise", "torch", "onnxruntime", "jax", "numpy")


def machine() -> dict[str, str | int]:
    """Return what computes."""
    engine = gatewise.engine()
    return {
        "processor": _processor(),
        "cores": processors(),
        "isa": engine.isa,
        "team": engine.team,
        "system": platform.platform(),
    }


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> float:
    """Return the seconds that processors of this machine have worked, for anybody; nothing where that is not told."""
    try:
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return math.nan
    idle, waiting = ticks[3:5]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def versions() -> dict[str, str]:
    """Return the versions of what takes part, if it is installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """The processor's name; family and model too, as virtual machines leave them out of the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in pairs}
    numbers = [f"{name} {facts[key]}" for name, key in (("family", "cpu family"), ("model", "model")) if key in facts]
    return " ".join([facts.get("model name", platform.machine()), *numbers])
