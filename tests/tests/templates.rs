//! Chat templates are rendered as by transformers: the text, its ids, and errors where transformers raises one.

use nanoserve_format::Encoding;
use nanoserve_runtime::chat::{ChatTemplate, Conversation};
use nanoserve_template::{Clock, Template, TemplateError};
use nanoserve_tests::{convert, copy_folder, fixture, nanoserve};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// `tests/reference/templates/features.json`.
#[derive(Deserialize)]
struct Features {
    now: String,
    variables: Box<RawValue>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    #[serde(flatten)]
    expected: Expected,
}

/// The result of transformers: one of the two.
#[derive(Deserialize)]
struct Expected {
    text: Option<String>,
    error: Option<String>,
}

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/templates").join(name)
}

/// Python's name for an error, if there is one.
fn python(error: &TemplateError) -> String {
    match error {
        TemplateError::Refused { message } => format!("TemplateError: {message}"),
        TemplateError::Failed { kind, message } => format!("{kind}: {message}"),
        TemplateError::Syntax { cause, .. } => format!("TemplateSyntaxError: {cause}"),
        other => other.to_string(),
    }
}

/// `tests/reference/templates/conversations.json`.
#[derive(Deserialize)]
struct Conversations {
    now: String,
    special_tokens: BTreeMap<String, String>,
    templates: BTreeMap<String, String>,
    conversations: BTreeMap<String, Box<RawValue>>,
    cases: Vec<ConversationCase>,
}

#[derive(Deserialize)]
struct ConversationCase {
    template: String,
    conversation: String,
    #[serde(flatten)]
    expected: Expected,
}

/// `tests/reference/templates/ids.json`.
#[derive(Deserialize)]
struct Ids {
    now: String,
    checkpoints: BTreeMap<String, IdCheckpoint>,
    conversations: BTreeMap<String, Box<RawValue>>,
    cases: Vec<IdCase>,
}

/// A fixture, with the settings of its tokenizer.
#[derive(Deserialize)]
struct IdCheckpoint {
    fixture: String,
    tokenizer_config: Option<Box<RawValue>>,
    templates: BTreeMap<String, String>,
    bos: u32,
}

#[derive(Deserialize)]
struct IdCase {
    checkpoint: String,
    conversation: String,
    template: String,
    #[serde(flatten)]
    expected: Expected,
    /// Separated by spaces.
    #[serde(default)]
    ids: String,
}

/// A case of `../shared/templates`.
#[derive(Deserialize)]
struct SharedCase {
    name: String,
    messages: Box<RawValue>,
    tools: Option<Box<RawValue>>,
    variables: BTreeMap<String, String>,
    now: String,
    add_generation_prompt: bool,
    text: Option<String>,
    error: Option<String>,
}

/// Known differences from Jinja, all listed in docs/chat.md.
const KNOWN: [&str; 6] = [
    "{{ +1 }}",
    "{{ l[0, 1] }}",
    "{{ 08 }}",
    "{{ 1__0 }}",
    "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, a=3) }}",
    "{{ n.real }}",
];

/// Errors of calls that are told in other words than Python's.
const OTHER_WORDS: [&str; 14] = [
    "{{ namespace(a=1).items() }}",
    "{{ namespace(a=1).get('a') }}",
    "{{ namespace().x.y }}",
    "{% for a, b in [1] %}{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}{% endfor %}",
    "{{ n() }}",
    "{{ 'a'.replace('a') }}",
    "{{ '{}'.format() }}",
    "{% set ns = namespace() %}{{ ns.x.y }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a.x }}{% endmacro %}{{ m() }}",
    "{{ strftime_now() }}",
    "{{ self.x() }}",
];

