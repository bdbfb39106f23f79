//! Fuzz targets: the entry points for hostile bytes. Each is a function of bytes that must end soon and never panic.
//! cargo-fuzz runs them for hours (`tests/fuzz`), `tests/tests/fuzz_smoke.rs` for a minute.
//!
//! Hash checks would refuse nearly every changed file, and the code after them would stay untested. So [`nsv`] takes a
//! form of file without hashes and computes them here.

use crate::changed;
use crate::files::read_values;
use crate::parts::{DATA, PREAMBLE, Parts, put, rehash};
use nanoserve_converter::from_bytes;
use nanoserve_format::{Layout, ModelSpec, NsvFile, SectionKind, parse};
use nanoserve_runtime::cpu::pool::Pool;
use nanoserve_runtime::cpu::{CpuBackend, isa};
use nanoserve_runtime::{Engine, GenerateOptions, KvType, RuntimeError};
use nanoserve_template::{Clock, Template, TemplateError};
use nanoserve_tokenizer::Tokenizer;
use nanoserve_tokenizer::vocab::{CompiledVocabulary, Splitter};
use std::sync::Arc;

/// A target: its name in the corpus, and its function.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target. A function returns whether the bytes were accepted as valid.
pub const TARGETS: [Target; 7] = [
    ("nsv", nsv),
    ("safetensors", safetensors),
    ("gguf", gguf),
    ("config", config),
    ("vocabulary", vocabulary),
    ("tokenizer", tokenizer),
    ("template", template),
];

fn gguf(bytes: &[u8]) -> bool {
    nanoserve_converter::gguf_from_bytes(bytes).is_ok()
}

/// Texts to try tokenizers on: several scripts, spaces, an added token, and runs of one character.
const TEXTS: [&str; 4] = [
    "Hello, world 1234\r\n\n  don't é 日本\u{0}<|eot|> \u{10FFFF}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!",
    "                                                                                .",
    "",
];

/// First byte of an input that holds the file itself, without the zeros before byte 65536.
pub const WHOLE: u8 = 0;
/// First byte of an input that holds sections, then the tensors.
pub const PARTS: u8 = 1;

/// Converts a `.nsv` file to the form that [`nsv`] takes.
pub fn input(form: u8, file: &[u8]) -> Vec<u8> {
    let mut out = vec![form];
    if form == PARTS {
        let Parts { sections, data } = Parts::split(file);
        for (kind, flags, body) in sections {
            out.extend([kind as u8, flags as u8]);
            out.extend((body.len() as u16).to_le_bytes());
            out.extend(body);
        }
        out.extend([0; 4]);
        out.extend(data);
    } else {
        let head = file[..DATA].iter().rposition(|&b| b != 0).map_or(0, |at| at + 1);
        out.extend((head as u16).to_le_bytes());
        out.extend(&file[..head]);
        out.extend(&file[DATA..]);
    }
    out
}

/// The file that an input stands for; None if it stands for none.
pub fn file(input: &[u8]) -> Option<Vec<u8>> {
    let (&form, mut rest) = input.split_first()?;
    if form % 2 == PARTS {
        let (mut sections, mut bytes) = (Vec::new(), PREAMBLE + 8);
        loop {
            let (&[kind, flags, low, high], after) = rest.split_first_chunk()?;
            rest = after;
            if kind == 0 {
                break;
            }
            let (body, after) = rest.split_at_checked(u16::from_le_bytes([low, high]).into())?;
            rest = after;
            bytes += 128 + body.len();
            sections.push((kind.into(), flags.into(), body.to_vec()));
        }
        (bytes < DATA).then(|| Parts { sections, data: rest.to_vec() }.file())
    } else {
        let (head, rest) = rest.split_first_chunk()?;
        let (head, data) = rest.split_at_checked(u16::from_le_bytes(*head).into())?;
        let mut file = head.to_vec();
        file.resize(DATA, 0);
        file.extend(data);
        let len = file.len() as u64;
        put(&mut file, 24, &len.to_le_bytes());
        rehash(&mut file);
        Some(file)
    }
}

/// A `.nsv` file in one of two forms, see [`input`].
pub fn nsv(input: &[u8]) -> bool {
    file(input).is_some_and(|file| open(&file))
}

/// Opens a file, reads everything it offers and runs some tokens, without checking the tensors' hashes. The root
/// decides which kernels and which cache type run, so that all of them are used.
pub fn open(file: &[u8]) -> bool {
    let Ok(layout) = parse(file) else { return false };
    touch(&layout, file);
    let _ = layout.damage(file);
    let (kernels, caches) = (isa::available(), KvType::ALL);
    let [a, b, ..] = layout.root.map(usize::from);
    // The tokenizer or the sampler may still refuse the file's contents with an error.
    run(file, kernels[a % kernels.len()], caches[b % caches.len()].1).is_ok()
}

/// Reads everything that a parsed file offers.
pub fn touch(layout: &Layout, file: &[u8]) {
    for entry in &layout.tensors {
        let values = read_values(layout.view(file, entry));
        assert_eq!(Some(values.len()), entry.shape.elements());
    }
    for kind in SectionKind::ALL {
        let _ = layout.section(file, kind);
    }
    assert!(layout.weight_bytes() <= file.len() as u64);
}

