import json
import re
from importlib import resources
from types import SimpleNamespace

import pytest
import yaml
from pydantic import BaseModel

from curate.errors import RecipeError, UsageError
from curate.io.filesystem import masked
from curate.io.secrets import HIDDEN, NO_PASSWORD, redacted
from curate.io.yaml import read_yaml
from curate.recipe import (
    FAMILIES,
    Cluster,
    Dedup,
    Embed,
    Limits,
    Ray,
    Recipe,
    ScoreFilter,
    Source,
    Write,
    parse_bytes,
    parse_share,
)
from curate.recipe.loading import load_recipe, override, parse_recipe
from curate.selection.registry import selectors
from curate.weighting.registry import weighers

ALL_METHODS = SimpleNamespace(
    model_fields={name for one in selectors().values() for name in one.model_fields}
)
ALL_WEIGHTS = SimpleNamespace(model_fields={name for one in weighers().values() for name in one.model_fields})
EPSILON = "dedup.epsilon must be none, auto, a number in (0, 1), or a share such as {drop: 0.2} or {precision: 0.9}, got "
SMALL = {"run": "r", "source": {"path": "a.parquet"}, "select": {"keep": 0.3}}


def recipe(**changes):
    return parse_recipe(SMALL | changes)


def put(name, value):
    return override(SMALL | {"score": []}, settings={name: value})


def refused(values):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(values)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_template_shows_the_defaults():
    text = resources.files("curate.cli").joinpath("recipe.yaml").read_text(encoding="utf-8")
    shown = parse_recipe(read_yaml(text.replace("@SOURCE@", "a.parquet")))
    assert shown == parse_recipe(SMALL | {"run": "runs/first"})


def test_template_has_a_line_for_every_setting():
    text = resources.files("curate.cli").joinpath("recipe.yaml").read_text(encoding="utf-8")
    sections = {"": Recipe, "source": Source, "embed": Embed, "cluster": Cluster, "dedup": Dedup}
    sections |= {"select": ALL_METHODS, "write": Write, "limits": Limits, "ray": Ray}
    for section, model in sections.items():
        where = (
            text
            if not section
            else re.search(rf"^{section}:.*\n((?:[ #].*\n|  .*\n)*)", text, re.MULTILINE)[1]
        )
        for name in set(model.model_fields) - {"count"}:
            indent = "  " if section else ""
            assert re.search(rf"^{indent}(?:# )?{name}:", where, re.MULTILINE), f"{section}.{name}"


def test_template_has_every_setting_of_families_filters_and_weights():
    text = resources.files("curate.cli").joinpath("recipe.yaml").read_text(encoding="utf-8")
    shown = text[text.index("\nscore:") : text.index("\nfilter:")]
    blocks = {block.split(":")[0].split()[0]: block for block in shown.split("\n#  - ")[1:]}
    assert {*blocks, "clip_score"} == set(FAMILIES)
    for family, block in blocks.items():
        for name in set(FAMILIES[family].model_fields) - {"family"}:
            assert re.search(rf"\b{name}:", block), f"{family}.{name}"
    rule = text[text.index("\nfilter:") : text.index("\npin:")]
    weight = text[text.index("\nweight:") : text.index("\nwrite:")]
    leak = text[text.index("\n  against:") : text.index("\nselect:")]
    for model, block in ((ScoreFilter, rule), (ALL_WEIGHTS, weight)):
        for name in model.model_fields:
            assert name == "method" or re.search(rf"^# +(?:- |# )?{name}:", block, re.MULTILINE), name
    for name in ("path", "name", "epsilon"):
        assert f" {name}:" in leak


