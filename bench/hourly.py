"""A forecaster trained on M4 hourly, from the table to the model: our side of a case of ``bench.training``.

    python -m bench.hourly < task.json > result.json

A process of its own, as its peer's (``hourly_neuralforecast.py``). The clock starts when all is imported.

What is the same: windows in a step, steps that the LSTM reads of a window, layers, units, steps of the optimizer,
all series and all their rows, float32. What differs:

- Of its ``length`` steps ours spends the last ``horizon`` on the horizon itself and sees that much less of the past,
  but beside each step the value a week before; the peer reads the past only, a week of it, and makes the forecast from
  its last ``horizon`` outputs.
- Ours has 4 inputs where the peer has 1, and one linear layer (3 quantiles and weights of candidates) where the peer
  has two of 128 units: with 128 units, 25.7 against 26.0 GFLOP of products in a step, with 32, 1.67 against 1.76 (the
  peer's decoder has 128 all the same).
- The loss is the quantiles' beside the median's absolute error; the optimizer AdamW beside Adam; windows are scaled by
  mean and deviation beside median and deviation from it.
- Ours draws from all series at every step, the peer from 32; ours validates after every 100 steps on windows that it
  does not train on, the peer does not validate. That time counts.
"""

import json
import sys
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl
import torch

from gatewise import Forecaster
from gatewise.tasks.forecast.training import STEPS_PER_EPOCH


def main() -> None:
    print(json.dumps(trained(json.load(sys.stdin))))


def trained(task: dict[str, Any]) -> dict[str, float]:
    """Train and forecast; return the seconds of each, those of processors in the training, and the sMAPE in percent.

    Args:
        task: "folder" with train.parquet and test.parquet, "horizon", "length" (steps of a window), "season", "windows"
            (in a step), "layers", "hidden", "steps", "threads".
    """
    folder, epochs = Path(task["folder"]), task["steps"] // STEPS_PER_EPOCH
    if epochs * STEPS_PER_EPOCH != task["steps"]:
        raise ValueError(f"steps come in epochs of {STEPS_PER_EPOCH}")
    torch.set_num_threads(task["threads"])
    begin, begin_cpu = perf_counter(), process_time()
    df = pl.read_parquet(folder / "train.parquet")
    model = Forecaster(
        task["horizon"],
        window=task["length"] - task["horizon"],
        season=task["season"],
        hidden=task["hidden"],
        layers=task["layers"],
        batch=task["windows"],
        epochs=epochs,
        patience=epochs,  # no early stop
        holdout=0,
        threads=task["threads"],
    ).fit(df)
    seconds, processors = perf_counter() - begin, process_time() - begin_cpu
    both = pl.read_parquet(folder / "test.parquet").join(model.predict(), on=["unique_id", "ds"])
    predicting = perf_counter() - begin - seconds
    error = smape(both["y"].to_numpy(), both["q0.5"].to_numpy())
    return {"seconds": seconds, "processors": processors, "predicting": predicting, "smape": error}


def smape(y: np.ndarray, forecast: np.ndarray) -> float:
    """Return the symmetric mean absolute percentage error, 0 to 200."""
    return float(np.mean(200 * np.abs(y - forecast) / (np.abs(y) + np.abs(forecast))))


if __name__ == "__main__":
    main()