/// Describes how a rendering differs. Errors of the language itself may have another message.
fn difference(got: &Result<String, TemplateError>, expected: &Expected) -> Option<String> {
    let syntax = ["TemplateSyntaxError", "TemplateAssertionError", "SyntaxError"];
    let same = match (got, &expected.text, &expected.error) {
        (Ok(got), Some(text), _) => got == text,
        (Err(TemplateError::Conversation { .. }), _, Some(error)) => ["Cannot apply", "continue_final_message"]
            .iter()
            .any(|why| error.starts_with(&format!("ValueError: {why}"))),
        (Err(TemplateError::Syntax { .. }), _, Some(error)) => syntax.iter().any(|kind| error.starts_with(kind)),
        (Err(got), _, Some(error)) => python(got) == *error,
        _ => false,
    };
    let want = expected.text.as_ref().or(expected.error.as_ref());
    (!same).then(|| format!("\n   got  {:?}\n   want {want:?}", got.as_ref().map_err(python)))
}

#[test]
fn every_feature_is_as_in_jinja() {
    let features: Features = serde_json::from_slice(&fs::read(reference("features.json")).unwrap()).unwrap();
    let clock: Clock = features.now.parse().unwrap();
    let mut wrong = Vec::new();
    for Case { name, template, expected } in &features.cases {
        let got = Template::compile(template).and_then(|t| t.render_json(features.variables.get(), clock));
        let known = KNOWN.contains(&template.as_str()) || OTHER_WORDS.contains(&template.as_str());
        match difference(&got, expected) {
            Some(difference) if !known => wrong.push(format!("{name}: {template}{difference}")),
            None if known => wrong.push(format!("{name}: {template}: is as in Jinja now")),
            // An error with another message is fine.
            Some(_) if OTHER_WORDS.contains(&template.as_str()) => {
                assert!(got.is_err() && expected.error.is_some(), "{template}");
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), features.cases.len(), wrong.join("\n"));
    assert!(features.cases.len() > 700);
}

#[test]
fn conversations_are_rendered_as_by_transformers() {
    let all: Conversations = serde_json::from_slice(&fs::read(reference("conversations.json")).unwrap()).unwrap();
    let clock: Clock = all.now.parse().unwrap();
    let mut wrong = Vec::new();
    for case in &all.cases {
        let template = ChatTemplate::new(&all.templates[&case.template]).unwrap();
        let template = template.with_special_tokens(all.special_tokens.clone());
        let got = Conversation::from_json(all.conversations[&case.conversation].get())
            .and_then(|conversation| template.render(&conversation, clock));
        wrong.extend(difference(&got, &case.expected).map(|d| format!("{}, {}{d}", case.template, case.conversation)));
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), all.cases.len(), wrong.join("\n"));
    assert_eq!(all.cases.len(), all.templates.len() * all.conversations.len());
}

