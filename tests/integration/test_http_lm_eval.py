"""lm-eval's local-completions model scores and asks the demo model. Skipped where lm-eval is not installed."""

import json
import warnings
from pathlib import Path

import pytest
from demo_model import MODEL, NAME
from http_serving import serving

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.openai_completions import LocalCompletionsAPI
    from lm_eval.tasks import TaskManager

pytestmark = pytest.mark.filterwarnings("default")

ROWS = (
    {"question": "What is 291 - 150?", "choices": ["141", "99", "7"], "label": 0},
    {"question": "Add 123 and 45.", "choices": ["12", "168", "500"], "label": 1},
)
CHOICE = """
task: choose
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "[INST] {{{{question}}}} [/INST]"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
ASK = """
task: ask
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "[INST] {{{{question}}}} [/INST]"
doc_to_target: "{{{{choices[label]}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 12, temperature: 0.0}}
filter_list: [{{name: words, filter: [{{function: remove_whitespace}}, {{function: take_first}}]}}]
metric_list: [{{metric: exact_match}}]
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write two tasks over the same questions."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, ROWS)))
    for name, text in (("choose", CHOICE), ("ask", ASK)):
        (tmp_path / f"{name}.yaml").write_text(text.format(data=data))
    return tmp_path


def evaluate(task: str, tasks: Path, **arguments: object) -> dict[str, float]:
    with serving() as mesh:
        model = LocalCompletionsAPI(base_url=f"{mesh.url}/v1/completions", model=NAME, max_retries=1, **arguments)
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        reply = lm_eval.simple_evaluate(model=model, tasks=[task], task_manager=manager, bootstrap_iters=0)
        mesh.wait_idle()
    return reply["results"][task]


def test_loglikelihood_of_token_ids(tasks: Path) -> None:
    results = evaluate("choose", tasks, tokenizer=str(MODEL), tokenizer_backend="huggingface", add_bos_token=True)
    assert results["acc,none"] == 1.0


def test_generate_until_from_text(tasks: Path) -> None:
    results = evaluate("ask", tasks, tokenizer_backend=None, tokenized_requests=False)
    assert results["exact_match,words"] == 1.0
