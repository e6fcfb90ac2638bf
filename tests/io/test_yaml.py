from curate.io.yaml import read_yaml


def test_what_is_read_again_is_not_what_somebody_changed():
    text = "{a: [1, {b: 2}], on: x}"
    first = read_yaml(text)
    first["a"][1]["b"] = first["on"] = None
    assert read_yaml(text) == {"a": [1, {"b": 2}], "on": "x"}
