"""Templates that try one thing each, and the variables they are rendered with. All of them are ours."""

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "  Hello, Ünïcode 😀 <b>&amp;</b> \"q\" 'a'\n"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHi!", "n": 3},
    {"role": "user", "content": "Bye", "tags": ["x", "Y", "z"], "n": 1},
]

VARIABLES = {
    "messages": MESSAGES,
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_generation_prompt": True,
    "tools": None,
    "d": {"b": 1, "a": [1, 2.5, None, True, "é\n\"'"], "items": "key", "_x": 7, "C": {"k": {}}},
    "l": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple", "Fig"],
    "people": [
        {"name": "Ada", "age": 36, "city": {"name": "London"}},
        {"name": "bob", "age": 25, "city": {"name": "Rome"}},
        {"name": "Cy", "age": 36, "city": {"name": "rome"}},
    ],
    "n": 7, "f": 2.5, "neg": -7, "t": True, "z": None, "e": "", "s": "a,b,,c", "big": 12345678901234567890,
    "html": "<a href=\"x\">1 & 2</a>  <!-- c --> t",
    "text": "The quick brown fox jumps over the lazy dog, and runs away-from it all.",
}

# Printing, and Python's str and repr
PRINT = r"""
{{ none }}|{{ true }}|{{ false }}|{{ None }}|{{ True }}|{{ undefined_thing }}|{{ 1 }}|{{ 1.0 }}|{{ -0.0 }}
{{ 1e16 }}|{{ 1e15 }}|{{ 123456789.123 }}|{{ 0.0001 }}|{{ 0.00001 }}|{{ 1e-7 }}|{{ 1.5e300 }}|{{ 0.1 + 0.2 }}|{{ 1e22 }}
{{ d }}
{{ d.a }}
{{ l }}|{{ (1, 2) }}|{{ (1,) }}|{{ () }}|{{ [] }}|{{ {} }}
{{ ["it's", 'say "x"', 'both \' and "', "tab\t", "nl\n", "back\\", "é", "\x01", "\x7f", "\u200b", "\u00a0", "😀", "\xad"] }}
{{ {'a': none, 'b': true, 1: 2.0, none: 'x', (1, 2): [3]} }}
{{ messages[1] }}
{{ big }}|{{ big + 1 }}|{{ 170141183460469231731687303715884105727 }}
{{ range(3) }}|{{ range(1, 9, 2) }}|{{ range(5, 1, -1) }}|{{ range(0) }}
{{ d.items() }}|{{ d.keys() }}|{{ d.values() }}
{{ 'a' 'b' "c" }}
{{ "line\
joined" }}
{{ '\/\d\x41\101\u00e9\U0001F600\a' | tojson }}
{{ 1_000 }}|{{ 0x1f }}|{{ 0b101 }}|{{ 0o17 }}|{{ 1.5e3 }}|{{ 2e3 }}
{{ [undefined_thing] }}
{{ [true, none, 1.0]|string }}|{{ none|string }}|{{ 1.0|string + 'x' }}
{{ 'x' ~ none ~ true ~ 1.0 ~ [1, 'a'] ~ undefined_thing ~ {'a': 1} }}
{{ [1, 2, [3, {'x': (4,)}]] }}
"""

# Arithmetic, comparison and logic
LOGIC = r"""
{{ 7 // 2 }}|{{ -7 // 2 }}|{{ 7 // -2 }}|{{ 7 % 3 }}|{{ -7 % 3 }}|{{ 7 % -3 }}|{{ 7 / 2 }}|{{ 6 / 2 }}|{{ 2 ** 10 }}|{{ 2 ** -1 }}|{{ 2 ** 0.5 }}
{{ 7.5 // 2 }}|{{ -7.5 // 2 }}|{{ 7.5 % 2 }}|{{ -7.5 % 2 }}|{{ 5 % 2.5 }}|{{ 1e300 * 1e10 }}|{{ 3 - 5 }}|{{ 3.0 * 2 }}
{{ -3 }}|{{ -n }}|{{ --n }}|{{ -n|abs }}|{{ -(1 + 2) * 3 }}|{{ 2 ** 3 ** 2 }}|{{ -2 ** 2 }}|{{ 2 * 3 ~ 4 }}|{{ 1 + 2 ~ 3 }}|{{ 1 ~ 2 + 3 }}
{{ true + 1 }}|{{ true + true }}|{{ true * 3 }}|{{ 'ab' * 3 }}|{{ 3 * 'ab' }}|{{ 'ab' * 0 }}|{{ 'ab' * -1 }}|{{ [1, 2] * 2 }}|{{ (1,) * 3 }}
{{ 'a' + 'b' }}|{{ [1] + [2] }}|{{ (1,) + (2, 3) }}
{{ 1 < 2 < 3 }}|{{ 1 < 3 < 2 }}|{{ 1 == 1.0 }}|{{ 1 == true }}|{{ 'a' < 'b' }}|{{ [1, 2] < [1, 3] }}|{{ 'a' == 1 }}|{{ none == false }}
{{ 1 != 2 }}|{{ [1] == [1] }}|{{ {'a': 1} == {'a': 1} }}|{{ (1, 2) == (1, 2) }}|{{ [1, 2] == (1, 2) }}|{{ '1' == 1 }}|{{ undefined_a == undefined_b }}
{{ 'a' in 'abc' }}|{{ 'x' not in 'abc' }}|{{ 2 in l }}|{{ 'b' in d }}|{{ 'zz' in d }}|{{ 1 in (1, 2) }}|{{ '' in 'a' }}|{{ 'a' in undefined_thing }}|{{ not 'a' in 'b' }}
{{ true and 'x' }}|{{ '' or 'y' }}|{{ none and 1 }}|{{ 0 or [] or 'last' }}|{{ not none }}|{{ not 1 }}|{{ not undefined_thing }}
{{ 'yes' if true else 'no' }}|{{ 'yes' if false }}|{{ 'a' if false else 'b' if true else 'c' }}|{{ (1 if t else 2) + 3 }}
{{ 1 is not none and 2 > 1 or false }}|{{ not (true and false) }}|{{ n > 3 and n < 10 }}|{{ 3 < n <= 7 != 8 }}|{{ 1 in [1] == true }}
{{ n is odd and n is not even }}|{{ 1.5 + 1 }}|{{ 10 - 2 - 3 }}|{{ 100 / 10 / 2 }}|{{ 7 // 2 * 2 }}|{{ 1 - 1 }}|{{ 1.0 - 1 }}
"""