/// From a checkpoint on disk to the ids that the program prints, which are those of
/// `apply_chat_template(tokenize=True)`.
#[test]
fn the_ids_of_conversations_are_those_of_transformers() {
    let all: Ids = serde_json::from_slice(&fs::read(reference("ids.json")).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (title, conversation) in &all.conversations {
        fs::write(path(&format!("{title}.json")), conversation.get()).unwrap();
    }
    for (name, checkpoint) in &all.checkpoints {
        let source = path(name);
        copy_folder(&fixture(&checkpoint.fixture).path, &source);
        let config = source.join("tokenizer_config.json");
        match &checkpoint.tokenizer_config {
            Some(json) => fs::write(config, json.get()).unwrap(),
            None => assert!(!config.exists()),
        }
        for (template, text) in &checkpoint.templates {
            fs::write(source.join("chat_template.jinja"), text).unwrap();
            convert(&source, Encoding::Q8, &path(&format!("{name} {template}.nsv")));
        }
    }
    let (mut wrong, mut begun) = (Vec::new(), 0);
    for case in &all.cases {
        let IdCase { checkpoint: name, conversation, template, expected, ids } = case;
        let (model, messages) = (path(&format!("{name} {template}.nsv")), path(&format!("{conversation}.json")));
        let [model, messages] = [&model, &messages].map(|p| p.to_str().unwrap());
        let run = nanoserve("run", [model, "--messages", messages, "--render", "--json", "--now", &all.now]);
        let Some(text) = &expected.text else {
            assert!(run.expect(2).stderr.contains("refuses this conversation"), "{name}, {template}, {conversation}");
            continue;
        };
        let got = run.expect(0).json();
        let got_ids: Vec<u64> = got["prompt_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
        let want: Vec<u64> = ids.split(' ').map(|id| id.parse().unwrap()).collect();
        if got["prompt"] != text.as_str() || got_ids != want {
            wrong.push(format!("{name}, {template}, {conversation}\n   got  {got}\n   want {text:?} {want:?}"));
        }
        // These tokenizers put a BOS in front of any other text.
        let bos = all.checkpoints[name].bos.into();
        assert!(!got_ids.starts_with(&[bos, bos]), "{name}, {template}, {conversation}");
        begun += usize::from(got_ids[0] == bos);
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), all.cases.len(), wrong.join("\n"));
    let templates: usize = all.checkpoints.values().map(|c| c.templates.len()).sum();
    assert_eq!(all.cases.len(), templates * all.conversations.len());
    assert!(0 < begun && begun < all.cases.len());
}

#[test]
fn templates_of_real_models_are_rendered_as_by_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/templates");
    let Ok(files) = fs::read_dir(&folder) else {
        eprintln!("skipped: {} is absent", folder.display());
        return;
    };
    let (mut wrong, mut count) = (Vec::new(), 0);
    for path in files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "jinja")) {
        let template = ChatTemplate::new(&fs::read_to_string(&path).unwrap()).unwrap();
        let cases = fs::read(path.with_extension("cases.json")).unwrap();
        for case in serde_json::from_slice::<Vec<SharedCase>>(&cases).unwrap() {
            let tools = case.tools.as_ref().map_or("null", |tools| tools.get());
            let json = format!(
                r#"{{"messages": {}, "tools": {tools}, "add_generation_prompt": {}}}"#,
                case.messages.get(),
                case.add_generation_prompt
            );
            let template = template.clone().with_special_tokens(case.variables);
            let got = Conversation::from_json(&json).and_then(|c| template.render(&c, case.now.parse().unwrap()));
            let expected = Expected { text: case.text, error: case.error };
            count += 1;
            wrong.extend(difference(&got, &expected).map(|d| format!("{}, {}{d}", path.display(), case.name)));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 0);
}

