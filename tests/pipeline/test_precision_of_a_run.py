"""A run goes on in the precision that it was begun in, whatever `auto` means on the machine of the day."""

import logging

import polars as pl
import pytest

from curate.embedding import precision
from curate.embedding.store import EmbeddingPart
from curate.pipeline import runner
from curate.recipe.loading import parse_recipe
from curate.runs.run import open_run


@pytest.fixture
def on_machine(monkeypatch):
    """Say whether the processor of this machine is one with bfloat16; the small model counts as large."""
    monkeypatch.setattr(precision, "is_small", lambda *model: False)
    return lambda has: monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: has)


def recipe(folder, out="run", **embed):
    values = {
        "run": str(folder / out), "source": {"path": str(folder / "*.parquet"), "image": None},
        "embed": {"model": "tiny", "device": "cpu", **embed}, "select": {"method": "random", "keep": 0.5}, "workers": 1,
    }  # fmt: skip
    return parse_recipe(values)


def write(folder, name, rows):
    pl.DataFrame({"text": [f"thing {row}" for row in rows]}).write_parquet(folder / f"{name}.parquet")


def embedded(folder, out="run", **embed):
    runner.run(recipe(folder, out, **embed), until="embed")
    run = folder / out
    parts = {
        path: EmbeddingPart(path).half("image", 0).tobytes()
        for path in sorted(run.glob("1_embeddings/part-*"))
    }
    return open_run(run).folder.marker(run / "1_embeddings")["facts"]["space"]["precision"], parts


def test_a_run_goes_on_as_it_was_begun(tmp_path, on_machine, caplog):
    caplog.set_level(logging.INFO, "curate")
    write(tmp_path, "a", range(20))
    on_machine(False)
    said, first = embedded(tmp_path)
    assert said == "float32" and "goes on in" not in caplog.text
    on_machine(True)
    write(tmp_path, "b", range(20, 30))
    said, second = embedded(tmp_path)
    assert said == "float32" and first.items() < second.items()
    assert caplog.text.count("goes on in float32 as the run was begun (here auto would be bfloat16") == 1
    caplog.clear()
    said, new = embedded(tmp_path, "new")
    assert said == "bfloat16" and not set(new.values()) & set(second.values())
    assert "goes on" not in caplog.text
    on_machine(False)
    assert embedded(tmp_path, "new") == ("bfloat16", new)
    assert "goes on in bfloat16 as the run was begun (here auto would be float32" in caplog.text


def test_a_run_of_before_that_was_not_finished_is_in_float32(tmp_path, on_machine):
    write(tmp_path, "a", range(20))
    on_machine(False)
    _, first = embedded(tmp_path)
    (tmp_path / "run" / ".work" / "precision.json").unlink()
    open_run(tmp_path / "run").folder.unmark(tmp_path / "run" / "1_embeddings")
    on_machine(True)
    assert embedded(tmp_path) == ("float32", first)


def test_a_run_that_was_interrupted_goes_on_in_what_it_noted(tmp_path, on_machine):
    write(tmp_path, "a", range(20))
    on_machine(True)
    _, first = embedded(tmp_path)
    open_run(tmp_path / "run").folder.unmark(tmp_path / "run" / "1_embeddings")
    on_machine(False)
    assert embedded(tmp_path) == ("bfloat16", first)


def test_what_is_said_in_so_many_words_is_done(tmp_path, on_machine):
    write(tmp_path, "a", range(20))
    on_machine(True)
    assert embedded(tmp_path, precision="float32")[0] == "float32"
