"""Reading what makes ids of text in a gateway. Knows files, no weights; needs no torch."""

from dataclasses import dataclass

from expertmesh.checkpoint.configuration import read_configuration
from expertmesh.gateway.config import GatewayConfig
from expertmesh.text.conversation import ChatTemplate
from expertmesh.text.template_choice import choose_template
from expertmesh.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextFiles:
    """A tokenizer and a template, and why it is this one."""

    tokenizer: Tokenizer
    template: ChatTemplate
    reason: str


def read_text_files(config: GatewayConfig) -> TextFiles:
    """Read tokenizer and template; CheckpointError or ConfigError when the model cannot be served with them."""
    tokenizer = Tokenizer.open(config.model, read_configuration(config.model).model.vocab_size)
    choice = choose_template(config.model, tokenizer, config.chat_template)
    return TextFiles(tokenizer, choice.template, choice.reason)
