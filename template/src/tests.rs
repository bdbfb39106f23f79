//! A template is compiled once, on one bounded stack.

use crate::{Clock, Resource, Template, TemplateError, Value};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// How often each text was compiled.
static COMPILATIONS: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// Called by the compiler for each of its runs.
pub(crate) fn count_compilation(source: &str) {
    *COMPILATIONS.lock().unwrap().entry(source.to_string()).or_default() += 1;
}

fn compilations(source: &str) -> usize {
    COMPILATIONS.lock().unwrap().get(source).copied().unwrap_or(0)
}

fn clock() -> Clock {
    "2026-01-15T12:34:56".parse().unwrap()
}

fn render(source: &str) -> Result<String, TemplateError> {
    Template::compile(source)?.render_json("{}", clock())
}

#[test]
fn many_renderings_compile_once() {
    let source = "{% for x in xs %}<{{ x }}>{% endfor %}{# many_renderings_compile_once #}";
    let template = Template::compile(source).unwrap();
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let template = template.clone();
            std::thread::spawn(move || {
                for m in 0..50 {
                    let context = Value::from_pairs([("xs", Value::from(vec![n, m]))]);
                    assert_eq!(template.render(context, clock()).unwrap(), format!("<{n}><{m}>"));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(compilations(source), 1);
}

#[test]
fn renderings_do_not_see_each_other() {
    let template = Template::compile(
        "{% set ns = namespace(n=n) %}{% if fail %}{{ 'a' * 10 ** 9 }}{% endif %}{{ ns.n }} {{ strftime_now('%Y') }}",
    )
    .unwrap();
    let later: Clock = "2031-01-01".parse().unwrap();
    for n in 0..3 {
        let stopped = template.render_json(r#"{"fail": true}"#, clock());
        assert!(matches!(stopped, Err(TemplateError::Limit { what: Resource::Work, .. })), "{stopped:?}");
        // Each rendering has its own allowance, whatever another has used.
        assert_eq!(template.render_json(&format!(r#"{{"n": {n}}}"#), clock()).unwrap(), format!("{n} 2026"));
        assert_eq!(template.render_json(r#"{"n": 7}"#, later).unwrap(), "7 2031");
    }
}

#[test]
fn deep_templates_are_refused_or_fit_the_stack() {
    let nested = |open: &str, inner: &str, close: &str, n: usize| open.repeat(n) + inner + &close.repeat(n);
    let refused = [
        format!("{{{{ {} }}}}", nested("(", "1", ")", 2_000)),
        format!("{{{{ {} }}}}", nested("[", "1", "]", 2_000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(2_500)),
        nested("{% if a %}", "x", "{% endif %}", 20_000),
        nested("{% for a in [1] %}", "x", "{% endfor %}", 20_000),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(2_001)),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_string(),
        "{% macro m() %}{{ caller is defined }}{% call m() %}x{% endcall %}{% endmacro %}{{ m() }}".to_string(),
        "{% set ns = namespace() %}{% macro m() %}{{ ns.m()|upper }}{% endmacro %}{% set ns.m = m %}{{ ns.m() }}"
            .to_string(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_string(),
        "{% set ns = namespace(x=[]) %}{% for i in range(300) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}"
            .to_string(),
    ];
    for source in refused {
        let got = render(&source);
        let clean = matches!(got, Err(TemplateError::Limit { .. } | TemplateError::Syntax { .. }));
        assert!(clean, "{}: {got:?}", &source[..60.min(source.len())]);
    }
    // As deep as the bounds allow.
    assert_eq!(render(&format!("{{{{ 1{} }}}}", "+1".repeat(2_490))).unwrap(), "2491");
    let branches = format!("{{% if a %}}{}x{{% else %}}y{{% endif %}}", "{% elif b %}".repeat(1_999));
    assert_eq!(render(&branches).unwrap(), "y");
    let filters = format!("{{{{ 'a'{} }}}}", "|e".repeat(2_490));
    assert_eq!(render(&filters).unwrap(), "a");
}

#[test]
fn an_unknown_filter_or_method_is_named() {
    for (source, kind, name) in [
        ("{{ 'a'|wordwrap(3) }}", "TemplateAssertionError", "No filter named 'wordwrap'."),
        ("{{ 'a' is nice }}", "TemplateAssertionError", "No test named 'nice'."),
        ("{{ 'a'.zfill(3) }}", "UndefinedError", "'str object' has no attribute 'zfill'"),
    ] {
        assert_eq!(render(source), Err(TemplateError::Failed { kind, message: name.into() }));
    }
}

/// Python's own answers (3.11), where the engine's would differ or grouping meets zeros.
#[test]
fn numbers_are_written_as_in_python() {
    for (expression, text) in [
        ("'{:010,}'.format(1234)", "00,001,234"),
        (
            "'{:#010x}|{:+06d}|{:<05d}|{:=5d}|{:*=+6d}'.format(255, 42, 42, -3, 7)",
            "0x000000ff|+00042|42000|-   3|+****7",
        ),
        ("'{:.3}|{:.3}|{:.3}|{:.2}'.format(100.0, 10.0, 0.0, 1234.0)", "1e+02|10.0|0.0|1.2e+03"),
        ("'{:}|{:}|{:}|{:}'.format(1e16, 1e-5, 0.1, -0.0)", "1e+16|1e-05|0.1|-0.0"),
        ("'{:#g}|{:#.0f}|{:G}|{:E}'.format(0.0, 3.0, 1e-7, 12.5)", "0.00000|3.|1E-07|1.250000E+01"),
        ("'{:08.2%}|{:_x}|{:,.2f}'.format(0.256, 1048575, 1234567.891)", "0025.60%|f_ffff|1,234,567.89"),
        ("'{:é>4}|{:5}|{:^5}|'.format('ü', 'ü', 'ü')", "éééü|ü    |  ü  |"),
        ("'%05d|%-05d|%+.2e|%5s|%.3d|%x' % (-42, 42, 12345.678, 'ü', 5, 255)", "-0042|42   |+1.23e+04|    ü|005|ff"),
        ("'{:05}|{}|{:F}'.format('inf'|float, 'nan'|float, 'inf'|float)", "00inf|nan|INF"),
        ("'{:{}.{}f}'.format(3.14159, 8, 2)", "    3.14"),
        ("'{:#.1g}|{:#.1g}|{:.1e}|{:#.0e}'.format(1.0, 1e10, 0.0, 2.0)", "1.|1.e+10|0.0e+00|2.e+00"),
        ("('%.66000e' % 12345.678)[-9:] ~ ('{:.70000f}'.format(0.1)|length)", "00000e+0470002"),
    ] {
        assert_eq!(render(&format!("{{{{ {expression} }}}}")).as_deref(), Ok(text), "{expression}");
    }
}
