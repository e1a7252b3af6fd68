"""gatewise in several processes at once, forked from one that has loaded torch, which takes its time.

Each line of standard input is a job in JSON, [folder, size, words]; its answer is a line with [code, stdout, stderr]
of each process.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple


class Result(NamedTuple):
    """What one process did."""

    code: int
    out: str
    err: str


class Launcher:
    """The process that forks, for as long as this is entered."""

    def __enter__(self) -> "Launcher":
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, __file__], stdin=pipe, stdout=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def __call__(self, folder: Path, size: int, *words: object) -> list[Result]:
        """Run a command in ``size`` processes, in a folder."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(folder), size, [str(word) for word in words]]), file=self._process.stdin, flush=True)
        return [Result(*each) for each in json.loads(self._process.stdout.readline())]


def _launch(folder: str, size: int, words: list[str]) -> list[Result]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as said:
        children = []
        for rank in range(size):
            child = os.fork()
            if not child:
                group = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in group.items()} if size > 1 else {})
                _be_one(folder, Path(said, f"{rank}"), words)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        texts = [[Path(said, f"{rank}.{name}").read_text() for name in ("out", "err")] for rank in range(size)]
    return [Result(code, *each) for code, each in zip(codes, texts, strict=True)]


def _be_one(folder: str, said: Path, words: list[str]) -> None:
    from gatewise.cli import main

    code = 99
    try:
        os.chdir(folder)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{said}.{name}", os.O_CREAT | os.O_WRONLY), number)
        code = main(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve() -> None:
    from gatewise.tasks.forecast import run

    # Its figures have tests of their own.
    run.render_report = lambda data: "<!doctype html>"  # pyright: ignore[reportPrivateImportUsage]
    for line in sys.stdin:
        print(json.dumps(_launch(*json.loads(line))), flush=True)


if __name__ == "__main__":
    _serve()
