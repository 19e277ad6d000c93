"""The dashboard and the alerts of the chart ask for what the services export."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import promql
import pytest
import yaml
from exposition import Samples
from live_snapshots import LiveSnapshots
from prometheus_client import CollectorRegistry, generate_latest

from expertmesh.engine.blocks import BlockPool
from expertmesh.engine.scheduler import Scheduler
from expertmesh.engine.scheduler_config import SchedulerConfig
from expertmesh.engine.stats import EngineStats
from expertmesh.expert.metrics import ExpertMetrics
from expertmesh.gateway.metrics.config import MetricsConfig
from expertmesh.gateway.metrics.exposition import Metrics
from expertmesh.gateway.state import GatewayState
from expertmesh.mesh.expert_load import ExpertLoadCounter
from expertmesh.wire.info import ServerInfo
from expertmesh.wire.model_info import ModelInfo

FILES = Path(__file__).parents[2] / "helm" / "expertmesh" / "files"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "monitoring.md"
ALERTS, DASHBOARD = FILES / "alerts.yaml", FILES / "dashboard.json"

# Labels that Prometheus adds to what it scrapes from a pod.
TARGET_LABELS = {"namespace", "pod", "service", "job", "instance"}


def exported() -> list[Samples]:
    """Everything that a gateway and an expert server export before their first request."""
    blocks = BlockPool(8, 16)
    scheduler = Scheduler(SchedulerConfig().fitted_to("cpu"), blocks)
    state = GatewayState(EngineStats(), ExpertLoadCounter(2, 8), scheduler, blocks, pool=None)
    model = ModelInfo("tiny", "MixtralForCausalLM", "f00d", "awq", 2, 16, 8, 2, 32, 128, "1", "avx2", True)
    gateway = Metrics(LiveSnapshots(state), lambda: model, MetricsConfig(by_layer=True))
    registry = CollectorRegistry()
    ExpertMetrics(registry, ServerInfo("f00d", (0,), 8, 2, 16, "awq", "cpu", "cpu", 1, "1", "avx2", True), lambda: 0)
    return [Samples(asyncio.run(gateway.render()).decode()), Samples(generate_latest(registry).decode())]


def rules() -> Iterator[dict]:
    for group in yaml.safe_load(ALERTS.read_text())["groups"]:
        yield from group["rules"]


def queries() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def test_every_metric_that_is_asked_for_exists():
    known = {name for samples in exported() for name in samples.names}
    known |= {rule["record"] for rule in rules() if "record" in rule}
    asked = {name for query in queries() for name in promql.metrics(query)}
    assert len(asked) > 40
    assert asked - known == set()


def test_every_label_that_is_asked_for_exists():
    known = {label for samples in exported() for family in samples.families for label in samples.labels(family)}
    asked = {label for query in queries() for label in promql.labels(query)}
    assert asked - known - TARGET_LABELS == set()


def test_names_and_labels_are_found_in_queries():
    query = 'sum by (le, expert) (rate(expertmesh_a_bucket{ns=~"expertmesh_b"}[5m])) > on (pod) expertmesh:c:rate5m'
    assert promql.metrics(query) == {"expertmesh_a_bucket", "expertmesh:c:rate5m"}
    assert promql.labels(query) == {"le", "expert", "ns", "pod"}


def test_panels_take_the_data_source_that_the_reader_chooses_and_none_covers_another():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    sources = {panel["datasource"]["uid"] for panel in panels if panel["type"] != "row"}
    assert sources == {"${datasource}"}
    cells = [cell for panel in panels for cell in _cells(**panel["gridPos"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def _cells(x: int, y: int, w: int, h: int) -> Iterator[tuple[int, int]]:
    return product(range(x, x + w), range(y, y + h))


def test_every_alert_says_what_it_means_and_what_to_do():
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_takes_rules_and_queries(tmp_path):
    replaced = (query.replace("$__rate_interval", "5m").replace("$__range", "1h") for query in queries())
    as_rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(replaced)]
    all_queries = tmp_path / "queries.yaml"
    all_queries.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": as_rules}]}))
    for file in (ALERTS, all_queries):
        checked = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should():
    cases = Path(__file__).parent / "alerts_test.yaml"
    tested = subprocess.run(["promtool", "test", "rules", str(cases)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_documentation_lists_what_is_exported_and_nothing_else():
    cells = re.findall(r"^\| (.*?) \|", DOCUMENTATION.read_text(), re.M)
    names = {name for cell in cells for name in re.findall(r"`(expertmesh_\w+)", cell)}
    families = [family for samples in exported() for family in samples.families.values()]
    suffixes = {"counter": "_total", "info": "_info"}
    known = {family.name + suffixes.get(family.type, "") for family in families}
    assert names == {name for name in known if not name.endswith("_created")}