SLICES = r"""
{{ l[0] }}|{{ l[-1] }}|{{ l[1:] }}|{{ l[:-1] }}|{{ l[::-1] }}|{{ l[::2] }}|{{ l[5:] }}|{{ l[-2:] }}|{{ l[0:2:-1] }}|{{ l[2:0:-1] }}|{{ l[99] }}|{{ l[-99] }}
{{ 'hello'[1] }}|{{ 'hello'[-1] }}|{{ 'hello'[1:3] }}|{{ 'hello'[::-1] }}|{{ 'hello'[:-1] }}|{{ 'é😀x'[1] }}|{{ 'é😀x'[1:] }}|{{ 'abc'[9] }}|{{ 'abc'[-2:] }}|{{ 'abcdef'[4:1:-2] }}
{{ (1, 2, 3)[1:] }}|{{ (1, 2, 3)[-1] }}|{{ range(10)[2:5]|list }}|{{ range(10)[-1] }}|{{ range(10)[3] }}
{{ messages[0]['role'] }}|{{ messages[-1].role }}|{{ messages[1:][0].role }}|{{ messages[::-1][0].role }}|{{ messages[0].missing }}|{{ messages['x'] }}|{{ 5[0] }}|{{ none[0] }}|{{ none['x'] }}|{{ none[1:] }}
{{ d['a'][1] }}|{{ d.a.0 }}|{{ d['a'].1 }}|{{ d['items'] }}|{{ d._x }}|{{ d['_x'] }}|{{ d.C.k }}|{{ d.b }}|{{ d['nope'] }}|{{ d[5] }}|{{ d.C['k']['q'] }}
{% set k = 'b' %}{{ d[k] }}|{{ {'x': 1}['x'] }}|{{ [1, 2, 3][1] }}|{{ {'x': {'y': 2}}.x.y }}|{{ l[true] }}|{{ l[n - 6] }}|{{ l[1:2][0] }}
{{ l[none:2] }}|{{ 'abc'[:100] }}|{{ 'abc'[-100:] }}|{{ ''[0] }}|{{ [][::-1] }}|{{ d.items is defined }}|{{ d.keys is defined }}|{{ d.get is callable }}|{{ 'a'.upper is callable }}
"""

