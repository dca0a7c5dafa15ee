"""Documents say of the models what the rows of models.py say."""

import pytest

from tools import tables


def test_what_is_written_from_the_rows_is_up_to_date() -> None:
    assert not {*tables.stale()}, "run python -m tools.tables"


def test_a_part_is_written_between_its_comments_and_needs_them() -> None:
    text = "a<!-- x -->old\n<!-- /x -->b"
    assert tables.filled(text, {"x": "new"}) == "a<!-- x -->new<!-- /x -->b"
    with pytest.raises(ValueError, match="it has no <!-- y --><!-- /y -->"):
        tables.filled(text, {"y": "new"})
