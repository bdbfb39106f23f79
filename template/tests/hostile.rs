//! Templates that were made to hang or to fill memory. Each is stopped at a limit, and takes no more memory than an
//! honest one may; and where the system gives no memory, there is an error.

#![allow(unsafe_code)]

use nanoserve_template::{Clock, Resource, Template, TemplateError};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard};

/// The system's allocator. It counts bytes in use, and gives only so many bytes in large pieces when it is told so.
struct Watched;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Bytes in use in large pieces, and how many there may be.
static IN_LARGE: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The smallest limit that would have allowed something that was refused.
static NEXT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Bytes of a piece that counts as large.
const LARGE: usize = 16 << 10;

impl Watched {
    fn refuses(size: usize) -> bool {
        if size < LARGE {
            return false;
        }
        let wanted = IN_LARGE.fetch_add(size, SeqCst) + size;
        if wanted <= LIMIT.load(SeqCst) {
            return false;
        }
        IN_LARGE.fetch_sub(size, SeqCst);
        NEXT.fetch_min(wanted, SeqCst);
        true
    }
}

// SAFETY: every call is passed to the system's allocator unchanged, or answered with null, which means that there is no
// memory. The counters touch only their own memory.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if Watched::refuses(layout.size()) {
            return std::ptr::null_mut();
        }
        PEAK.fetch_max(LIVE.fetch_add(layout.size(), SeqCst) + layout.size(), SeqCst);
        // SAFETY: the caller's duties are those of `System::alloc`, with the same layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), SeqCst);
        if layout.size() >= LARGE {
            IN_LARGE.fetch_sub(layout.size(), SeqCst);
        }
        // SAFETY: `ptr` came from `System.alloc` with this layout, as the caller promises of `self.alloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// Tests that watch memory run one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(|e| e.into_inner())
}

fn render(source: &str, context: &str) -> Result<String, TemplateError> {
    Template::compile(source)?.render_json(context, "2026-01-15T12:34:56".parse::<Clock>().unwrap())
}

/// The result of a rendering, and the most bytes that were in use meanwhile.
fn measured(source: &str) -> (Result<String, TemplateError>, usize) {
    let before = LIVE.load(SeqCst);
    PEAK.store(before, SeqCst);
    let result = render(source, "{}");
    (result, PEAK.load(SeqCst) - before)
}

/// The most bytes that any template may take with an empty conversation.
const MOST: usize = 160 << 20;

