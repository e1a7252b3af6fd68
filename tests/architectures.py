"""Random architectures whose blocks fit each other, with random weights."""

import numpy as np
from hypothesis import strategies as st

from gatewise.errors import InputError
from gatewise.format import Block, Conv1d, Embedding, LayerNorm, Linear, Lstm, ModelFile, QuantileMix, Scaling
from gatewise.spec import BUILT_IN

small = st.integers(1, 4)
flag = st.booleans()
positive = st.floats(1e-6, 1e6)


@st.composite
def lstms(draw: st.DrawFn, width: int) -> Lstm:
    """Any cell with any of its options."""
    values = {
        "cell": draw(st.sampled_from(BUILT_IN)),
        "num_layers": draw(small),
        "bidirectional": draw(flag),
        "bias": draw(flag),
        "residual": draw(flag),
    }
    hidden = draw(st.integers(2, 4))
    options = {
        "peephole": flag,
        "layer_norm": flag,
        "clip": positive,
        "proj_size": st.integers(1, hidden - 1),
        "nonrecurrent_proj_size": small,
        "learned_state": flag,
    }
    for name, choices in options.items():
        chosen = {**values, name: draw(choices)}
        try:
            Lstm(width, hidden, **chosen)
        except InputError:
            continue
        values = chosen if draw(flag) else values
    return Lstm(width, hidden, **values)


@st.composite
def architectures(draw: st.DrawFn) -> tuple[Block, ...]:
    """One to five blocks."""
    blocks: list[Block] = [draw(st.builds(Embedding, small, small))] if draw(flag) else []
    for _ in range(draw(st.integers(0 if blocks else 1, 4))):
        width = blocks[-1].output_size if blocks else draw(small)
        choices: list[st.SearchStrategy] = [
            lstms(width),
            st.builds(Linear, st.just(width), small, flag),
            st.builds(LayerNorm, st.just(width), positive),
            st.builds(Conv1d, st.just(width), small, small, small, small, flag),
            st.builds(Scaling, st.just(width), flag),
        ]
        if width > 1:
            choices.append(st.integers(1, width - 1).map(lambda k, width=width: QuantileMix(k, width - k)))
        blocks.append(draw(st.one_of(choices)))
    return tuple(blocks)


def with_weights(blocks: tuple[Block, ...], seed: int = 0, task: str = "demo") -> ModelFile:
    """A model of random weights; all are above 0 where they divide."""
    rng = np.random.default_rng(seed)
    empty = ModelFile(task, blocks, {})
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in empty.shapes().items()}
    weights |= {name: np.abs(value) + np.float32(0.5) for name, value in weights.items() if name.endswith("std")}
    return ModelFile(task, blocks, weights)
