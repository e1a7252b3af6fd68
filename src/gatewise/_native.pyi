"""The compiled core (csrc/bindings.cc). Addresses are not checked here: gatewise.ops does that."""

def available_isas() -> list[str]:
    """Return the instruction sets built in and supported by this CPU, the best first."""

def isa() -> str:
    """Return the instruction set in use; ValueError if GATEWISE_ISA names one that is not available."""

def lstm_forward(
    steps: int,
    rows: int,
    inputs: int,
    hidden: int,
    x: int,
    x_time: int,
    x_row: int,
    h0: int,
    c0: int,
    w_ih: int,
    w_hh: int,
    b_ih: int,
    b_hh: int,
    y: int,
    y_time: int,
    y_row: int,
    h_n: int,
    c_n: int,
    reverse: bool,
    order: str,
    isa: str | None = None,
) -> None:
    """Run a layer in one direction: csrc/lstm_forward.h. Strides in floats; biases may be 0; releases the GIL."""

def math(name: str, source: int, target: int, count: int, isa: str | None = None) -> None:
    """Apply exp, sigmoid or tanh to an array of float32."""
