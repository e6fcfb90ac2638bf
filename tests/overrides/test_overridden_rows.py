"""What people decided about rows is found among many others, exactly, whatever their hashes are."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.io import storage
from curate.selection.rows import overridden
from curate.selection.rows.overridden import Known, with_overrides

ROW = st.tuples(
    st.sampled_from([None, "excluded"]),
    st.booleans(),
    st.sampled_from([None, "other"]),
)
SAID = st.tuples(st.sampled_from([None, "keep", "drop"]), st.booleans())


def by_definition(row, said):
    """Return filter_reason, pinned, duplicate_of and override of one row."""
    reason, pinned, duplicate_of = row
    decided, lifted = said or (None, False)
    if decided == "keep":
        return None, True, None, "keep"
    if decided == "drop":
        return reason, False, None, "drop"
    return reason, pinned, None if lifted else duplicate_of, None


@pytest.mark.parametrize("most_bits", [0, 3, 24])
@given(st.lists(ROW, max_size=30), st.dictionaries(st.integers(0, 40), SAID, max_size=12))
@settings(deadline=None, max_examples=60)
def test_rows_are_as_people_decided_also_where_hashes_meet_by_chance(most_bits, rows, said):
    names = [f"u{i}" for i in range(len(rows))]
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    frame = pl.DataFrame(
        dict(zip(("uid", "filter_reason", "pinned", "duplicate_of"), (names, *columns), strict=True)),
        schema={
            "uid": pl.String,
            "filter_reason": pl.String,
            "pinned": pl.Boolean,
            "duplicate_of": pl.String,
        },
    )
    people = pl.DataFrame(
        [(f"u{i}", *one) for i, one in sorted(said.items())],
        schema={"uid": pl.String, "decided": pl.String, "lifted": pl.Boolean},
        orient="row",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overridden, "_MOST_BITS", most_bits)  # with one mark, or eight, all rows meet one
        found = with_overrides(frame, Known.of(people))
    wanted = [(names[i], *by_definition(row, said.get(i))) for i, row in enumerate(rows)]
    assert found.rows() == wanted
    assert found.columns == ["uid", "filter_reason", "pinned", "duplicate_of", "override"]


def test_a_table_that_was_written_anew_is_read_anew(tmp_path):
    path = tmp_path / "overrides.parquet"
    for decided in ("keep", "drop", "keep"):
        table = pl.DataFrame({"uid": ["a"], "decided": [decided], "lifted": [False]}).to_arrow()
        storage.write_parquet(path, table, table.schema, "f")
        at, rows = overridden._known(path).find(pl.Series(["b", "a"]))
        assert np.array_equal(at, [1]) and rows["decided"].to_list() == [decided]