TAGS = r"""
{% for m in messages %}{{ loop.index }}/{{ loop.index0 }}/{{ loop.revindex }}/{{ loop.revindex0 }}/{{ loop.length }}/{{ loop.first }}/{{ loop.last }}/{{ loop.depth }}/{{ loop.depth0 }}/{{ loop.cycle('a', 'b', 'c') }}/{{ loop.changed(m.role == 'user') }}/{{ loop.previtem.role if loop.previtem is defined }}/{{ loop.nextitem.role if not loop.last }};{% endfor %}

{% for x in [] %}never{% else %}empty{% endfor %}

{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}

{% for k, v in d|items if k != 'a' %}{{ loop.index }}{{ k }}={{ v }};{% endfor %}

{% for k in d %}{{ k }},{% endfor %} {% for c in 'héy' %}{{ c }}.{% endfor %} {% for x in (1, 2) %}{{ x }}{% endfor %} {% for x in none or [] %}{% endfor %}

{% for a, b in [(1, 2), [3, 4]] %}{{ a }}-{{ b }} {% endfor %}{% for (a, b), c in [((1, 2), 3)] %}{{ a + b + c }}{% endfor %}

{% for i in range(10) %}{% if i == 2 %}{% continue %}{% endif %}{% if i > 5 %}{% break %}{% endif %}{{ i }}{% endfor %}

{% for i in range(3) recursive %}{{ i }}{% if i == 1 and loop.depth < 3 %}({{ loop(range(3)) }}){% endif %}{% endfor %}

{% for i in [[1, [2, 3]], 4] recursive %}{% if i is iterable %}[{{ loop(i) }}]{% else %}{{ i }}{% endif %}{% endfor %}

{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(count=0, names=[]) %}{% for m in messages %}{% set ns.count = ns.count + 1 %}{% set ns.names = ns.names + [m.role] %}{% endfor %}{{ ns.count }}{{ ns.names }}{{ ns.nope }}
{% if true %}{% set y = 5 %}{% endif %}{{ y }}{% if false %}{% elif 1 %}elif{% else %}else{% endif %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (a, b) = (b, a) %}{{ a }}{{ b }}{% set tup = 1, 2 %}{{ tup }}
{% set block %}in {{ n }} block{% endset %}[{{ block }}]{% set up | upper %}shout{% endset %}{{ up }}{% set tr | trim | upper %}  x  {% endset %}[{{ tr }}]
{% with a = 1, b = a %}{{ a }}{{ b }}{% endwith %}{% with %}{% set inner = 1 %}{{ inner }}{% endwith %}{{ inner }}
{% filter upper %}filtered {{ n }}{% endfilter %}{% filter replace('a', 'b') | upper %}banana{% endfilter %}
{% raw %}{{ raw }} {% if %}{# c #}{% endraw %}{# comment {{ x }} #}
{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ m(1, c=9) }}|{{ m(b=1, a=0) }}|{{ m() }}|{{ m('é'|upper) }}|{{ m(1)|length }}|{{ m.name }}
{% macro outer(x) %}[{{ caller(x) }}]{% endmacro %}{% call(v) outer(5) %}<{{ v }}>{% endcall %}{% macro plain() %}{{ caller() }}{% endmacro %}{% call plain() %}body{{ n }}{% endcall %}
{% macro fact(n) %}{% if n <= 1 %}1{% else %}{{ n * fact(n - 1)|int }}{% endif %}{% endmacro %}{{ fact(5) }}
{% macro has() %}{{ caller is defined }}{% endmacro %}{{ has() }}
{% set v = 'outer' %}{% macro see() %}{{ v }}{% endmacro %}{{ see() }}{% set v = 'later' %}{{ see() }}
{% block content %}block {{ n }}{% endblock %}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner('; ') %}{% for i in range(3) %}{{ j() }}{{ i }}{% endfor %}
{{ dict(a=1, b=2) }}{{ dict([('x', 1)]) }}{{ dict({'q': 1}, w=2) }}{{ dict.fromkeys(['a', 'b'], 0) }}
{% generation %}made {{ n }}{% endgeneration %}|{%- generation -%} made {%- endgeneration -%}|
{% generation %}{% set hidden = 1 %}{% endgeneration %}{{ hidden }}
{% autoescape true %}{{ '<a>' }}{{ '<b>'|safe }}{% endautoescape %}{{ '<a>' }}
"""

SPACES = [
    "a\n{% if true %}\nb\n{% endif %}\nc\n",
    "a\n  {% if true %}  \n  b\n  {% endif %}\nc\n\n",
    "  {%- if true -%}  \n x \n {%- endif -%}  y",
    "  {%+ if true %}x{%+ endif %}\n z",
    "x {{- ' a ' -}} y",
    "{{ 1 }}\n{{ 2 }}\n",
    "a\r\nb\r\n{% if true %}\r\nc{% endif %}\r\n",
    "{# c #}\n  {# d #}\nx{#- e -#}  y\n\n",
    "{% if true +%}\nkept{% endif %}",
    "\n\n{% set x = 1 %}\n\n{{ x }}\n\n\n",
    "  \t{% for i in [1, 2] %}\n    {{ i }}\n  {% endfor %}\nend",
    "a {%- raw -%} {{ x }} {%- endraw -%} b",
    "{% for i in [1,2] -%}\n  {{ i }},\n{%- endfor %}\n",
    "line {{ 1 }} {# note\n two #} end\n",
    "{%- set x -%}  inner  {%- endset -%}[{{ x }}]",
    "{{ '{{' }} {{ '%}' }} {{ \"}}\" }} {{ {'a': {'b': 1}}['a']['b'] }}{{ {'a':{}}}}",
    "{{'a'}}{{-'b'}}{{'c'-}}  d",
    "text with { and } and % signs {%if true%}{{1}}{%endif%}",
]

