"""The same as ``bench.hourly`` by neuralforecast's LSTM with its defaults.

    PYTHON bench/hourly_neuralforecast.py < task.json > result.json

Started by path in an interpreter that has neuralforecast, which is in none of our own requirements; so it imports
nothing of ours. The clock starts when all is imported (ten seconds and more).
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pandas as pd
import torch
from neuralforecast import NeuralForecast  # pyright: ignore[reportMissingImports] - see above
from neuralforecast.models import LSTM  # pyright: ignore[reportMissingImports]

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}


def main() -> None:
    task = json.load(sys.stdin)
    lines, sys.stdout = sys.stdout, sys.stderr
    folder = Path(task["folder"])
    torch.set_num_threads(task["threads"])
    begin, begin_cpu = perf_counter(), process_time()
    df = pd.read_parquet(folder / "train.parquet")
    model = LSTM(
        h=task["horizon"],
        input_size=task["length"],
        encoder_n_layers=task["layers"],
        encoder_hidden_size=task["hidden"],
        windows_batch_size=task["windows"],
        max_steps=task["steps"],
        **QUIET,
    )
    forecaster = NeuralForecast(models=[model], freq=1)
    forecaster.fit(df)
    seconds, processors = perf_counter() - begin, process_time() - begin_cpu
    both = pd.read_parquet(folder / "test.parquet").merge(forecaster.predict(), on=["unique_id", "ds"])
    predicting = perf_counter() - begin - seconds
    y, forecast = both["y"].to_numpy(), both["LSTM"].to_numpy()
    smape = np.mean(200 * np.abs(y - forecast) / (np.abs(y) + np.abs(forecast)))
    versions = {name: version(name) for name in ("neuralforecast", "torch", "pytorch-lightning")}
    result = {"seconds": seconds, "processors": processors, "predicting": predicting, "smape": float(smape)}
    print(json.dumps(result | {"versions": versions}), file=lines)


if __name__ == "__main__":
    main()
