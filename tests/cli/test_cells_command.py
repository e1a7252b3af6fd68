"""gatewise cells: the table, one cell, its LaTeX, and docs/cells.md, which must be what it prints."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_tools import command, refuses, succeeds

from gatewise.spec import CELLS, Variant, variant
from gatewise.spec.equations import equations, latex

PAGE = Path(__file__).parents[2] / "docs" / "cells.md"
LETTERS = {"D": 5, "H": 11, "P": 3, "N": 2}
ROWS = {
    "rnn": "g | h | – | the simple recurrent network, which forgets | clip, zoneout, learned_state | Elman 1990",
    "lstm": "i f g o | h c | – | the vanilla LSTM, torch.nn.LSTM's | all | Gers et al. 2000",
    "lstm-1997": "i g o, f = 1 | h c | – | the first LSTM: no forget gate, other squashing | all "
    "| Hochreiter and Schmidhuber 1997",
    "nig": "f g o, i = 1 | h c | f o | no input gate | all | Greff et al. 2017",
    "cifg": "i g o, f = 1 − i | h c | i o | coupled input and forget gates | all | Greff et al. 2017",
    "fgr": "i f g o | h c i f o | i f o | full gate recurrence: gates see the gates of the step before "
    "| all but layer_norm | Greff et al. 2017",
    "slstm": "i f g o | h c n m | – | exponential gates with a normaliser and a stabiliser | clip | Beck et al. 2024",
}


def test_the_table_has_a_line_for_each_cell():
    lines = succeeds("cells").raw_out.splitlines()
    assert lines[0].split() == ["name", "gates", "states", "peep", "what", "it", "is", "options", "paper"]
    assert [line.split()[0] for line in lines[1:]] == list(CELLS)
    assert all(line == line.rstrip() for line in lines)
    rows = {line.split()[0]: " | ".join(re.split(r" {2,}", line)[1:]) for line in lines[1:]}
    assert {name: rows[name] for name in ROWS} == ROWS


def on_terminal(width: int) -> str:
    """The table as a terminal of that many columns gets it, without colours."""
    here, there = pty.openpty()
    environment = os.environ | {"COLUMNS": str(width), "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    gatewise = shutil.which("gatewise", path=str(Path(sys.executable).parent)) or "gatewise"
    with subprocess.Popen([gatewise, "cells"], stdout=there, env=environment) as process:
        os.close(there)
        raw = b""
        while chunk := _read(here):
            raw += chunk
        assert process.wait(timeout=60) == 0
    os.close(here)
    return re.sub(r"\x1b\[[0-9;]*m", "", raw.decode()).replace("\r\n", "\n")


def _read(file: int) -> bytes:
    try:
        return os.read(file, 65536)
    except OSError:  # what Linux says at the end
        return b""


@pytest.mark.parametrize(("width", "columns"), [(80, 5), (109, 5), (110, 7), (120, 7), (200, 7)])
def test_the_table_fits_a_terminal_and_breaks_between_words_only(width: int, columns: int):
    text = on_terminal(width)
    lines = text.splitlines()
    assert len(re.split(r" {2,}", lines[0].strip())) == columns
    assert max(map(len, lines)) <= width
    words = text.split()
    for cell in CELLS.values():
        assert set(cell.title.split()) <= {word.rstrip(";") for word in words}
        assert cell.name in words
    assert "Hochreiter" in words
    assert "layer_norm" in words


def parameters(text: str) -> dict[str, tuple[int, ...]]:
    """The parameters of one cell as it is shown, with numbers for letters."""
    found = re.findall(r"^  (\w+) +\[([^]]*)\]", text, re.MULTILINE)
    return {name: tuple(map(size, shape.split(", "))) for name, shape in found}


def size(text: str) -> int:
    return int(text[:-1] or 1) * LETTERS[text[-1]]


@pytest.mark.parametrize(("flags", "peephole"), [([], None), (["--peephole"], True), (["--no-peephole"], False)])
@pytest.mark.parametrize("name", CELLS)
def test_one_cell(name: str, flags: list[str], peephole: bool | None):
    cell = CELLS[name]
    if peephole and "peephole" not in cell.options:
        assert refuses("cells", name, *flags).startswith(f"peephole is not defined for the cell {name!r}; it is for")
        return
    chosen = variant(name, peephole=peephole)
    text = succeeds("cells", name, *flags).raw_out
    assert text.startswith(f"{name}: {cell.title}\n{cell.paper}\n")
    assert text.endswith("equations\n" + "".join(f"  {line}\n" for line in equations(chosen)))
    assert parameters(text) == chosen.shapes(LETTERS["D"], LETTERS["H"])
    for gate in cell.gates:
        assert re.search(rf"^  {gate.name}  \S.*  {re.escape(gate.meaning)}$", text, re.MULTILINE)
    assert f"\nstates     {', '.join(cell.states)}\n" in text
    assert f"\npeepholes  {peepholes(chosen)}\n" in text
    assert succeeds("cells", name, *flags, "--latex").raw_out == latex(chosen) + "\n"


def peepholes(chosen: Variant) -> str:
    if "peephole" not in chosen.cell.options:
        return "none"
    old = [gate for gate in "if" if gate in chosen.cell.gate_names]
    parts = [f"{' and '.join(old)} see{'s' if len(old) == 1 else ''} the old c"]
    parts += ["o sees the new c"] if "o" in chosen.cell.gate_names else []
    return ", ".join(parts) + ("" if chosen.peephole else " (not unless asked for)")


SHOWN = [
    ("lstm", "  weight_ih  [4H, D]  W; rows i, f, g, o"),
    ("rnn", "  weight_hh  [H, H]  U; rows g"),
    ("rnn-relu", "  g  relu(x)  the new state"),
    ("lstm-1997", "  g  4σ(x) − 2  candidate: what could enter the cell"),
    ("nog", "  o  1        output gate: how much of the cell is shown (always open)"),
    ("cifg", "  f  1 − i    forget gate: how much of the cell stays"),
    ("cifg", "  weight_peephole  [2H]     p; rows i, o"),
    ("fgr", "  weight_gates     [3H, 3H]  R; rows and columns i, f, o"),
    ("nog", "options    all"),
    ("slstm", "options    clip"),
]


@pytest.mark.parametrize(("name", "line"), SHOWN)
def test_lines_of_one_cell(name: str, line: str):
    assert line in succeeds("cells", name).raw_out.splitlines()


WRONG = [
    (["gru"], f"cell must be one of {', '.join(CELLS)}, got 'gru'."),
    (["LSTM", "--latex"], f"cell must be one of {', '.join(CELLS)}, got 'LSTM'."),
    (["--latex"], "--latex, --peephole and --no-peephole are about one cell: name it."),
    (["--no-peephole"], "--latex, --peephole and --no-peephole are about one cell: name it."),
    (["lstm", "--peephole", "--no-peephole"], "give --peephole or --no-peephole, not both."),
    (["lstm", "--markdown"], "--markdown prints one page about all cells: it takes no other words."),
    (["--markdown", "--latex"], "--markdown prints one page about all cells: it takes no other words."),
]


@pytest.mark.parametrize(("words", "text"), WRONG, ids=str)
def test_wrong_words_get_a_sentence(words: list[str], text: str):
    assert refuses("cells", *words) == text


def test_words_that_are_not_understood():
    assert command("cells", "lstm", "cifg").code == 2
    assert command("cells", "--peep").code == 2


def test_help():
    text = succeeds("cells", "--help").out
    assert text.count("gatewise cells ") == 4
    for option in ("[NAME]", "--latex", "--peephole", "--no-peephole", "--markdown"):
        assert option in text
    assert "• cells" in succeeds("--help").out


def test_the_document_is_what_the_command_prints():
    assert succeeds("cells", "--markdown").raw_out == PAGE.read_text(encoding="utf-8")


def test_the_document_has_the_equations_of_every_cell_and_option():
    page = PAGE.read_text(encoding="utf-8")
    sections = dict(zip((parts := re.split(r"^##+ (.+)$", page, flags=re.MULTILINE))[1::2], parts[2::2], strict=True))
    options = {
        "peephole=True": {"peephole": True},
        "layer_norm=True": {"layer_norm": True},
        "clip=3": {"clip": 3.0},
        "proj_size=P": {"proj_size": 2},
        "nonrecurrent_proj_size=N": {"proj_size": 2, "nonrecurrent_proj_size": 3},
        "Convolution": {"peephole": True, "kernel": (3, 3), "image": (4, 4)},
    }
    shown = {name: variant(name) for name in CELLS} | {name: variant(**values) for name, values in options.items()}
    for name, chosen in shown.items():
        assert f"\n```math\n{latex(chosen)}\n```\n" in sections[name]
    assert list(sections) == ["How to read the equations", *CELLS, "Options", *options]
    assert "`weight_hh` [4H, P], `weight_hr` [P, H], `weight_hp` [N, H]" in sections["nonrecurrent_proj_size=N"]
    assert "`weight_ih` [4H, D, k_y, k_x]" in sections["Convolution"]
    assert "`weight_peephole` [3H, Y, X]" in sections["Convolution"]
    assert "equations that change: v, i, f, g, o, h\n" in sections["layer_norm=True"]
    assert (
        "defined for: lstm, lstm-1997, peephole, nig, nfg, nog, niaf, noaf, cifg, np\n" in sections["layer_norm=True"]
    )


def test_the_documents_epsilon_is_the_references():
    from gatewise.reference.cell import NORM_EPS

    assert f"√(variance + {NORM_EPS:.0e})".replace("e-05", "e-5") in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [[], ["fgr"], ["--markdown"]], ids=str)
def test_no_torch_and_no_polars_are_loaded(words: list[str]):
    code = f"import sys; from gatewise.cli import main; main({['cells', *words]}); print(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(result.stderr.split()) & {"torch", "polars", "numpy", "matplotlib"}
