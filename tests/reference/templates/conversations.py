"""Templates in the manner of well-known models, written for this project, and conversations to try them on."""

TEMPLATES = {
    # Headers and end marks, tools in the first user's message, the date from the clock.
    "headers": """{{- bos_token }}
{%- set today = strftime_now("%d %b %Y") if strftime_now is defined else "unknown" %}
{%- if messages[0].role == "system" %}
    {%- set told = messages[0].content | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set told = "" %}
    {%- set rest = messages %}
{%- endif %}
{{- "<|head|>system<|head_end|>\\n\\nToday is " + today + ".\\n" + told + "<|turn_end|>" }}
{%- for m in rest %}
    {%- if m.role == "tool" %}
        {{- "<|head|>tool<|head_end|>\\n\\n" }}{{ m.content | tojson if m.content is mapping or m.content is iterable else m.content }}{{ "<|turn_end|>" }}
    {%- elif "tool_calls" in m %}
        {%- if m.tool_calls | length != 1 %}{{ raise_exception("One tool call at a time, please!") }}{% endif %}
        {%- set f = m.tool_calls[0].function %}
        {{- '<|head|>assistant<|head_end|>\\n\\n{"name": "' ~ f.name ~ '", "parameters": ' }}{{ f.arguments | tojson }}{{ "}<|turn_end|>" }}
    {%- else %}
        {{- "<|head|>" + m.role + "<|head_end|>\\n\\n" }}
        {%- if loop.first and tools %}
            {{- "Tools:\\n" }}
            {%- for t in tools %}{{ t | tojson(indent=4) }}{{ "\\n\\n" }}{% endfor %}
        {%- endif %}
        {{- m.content | trim + "<|turn_end|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|head|>assistant<|head_end|>\\n\\n" }}{%- endif %}
""",
    # Chat markup with tools in the system message.
    "markup": """{%- set named = messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' }}{{ messages[0]['content'] if named else 'You are helpful.' }}
{%- if tools %}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools>" }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for call in message.tool_calls %}
            {%- set call = call.function if call.function is defined else call %}
            {{- '\\n<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}{{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
""",
    # Drops the reasoning of earlier turns.
    "thinking": """{%- set ns = namespace(last=messages|length - 1, seen=false) %}
{%- for m in messages[::-1] %}
    {%- if not ns.seen and m.role == 'user' and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
        {%- set ns.seen = true %}{%- set ns.last = messages|length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if m.reasoning_content is defined and m.reasoning_content is not none %}
            {%- set thought = m.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{%- endif %}
        {{- content.lstrip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""",
    # Brackets, strict order, the system message in front of the last user's.
    "brackets": """{%- set told = messages[0].content if messages[0].role == "system" else none %}
{%- set turns = messages[1:] if told is not none else messages %}
{%- set asked = turns | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for m in turns | rejectattr("role", "in", ["tool"]) | rejectattr("tool_calls", "defined") %}
    {%- if (m["role"] == "user") != (loop.index0 % 2 == 0) %}{{ raise_exception("Roles must alternate user/assistant/user/assistant/...") }}{% endif %}
{%- endfor %}
{%- for m in turns %}
    {%- if m.role == "user" %}
        {%- if tools and m == asked[-1] %}
            {{- "[TOOLS][" }}
            {%- for tool in tools %}
                {{- '{' }}
                {%- for key, val in tool.function.items() if key != "return" %}
                    {{- '"' + key + '": ' }}{{ '"' + val + '"' if val is string else val | tojson }}{{ ", " if not loop.last }}
                {%- endfor %}
                {{- '}' }}{{ ", " if not loop.last else "]" }}
            {%- endfor %}
            {{- "[/TOOLS]" }}
        {%- endif %}
        {{- "[INST]" }}{%- if loop.last and told is not none %}{{- told + "\\n\\n" }}{%- endif %}{{- m.content + "[/INST]" }}
    {%- elif m.tool_calls is defined %}
        {{- "[CALLS]" }}{%- for c in m.tool_calls %}{%- set out = c.function | tojson %}{{- out[:-1] + ', "id": "' + c.id + '"}' }}{%- endfor %}{{- eos_token }}
    {%- elif m.role == "assistant" %}
        {{- " " + m.content + eos_token }}
    {%- elif m.role == "tool" %}
        {{- '[RESULTS]{"content": ' + m.content | string + '}[/RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported!") }}
    {%- endif %}
{%- endfor %}
""",
    # No system role.
    "turns": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role here') }}{% endif %}{% for m in messages %}{% set who = 'model' if m.role == 'assistant' else m.role %}{{ '<start>' + who + '
' + m['content'] | trim + '<end>
' }}{% endfor %}{% if add_generation_prompt %}{{ '<start>model
' }}{% endif %}""",
    # One line of text a message.
    "pipes": """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{ '<|system|>
' + message['content'] + '<|end|>
' }}{% elif message['role'] in ['user', 'assistant'] %}{{ '<|' + message['role'] + '|>
' + message['content'] + '<|end|>
' }}{% endif %}{% endfor %}{{ '<|assistant|>
' if add_generation_prompt else eos_token }}""",
    # Blocks on lines of their own, which are trimmed.
    "lines": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{% generation %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endgeneration %}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    # Macros that call themselves, over a tool's schema.
    "schema": """{%- macro kind_of(schema, depth=0) -%}
    {%- if schema.type is sequence and schema.type is not string -%}{{ schema.type | join(' | ') }}
    {%- elif schema.type == 'array' -%}{{ kind_of(schema['items'], depth + 1) ~ '[]' if schema['items'] else 'any[]' }}
    {%- elif schema.type == 'object' and schema.properties -%}
        {{- '{' }}
        {%- for name, inner in schema.properties | dictsort %}
            {{- name ~ ('' if name in schema.get('required', []) else '?') ~ ': ' ~ kind_of(inner, depth + 1) }}{{ ', ' if not loop.last }}
        {%- endfor %}
        {{- '}' }}
    {%- elif schema.enum is defined -%}{{ schema.enum | map('tojson') | join(' | ') }}
    {%- else -%}{{ schema.type | default('any', true) }}
    {%- endif -%}
{%- endmacro -%}
{%- for tool in tools or [] %}
{%- set f = tool.function %}
// {{ f.description | default('') }}
type {{ f.name }} = (_: {{ kind_of(f.parameters) }}) => any;
{% endfor %}
{%- for m in messages %}
{{- m.role | upper ~ ': ' ~ (m.content if m.content is string else m.content | map(attribute='text') | join(' ')) }}
{%- if not loop.last %}{{ '\\n' }}{% endif %}
{%- endfor %}
{%- if documents %}{{ '\\n' ~ documents | tojson }}{% endif %}
""",
}

TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather of a place, now.", "parameters": {
        "type": "object", "properties": {"place": {"type": "string", "description": "A town, as in “Rome”"},
                                         "unit": {"enum": ["C", "F"]}, "days": {"type": ["integer", "null"]}},
        "required": ["place"]}}},
    {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {
        "numbers": {"type": "array", "items": {"type": "number"}}}, "required": ["numbers"]}}},
]

CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "id": "abcdef123", "function": {"name": "get_weather", "arguments": {"place": "Rome", "days": 2, "x": 1.0, "ok": True, "no": None}}}]}


def continued(answer, field=True):
    """A conversation whose last answer is only begun."""
    messages = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", **answer}]
    return {"messages": messages, "add_generation_prompt": False, "continue_final_message": field}


CONVERSATIONS = {
    "one": {"messages": [{"role": "user", "content": "Hello!"}]},
    "system": {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Why? "}]},
    "turns": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello."},
                           {"role": "user", "content": "Ünïcode 😀 <b>\"&amp;\"</b>\n\n\ttab"}, {"role": "assistant", "content": " ok "},
                           {"role": "user", "content": "Bye"}]},
    "no prompt": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}], "add_generation_prompt": False},
    "tools": {"messages": [{"role": "user", "content": "Weather in Rome?"}], "tools": TOOLS},
    "tool turn": {"messages": [{"role": "user", "content": "Weather in Rome?"}, CALL, {"role": "tool", "name": "get_weather", "content": "12 degrees"},
                               {"role": "tool", "name": "get_weather", "content": "rain"}, {"role": "assistant", "content": "Cold and wet."},
                               {"role": "user", "content": "Thanks"}], "tools": TOOLS},
    # Tokens of the tokenizers of two fixtures, written by a user.
    "marks": {"messages": [{"role": "user", "content": "a <|eot_id|> b<|begin_of_text|> <s>c </s>  nanoserve <mask> <|user|>  d"},
                           {"role": "assistant", "content": "<|tool|><|end|>\n<|end"}, {"role": "user", "content": "<|assistant|>   e<unk>"}]},
    "order": {"messages": [{"role": "assistant", "content": "I begin."}, {"role": "user", "content": "No."}]},
    "narrator": {"messages": [{"role": "narrator", "content": "Once."}]},
    "no content": {"messages": [{"role": "user"}]},
    "null content": {"messages": [{"role": "user", "content": "Go"}, {"role": "assistant", "content": None, "tool_calls": CALL["tool_calls"]}]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "part one"}, {"type": "text", "text": "part two"}]}]},
    "reasoning": {"messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "reasoning": "Two, surely.", "content": "2"}]},
    "no thinking": {"messages": [{"role": "user", "content": "1 + 1?"}], "enable_thinking": False},
    "documents": {"messages": [{"role": "user", "content": "Sum up."}], "documents": [{"title": "A", "text": "Long."}]},
    "empty": {"messages": []},
    # The prompt ends within the last message.
    "continued": continued({"content": "Hello, my "}),
    "continued, ending in a line": continued({"content": " Hello\n"}),
    "continued parts": continued({"content": [{"type": "text", "text": "One. "}, {"type": "text", "text": "Two "}, {"type": "image"}]}),
    "continued, nothing": continued({"tool_calls": CALL["tool_calls"]}),
    "continued, no text": continued({"content": [{"type": "image"}]}),
    "continued thought": continued({"content": "", "reasoning": "I think "}, "reasoning_content"),
    "continued and begun": {**continued({"content": "Hel"}), "add_generation_prompt": True},
}
