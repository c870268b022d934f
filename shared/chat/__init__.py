"""The parts of a chat: its messages and tools, and the answer in OpenAI's shapes."""
