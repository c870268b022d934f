"""Language models of many architectures, tiny and with random weights, in the folders that mlx-lm loads.

    build(folder, "qwen3") -> folder

The weights are such that what a model says depends on every token of its prompt, that it does not run in
circles, and that its best token stands out: two ways to compute an answer that agree prove something.
"""

import importlib
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tests.checkpoints.configs import CONFIGS
from tests.checkpoints.files import save, weights_of, write_tokenizer

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>")
SHARP = 3.0  # times what mlx-lm begins with: less repeats itself, more lets rounding grow
FACTORS = (  # the same for weights with such a name
    ("embed_tokens.weight", 0.2),
    ("embeddings.weight", 0.2),
    (".conv.", 1.0),
    ("o_proj.weight", 6.0),
    ("out_proj.weight", 6.0),
    ("q_norm.weight", 3.0),
    ("q_layernorm.weight", 3.0),
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = """\
{%- if tools or messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content }}
    {%- endif %}
    {%- if tools %}
        {%- if messages[0].role == 'system' %}{{- '\\n\\n' }}{%- endif %}
        {{- '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n' }}
        {{- 'You are provided with function signatures within <tools></tools> XML tags:\\n<tools>' }}
        {%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
        {{- '\\n</tools>\\n\\nFor each function call, return a json object with function name and ' }}
        {{- 'arguments within <tool_call></tool_call> XML tags:\\n<tool_call>\\n' }}
        {{- '{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.reasoning_content and loop.last %}
            {{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- (message.content or '').split('</think>')[-1].lstrip('\\n') }}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
            {{- tool_call.arguments if tool_call.arguments is string else tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.previtem is not defined or loop.previtem.role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""


def build(path: Path, architecture: str, *, seed: int = 0, tools: bool = False) -> Path:
    """Write a model of one of CONFIGS, in float32. With `tools` its template and its vocabulary are like
    Qwen3's: it renders tools and their results, and thinks unless `enable_thinking` is false."""
    import mlx.core as mx  # late: what runs in this process may still have to preload a BLAS

    marks, template = (MARKS, QWEN3) if tools else ((), CHATML)
    tokenizer = write_tokenizer(path, CONTROLS, marks, chat_template=template)
    config = _config(architecture, tokenizer)
    mx.random.seed(seed)
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    weights = weights_of(module.Model(module.ModelArgs.from_dict(config)))
    return save(path, config, {name: _sharpened(name, weight) for name, weight in weights.items()})


def _sharpened(name: str, weight: Any) -> Any:
    """What mlx-lm begins with, so changed that far tokens count. Constants (norms, decays, sinks, biases)
    get values that differ, or nobody would see them mixed up."""
    import mlx.core as mx

    if weight.size > 1 and mx.std(weight).item() < 1e-6:
        weight = weight + 0.2 * mx.random.normal(weight.shape)
    if name.endswith("dt_bias"):
        return weight - 6.0  # a state that lasts for a hundred tokens, as in real models
    return weight * next((by for part, by in FACTORS if part in name), SHARP if weight.ndim > 1 else 1.0)


def _config(architecture: str, tokenizer: Tokenizer) -> dict[str, Any]:
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "torch_dtype": "float32"}
    ends = {"eos_token_id": tokenizer.token_to_id("<|im_end|>")}
    ends["pad_token_id"] = tokenizer.token_to_id("<|endoftext|>")
    config = CONFIGS[architecture] | sizes | ends
    if inner := config.get("text_config"):
        config["text_config"] = inner | sizes
    return config