METHODS = r"""
[{{ '  a b '.strip() }}][{{ 'xxaxx'.strip('x') }}][{{ 'xyaxy'.lstrip('xy') }}][{{ 'a\n\n'.rstrip('\n') }}][{{ ' a '.lstrip() }}][{{ 'abc'.strip('') }}][{{ ' \t\u00a0a\u3000'.strip() }}]
{{ s.split(',') }}|{{ s.split(',', 1) }}|{{ ' a  b\tc\n'.split() }}|{{ 'a b c'.split(' ', maxsplit=1) }}|{{ 'a b c d'.split(none, 2) }}|{{ s.rsplit(',', 1) }}|{{ 'a b c'.rsplit(none, 1) }}|{{ ''.split() }}|{{ ''.split(',') }}|{{ 'a\nb\r\nc\n'.splitlines() }}|{{ 'a\nb'.splitlines(true) }}
{{ 'abc'.startswith('a') }}|{{ 'abc'.startswith(('x', 'ab')) }}|{{ 'abc'.endswith('bc') }}|{{ 'abc'.startswith('b', 1) }}|{{ 'abc'.endswith('b', 0, 2) }}|{{ ''.startswith('') }}
{{ 'aXbX'.replace('X', '-') }}|{{ 'aXbX'.replace('X', '-', 1) }}|{{ 'abc'.replace('', '.') }}|{{ 'abc'.upper() }}|{{ 'ÀB'.lower() }}|{{ 'hello wORLD it\'s'.title() }}|{{ 'hELLO wORLD'.capitalize() }}|{{ 'ß'.upper() }}|{{ ''.capitalize() }}
{{ 'abcabc'.find('c') }}|{{ 'abcabc'.rfind('c') }}|{{ 'abc'.find('z') }}|{{ 'abc'.index('b') }}|{{ 'abcb'.count('b') }}|{{ 'é😀x'.find('x') }}|{{ 'abcabc'.find('a', 1) }}|{{ 'aaaa'.count('aa') }}
{{ ', '.join(['a', 'b']) }}|{{ ''.join('abc') }}|{{ '-'.join(('x',)) }}|{{ ','.join(d) }}|{{ '|'.join(words|map('upper')) }}
{{ 'a=b=c'.partition('=') }}|{{ 'a=b=c'.rpartition('=') }}|{{ 'abc'.partition('=') }}|{{ 'abc'.rpartition('=') }}
{{ '123'.isdigit() }}|{{ '12a'.isdigit() }}|{{ ''.isdigit() }}|{{ 'abc'.isalpha() }}|{{ 'a1'.isalnum() }}|{{ ' \n'.isspace() }}|{{ 'abc'.islower() }}|{{ 'ABC1'.isupper() }}
{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x.txt'.removesuffix('.txt') }}|{{ 'abc'.removeprefix('z') }}
{{ '{} {1} {name}'.format(1, 2, name='x') if false else '{0} {1} {name}'.format(1, 2, name='x') }}|{{ '{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c') }}|{{ '{:.2f} {:05d} {:,} {:x} {:e} {!r} {:%}'.format(3.14159, 42, 1234567, 255, 12345.678, 'q', 0.25) }}|{{ '{{}}'.format() }}|{{ '{a[0]} {b.real}'.format(a=[9], b=1) if false else '{a[0]}'.format(a=[9]) }}|{{ '{:+d} {: d} {:#x} {:g} {:g}'.format(5, 5, 255, 0.00001, 1234567.0) }}
{{ '%s and %d and %.2f and %r and %5s and %-5s| %05d %x %e %g %%' % ('a', 3, 2.5, 'r', 'x', 'y', 42, 255, 12345.6789, 0.5) }}|{{ '%s' % 5 }}|{{ '%s' % none }}|{{ '%(a)s %(b)d' % {'a': 1, 'b': 2} }}|{{ '%s' % [1, 2] }}|{{ '%c%c' % ('a', 66) }}|{{ '%+d % d' % (3, 4) }}
{{ '{:.70000f}'.format(0.1)|length }}|{{ '{:.1100f}'.format(0.1) }}|{{ ('%.66000e' % 12345.678)|length }}|{{ ('%.66000e' % 12345.678)[-9:] }}|{{ '{:.70000g}'.format(0.1) == '{:.60g}'.format(0.1) }}|{{ '{:#.70000g}'.format(1.5)|length }}|{{ ('%.70000d' % 42)|length }}|{{ '{:70000d}'.format(1)|length }}|{{ '{:.66000%}'.format(0.25)|length }}
{{ d.get('b') }}|{{ d.get('zz') }}|{{ d.get('zz', 'def') }}|{{ d.keys()|list }}|{{ d.values()|list|length }}|{{ d.items()|list|first }}|{{ d.copy() == d }}|{{ l.index(1) }}|{{ l.count(3) }}|{{ (1, 2, 1).count(1) }}|{{ l.copy() }}
{{ d.keys()[0] }}|{{ d.items()|length }}|{{ ('a', 1) in d.items() }}|{{ 'a' in d.keys() }}|{{ d.items() is mapping }}|{{ 'abc'.nope }}|{{ l.nope }}
{{ messages[2].content.split('</think>')[-1].lstrip('\n') }}|{{ messages[2].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{{ 'a'.upper().lower().strip() }}|{{ ('a' ~ 'b').upper() }}|{{ ['a', 'b'][0].upper() }}|{{ "x".join(["1", "2"]).strip() }}
"""

