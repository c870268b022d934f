"""The answer to a completion request in OpenAI's shapes."""
