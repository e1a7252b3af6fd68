"""One thread, for these tests and the commands they start: a team of threads only waits for a busy core."""

import os

# Said through the environment, so that torch need not be imported here.
os.environ.setdefault("OMP_NUM_THREADS", "1")