fn run(bytes: &[u8], kernels: &'static isa::Kernels, kv: KvType) -> Result<(), RuntimeError> {
    let file = Arc::new(NsvFile::from_bytes(bytes)?);
    let _ = file.provenance();
    let backend = CpuBackend::new(kernels, Arc::new(Pool::new(1)?));
    let mut engine = Engine::with_backend(file.clone(), backend)?;
    let tokenizer = match engine.tokenizer() {
        Ok(tokenizer) => Some(tokenizer),
        Err(RuntimeError::NoTokenizer) => None,
        Err(e) => return Err(e),
    };
    let vocab_size = file.spec().vocab_size;
    let mut prompt = vec![0, vocab_size as u32 - 1];
    if let Some(tokenizer) = &tokenizer {
        prompt.extend(tokenizer.encode(TEXTS[0], true)?.into_iter().filter(|&id| (id as usize) < vocab_size).take(2));
    }
    let capacity = file.spec().context_length.min(prompt.len() + 2);
    prompt.truncate(capacity);
    let options =
        changed!(GenerateOptions { max_tokens: Some(2), ..GenerateOptions::from_defaults(&file.generation()?) });
    engine.session(capacity, kv)?.generate(&prompt, &options, tokenizer.as_ref(), &mut |_| true)?;
    Ok(())
}

/// The model of the tensors in the safetensors seeds.
pub fn safetensors_model() -> ModelSpec {
    let sizes = ModelSpec { hidden_size: 4, intermediate_size: 6, vocab_size: 5, ..ModelSpec::default() };
    ModelSpec { n_heads: 2, qkv_bias: true, attn_out_bias: true, tied_lm_head: true, ..sizes }
}

/// A safetensors file.
pub fn safetensors(bytes: &[u8]) -> bool {
    from_bytes::safetensors("LlamaForCausalLM", &safetensors_model(), bytes).is_ok()
}

/// A config.json.
pub fn config(bytes: &[u8]) -> bool {
    from_bytes::config(bytes).inspect(|spec| spec.check().expect("what is returned was checked")).is_ok()
}

/// A compiled tokenizer's section, after correcting the length of its last table.
pub fn vocabulary(bytes: &[u8]) -> bool {
    let mut section = bytes.to_vec();
    fit(&mut section);
    // Tables are read in place as numbers. In a map they are aligned to four bytes, so this copy must be, too.
    let mut aligned = vec![0u32; section.len().div_ceil(4)];
    let place: &mut [u8] = bytemuck::cast_slice_mut(&mut aligned);
    place[..section.len()].copy_from_slice(&section);
    let section = &place[..section.len()];
    let Ok(vocabulary) = CompiledVocabulary::open(section) else { return false };
    let ids: Vec<u32> = (0..vocabulary.max_id().unwrap_or(0).min(300)).chain([u32::MAX]).collect();
    for skip_special in [true, false] {
        let _ = vocabulary.decode(&ids, skip_special);
    }
    let pieces = ids.iter().filter(|&&id| vocabulary.piece(id).is_some()).count();
    assert!(pieces <= ids.len() && format!("{vocabulary:?}").len() < 10_000);
    let Ok(splitter) = Splitter::new(&vocabulary) else { return false };
    TEXTS.iter().all(|text| vocabulary.encode(&splitter, text).is_ok())
}

/// Corrects the last number of a vocabulary's header, if the others leave room for it.
fn fit(section: &mut [u8]) {
    if section.len() < 64 {
        return;
    }
    let n = |i: usize| u64::from(crate::parts::u32_at(section, 4 * i));
    let before = [64 + 4 * 256, 16 * n(5), 4 * (n(3) + 1), 4 * n(6), 16 * (n(7) + n(8)), 4 * n(9), n(3), n(10), n(11)];
    if let Some(rest) = (section.len() as u64).checked_sub(before.iter().sum()) {
        put(section, 48, &(rest as u32).to_le_bytes());
    }
}

/// A tokenizer.json: both compiled and loaded directly.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let compiled = nanoserve_converter::compile_tokenizer(bytes);
    let Ok(tokenizer) = Tokenizer::from_json(bytes, Some(1), None) else { return false };
    let _ = (tokenizer.token_count(), tokenizer.max_id());
    for text in TEXTS {
        let Ok(ids) = tokenizer.encode(text, true) else { continue };
        for skip_special in [true, false] {
            let _ = tokenizer.decode(&ids, skip_special);
        }
    }
    if let Ok(Some(section)) = compiled {
        assert!(Tokenizer::from_section(section, Some(1), None).is_ok(), "what was compiled is read");
    }
    true
}

/// The variables for rendering templates: messages of every kind, tools, and values of every type.
const VARIABLES: &str = r#"{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " Hi, Ünï 😀 "},
    {"role": "assistant", "content": "<think>hm</think> Yes", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
    {"role": "tool", "content": "2"}, {"role": "user", "content": "Bye"}], "tools": [{"type": "function", "function": {"name": "f",
    "parameters": {"type": "object", "properties": {"a": {"type": ["integer", "null"]}}}}}], "documents": null,
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "n": 7, "f": 2.5, "l": [3, 1, 2], "d": {"b": 1, "a": [1.5]},
    "words": ["pear", "Apple", "fig"], "people": [{"name": "Ada", "age": 36}, {"name": "bob", "age": 25}], "t": true, "z": null,
    "s": "a,b,,c", "html": "<a>1 & 2</a>", "text": "The quick brown fox jumps over the lazy dog.", "e": "", "neg": -7}"#;

/// A chat template.
pub fn template(bytes: &[u8]) -> bool {
    let clock: Clock = "2026-01-15T12:00:00".parse().expect("a time");
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let rendered = Template::compile(text).and_then(|template| template.render_json(VARIABLES, clock));
    // A panic stays on the template's own thread, and would be taken for an error.
    assert!(!matches!(rendered, Err(TemplateError::Panicked)), "{text}");
    rendered.is_ok()
}
