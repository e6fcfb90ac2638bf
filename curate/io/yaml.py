"""YAML as recipes have it: only true and false are truth values, 1e-3 is a number, and no key stands twice."""

import copy
import functools
import re
from typing import Any

import yaml

__all__ = ["read_yaml"]


class _Yaml(yaml.SafeLoader):
    """YAML in which only true and false are truth values (`on` can be a key) and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping; refuse a key that is there already, which YAML would overwrite silently."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Yaml.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(?:\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:  # noqa: ANN401  (YAML may hold anything)
    """Return what a YAML text holds, read safely; raises YAMLError where it is none, or nested beyond all sense."""
    try:
        return copy.deepcopy(_read(text))
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


@functools.lru_cache(maxsize=16)
def _read(text: str) -> Any:  # noqa: ANN401
    """Return what a text holds; kept for a while, because a run reads the text of its recipe again and again."""
    return yaml.load(text, _Yaml)
