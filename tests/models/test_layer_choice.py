"""What `layers` may be."""

from __future__ import annotations

import pytest

from neuronsteer.errors import ParameterError
from neuronsteer.models.layer_choice import chosen_layers, spell_layers


@pytest.mark.parametrize(
    ("layers", "of", "chosen"),
    [
        ("early", 7, [0, 1]),
        ("middle", 7, [2, 3]),
        (" late ", 7, [4, 5, 6]),
        # None is empty, however small the model.
        ("early", 2, [0]),
        ("middle", 2, [0]),
        ("late", 2, [1]),
        ("late", 1, [0]),
        ("0-1,-1", 4, [0, 1, 3]),
        ("all", 2, [0, 1]),
    ],
)
def test_layers_are_found(layers: str, of: int, chosen: list[int]):
    assert chosen_layers(layers, of, "It") == chosen
    assert chosen_layers(spell_layers(layers, "It"), of, "It") == chosen


def test_thirds_cannot_be_parts_of_a_list():
    with pytest.raises(ParameterError, match="'early', 'middle' or 'late'"):
        spell_layers("early,3", "It")
