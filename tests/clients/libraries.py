"""Client libraries with connections that are closed in the end: left alone they keep theirs for good.

They are imported when they are used, since that takes seconds.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import httpx


@contextmanager
def litellm() -> Iterator[ModuleType]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else a price list is fetched by the import
    import litellm

    litellm.suppress_debug_info = True
    loop = asyncio.new_event_loop()  # its blocking calls use the thread's, and make one that nobody closes
    asyncio.set_event_loop(loop)
    try:
        with httpx.Client() as litellm.client_session:
            yield litellm
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        litellm.client_session = None
        litellm.in_memory_llm_clients_cache.flush_cache()  # of clients with that session


@contextmanager
def langchain(url: str) -> Iterator[dict[str, Any]]:
    """What every model and embedding of langchain-openai takes to talk to the service at `url`."""
    os.environ["LANGSMITH_TRACING"] = "false"
    with httpx.Client() as http:
        yield {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0, "http_client": http}