FILTERS = r"""
{{ ' a '|trim }}|{{ 'xax'|trim('x') }}|{{ 'aB'|upper }}|{{ 'aB'|lower }}|{{ 'hello wORLD-foo (bar) it\'s'|title }}|{{ 'hELLO'|capitalize }}|{{ none|upper }}|{{ 5|upper }}|{{ undefined_thing|upper }}|{{ 'abc'|reverse }}|{{ l|reverse|list }}|{{ 'abc'|first }}|{{ 'abc'|last }}|{{ l|first }}|{{ l|last }}|{{ []|first }}|{{ d|first }}
{{ 'abc'|length }}|{{ l|length }}|{{ d|length }}|{{ ''|count }}|{{ undefined_thing|length }}|{{ range(5)|length }}|{{ d.keys()|length }}
{{ undefined_thing|default('x') }}|{{ none|default('x') }}|{{ none|default('x', true) }}|{{ ''|d('y', boolean=true) }}|{{ undefined_thing|default }}|{{ 0|default(5, true) }}|{{ d.nope|default('z') }}|{{ 'a'|default('b') }}
{{ l|join }}|{{ l|join(', ') }}|{{ people|join(', ', attribute='name') }}|{{ [1, none, true]|join('-') }}|{{ 'abc'|join('.') }}|{{ d|join(',') }}|{{ undefined_thing|join }}|{{ [[1], {'a': 'b'}]|join(' ') }}
{{ people|map(attribute='name')|list }}|{{ people|map(attribute='city.name')|join(',') }}|{{ people|map(attribute='nope', default='?')|list }}|{{ words|map('upper')|list }}|{{ words|map('replace', 'p', 'b')|list }}|{{ [' a ', 'b ']|map('trim')|list }}|{{ [1.5, '2']|map('int')|list }}|{{ people|map(attribute='age')|sum }}|{{ [[1, 2], [3]]|map('first')|list }}|{{ ['1', '2']|map('int')|sum }}
{{ people|selectattr('age', 'equalto', 36)|map(attribute='name')|list }}|{{ people|rejectattr('age', 'gt', 30)|map(attribute='name')|list }}|{{ people|selectattr('name')|list|length }}|{{ people|selectattr('city.name', '==', 'Rome')|list|length }}|{{ [1, 0, none, 2]|select|list }}|{{ [1, 2, 3, 4]|select('odd')|list }}|{{ [1, 2, 3]|reject('divisibleby', 2)|list }}|{{ words|select('in', ['fig', 'x'])|list }}|{{ people|selectattr('x', 'defined')|list }}|{{ messages|selectattr('role', 'in', ['user', 'system'])|list|length }}|{{ messages|rejectattr('n')|list|length }}
{{ words|sort }}|{{ words|sort(reverse=true) }}|{{ words|sort(case_sensitive=true) }}|{{ people|sort(attribute='age')|map(attribute='name')|list }}|{{ people|sort(attribute='age,name')|map(attribute='name')|list }}|{{ [3, 1.5, 2]|sort }}|{{ l|sort(reverse=true) }}|{{ people|sort(attribute='city.name', reverse=true)|map(attribute='name')|list }}
{{ words|unique|list }}|{{ words|unique(case_sensitive=true)|list }}|{{ people|unique(attribute='age')|map(attribute='name')|list }}|{{ words|min }}|{{ words|max }}|{{ l|min }}|{{ l|max }}|{{ people|max(attribute='age') }}|{{ []|min }}|{{ words|max(case_sensitive=true) }}
{{ l|sum }}|{{ people|sum(attribute='age') }}|{{ [[1], [2]]|sum(start=[]) }}|{{ [1.5, 2]|sum }}|{{ []|sum }}|{{ l|sum(start=10) }}
{{ d|dictsort }}|{{ {'b': 1, 'A': 2, 'c': 0}|dictsort }}|{{ {'b': 1, 'A': 2}|dictsort(true) }}|{{ {'b': 1, 'a': 2, 'C': 0}|dictsort(false, 'value') }}|{{ {'b': 1, 'a': 2}|dictsort(reverse=true) }}|{{ {'b': 1, 'a': 2}|dictsort(by='value', reverse=true) }}
{{ d|items|list }}|{{ undefined_thing|items|list }}|{{ {}|items|list }}
{{ 2.5|round }}|{{ 3.5|round }}|{{ 2.675|round(2) }}|{{ 1.25|round(1) }}|{{ 42.55|round(1, 'floor') }}|{{ 42.51|round(1, 'ceil') }}|{{ 7|round }}|{{ -2.5|round }}|{{ 1234.5|round(-2) }}|{{ 2.5|round|int }}|{{ 7.0|round(2) }}|{{ 3|round(1, 'floor') }}
{{ '42'|int }}|{{ '4.7'|int }}|{{ 'x'|int }}|{{ 'x'|int(-1) }}|{{ '0x1A'|int(0, 16) }}|{{ '1010'|int(base=2) }}|{{ 3.9|int }}|{{ none|int }}|{{ true|int }}|{{ ' 12 '|int }}|{{ '1_000'|int }}|{{ ''|int(7) }}|{{ '-5'|int }}|{{ -3.9|int }}
{{ '4.5'|float }}|{{ 'x'|float }}|{{ 'x'|float(1.5) }}|{{ 3|float }}|{{ '1e3'|float }}|{{ none|float }}|{{ 'nan'|float }}|{{ 'inf'|float }}
{{ -5|abs }}|{{ -2.5|abs }}|{{ 3|string + '!' }}|{{ l|list }}|{{ 'abc'|list }}|{{ d|list }}|{{ (1, 2)|list }}|{{ undefined_thing|list }}
{{ 'banana'|replace('a', 'o') }}|{{ 'banana'|replace('a', 'o', 2) }}|{{ 'a.b'|replace('.', '') }}|{{ 5|replace('5', '6') }}
[{{ 'a\nb\n\nc'|indent }}][{{ 'a\nb'|indent(2, true) }}][{{ 'a\n\nb'|indent(2, blank=true) }}][{{ 'a\nb'|indent('--') }}][{{ ''|indent }}][{{ 'a\nb\n'|indent(width=1, first=true) }}]
{{ html|escape }}|{{ html|e|e }}|{{ html|safe }}|{{ '<'|safe + '>' }}|{{ '<' + ('>'|e) }}|{{ ('<'|e) ~ '>' }}
{{ '%s-%d'|format('a', 3) }}|{{ '%(x)s'|format(x=1) }}
{{ d|attr('keys') is callable }}|{{ 'a'|attr('nope') }}
{{ ('<'|e).upper() }}|{{ '<a>'|safe|upper }}|{{ ('x'|safe) + '<' }}|{{ '<' ~ '>'|safe }}|{{ ['<', '>'|safe]|join('&') }}|{{ ('<%s>'|safe) % '<' }}|{{ '%s' % ('<'|safe) }}|{{ (', '|safe).join(['<', '>']) }}|{{ '<>'|safe|replace('<', '&') }}|{{ '<b>'|safe|string is escaped }}
"""

