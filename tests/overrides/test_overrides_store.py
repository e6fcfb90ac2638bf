"""Decisions of people: what holds, what the history says, and that no crash or second writer loses any."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.errors import UsageError
from curate.io import storage
from curate.overrides.store import KINDS, Decision, Overrides
from curate.runs import dated
from curate.runs.folder import RunFolder


@pytest.fixture
def overrides(tmp_path):
    return Overrides(RunFolder(tmp_path), "ann")


def held(overrides):
    return {(uid, what, to) for uid, what, to in overrides.current().select("uid", "what", "to").rows()}


def test_of_two_decisions_the_later_one_holds_and_both_are_in_the_history(tmp_path):
    ann, bob = (Overrides(RunFolder(tmp_path), name) for name in ("ann", "bob"))
    ann.decide([Decision("a", "keep", "over_budget", "kept"), Decision("b", "wrong_label", "cat", "dog")])
    bob.decide([Decision("a", "drop", "over_budget", "dropped")])
    now = ann.current()
    assert now.columns == ["uid", "what", "from", "to", "when", "by"]
    assert now.drop("when").rows() == [
        ("a", "drop", "over_budget", "dropped", "bob"),
        ("b", "wrong_label", "cat", "dog", "ann"),
    ]
    assert now["when"].dtype == pl.Datetime("us", "UTC")
    said = bob.history()
    assert said["what"].to_list() == ["keep", "wrong_label", "drop"]
    assert said["holds"].to_list() == [False, True, True]
    assert said["when"].is_sorted()


def test_things_of_a_row_do_not_take_each_others_place(overrides):
    overrides.decide([Decision("a", what) for what in ("keep", "not_duplicate", "right_label")])
    assert {what for _, what, _ in held(overrides)} == {"keep", "not_duplicate", "right_label"}
    overrides.decide([Decision("a", "reset")])
    assert overrides.current().is_empty()


def test_undo_and_redo_go_back_and_forth_by_action(overrides):
    first = overrides.decide([Decision("a", "keep"), Decision("b", "keep")])
    second = overrides.decide([Decision("a", "drop")])
    assert overrides.undo() == second
    assert held(overrides) == {("a", "keep", None), ("b", "keep", None)}
    assert overrides.undo() == first
    assert overrides.undo() is None
    assert overrides.redo() == first
    assert overrides.redo() == second
    assert overrides.redo() is None
    assert held(overrides) == {("a", "drop", None), ("b", "keep", None)}
    turns = overrides.history().filter(pl.col("uid").is_null())
    assert turns["what"].to_list() == ["undo", "undo", "redo", "redo"]
    assert turns["to"].to_list() == [second, first, first, second]


def test_after_a_new_decision_only_a_named_action_can_be_redone(overrides):
    first = overrides.decide([Decision("a", "keep")])
    overrides.undo()
    overrides.decide([Decision("b", "keep")])
    assert overrides.redo() is None
    assert overrides.redo(first) == first
    with pytest.raises(UsageError, match="stands; there is nothing to redo"):
        overrides.redo(first)
    with pytest.raises(UsageError, match="no action 'nothing'"):
        overrides.undo("nothing")


def test_undo_is_of_ones_own_action(tmp_path):
    ann, bob = (Overrides(RunFolder(tmp_path), name) for name in ("ann", "bob"))
    mine = ann.decide([Decision("a", "keep")])
    bob.decide([Decision("b", "keep")])
    assert ann.undo() == mine
    assert held(bob) == {("b", "keep", None)}


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_torn_last_line_is_as_never_written(overrides, cut):
    overrides.decide([Decision("a", "keep")])
    overrides.decide([Decision("b", "drop")])
    path = overrides.folder.path / "overrides.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    again = Overrides(overrides.folder, "ann")
    assert held(again) == {("a", "keep", None)}
    again.decide([Decision("c", "drop")])
    assert held(Overrides(overrides.folder)) == {("a", "keep", None), ("c", "drop", None)}


def test_a_damaged_line_is_passed_over_with_a_warning(overrides, caplog):
    overrides.decide([Decision("aaaa", "keep")])
    overrides.decide([Decision("b", "drop")])
    path = overrides.folder.path / "overrides.jsonl"
    path.write_bytes(path.read_bytes().replace(b"aaaa", b"aaab"))
    assert held(Overrides(overrides.folder)) == {("b", "drop", None)}
    assert "1 lines are not as they were written" in caplog.text


def test_uids_of_any_letters_come_back(overrides):
    strange = ['a"\n\\', "日本", "a\u2028b", " "]
    overrides.decide([Decision(uid, "keep") for uid in strange])
    assert set(Overrides(overrides.folder).current()["uid"]) == set(strange)
    lines = (overrides.folder.path / "overrides.jsonl").read_bytes().split(b"\n")
    assert json.loads(lines[0])["rows"] and lines[1:] == [b""]


@given(
    st.lists(
        st.one_of(
            st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(sorted(KINDS))), max_size=4),
            st.sampled_from(["undo", "redo"]),
        ),
        max_size=8,
    )
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_the_table_has_the_last_decision_about_each_thing_since_the_last_reset(tmp_path_factory, turns):
    own, done = Overrides(RunFolder(tmp_path_factory.mktemp("history")), "ann"), []
    for turn in turns:
        if isinstance(turn, str):
            named = getattr(own, turn)()
            done = [(name, rows, stands ^ (name == named)) for name, rows, stands in done]
        elif turn:
            done.append(
                (
                    own.decide(Decision(uid, what, None, str(i)) for i, (uid, what) in enumerate(turn)),
                    turn,
                    True,
                )
            )
    left = {}
    for _, rows, stands in done:
        for i, (uid, what) in enumerate(rows if stands else ()):
            left = {key: held for key, held in left.items() if what != "reset" or key[0] != uid}
            if what != "reset":
                left[uid, KINDS[what]] = (uid, what, str(i))
    assert own.current().select("uid", "what", "to").rows() == sorted(left.values())
    assert sorted(one.what for one, _ in own.holding().values()) == sorted(
        what for _, what, _ in left.values()
    )
    said = sorted([uid, what, to] for uid, what, to in left.values() if what in ("keep", "drop"))
    assert own.fingerprint(("keep", "drop")) == (storage.fingerprint("overrides", said) if said else None)


@pytest.mark.parametrize(
    ("uid", "what", "said"), [("a", "kepe", "no decision 'kepe'"), ("", "keep", "not empty")]
)
def test_what_is_no_decision_is_refused_and_nothing_is_written(overrides, uid, what, said):
    with pytest.raises(UsageError, match=said):
        overrides.decide([Decision("b", "keep"), Decision(uid, what)])
    assert overrides.current().is_empty()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine draws slowly
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from(sorted(KINDS))),
            st.tuples(st.sampled_from("ab"), st.sampled_from(["undo", "redo"])),
        ),
        max_size=12,
    )
)
def test_what_holds_is_what_replaying_from_the_definition_gives(steps, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("journal"))
    people = {name: Overrides(folder, name) for name in "ab"}
    done, names = [], {}  # (who, uid, what, stands)
    undone_by = {"a": [], "b": []}
    for who, *step in steps:
        if len(step) == 2:
            names[len(done)] = people[who].decide([Decision(*step)])
            done.append([who, *step, True])
            undone_by[who] = []
        elif step[0] == "undo":
            own = [i for i, one in enumerate(done) if one[0] == who and one[3]]
            expected = own[-1] if own else None
            assert people[who].undo() == (None if expected is None else names[expected])
            if expected is not None:
                done[expected][3] = False
                undone_by[who].append(expected)
        else:
            expected = undone_by[who].pop() if undone_by[who] else None
            assert people[who].redo() == (None if expected is None else names[expected])
            if expected is not None:
                done[expected][3] = True
    state = {}
    for _, uid, what, stands in done:
        if stands and what == "reset":
            state = {key: value for key, value in state.items() if key[0] != uid}
        elif stands:
            state[uid, KINDS[what]] = what
    found = Overrides(folder).current()
    assert {(uid, what) for uid, what in found.select("uid", "what").rows()} == {
        (uid, what) for (uid, _), what in state.items()
    }


def _decide_many(folder, name, n):
    own = Overrides(RunFolder(folder), name)
    for i in range(n):
        own.decide(
            [Decision(f"{name}-{i}", "keep"), Decision("same", "keep" if i % 2 else "drop", None, name)]
        )


def test_two_writers_and_a_reader_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_decide_many, args=(tmp_path, name, 40)) for name in "ab"]
    for writer in writers:
        writer.start()
    reader, seen = Overrides(RunFolder(tmp_path)), []
    while any(writer.is_alive() for writer in writers):
        seen.append(len(reader.current()))
        time.sleep(0.01)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == sorted(seen)
    assert len(reader.current()) == 81
    said = reader.history()
    assert len(said) == 160
    last = said.filter(pl.col("uid") == "same").row(-1, named=True)
    now = reader.current().filter(pl.col("uid") == "same").row(0, named=True)
    assert (now["what"], now["to"]) == (last["what"], last["to"])


def test_what_was_decided_survives_kill_9(tmp_path):
    code = textwrap.dedent(
        f"""
        from pathlib import Path
        from curate.overrides.store import Decision, Overrides
        from curate.runs.folder import RunFolder
        own = Overrides(RunFolder(Path({str(tmp_path)!r})), "ann")
        n = 0
        while True:
            own.decide([Decision(str(n), "keep")])
            print(n, flush=True)
            n += 1
        """
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for _ in range(5):
        assert child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    said = 4 + len(child.stdout.read().splitlines())
    child.wait()
    child.stdout.close()
    found = len(Overrides(RunFolder(tmp_path)).current())
    assert found in (said + 1, said + 2)  # one may be on the disk whose writer had no time to say so


def test_the_table_is_what_holds(overrides):
    overrides.write_table()
    assert not (overrides.folder.path / "overrides.parquet").exists()
    overrides.decide([Decision("a", "keep", "over_budget", "kept")])
    overrides.write_table()
    assert pl.read_parquet(overrides.folder.path / "overrides.parquet").equals(overrides.current())


def test_the_fingerprint_is_of_what_was_decided_not_of_how(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, two = Overrides(RunFolder(tmp_path / "a"), "ann"), Overrides(RunFolder(tmp_path / "b"), "bob")
    assert one.fingerprint(("keep", "drop")) is None
    one.decide([Decision("x", "keep"), Decision("y", "drop")])
    two.decide([Decision("y", "drop")])
    assert one.fingerprint(("keep", "drop")) != two.fingerprint(("keep", "drop"))
    two.decide([Decision("x", "drop")])
    two.decide([Decision("x", "keep")])
    assert one.fingerprint(("keep", "drop")) == two.fingerprint(("keep", "drop"))
    assert one.fingerprint(("right_label",)) is None


def test_a_dated_run_begins_with_the_decisions_and_takes_over_later_ones(tmp_path):
    first = dated.new_run(tmp_path)
    for name, text in (("recipe.yaml", "run: x\n"), ("manifest.json", "{}")):
        (first / name).write_text(text)
    old = Overrides(RunFolder(first), "ann")
    old.decide([Decision("a", "keep")])
    dated.commit(tmp_path, first)
    second = dated.new_run(tmp_path)
    new = Overrides(RunFolder(second), "bob")
    assert held(new) == {("a", "keep", None)}
    new.decide([Decision("b", "drop")])
    old.decide([Decision("c", "keep")])
    assert held(old) == {("a", "keep", None), ("c", "keep", None)}
    (second / "manifest.json").write_text("{}")
    dated.commit(tmp_path, second)
    assert held(new) == {("a", "keep", None), ("b", "drop", None), ("c", "keep", None)}
