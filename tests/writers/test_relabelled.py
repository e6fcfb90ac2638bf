"""A corrected label takes the place of the old one where the column can hold it."""

import pyarrow as pa
import pytest

from curate.errors import UsageError
from curate.writers.relabelled import with_corrected

CLASSES = ["cat", "dog", "eel"]


def corrected(new, classes=CLASSES, kind=None):
    old = pa.chunked_array([pa.array([0, 1, 2], kind or pa.int64())])
    return with_corrected(
        old, pa.chunked_array([pa.array(new, pa.string())]), "a.parquet", classes
    ).to_pylist()


def test_a_code_of_the_classes_takes_the_place():
    assert corrected([None, "2", "-1"]) == [0, 2, -1]  # -1: no class, as `datasets` has it
    assert corrected([None, "7", None], classes=()) == [0, 7, 2]


@pytest.mark.parametrize("new", ["3", "-2", "99"])
def test_a_code_that_no_class_has_is_refused(new):
    with pytest.raises(
        UsageError, match=rf"a\.parquet: its labels are the 3 classes cat, dog, eel, .*'{new}' is none"
    ):
        corrected([None, new, None])


@pytest.mark.parametrize("new", ["zebra", "1.5"])
def test_a_value_of_another_type_is_refused(new):
    with pytest.raises(UsageError, match=f"3 classes cat, dog, eel, .*'{new}' is none"):
        corrected([None, new, None])
    with pytest.raises(UsageError, match=f"its labels are int64, .*'{new}' is none"):
        corrected([None, new, None], classes=())
