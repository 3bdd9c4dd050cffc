"""No encoder that transformers has, whatever it is, ends in anything but work or one line."""

from __future__ import annotations

import pytest

from tests.encoder_matrix import BROKEN, TYPES, outcomes

EVERY_METHOD = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "deberta-v2", "modernbert", "mpnet")


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TYPES)
def test_encoder_works_or_is_refused_in_one_line(model_type: str) -> None:
    found = list(outcomes(model_type))

    assert not [cell for cell in found if cell[2].startswith(BROKEN)]
    if model_type in EVERY_METHOD:
        assert {said for _, _, said in found} == {"ok"}
