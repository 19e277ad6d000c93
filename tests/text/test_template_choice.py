import json

import pytest
from chat_files import CHATML, INST, copy_version, write_chatml, write_config, write_json

from expertmesh.errors import CheckpointError, ConfigError
from expertmesh.text.conversation import Message
from expertmesh.text.inst_template import InstTemplate
from expertmesh.text.jinja_template import JinjaTemplate
from expertmesh.text.template_choice import Choice, choose_template
from expertmesh.text.tokenizer import Tokenizer

ROLES = {"bos_token": "<s>", "eos_token": "</s>"}
# Later ones of Mistral put the system message before the last user text.
LATER_INST = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set messages = messages[1:] %}"
    "{% endif %}{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}"
    "{% if loop.last and system is defined %}{{ '[INST] ' + system + '\\n\\n' + message.content + '[/INST]' }}"
    "{% else %}{{ '[INST] ' + message.content + '[/INST]' }}{% endif %}"
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)
LLAMA = INST.replace("' [INST] ' + ", "' [INST] <<SYS>>kind<</SYS>> ' + ")
WITH_SYSTEM = INST.replace("(message.role == 'user') != (loop.index0 % 2 == 0)", "false").replace(
    "{% else %}", "{% elif message.role == 'system' %}{{ '<<SYS>>' + message.content }}{% else %}"
)


def choose(directory, file=None) -> Choice:
    return choose_template(directory, Tokenizer.open(directory), file)


@pytest.mark.parametrize(("version", "form"), [(1, "as text"), (2, "as control tokens"), (3, "as control tokens")])
def test_without_a_template_the_tokenizer_says_how_inst_is_written(tmp_path, version, form):
    choice = choose(copy_version(tmp_path, version))
    assert isinstance(choice.template, InstTemplate)
    assert choice.reason == f"[INST] {form}, as tokenizer.model has it: {tmp_path} holds no chat template"


@pytest.mark.parametrize("source", [INST, LATER_INST])
@pytest.mark.parametrize("version", [1, 3])
def test_inst_templates_of_checkpoints_are_ours(tmp_path, source: str, version: int):
    choice = choose(write_config(copy_version(tmp_path, version), chat_template=source, **ROLES))
    assert isinstance(choice.template, InstTemplate)
    assert choice.reason.endswith(f"chat_template of {tmp_path}/tokenizer_config.json is an [INST] template")


@pytest.mark.parametrize("source", [CHATML, LLAMA, WITH_SYSTEM])
def test_any_other_template_counts(tmp_path, source: str):
    choice = choose(write_config(copy_version(tmp_path), chat_template=source, **ROLES))
    assert isinstance(choice.template, JinjaTemplate)
    assert choice.reason == f"chat_template of {tmp_path}/tokenizer_config.json"


def test_a_file_of_the_checkpoint_comes_before_its_configuration(tmp_path):
    write_config(copy_version(tmp_path), chat_template=INST, **ROLES)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert choose(tmp_path).reason == f"{tmp_path}/chat_template.jinja"


def test_a_file_of_the_command_line_comes_before_all(tmp_path):
    file = tmp_path / "mine"
    file.write_text(INST)
    choice = choose(write_chatml(tmp_path), file)
    assert isinstance(choice.template, JinjaTemplate)
    assert choice.reason == f"{file}, as --chat-template says"


def test_of_several_templates_the_default_counts(tmp_path):
    named = [{"name": "tool_use", "template": "{{ x.y }}"}, {"name": "default", "template": CHATML}]
    assert isinstance(choose(write_config(copy_version(tmp_path), chat_template=named)).template, JinjaTemplate)


def test_a_tokenizer_json_with_an_inst_template(tmp_path):
    write_config(write_json(tmp_path, "prepend"), chat_template=INST, **ROLES)
    tokenizer = Tokenizer.open(tmp_path)
    template = choose(tmp_path).template
    assert isinstance(template, InstTemplate)
    assert template.encode([Message("user", "Hello")]) == [1, *tokenizer.encode("[INST] Hello [/INST]")]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (7, "tokenizer_config.json: chat_template is 7; a text would be right"),
        ([{"name": "rag", "template": "x"}], "chat_template names 'rag'; one 'default' would be right"),
        ("{% if %}", r"chat_template of .*tokenizer_config.json: line 1 of the chat template is not valid"),
    ],
)
def test_a_template_of_no_use_is_named(tmp_path, template, message: str):
    with pytest.raises(CheckpointError, match=message):
        choose(write_config(copy_version(tmp_path), chat_template=template))


def test_a_flag_that_names_no_text_is_named(tmp_path):
    copy_version(tmp_path)
    with pytest.raises(ConfigError, match=r"--chat-template: .*missing.* cannot be read: .*No such file"):
        choose(tmp_path, tmp_path / "missing")
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(ConfigError, match=r"--chat-template: .*latin cannot be read: .*utf-8.* UTF-8 would be right"):
        choose(tmp_path, tmp_path / "latin")


def test_a_later_tokenizer_needs_a_template(tmp_path):
    copy_version(tmp_path, 7)
    message = (
        r"tokenizer.model holds \[SYSTEM_PROMPT\].*holds no chat template, and --chat-template FILE would be right"
    )
    with pytest.raises(CheckpointError, match=message):
        choose(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": INST}))
    assert isinstance(choose(tmp_path).template, JinjaTemplate)
