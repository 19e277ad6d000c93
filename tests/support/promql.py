"""Names in PromQL. Knows its lexical shape, not what a query means."""

import re

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCHERS = re.compile(r"\{([^{}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_METRIC = re.compile(r"\b(?:expertmesh|vllm)[:_][a-z0-9_:]+")
_NAME = re.compile(r"[a-zA-Z_]\w*")


def metrics(query: str) -> set[str]:
    """Names of the metrics that a query asks for."""
    return set(_METRIC.findall(_MATCHERS.sub("", _QUOTED.sub('""', query))))


def labels(query: str) -> set[str]:
    """Names of the labels that a query matches or groups by."""
    bare = _QUOTED.sub('""', query)
    return {
        name for pattern in (_MATCHERS, _GROUPING) for part in pattern.findall(bare) for name in _NAME.findall(part)
    }