JSON = r"""
{{ d|tojson }}|{{ d|tojson(indent=2) }}|{{ l|tojson }}|{{ 'é<>&\'"\\\n\t\u2028\x7f\x1f'|tojson }}|{{ 'é😀'|tojson(ensure_ascii=true) }}|{{ none|tojson }}|{{ true|tojson }}|{{ 1.0|tojson }}|{{ 1e16|tojson }}|{{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }}|{{ d|tojson(separators=(',', ':')) }}|{{ []|tojson(indent=2) }}|{{ {}|tojson(indent=2) }}|{{ [[], {}, [1]]|tojson(indent=1) }}|{{ (1, 2)|tojson }}|{{ {1: 2, none: 3, true: 4, 1.5: 6}|tojson }}|{{ d|tojson(indent=4, separators=(', ', ' : ')) }}|{{ 'x'|tojson|safe }}|{{ d|tojson(indent='\t') }}|{{ d.a|tojson(true) }}|{{ '\x7f'|tojson(ensure_ascii=true) }}
{{ people[0]|tojson(indent=0) }}|{{ big|tojson }}|{{ [none, undefined_thing is defined]|tojson }}|{{ 0.1|tojson }}|{{ 1e-7|tojson }}|{{ -0.0|tojson }}
"""

TESTS = r"""
{% for v in [none, true, false, 0, 1, 1.5, '', 'a', 'A', [], [1], (), {}, {'a': 1}, range(2)] %}{{ loop.index }}:{{ v is defined }}{{ v is undefined }}{{ v is none }}{{ v is boolean }}{{ v is true }}{{ v is false }}{{ v is integer }}{{ v is float }}{{ v is number }}{{ v is string }}{{ v is mapping }}{{ v is sequence }}{{ v is iterable }}{{ v is callable }} {% endfor %}

{{ undefined_thing is defined }}{{ undefined_thing is undefined }}{{ undefined_thing is none }}{{ undefined_thing is iterable }}{{ undefined_thing is string }}{{ undefined_thing is mapping }}{{ undefined_thing is sequence }}{{ undefined_thing is callable }}{{ d.nope is defined }}{{ d.nope is none }}{{ d.b is defined }}{{ d.items is defined }}{{ undefined_thing is false }}
{{ 4 is divisibleby 2 }}{{ 3 is even }}{{ 3 is odd }}{{ 3 is eq 3 }}{{ 3 is ne 3 }}{{ 3 is gt 2 }}{{ 3 is ge 3 }}{{ 3 is lt 2 }}{{ 3 is le 3 }}{{ 3 is equalto(3) }}{{ 3 is greaterthan 2 }}{{ 3 is lessthan 2 }}{{ 1 is in [1, 2] }}{{ 'a' is in 'abc' }}{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ none is sameas none }}{{ true is sameas 1 }}{{ 1 is sameas(1) }}{{ 'upper' is filter }}{{ 'nope' is filter }}{{ 'odd' is test }}{{ 'x' is escaped }}{{ 'x'|e is escaped }}
{{ 1 is not none }}{{ 1 is not defined }}{{ x is not defined and y is not defined }}{{ not x is defined }}{{ 5 is number and 5 is not string }}{{ raise_exception is defined }}{{ strftime_now is defined }}{{ nope_function is defined }}{{ namespace is callable }}{{ range is callable }}
{{ 'yes' if d is mapping else 'no' }}{{ [1, 2] is sequence and [1, 2] is not mapping }}{{ messages is iterable and messages is not string }}{{ 2 is eq 2.0 }}{{ (1 is odd) and (2 is even) }}
"""

