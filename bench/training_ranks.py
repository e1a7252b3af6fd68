"""One process of a training that one or several share: a case of ``bench.training``.

    torchrun --nproc-per-node 2 -m bench.training_ranks 64 100 128 60

The arguments are B of all processes together, T, H and the steps that count. The first process prints the median
seconds of a step, by the clock and of its processor.
"""

import json
import sys
from itertools import pairwise
from statistics import median
from time import process_time

from bench.training_loop import HORIZON, WARM, table
from gatewise import Forecaster
from gatewise.tasks.forecast.training import STEPS_PER_EPOCH, Silent
from gatewise.train import Step, joined_group


class Clock(Silent):
    """A watcher that keeps the seconds of the steps, and those that a processor worked."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.worked: list[float] = [process_time()]

    def step(self, step: Step) -> None:
        """Keep them."""
        self.seconds.append(step.seconds)
        self.worked.append(process_time())


def main() -> None:
    batch, length, hidden, steps = map(int, sys.argv[1:])
    epochs, clock = -(-(WARM + steps) // STEPS_PER_EPOCH), Clock()
    with joined_group() as group:
        Forecaster(HORIZON, window=length - HORIZON, hidden=hidden, batch=batch, epochs=epochs, patience=epochs).fit(
            table(), watch=clock
        )
        if group.first:
            worked = [after - before for before, after in pairwise(clock.worked)]
            print(json.dumps({"seconds": median(clock.seconds[WARM:]), "processors": median(worked[WARM:])}))


if __name__ == "__main__":
    main()