def test_defaults_in_comments_are_the_defaults():
    text = resources.files("curate.cli").joinpath("recipe.yaml").read_text(encoding="utf-8")
    shown = text[text.index("#  - pair") : text.index("\nfilter:")]
    plain = "\n".join(line.replace("#", " ", 1) for line in shown.splitlines() if "#    pair: {" not in line)
    entries = parse_recipe(SMALL | {"score": read_yaml(plain)}).score
    given = {
        "normsim": {"target": "x"},
        "color": {"prior": "a", "conditional": "b"},
        "fuse": {"columns": {"a": 1}},
        "learnability": {"learner": "a", "reference": "b"},
        "dfn": {"path": "a"},
        "tmars": {"boxes": "x"},
        "clip": {"model": "ViT-L-14"},
        "source": {"column": "punsafe", "higher_is": "noisier"},
        "prompts": {"like": "a"},
        "linear": {"weights": "a.npz"},
        "clipn": {"classes": ["a"]},
        "concept_share": {"concept": "a"},
        "mentions": {"names": "a.txt"},
        "target_clusters": {"target": "a.npy"},
    }
    for entry in entries:
        need = {"file": "scores.parquet"} if entry.family == "file" else given.get(entry.family, {})
        default = FAMILIES[entry.family].model_validate(need)
        for name in set(type(entry).model_fields) - set(need):
            assert getattr(entry, name) == getattr(default, name), f"{entry.family}.{name}"
    assert {entry.family for entry in entries} == set(FAMILIES) - {"clip_score"}
    line = shown[shown.index("#    pair: {") + 1 :].splitlines()[0]
    assert FAMILIES["pair"].model_validate(read_yaml(line)["pair"]) == FAMILIES["pair"]()


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("1.5 kB", 1500), ("512MiB", 512 << 20), (7, 7), ("0", 0), ("2tib", 2 << 40)],
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "4XB", "4 G B", "1e3", None, True])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="such as 4GB"):
        parse_bytes(text)


