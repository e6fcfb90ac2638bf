"""What cells with boxes say, in the layouts people have them in; and what becomes of objects before they are seen."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.scores.objects.parts import judge
from curate.scores.regions.boxes import ManyBoxes, boxes_of
from curate.scores.tmars.parts import good_boxes

CAT = [1.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("cell", "layout"),
    [
        ([{"bbox": [1, 2, 3, 4], "category": "cat", "score": 0.5}], "coco"),
        ({"bbox": [[1, 2, 3, 4]], "category": ["cat"], "score": [0.5]}, "coco"),
        ({"boxes": [[1, 2, 4, 6]], "labels": ["cat"], "scores": [0.5]}, "xyxy"),
        ([{"box": {"xmin": 1, "ymin": 2, "xmax": 4, "ymax": 6}, "label": "cat", "score": 0.5}], "coco"),
        ([{"x": 1, "y": 2, "width": 3, "height": 4, "class": "cat", "confidence": 0.5}], "xyxy"),
        (json.dumps([{"bbox": [1, 2, 3, 4], "category": "cat", "confidence": 0.5}]), "coco"),
        (json.dumps({"bbox": [1, 2, 3, 4], "category": "cat", "score": 0.5}).encode(), "coco"),
        ([{"polygon": [[1, 2], [4, 2], [4, 6], [1, 5]], "text": "cat", "score": 0.5}], "coco"),
        ([{"polygon": [1, 2, 4, 2, 4, 6, 1, 5], "text": "cat", "score": 0.5}], "coco"),
    ],
)
def test_layouts(cell, layout):
    found = boxes_of(cell, layout)
    assert found.boxes.tolist() == [CAT] and found.category == ["cat"] and found.confidence.tolist() == [0.5]


def test_what_is_not_said():
    bare = boxes_of([[1, 2, 3, 4], [0, 0, 1, 1]], "coco")
    assert bare.category == ["object", "object"] and np.isnan(bare.confidence).all()
    short = boxes_of({"bbox": [[1, 2, 3, 4]] * 3, "category": [7]}, "coco")
    assert short.category == ["7", "object", "object"]
    for empty in ([], {"bbox": []}, "[]"):
        assert len(boxes_of(empty, "coco")) == 0
    for nothing in (None, 3, "no json", "3", {"caption": "x"}, {"bbox": "x"}, b"\xff"):
        assert boxes_of(nothing, "coco") is None
    broken = boxes_of(
        [None, [1, 2], {"bbox": None}, [1, 2, "x", 4], [1, 2, None, 4], "x", True, [True, 0, 1, 1]], "coco"
    )
    assert np.isnan(broken.boxes).any(axis=1).all() and len(broken) == 8


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(["bbox", "category", "score", "box", "x", "xmin"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(json_values, st.sampled_from(["coco", "xyxy"]))
@settings(max_examples=100, deadline=None)
def test_nothing_that_stands_there_ends_a_run(cell, layout):
    found = boxes_of(cell, layout)
    if found is not None:
        assert found.boxes.shape == (len(found), 4) == (len(found.confidence), 4)
        outcomes, chosen = judge(found, 0.5, 3)
        assert sum(outcomes.values()) + len(chosen) == len(found) and len(chosen) <= 3
        assert np.isfinite(good_boxes(found, 0.0)).all()


def test_what_becomes_of_objects():
    nan = math.nan
    boxes = np.array(
        [[0, 0, 2, 2], [0, 0, 0, 2], [nan, 0, 1, 1], [0, 0, 3, 3], [0, 0, 4, 4], [5, 5, 4, 9], [0, 0, 5, 5]]
    )
    found = ManyBoxes(boxes, list("abcdefg"), np.array([0.9, 0.9, 0.9, 0.4, nan, 0.9, 0.8]))
    outcomes, chosen = judge(found, 0.5, 2)
    assert dict(outcomes) == {"unsure": 1, "not_finite": 1, "no_area": 2, "left_out": 1}
    assert chosen.tolist() == [0, 4]  # what does not say how sure it is, is sure; 6 is less so
    assert judge(found, 0.5, 3)[1].tolist() == [0, 4, 6]
    assert judge(found, 0.0, 9)[1].tolist() == [0, 3, 4, 6]
    assert judge(None, 0.5, 3)[1].tolist() == []
    assert good_boxes(found, 0.5).tolist() == boxes[[0, 4, 6]].tolist()
    assert good_boxes(None, 0.5).shape == (0, 4)
