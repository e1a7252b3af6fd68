"""A trained model in an environment with nothing but the wheel, NumPy and safetensors: the bits of the torch network.

python tests/wheels/clean_environment.py build/wheels/clean-cp311/bin/python; make wheels does.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import torch

from gatewise import Forecaster
from gatewise.format import QuantileMix, load_model
from gatewise.models import from_file

SHIPPED = """
import hashlib, sys
from importlib.metadata import distributions
import numpy as np
from gatewise import runtime

names = sorted(each.name for each in distributions() if each.name not in {"pip", "setuptools"})
assert names == ["gatewise", "numpy", "safetensors"], names
given = np.load(sys.argv[2])
model = runtime.load(sys.argv[1])
y = model.run(given["x"], candidates=given["candidates"])
print(hashlib.sha256(y.tobytes()).hexdigest())
forecast = runtime.Forecaster(model).predict([runtime.Series(given["y"])])
print(hashlib.sha256(forecast.tobytes()).hexdigest())
"""


def main() -> None:
    python = Path(sys.argv[1]).absolute()
    y = np.sin(np.arange(300) / 12 * 2 * np.pi) + 5
    forecaster = Forecaster(horizon=12, season=12, hidden=16, epochs=3, seed=0).fit(pl.DataFrame({"y": y}))
    with tempfile.TemporaryDirectory() as folder:
        path, arrays = Path(folder, "model.safetensors"), Path(folder, "given.npz")
        forecaster.save(path)
        file = load_model(path)
        mixture = file.architecture[-1]
        assert isinstance(mixture, QuantileMix)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(5, 30, file.architecture[0].input_size or 0)).astype(np.float32)
        candidates = rng.normal(size=(5, 12, mixture.candidates)).astype(np.float32)
        np.savez(arrays, x=x, candidates=candidates, y=y)
        with torch.no_grad():
            here = from_file(file)(torch.from_numpy(x), torch.from_numpy(candidates)).numpy()
        table = forecaster.predict()
        quantiles = np.stack([table[name].to_numpy() for name in table.columns[2:]], -1)[None]
        command = [python, "-I", "-c", SHIPPED, path, arrays]
        there = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout.split()
    expected = [hashlib.sha256(values.tobytes()).hexdigest() for values in (here, quantiles)]
    assert there == expected, json.dumps({"there": there, "here": expected}, indent=1)
    print("the same bits: a network's outputs and a forecast")


if __name__ == "__main__":
    main()
