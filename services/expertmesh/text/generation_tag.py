"""``{% generation %}`` of chat templates, which says in training what the model wrote. Changes no text."""

from jinja2.ext import Extension
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser


class GenerationTag(Extension):
    """Renders what stands in it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Node:
        """Read up to the end of the block, whose variables are its own."""
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)