#[test]
fn whatever_grows_is_paid_before() {
    let _alone = alone();
    let long = "{% set long = 'abcdefgh' * 500000 %}";
    let list = "{% set list = ['a'] * 300000 %}";
    let name = "n".repeat(10_000);
    let path = "0.".repeat(60_000) + "0";
    let hostile = [
        // Texts that are joined, repeated, padded and escaped.
        "{{ (['a' * 9999999] * 99999) | join }}".to_string(),
        "{{ ''.join(['a' * 9999999] * 99999) }}".to_string(),
        "{{ ('a' * 9999999).join(['', ''] * 99999) }}".to_string(),
        "{{ ['', ''] * 99999 | join('a' * 9999999) }}".replace("['', ''] * 99999", "(['', ''] * 99999)"),
        "{{ ([1] * 99999) | tojson(separators=['a' * 9999999, ':']) }}".into(),
        "{{ dict.fromkeys(range(9999)) | tojson(separators=[',', 'a' * 9999999]) }}".into(),
        "{{ ([[1] * 999] * 999) | tojson(indent='a' * 9999999) }}".into(),
        "{{ (['a' * 9999999] * 99999) | string }}".into(),
        "{{ (['\u{10ffff}' * 9999999] * 99999) | tojson(ensure_ascii=true) }}".into(),
        "{{ ('\u{e000}' * 9999999) ~ ['\u{e000}' * 9999999] }}".into(),
        "{{ ('\\'' * 20000000) | escape }}".into(),
        "{{ ('\u{390}' * 12000000) | upper }}".into(),
        "{{ ('a' * 9999999).replace('a', 'b' * 9999999) }}".into(),
        "{{ ('\n' * 9999999) | indent(9999999, blank=true) }}".into(),
        "{{ ('\n' * 60000000) | indent(0) }}".into(),
        "{{ '{:99999999}'.format(1) }}".into(),
        "{{ '{:\u{10ffff}>50000000}'.format('a') }}".into(),
        "{{ '%99999999s' % 'a' }}".into(),
        "{{ ('{0}' * 99999).format('a' * 9999999) }}".into(),
        "{{ ('%s' * 99999) % ((['a' * 9999999] * 99999) | list) }}".into(),
        "{% for i in range(99999) %}{{ 'a' * 9999999 }}{% endfor %}".into(),
        "{% set x %}{% for i in range(99999) %}{{ 'a' * 9999999 }}{% endfor %}{% endset %}".into(),
        // Texts that become many parts.
        "{{ ('a' * 60000000) | list }}".into(),
        "{{ ('a ' * 30000000).split() }}".into(),
        "{{ ('a ' * 30000000).split(' ') }}".into(),
        "{{ ('a ' * 30000000).rsplit() }}".into(),
        "{{ ('\n' * 60000000).splitlines() }}".into(),
        "{{ ('a' * 60000000)[::2] }}".into(),
        "{{ ('a' * 60000000) | reverse | list }}".into(),
        "{{ ('a' * 900000) | map(attribute='b') | list }}".into(),
        "{{ ('a' * 900000) | map('list') | list }}".into(),
        "{{ ([{}] * 400000) | map('items') | list }}".into(),
        // Lists that are copied, sorted and compared.
        format!("{list}{{% for i in range(99999) %}}{{{{ (list + list) | length }}}}{{% endfor %}}"),
        format!("{list}{{{{ list | sort(attribute='{}') }}}}", "b,".repeat(9999)),
        format!("{list}{{{{ list | sort(attribute='{path}') }}}}"),
        format!("{list}{{{{ list | map(attribute='{path}') | list }}}}"),
        format!("{list}{{% for i in range(99999) %}}{{{{ loop.changed(list) }}}}{{% endfor %}}"),
        format!("{list}{{% for i in range(99999) %}}{{% if list == list %}}{{% endif %}}{{% endfor %}}"),
        "{% for i in range(99999) %}{% if range(99999) == range(99999) %}{% endif %}{% endfor %}".into(),
        "{% for i in range(99999) %}{{ range(99999) | list | length }}{% endfor %}".into(),
        "{% for i in range(99999) %}{{ range(99999)[1:] | length }}{% endfor %}".into(),
        "{% set d = dict.fromkeys(range(99999)) %}{% for i in range(99999) %}{{ dict(**d) | length }}{% endfor %}"
            .into(),
        // Long texts that are looked for again and again.
        format!("{long}{{{{ long.startswith(((['a' ~ long] * 99999) | list, 1)[0]) }}}}").replace(
            "((['a' ~ long] * 99999) | list, 1)[0]",
            "('', ) * 0 + ((long ~ 'x', ) * 99999)",
        ),
        format!("{long}{{% set d = {{long: 1}} %}}{{% for i in range(99999) %}}{{{{ d[long] }}}}{{% endfor %}}"),
        format!("{long}{{% for i in range(99999) %}}{{{{ long is sameas(long ~ '') }}}}{{% endfor %}}"),
        format!("{long}{{% for i in range(99999) %}}{{{{ {{}}[long] is defined }}}}{{% endfor %}}"),
        format!("{long}{{% for i in range(99999) %}}{{{{ long | int }}}}{{% endfor %}}"),
        format!("{long}{{% for i in range(99999) %}}{{{{ '' | attr(long) is defined }}}}{{% endfor %}}"),
        format!("{{% for i in range(99999) %}}{{{{ {name} }}}}{{% endfor %}}"),
        // Chains, which are freed by nested calls.
        "{% set ns = namespace() %}{% set ns.first = namespace() %}{% set ns.last = ns.first %}\
         {% for i in range(99999) %}{% set ns.last.x = namespace() %}{% set ns.last = ns.last.x %}{% endfor %}"
            .into(),
        "{% set ns = namespace(m=0) %}{% for i in range(99999) %}{% set f = ns.m %}{% macro m() %}{{ f }}{% endmacro %}\
         {% set ns.m = m %}{% endfor %}"
            .into(),
        "{% set ns = namespace(l=0) %}{% for i in range(99999) %}{% for j in [1] %}{{ loop.changed(ns.l) }}\
         {% set ns.l = loop %}{% endfor %}{% endfor %}"
            .into(),
        "{% set ns = namespace(c=0) %}{% for i in range(99999) %}{% set ns.c = cycler(ns.c) %}{% endfor %}".into(),
        "{% set ns = namespace() %}{% set ns.ns = ns %}{{ [ns, ns] }}{% if ns == namespace(ns=ns) %}{% endif %}".into(),
        "{% set ns = namespace() %}{% set ns.ns = ns %}{% for i in [1, 2] %}{{ loop.changed(ns) }}{% endfor %}".into(),
        // A template that is itself too large.
        "a".repeat(300_000),
        "{{a}}".repeat(60_000),
    ];
    let mut failed = Vec::new();
    for source in &hostile {
        let (result, peak) = measured(source);
        let start: String = source.chars().take(120).collect();
        eprintln!(
            "{:>4} MiB  {:<60} {start}",
            peak >> 20,
            result
                .as_ref()
                .map_or_else(|e| e.to_string().chars().take(60).collect(), |text| format!("{} bytes", text.len()))
        );
        if !matches!(result, Err(TemplateError::Limit { .. })) || peak > MOST {
            failed.push(start);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    // As large as templates may be.
    let list = format!("{{{{ [{}1] }}}}", "1,".repeat(2400));
    for large in ["{{a}}".repeat(52_000), "{%if a%}{%endif%}".repeat(15_000), list.repeat(53), "{".repeat(260_000)] {
        let (_, peak) = measured(&large);
        eprintln!("{:>4} MiB  {}", peak >> 20, &large[..30]);
        assert!(peak <= MOST, "{peak}: {}", &large[..30]);
    }
}

/// The system gives only so many bytes, for every number of bytes at which it makes a difference.
#[test]
fn without_memory_there_is_an_error() {
    let _alone = alone();
    let source = "{% set a = 'Ab c' * 10000 %}{{ a ~ a }}{{ a + a }}{{ a | upper }}{{ a | lower }}{{ a.title() }}\
        {{ a | capitalize }}{{ a.split() | length }}{{ a.rsplit(' ', 3) }}{{ (a ~ '\n').splitlines() }}\
        {{ a.replace('A', 'é') }}{{ a | escape }}{{ (a ~ '<') | e }}{{ [a, a] | join(', ') }}{{ a.join(['x', 'y']) }}\
        {{ [a] | tojson }}{{ {a: a} | tojson(indent=2, sort_keys=true) }}{{ [a] }}{{ a[1:] }}{{ a[::-1] }}\
        {{ a | reverse }}{{ a | trim }}{{ a.strip('A') }}{{ a.partition(' ') | length }}{{ a | indent(2) }}\
        {{ '%s %30000d' % (a, 1) }}{{ '{} {:>30000}'.format(a, 1) }}{{ a | list | length }}\
        {{ (a | list + a | list) | unique | list }}{{ ([1, 2] * 5000) | sort | length }}\
        {{ ([1, 2] * 5000) | sort(attribute='x') | length }}{{ range(3000) | list | sum }}\
        {{ range(3000) | map('string') | list | length }}{{ range(3000) | select('odd') | list | length }}\
        {{ dict.fromkeys(range(3000)) | length }}{{ dict.fromkeys(range(3000)) | dictsort | length }}\
        {{ dict.fromkeys(range(3000)).items() | list | length }}{% set b %}{{ a }}{{ a }}{% endset %}{{ b | length }}";
    let template = Template::compile(source).unwrap();
    let render = || template.render_json("{}", "2026-01-15".parse::<Clock>().unwrap());
    let whole = render().unwrap();
    let (mut limit, mut refused) = (IN_LARGE.load(SeqCst), 0);
    loop {
        NEXT.store(usize::MAX, SeqCst);
        LIMIT.store(limit, SeqCst);
        let got = render();
        LIMIT.store(usize::MAX, SeqCst);
        match got {
            Ok(text) => {
                assert_eq!(text, whole);
                break;
            }
            Err(TemplateError::Limit { what: Resource::Memory, .. }) => refused += 1,
            Err(other) => panic!("within {limit} bytes: {other:?}"),
        }
        limit = NEXT.load(SeqCst);
    }
    assert!(refused > 20, "{refused}");
}

/// What an honest template does stays far from the limits.
#[test]
fn honest_templates_pass() {
    let _alone = alone();
    let turns = 2000;
    let messages: Vec<String> =
        (0..turns).map(|n| format!(r#"{{"role": "user", "content": "Message {n} says hello."}}"#)).collect();
    let context = format!(r#"{{"messages": [{}]}}"#, messages.join(","));
    let source = "{% set ns = namespace(last=none, all=[], n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}\
        {% set ns.last = m %}{% set ns.all = ns.all + [m] %}{% if loop.changed(m.role) %}{{ loop.index0 }}{% endif %}\
        {{ m.content | trim | upper }}{{ m | tojson }}{{ m.content[3:] }}{{ m.content.split(' ')[0] }}{% endfor %}\
        {{ ns.n }}{{ ns.all | length }}{{ ns.last.content }}";
    let text = render(source, &context).unwrap();
    assert!(
        text.ends_with(&format!("{turns}{turns}Message {} says hello.", turns - 1)),
        "{}",
        &text[text.len() - 80..]
    );
    // A generator that was put into a list is still whole.
    assert_eq!(render("{% set a = [range(3) | map('string')] %}{{ a[0] | join }}", "{}").unwrap(), "012");
    assert_eq!(
        render("{{ 'a  b c '.rsplit(none, 1) }}{{ ' a\nb\n'.splitlines() }}", "{}").unwrap(),
        "['a  b', 'c'][' a', 'b']"
    );
}
