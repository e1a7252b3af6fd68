"""Batches gathered for some steps at once are those gathered one by one."""

import numpy as np
import pytest
from forecast_panels import RICH, rich_frame

from gatewise.data import build_panel
from gatewise.data.windows import OriginRanges, extend
from gatewise.runtime.windows import Shape, Windows
from gatewise.tasks.forecast import batches as module
from gatewise.tasks.forecast.batches import Batches, Drawn
from gatewise.tasks.forecast.encoding import fit_encoding
from gatewise.tasks.forecast.inputs import windows_of
from gatewise.tasks.forecast.split import Split
from gatewise.train import Part


def _same(one: Drawn, two: Drawn) -> bool:
    pairs = [*zip(one.windows, two.windows, strict=True)]
    pairs += [(one.origins.series, two.origins.series), (one.origins.row, two.origins.row)]
    return all(np.array_equal(a, b, equal_nan=True) and a.dtype == b.dtype for a, b in pairs)


def _ranges_and_inputs() -> tuple[OriginRanges, Windows]:
    panel = extend(build_panel(rich_frame((40, 35, 60), 4), RICH, missing="mask"), 4)
    split = Split.of(panel, 12, 4, 4)
    return split.training(), windows_of(panel, fit_encoding(panel, split.train_ends), Shape(12, 4, (3,)))


@pytest.mark.parametrize("size", [1, 3, 16])
def test_steps_at_once_are_steps_one_by_one(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (ranges, inputs), steps = _ranges_and_inputs(), 19

    def make() -> Batches:
        return Batches(ranges, inputs, size, 5, steps)

    several = make()
    monkeypatch.setattr(module, "STEPS_AT_ONCE", 1)
    one = make()
    # In order, out of order, and for several parts in turn, as turns and processes ask for them.
    asked = [(epoch, step, Part()) for epoch in (1, 2) for step in range(1, steps + 1)]
    asked += [(2, 18, Part(1, 3))]
    asked += [(1, step, Part(index, 3)) for step in (15, 16, 17, 3) for index in range(3)]
    asked += [(epoch, 3, Part()) for epoch in (1, 2, 1)]
    for epoch, step, part in asked:
        drawn = several.batch(epoch, step, part)
        assert _same(drawn, one.batch(epoch, step, part))
        origins = ranges.numbered(ranges.draw(size, (5, epoch, step)))
        wanted = origins.take(part.rows(len(origins)))
        assert _same(drawn, Drawn(wanted, inputs.gather(wanted)))


def test_large_windows_are_gathered_for_fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges, inputs = _ranges_and_inputs()
    gathered: list[int] = []
    gather = Windows.gather
    monkeypatch.setattr(Windows, "gather", lambda self, origins: gathered.append(len(origins)) or gather(self, origins))
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 3 * 2 * (12 + 4) * len(inputs.channels))
    batches = Batches(ranges, inputs, 2, 5, 7)
    for epoch in (1, 2):
        for step in range(1, 8):
            batches.batch(epoch, step, Part())
    # Batches of 2, for 3 steps at once and no step beyond an epoch's seventh.
    assert gathered == [6, 6, 2] * 2
