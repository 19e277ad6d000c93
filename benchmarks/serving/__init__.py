"""A load generator for servers of the OpenAI HTTP API."""