#[test]
fn hostile_templates_end_soon() {
    let doubling = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x OP ns.x %}{% endfor %}{{ ns.x|length }}";
    let nested = |open: &str, inner: &str, close: &str, n: usize| open.repeat(n) + inner + &close.repeat(n);
    let many = |s: &str| s.repeat(100_000);
    let templates = [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_string(),
        "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}".to_string(),
        format!("{{% for i in range(100000) %}}{}{{% endfor %}}", "long text ".repeat(10_000)),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".to_string(),
        "{% macro m(x) %}{{ m(x ~ x) }}{{ m(x ~ x) }}{% endmacro %}{{ m('a') }}".to_string(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_string(),
        doubling.replace("OP", "~"),
        doubling.replace("OP", "+"),
        doubling.replace("'aaaaaaaa'", "[1, 2, 3]").replace("OP", "+"),
        "{{ 'x' * 10 ** 12 }}".to_string(),
        "{{ 'x' * 10 ** 30 }}".to_string(),
        "{{ [0] * 10 ** 10 }}".to_string(),
        "{{ range(10 ** 9) }}".to_string(),
        "{{ range(10 ** 9)|list }}".to_string(),
        "{{ '%999999999999d' % 1 }}".to_string(),
        "{{ '{:>999999999999}'.format(1) }}".to_string(),
        "{{ ('a' * 10 ** 6).replace('a', 'b' * 10 ** 6) }}".to_string(),
        "{{ ('a' * 10 ** 6).replace('', 'b' * 10 ** 6) }}".to_string(),
        "{{ ('b' * 10 ** 6).join(range(100)|map('string')) }}{{ range(100000)|join('b' * 10 ** 6) }}".to_string(),
        "{{ 'x'|indent(10 ** 12, true) }}{{ ('\\n' * 10 ** 6)|indent(10 ** 6) }}".to_string(),
        "{{ [[]]|tojson(indent=10 ** 12) }}".to_string(),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}".to_string(),
        "{% set ns = namespace(x={}) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x|tojson }}".to_string(),
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x]|map('list')|list %}{% endfor %}".to_string(),
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{{ [ns, ns]|tojson }}".to_string(),
        "{{ loop }}{% for i in [1, 2] %}{{ loop }}{{ loop.cycle() }}{% endfor %}".to_string(),
        "{{ ('a\\n' * 10 ** 7).splitlines()|length }}".to_string(),
        "{{ (('%%' * 10 ** 7) % ())|length }}{{ ('{{' * 10 ** 7).format()|length }}".to_string(),
        "{{ 2 ** 2 ** 2 ** 2 ** 2 }}{{ 10 ** 10 ** 10 }}".to_string(),
        "{{ ('a' * 10 ** 6).strip('b' * 10 ** 6) }}".to_string(),
        "{% for i in range(100000) %}{{ ('a' * 10 ** 6)[999999] }}{% endfor %}".to_string(),
        "{% set s = 'a' * 10 ** 7 %}{% for i in range(100000) %}{{ s|length }}{{ 'b' in s }}{{ s == s ~ '' }}{% endfor %}".to_string(),
        "{% set l = range(100000)|list %}{% for i in l %}{{ i in l }}{{ l|sort|unique|list|length }}{% endfor %}".to_string(),
        format!("{{{{ {} }}}}", nested("(", "1", ")", 100_000)),
        format!("{{{{ {} }}}}", nested("[", "1", "]", 100_000)),
        format!("{{{{ {} }}}}", many("-") + "1"),
        format!("{{{{ {} }}}}", many("not ") + "1"),
        format!("{{{{ 1{} }}}}", many("+1")),
        format!("{{{{ a{} }}}}", many(".b")),
        format!("{{{{ a{} }}}}", many("|e")),
        format!("{{{{ a{} }}}}", many(" if b else c")),
        format!("{{{{ {} }}}}", "'a' ".repeat(4_000)),
        nested("{% if a %}", "x", "{% endif %}", 20_000),
        nested("{% for a in b %}", "x", "{% endfor %}", 20_000),
        nested("{% macro m() %}", "x", "{% endmacro %}", 20_000),
        format!("{{% if a %}}{}{{% endif %}}", "{% elif b %}".repeat(50_000)),
        "x".repeat(2 << 20),
        "{{ ".repeat(100_000),
        "{% set x %}".repeat(10_000),
        "{{ ''.__class__.__mro__[1].__subclasses__() }}".to_string(),
        "{{ raise_exception.__globals__ }}{{ messages.__class__.__base__ }}".to_string(),
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}".to_string(),
        "{{ ''|attr('__class__')|attr('__mro__') }}{{ ''.format.__self__ }}".to_string(),
        "{{ '{0.__class__.__mro__}'.format('') }}{{ '{x.__init__}'.format(x=1) }}".to_string(),
    ];
    let variables = r#"{"messages": [{"role": "user", "content": "a"}], "b": [1]}"#;
    for template in templates {
        let start = Instant::now();
        let got = Template::compile(&template).and_then(|t| t.render_json(variables, Clock::now()));
        let shown: String = template.chars().take(90).collect();
        let panicked = matches!(&got, Err(TemplateError::Panicked));
        assert!(!panicked, "{shown}");
        println!(
            "{:6.2} s {shown}: {}",
            start.elapsed().as_secs_f64(),
            match &got {
                Ok(text) => format!("{} bytes", text.len()),
                Err(e) => e.to_string(),
            }
        );
        let text = got.unwrap_or_default();
        assert!(text.len() < 1 << 20 && !text.contains("subclass") && !text.contains("<class"), "{shown}");
    }
}