GENERATORS = r"""
{{ people|map(attribute='name')|first }}|{{ 'x' if people|selectattr('age', 'gt', 100) else 'y' }}|{% set g = l|select('odd') %}{{ g|list }}{{ g|list }}|{% for x in l|map('string') %}{{ loop.length }}{{ x }}{% endfor %}|{{ (l|map('string'))[0] }}|{{ 3 in l|select }}|{% if l|reject %}truthy{% endif %}
{{ l|map('string')|join|length }}|{{ l|reverse|first }}|{{ (l|reverse)[0] }}|{{ words|unique|join }}|{{ l|map('abs') is iterable }}{{ l|map('abs') is sequence }}{{ l|map('abs') is string }}
"""

DATES = ["%d %b %Y", "%B %d, %Y", "%Y-%m-%d %H:%M:%S", "%A %a %j %p %I:%M %y %e %-d %% %U", "%c|%x|%X|%D|%F|%T", "%Z%z", "plain"]

# Each is a template of its own: most end in an error.
SINGLE = [
    "{{ raise_exception('No way: ' ~ n) }}", "{{ raise_exception(none) }}", "{{ undefined_thing.x }}", "{{ undefined_thing['x'] }}",
    "{{ d.nope.x }}", "{{ d['nope']['x'] }}", "{{ messages[0].nope.x }}", "{{ l[9].x }}", "{{ none.x }}", "{{ none.x.y }}", "{{ 'a'.x.y }}",
    "{{ undefined_thing + 'x' }}", "{{ 'x' + undefined_thing }}", "{{ 'x' + none }}", "{{ 'x' + 1 }}", "{{ 1 + 'x' }}", "{{ [1] + 'x' }}",
    "{{ none + 1 }}", "{{ {} + {} }}", "{{ 'a' - 'b' }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 1.0 / 0 }}", "{{ 'a' * 'b' }}", "{{ -'a' }}", "{{ -none }}",
    "{{ 'a' < 1 }}", "{{ none < 1 }}", "{{ [] < {} }}", "{{ undefined_thing < 1 }}", "{{ 1 in 5 }}", "{{ 1 in none }}", "{{ 1 in 'abc' }}",
    "{% for x in 5 %}{% endfor %}", "{% for x in none %}{% endfor %}", "{% for x in undefined_thing %}x{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{% endfor %}",
    "{{ undefined_thing() }}", "{{ n() }}", "{{ 'a'.nope() }}", "{{ d.nope() }}", "{{ none.strip() }}", "{{ messages[0].content.nope.x() }}",
    "{{ l.append(4) }}", "{{ d.update({'x': 1}) }}", "{{ d.pop('b') }}", "{{ d.setdefault('x', 1) }}", "{{ l.sort() }}", "{{ l.append }}",
    "{{ ''.__class__ }}", "{{ ''.__class__.__mro__ }}", "{{ d.__class__ }}", "{{ ''['__class__'] }}", "{{ ''|attr('__class__') }}", "{{ d.__init__() }}", "{{ range.__globals__ }}",
    "{{ 'x'|nope }}", "{{ 'x' is nope }}", "{% if false %}{{ 'x'|nope }}{% endif %}ok", "{{ 5|length }}", "{{ none|length }}", "{{ l|map('nope')|list }}", "{{ 5|list }}", "{{ none|list }}", "{{ none|join }}", "{{ undefined_thing|tojson }}", "{{ [undefined_thing]|tojson }}", "{{ range(2)|tojson }}", "{{ (l|map('abs'))|tojson }}", "{{ (l|map('abs'))|length }}", "{{ l|reverse|length }}",
    "{{ words|sum }}", "{{ [1, 'a']|sort }}", "{{ [none, 1]|min }}", "{{ undefined_thing|int }}", "{{ undefined_thing|abs }}", "{{ undefined_thing|round }}", "{{ 'a'|round }}", "{{ l|dictsort }}",
    "{{ ','.join([1, 2]) }}", "{{ 'a'.split('') }}", "{{ 'abc'.index('z') }}", "{{ l.index(99) }}", "{{ 'a'.startswith(1) }}", "{{ 'a'.replace('a') }}", "{{ '%d' % 'x' }}", "{{ '%s %s' % 'x' }}", "{{ '%s' % (1, 2) }}", "{{ '{}'.format() }}", "{{ '{x}'.format() }}", "{{ 'a'.strip(5) }}",
    "{{ range(200000) }}", "{{ range(1, 2, 0) }}", "{{ 'a'[::0] }}", "{{ l['a':] }}", "{{ namespace(_x=1) }}", "{% set ns = namespace() %}{% set ns._x = 1 %}", "{% set ns = namespace() %}{{ ns.x.y }}", "{% set d.x = 1 %}", "{% set undefined_thing.x = 1 %}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}", "{{ ('a' if false).x }}", "{{ []|first.x }}", "{{ ([]|first).x }}", "{{ dict(1) }}", "{{ strftime_now() }}", "{{ cycler() }}",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% do 1 %}", "{% trans %}x{% endtrans %}", "{% debug %}", "{% nope %}", "{% if %}{% endif %}", "{% for %}", "{{", "{{ 1 +", "{% if true %}", "{% endif %}", "{{ 'abc }}", "{{ a b }}", "{# never", "{% raw %}x", "{{ 1 2 }}", "{{ [1, 2 }}", "{{ {'a' 1} }}", "{{ f(a=1, 2) }}", "{% set true = 1 %}", "{% for loop in [1] %}{% endfor %}", "{% break %}", "{{ a.}}", "{{ a|}}", "{{ a is }}", "{{ ) }}", "{% macro %}{% endmacro %}", "{% block a %}{% endblock %}{% block a %}{% endblock %}", "{% generation %}x",
    "{{ 'a' if }}", "{% set x %}", "{{ not }}", "{{ 1 if 2 else }}", "{{ messages | selectattr('role', 'nope', 'x') | list }}", "{{ {[1]: 2} }}", "{{ '\\x' }}", "{{ +1 }}", "{{ 1 <> 2 }}", "{{ 'a' & 'b' }}", "{{ a := 1 }}", "{{ lambda: 1 }}", "{{ [x for x in l] }}", "{{ l[0, 1] }}", "{{ 08 }}", "{{ 1__0 }}",
    "{{ loop.index }}", "{{ caller() }}", "{{ self.x() }}", "{{ varargs }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, a=3) }}", "{{ 1 }}", "{{ true.x }}", "{{ (1).x }}", "{{ 1.5.x }}", "{{ d.a.5 }}", "{{ {}.x }}|", "{{ [].x }}|", "{{ ''.x }}|", "{{ n.real }}",
    "{%- for m in messages -%}{%- if m.role == 'user' -%}U:{{ m.content|trim }}{%- elif m['role'] == 'assistant' -%}A:{{ m.content }}{{ eos_token }}{%- else -%}S{%- endif -%}{%- endfor -%}",
    "{{ messages|tojson }}", "{{ messages|tojson(indent=2) }}", "{{ messages }}", "{{ messages|map(attribute='role')|join('>') }}", "{{ messages|length }}{{ messages|last }}",
    # Methods that a namespace lacks, keys that are equal, formatting undefined values.
    "{{ namespace(a=1).items() }}", "{{ namespace(a=1).get('a') }}", "{{ namespace(a=1).a() }}", "{% set ns = namespace(a=[]) %}{{ ns.a.append(1) }}", "{{ namespace().x.y }}",
    "{{ {1: 'a', 1.0: 'b', true: 'c'} }}", "{{ {true: 'a', 1: 'b', 0: 'c', false: 'd'}[1] }}", "{{ {1: 'a', 5: 'b', 7: 'c', 9: 'd'}[true] }}", "{{ {1: 'a'}.get(true) }}", "{{ true in {1: 2} }}", "{{ dict([(1, 2), (true, 3)]) }}", "{{ {1: 2} == {true: 2} }}",
    "{{ '%-5s|' % undefined_thing }}", "{{ '%s' % messages[0].nope }}", "{{ '%d' % undefined_thing }}", "{{ 'x' * undefined_thing }}",
    # Slices of values that have none. Of a constant it is evaluated while compiling, where no error is raised.
    "{{ n[:3] }}", "{{ d[:3] }}", "{{ z[1:] }}", "{{ undefined_thing[1:] }}", "{{ messages[0].nope[1:] }}", "{{ l|map('string')[:1] }}", "{{ 5[:3] }}", "{{ true[n:] }}",
    # Some filters treat false values as empty.
    "{{ none|selectattr('a')|list }}", "{{ none|map('upper')|list }}", "{{ tools|map(attribute='function.name')|join(', ') }}", "{{ 0|select|list }}", "{{ none|reject('none')|list }}", "{{ 5|map('upper')|list }}", "{{ none|sort }}", "{{ none|unique|list }}",
    "{{ l|map(attribute=none)|list }}", "{{ words|sort(attribute='nope') }}", "{{ people|sort(attribute='nope')|map(attribute='name')|list }}", "{{ d|attr('a') }}", "{{ d|attr('b') }}", "{{ [1] is sameas none }}", "{{ d is sameas 1 }}",
    "{{ none|indent }}", "{{ 5|indent(2) }}", "{{ undefined_thing|indent }}", "{{ ('a\n' * 2)|indent(2) }}", "{{ ('<'|e)|list }}",
]