def test_shares():
    assert [parse_share(text) for text in (0.3, "0.3", "30%", " 30 % ".strip(), "1.8%")] == [
        0.3,
        0.3,
        0.3,
        0.3,
        0.018,
    ]
    for text in ("", "%", "third", None, "nan", True, "1/0"):
        with pytest.raises(ValueError, match="share such as"):
            parse_share(text)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("select.kepe", 1, "select.kepe is not a setting; did you mean 'keep'?"),
        ("slect", {}, "slect is not a setting; did you mean 'select'?"),
        ("source.imge", "x", "source.imge is not a setting; did you mean 'image'?"),
        ("embed.colum", "x", "embed.colum is not a setting; did you mean 'column'?"),
        ("cluster.concept", 3, "cluster.concept is not a setting; did you mean 'concepts'?"),
        ("dedup.epsilom", 0.1, "dedup.epsilom is not a setting; did you mean 'epsilon'?"),
        ("write.max_size", 3, "write.max_size is not a setting; did you mean 'max_shard_size'?"),
        ("limits.shards", 3, "limits.shards is not a setting; did you mean 'bad_shards'?"),
        ("limits.x", 3, "limits.x is not a setting; there are unusable, bad_shards, time"),
        ("dedup.epsilon", {"d": 1}, EPSILON + "{'d': 1}"),
        ("dedup.epsilon", {"drop": 3}, "dedup.epsilon is not a share: drop must be in (0, 1), got 3"),
        ("dedup.epsilon", 0, EPSILON + "0"),
        ("select.keep", 0, "select.keep must be in (0, 1], got 0"),
        ("select.keep", 1.4, "select.keep must be in (0, 1], got 1.4"),
        ("select.keep", -0.3, "select.keep must be in (0, 1], got -0.3"),
        ("select.keep", "third", "select.keep must be a share such as 0.3 or 30%, got 'third'"),
        ("select.count", -1, "select.count must be at least 0, got -1"),
        ("select.count", 2.5, "select.count must be a whole number, got 2.5"),
        ("select.count", True, "select.count must be a whole number, got True"),
        ("select.method", "dense", "select.method must be " + ", ".join(f"'{one}'" for one in [*selectors()][:-1]) + " or 'all', got 'dense'"),
        ("select.prefer", "best", "select.prefer must be hardest, easiest, random or score:<column>, got 'best'"),
        ("select.temperature", 0, "select.temperature must be above 0, got 0"),
        ("select.temperature", "hot", "select.temperature must be a number, got 'hot'"),
        ("select.at_most", "maybe", "select.at_most must be true or false, got 'maybe'"),
        ("select", {"method": "prototypes", "keep": 1, "balance": 2}, "select.balance must be at most 1, got 2"),
        ("select.balance", 2, "select.balance is not a setting of method density; it belongs to prototypes"),
        ("select.beta", 0.1, "select.beta is not a setting of method density; it belongs to stratified"),
        ("weight", {"method": "concept", "r": 2}, ("weight.r is not a setting of method concept; it belongs to linupper, "
         "quadratic, extremes, upper")),
        ("weight", {"budget": 0.3}, "weight.method is missing"),
        ("cluster.concepts", 0, "cluster.concepts must be auto or a whole number of at least 1, got 0"),
        ("cluster.concepts", True, "cluster.concepts must be auto or a whole number of at least 1, got True"),
        ("cluster.seed", "x", "cluster.seed must be a whole number, got 'x'"),
        ("cluster.seed", 2**31, "cluster.seed must be below 2147483648, got 2147483648"),
        ("memory", "lots", "memory must be a size such as 4GB or 500MB, got 'lots'"),
        ("memory", "10MB", "memory must be at least 1GB, got 10MB"),
        ("write.max_shard_size", 0, "write.max_shard_size must be at least 1, got 0"),
        ("filter", 3, "filter must be a list, got 3"),
        ("dedup", 3, "dedup must be settings, got 3"),
        ("source.path", 3, "source.path must be text or a list, got 3"),
        ("source.path", [], "source.path must not be empty"),
        ("source.path", "", "source.path must not be empty"),
        ("source", [], "source must be a list of at least 1, got a list"),
        ("run", "", "run must be some text, got ''"),
        ("run", [1], "run must be text, got a list"),
        ("run", "a\udc83", r"run must be text in UTF-8, got 'a\udc83'"),
        ("ray.address", "ray://head:10001", "ray.address must be auto or host:port of a cluster this machine belongs to, got 'ray://head:10001'"),
        ("run", "ftp://me:pw@host/run", f"run {NO_PASSWORD}"),
        ("workers", 0, "workers must be auto or a whole number of at least 1, got 0"),
        ("engine", "dask", "engine must be 'local' or 'ray', got 'dask'"),
        ("ray.adress", "auto", "ray.adress is not a setting; did you mean 'address'?"),
        ("limits.unusable", 2, "limits.unusable must be in [0, 1], got 2"),
        ("score.heads", {"sedes": 3}, "score.heads.sedes is not a setting; did you mean 'seeds'?"),
        ("score.heads", {"seeds": 0}, "score.heads.seeds must be at least 1, got 0"),
        ("score.heads", {"epochs": 0}, ("score.heads.epochs must be at least 1, got 0: scores of untrained weights "
         "(GraNd at initialisation) follow the length of the input and are known not to find hard samples")),
        ("score.pixels", {"folds": 1}, ("score.pixels.folds must be 0 (score what was trained on) or in [2, 255], "
         "got 1")),
        ("score.pair", {"batsh": 1}, "score.pair.batsh is not a setting; did you mean 'batch'?"),
        ("score.pair", {"temperature": -1}, "score.pair.temperature must be 'auto' or above 0, got -1"),
        ("score", ["pairs"], "score: no family 'pairs'; did you mean 'pair'?"),
        ("score", [{"xyz": {}}], f"score: no family 'xyz'; there are {', '.join(FAMILIES)}"),
        ("score", [3], "score.0 must be a family or settings, got 3"),
        ("score", ["pair", "pair"], "score must name each family once, got pair twice"),
        ("score", {"file": "a.parquet", "colums": "x"}, "score.file.colums is not a setting; did you mean 'columns'?"),
        ("score", {"file": 3}, "score.file must be text, got 3"),
        ("score", [{"fuse": {"columns": {"a": 1}}}, {"fuse": {"name": "b"}}], "score.1.fuse.columns is missing"),
        ("score", {"normsim": {"target": {"path": "x", "lable": 1}}},
         "score.normsim.target.lable is not a setting; did you mean 'label'?"),
        ("filter", {"by": "x", "topp": 1}, "filter.topp is not a setting; did you mean 'top'?"),
        ("filter", {"by": "x"}, "filter needs exactly one of above, below, top, bottom and quantile, got none"),
        ("filter", ["x > 1", {"by": "x", "top": 2}], "filter.1.top must be in [0, 1], got 2"),
        ("filter", [3], "filter must be text or settings, got 3"),
        ("weight", "concep", ("weight.method must be 'concept', 'linupper', 'quadratic', 'extremes', 'upper', "
         "'focal', 'inverse' or 'soft_cap', got 'concep'")),
        ("weight", {"method": "focal", "gama": 1}, "weight.gama is not a setting; did you mean 'gamma'?"),
        ("dedup", {"epsilon": 0.1, "against": {"path": "x", "nme": 1}},
         "dedup.against.0.nme is not a setting; did you mean 'name'?"),
        ("dedup.against", "x.npy", "dedup needs an epsilon for what is against x: a number, here or as dedup.epsilon"),
        ("select.method", "hardest", "select needs by (a score column) for method hardest"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_its_rule_and_value(name, value, message):
    assert refused(put(name, value)) == message


def test_every_wrong_setting_is_told():
    message = refused({"source": {"path": "a"}, "select": {"keep": 2, "methd": "x"}, "seed": "x"})
    assert message == (
        "run is missing; select.keep must be in (0, 1], got 2; "
        "select.methd is not a setting; did you mean 'method'?; seed must be a whole number, got 'x'"
    )


def test_one_budget():
    assert refused(SMALL | {"select": {}}) == (
        "select needs keep (a share) or count (a number of samples); method all keeps all that pass conditions and dedup"
    )
    assert refused(SMALL | {"select": {"keep": 0.3, "count": 3}}).endswith("got both")
    assert refused({"run": "r", "source": "a"}) == "select is missing"
    assert recipe(select={"count": 0}).select.count == 0
    assert recipe(select={"count": 1e6}).select.count == 1_000_000


def test_one_source_of_vectors():
    message = refused(SMALL | {"embed": {"model": "tiny", "column": "x"}})
    assert message == "embed takes one of model, column and files, got model and column"
    assert recipe().embed.pretrained == "laion2b_s34b_b79k"
    assert recipe(embed={"batch_size": 8}).embed.pretrained == "laion2b_s34b_b79k"
    assert recipe(embed={"model": "tiny"}).embed.pretrained is None
    assert recipe(embed={"column": "x"}).embed.own_vectors
    assert recipe(embed={"files": ["a.npy"]}).embed.own_vectors


def test_sources_may_be_short_and_several():
    assert recipe(source="a.parquet") == recipe()
    both = recipe(source=["a.parquet", {"path": ["b", "c"], "name": "other"}])
    assert [(source.name, source.patterns) for source in both.source] == [
        ("source", ["a.parquet"]), ("other", ["b", "c"]),
    ]  # fmt: skip
    assert "different names, got source, source; set source.name" in refused(SMALL | {"source": ["a", "b"]})
    assert refused(SMALL | {"source": ["a", {"path": "b", "name": "o", "imge": 1}]}).startswith(
        "source.1.imge is not"
    )


@pytest.mark.parametrize("embed", [{}, {"model": "tiny"}, {"column": "x"}, {"files": "x/*.npy"}])
@pytest.mark.parametrize("epsilon", ["none", 0.03, {"drop": "20%"}])
def test_a_written_recipe_is_the_same_recipe(embed, epsilon):
    first = recipe(embed=embed, dedup={"epsilon": epsilon}, filter="clip_score > 0.2", memory="3GB")
    again = parse_recipe(read_yaml(first.to_yaml()))
    assert again == first
    assert again.to_yaml() == first.to_yaml()


def test_yaml_has_no_surprises():
    assert read_yaml("{on: text, a: yes, b: true, c: 1e-3, d: off}") == {
        "on": "text", "a": "yes", "b": True, "c": 0.001, "d": "off",
    }  # fmt: skip
    assert (
        parse_recipe(read_yaml("{run: r, source: a, cluster: {on: text}, select: {keep: 30%}}")).cluster.on
        == "text"
    )
    with pytest.raises(yaml.YAMLError, match="'a' is there twice"):
        read_yaml("a: 1\na: 2\n")


def test_home_is_filled_in(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert recipe(run="~/runs/x").run == "/home/me/runs/x"


@pytest.mark.parametrize("here", ["file:///runs/x", "local:///runs/x", "/runs/x"])
def test_a_folder_of_this_machine_has_no_scheme(here):
    assert recipe(run=here).run == "/runs/x"
    assert recipe(select={"method": "random", "keep": 0.3, "shipped": here}).select.shipped == "/runs/x"
    assert recipe(run="s3://runs/x").run == "s3://runs/x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must hold settings such as 'source:', got nothing"),
        ("[1, 2]", r"must hold settings such as 'source:', got list"),
        ("a: b: c", r"is not YAML: mapping values are not allowed here"),
        ("run: x\nrun: y", r"is not YAML: 'run' is there twice"),
        ("x: !!python/object/apply:os.system ['true']", r"is not YAML: could not determine a constructor"),
        ("x: *nothing", r"is not YAML: found undefined alias"),
        (b"\xff\xfe", r"is not YAML: .*utf-8"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"recipe .*nothing.yaml: No such file"):
        load_recipe(tmp_path / "nothing.yaml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_recipe(tmp_path)


def test_overrides():
    values = {
        "run": "r",
        "source": "a",
        "select": {"count": 5},
        "embed": {"model": "ViT-B-32", "pretrained": "x"},
    }
    done = override(values, ["select.keep=0.2", "embed.model=tiny", "filter=[distance > 1]"])
    assert done["select"] == {"keep": 0.2}
    assert done["embed"] == {"model": "tiny"}
    assert done["filter"] == ["distance > 1"]
    assert override(values, ["embed.model=tiny", "embed.pretrained=p"])["embed"] == {
        "model": "tiny",
        "pretrained": "p",
    }
    assert override(values, ["embed.model=ViT-B-32"])["embed"] == values["embed"]
    assert override(values, ["embed.column=v"])["embed"] == {"column": "v"}
    assert override(values, ["dedup.epsilon.drop=0.2"])["dedup"] == {"epsilon": {"drop": 0.2}}
    assert values["select"] == {"count": 5}, "the values given stay as they were"


def test_a_source_setting_goes_to_every_source():
    one = override({"source": "a"}, ["source.limit=5"])
    assert one["source"] == [{"path": "a", "limit": 5}]
    two = override({"source": [{"path": "a"}, {"path": "b"}]}, settings={"source.limit": 5})
    assert two["source"] == [{"path": "a", "limit": 5}, {"path": "b", "limit": 5}]


@pytest.mark.parametrize(
    ("score", "item", "want"),
    [
        (None, "score.heads.epochs=3", [{"clip_score": {}}, {"heads": {"epochs": 3}}]),
        ([], "score.heads.epochs=3", [{"heads": {"epochs": 3}}]),
        ("heads", "score.heads.epochs=3", [{"heads": {"epochs": 3}}]),
        (["pair", {"heads": None}], "score.heads.epochs=3", [{"pair": {}}, {"heads": {"epochs": 3}}]),
        ([{"heads": {"epochs": 2, "seeds": 1}}], "score.heads.epochs=3", [{"heads": {"epochs": 3, "seeds": 1}}]),
        ([{"family": "heads", "seeds": 1}], "score.heads.epochs=3", [{"family": "heads", "seeds": 1, "epochs": 3}]),
        ([{"heads": {"epochs": 2}}], "score.heads={seeds: 1}", [{"heads": {"seeds": 1}}]),
        (["heads"], "score=[pair]", ["pair"]),
        ([{"file": "a", "on": "id"}], "score.file.on=uid", [{"file": "a", "on": "uid"}]),
        ([{"file": "a", "name": "mine"}, {"file": "b"}], "score.mine.on=id",
         [{"file": "a", "name": "mine", "on": "id"}, {"file": "b"}]),
        ([], "score.file.file=a", [{"file": "a"}]),
        ([{"fuse": {"name": "f"}}], "score.f.columns.a=1", [{"fuse": {"name": "f", "columns": {"a": 1}}}]),
        ([{"normsim": {"target": "a"}}], "score.normsim.target=b", [{"normsim": {"target": "b"}}]),
    ],
)  # fmt: skip
def test_a_score_setting_goes_to_its_family(score, item, want):
    values = {} if score is None else {"score": score}
    assert override(values, [item])["score"] == want
    assert values == ({} if score is None else {"score": score})


def test_overrides_of_families_are_settings():
    with pytest.raises(
        RecipeError, match=r"--set score.heads takes settings, such as score.heads={...}, got 3"
    ):
        override({}, ["score.heads=3"])
    assert "no family 'head'; did you mean 'heads'?" in refused(override(SMALL, ["score.head.epochs=3"]))


def test_overrides_of_what_may_be_short():
    assert recipe(**override({}, ["weight=concept"])).weight.method == "concept"
    assert override({"weight": "focal"}, ["weight.gamma=1"])["weight"] == {"method": "focal", "gamma": 1}
    assert override({"weight": "none"}, ["weight.method=focal"])["weight"] == {"method": "focal"}
    against = override({"dedup": {"against": "a.npy"}}, ["dedup.against.epsilon=0.1"])["dedup"]["against"]
    assert against == [{"path": "a.npy", "epsilon": 0.1}]
    one = parse_recipe(override(SMALL, ["filter=[{by: clip_score, top: 30%}]"])).filter[0]
    assert str(one) == "top 0.3 by clip_score"


def test_settings_are_taken_as_they_are():
    assert override({}, settings={"run": "2024: #1"})["run"] == "2024: #1"


@pytest.mark.parametrize(
    ("item", "message"),
    [("select.keep", "takes name=value"), ("=3", "takes name=value"), ("a=[", "'\\[' is not a YAML value")],
)
def test_overrides_that_are_none(item, message):
    with pytest.raises(RecipeError, match=message):
        override({}, [item])


def test_secrets_are_written_nowhere():
    options = {
        "key": "AKIA1234", "secret": "${S3_SECRET}", "anon": False, "endpoint_url": "http://me:hunter2@host/x",
        "client_kwargs": {"aws_session_token": "tok", "region_name": "eu", "verify": None},
        "headers": [{"Authorization": "Bearer abcdef"}, {"auth": "Bearer ${TOKEN}"}],
    }  # fmt: skip
    known = recipe(source={"path": "s3://b/x", "storage_options": options})
    assert known.source[0].storage_options == options
    for text in (known.to_yaml(), repr(known), known.model_dump_json()):
        for secret in ("AKIA1234", "hunter2", "tok\n", '"tok"', "abcdef"):
            assert secret not in text
    written = read_yaml(known.to_yaml())["source"][0]["storage_options"]
    assert written["secret"] == "${S3_SECRET}"
    assert written["anon"] is False
    assert written["client_kwargs"] == {"aws_session_token": HIDDEN, "region_name": "eu", "verify": None}
    assert written["headers"] == [{"Authorization": HIDDEN}, {"auth": "Bearer ${TOKEN}"}]
    assert f"storage_options hold {HIDDEN} where a secret was" in refused(read_yaml(known.to_yaml()))


@pytest.mark.parametrize(
    "options",
    [
        {"headers": {"Cookie": "sid=S3cr3t"}},
        {"headers": {"X-Api": "S3cr3t"}},
        {"client_kwargs": {"headers": [{"X-Anything": "S3cr3t"}]}},
        {"bearer": "S3cr3t"},
        {"pass": "S3cr3t", "user": "me"},
        {"session": "S3cr3t"},
        {"account_name": "S3cr3t"},
        {"account": {"host": "S3cr3t"}, "key": {"region": "S3cr3t"}},
        {"whatever": ["S3cr3t", {"it": "S3cr3t"}]},
        {"pin": 53237},
        {"endpoint_url": "https://me:S3cr3t@host/x"},
        {"Region": "S3cr3t"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_secret_of_any_name_is_written_nowhere(options):
    known = recipe(source={"path": "a.parquet", "storage_options": options})
    told = str(redacted(options)) + known.to_yaml() + repr(known)
    assert "S3cr3t" not in told and "53237" not in told
    if "endpoint_url" not in options:
        said = masked(f"the server says: no {options} here", options)
        assert "S3cr3t" not in said and "53237" not in said


def test_what_says_where_and_how_is_kept():
    options = {
        "anon": True, "region": "eu", "endpoint_url": "http://host:9000", "client_kwargs": {"region_name": "eu"},
        "config_kwargs": {"retries": {"max_attempts": 3, "mode": "standard"}, "s3": {"addressing_style": "path"}},
        "default_block_size": 5_000_000, "nothing": None, "secret": "${S3_SECRET}", "token": "Bearer ${TOKEN}",
    }  # fmt: skip
    assert redacted(options) == options


def test_a_wrong_secret_is_not_told():
    for value in ("AKIA1234", ["AKIA1234"], 1234):
        assert "1234" not in refused(SMALL | {"source": {"path": "a", "storage_options": value}})


def test_a_password_in_a_path_is_refused():
    message = refused(SMALL | {"source": "ftp://me:hunter2@host/x.parquet"})
    assert message == f"source.path {NO_PASSWORD}"
    assert redacted("http://me:pw@host") == f"http://me:{HIDDEN}@host"
    assert redacted("https://host/x?v=1&sig=0af&t=2") == f"https://host/x?v=1&sig={HIDDEN}&t=2"


@pytest.mark.parametrize("url", ["s3://me:hunter2@bucket/x.npy", "https://host/x.npy?se=1&sig=hunter2"])
@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"source": "URL"}, "source.path"),
        ({"source": {"path": "a", "root": ["b", "URL"]}}, "source.root"),
        ({"embed": {"files": "URL"}}, "embed.files"),
        ({"embed": {"files": ["a.npy", "URL"]}}, "embed.files.1"),
        ({"score": [{"file": "URL"}]}, "score.file"),
        ({"filter": [{"uids": "URL"}]}, "filter.uids"),
        ({"write": {"path": "URL"}}, "write.path"),
    ],
)
def test_no_setting_takes_a_url_that_gives_access(setting, name, url):
    """A recipe is kept with its run, and shown in its report."""
    message = refused(SMALL | json.loads(json.dumps(setting).replace("URL", url)))
    assert message == f"{name} {NO_PASSWORD}"


def test_a_condition_may_compare_with_any_address():
    condition = "url = 'https://me:word@host/x?key=1'"
    assert parse_recipe(SMALL | {"filter": [condition]}).filter == (condition,)


def test_models_are_frozen():
    for model in (recipe(), recipe().select):
        assert isinstance(model, BaseModel)
        with pytest.raises(ValueError, match="frozen"):
            model.seed = 3
