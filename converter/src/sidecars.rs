//! What stands beside the weights: tokenizer, chat template, generation defaults; and the record of what was read.

use crate::checkpoint::{Checkpoint, Folder};
use crate::config::Config;
use crate::error::{Problems, Result, What};
use crate::json::{self, Fields};
use crate::report::{Warning, Watch};
use crate::templates::{self, Templates};
use crate::vocab::{self, Compilation};
use nanoserve_format::{GenerationDefaults, ModelSpec, Plan, Provenance, SectionKind, SourceFile, TokenizerVectors};
use serde_json::Map;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use tokenizers::Tokenizer;

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION: &str = "generation_config.json";
/// Bytes hashed between two looks at the cancel flag.
const HASH_CHUNK: usize = 32 << 20;

/// All of it, checked against the model where there is one.
#[derive(Debug)]
pub(crate) struct Sidecars {
    /// tokenizer.json as it was, and what the tokenizers library made of it.
    pub tokenizer: Option<(Vec<u8>, Tokenizer)>,
    /// The chat templates.
    pub templates: Templates,
    /// How to generate.
    pub generation: GenerationDefaults,
}

impl Sidecars {
    /// Reads and checks every file that is there.
    pub fn read(
        folder: &Folder,
        config: Option<&Config>,
        spec: Option<&ModelSpec>,
        problems: &Problems,
        warnings: &mut Vec<Warning>,
    ) -> Sidecars {
        let vocab_size = spec.map(|s| s.vocab_size);
        let object = |name| folder.read(name, problems).and_then(|bytes| json::object(name, &bytes, problems));
        let (tokens, generation) = (object(TOKENIZER_CONFIG), object(GENERATION));
        let empty = Map::new();
        let tokens = Fields::new(TOKENIZER_CONFIG, tokens.as_ref().unwrap_or(&empty), problems);
        let generation = Fields::new(GENERATION, generation.as_ref().unwrap_or(&empty), problems);
        let config = config.map(|c| c.fields(problems));
        let tokenizer = tokenizer(folder, vocab_size, problems, warnings);
        let templates = Templates::read(folder, tokens, problems, warnings);
        let mut generation = defaults(generation, config, tokens, vocab_size, warnings);
        generation.special_tokens = templates::special_tokens(folder, tokens, problems);
        Sidecars { tokenizer, templates, generation }
    }

    /// Adds all that need not be worked out to a file's plan, and the room for what does.
    pub fn add_to(&self, plan: &mut Plan) {
        if let Some((json, _)) = &self.tokenizer {
            plan.section(SectionKind::Tokenizer, json.clone());
            // Its compiled form has about half of its bytes.
            plan.expect_bytes(json.len() as u64);
        }
        if let Some(template) = &self.templates.default {
            plan.section(SectionKind::ChatTemplate, template.clone().into_bytes());
        }
        if !self.templates.named.is_empty() {
            plan.json(SectionKind::NamedTemplates, &self.templates.named);
        }
        plan.json(SectionKind::Generation, &self.generation);
    }

    /// The tokenizer, compiled where it can be, and what it makes of some texts.
    pub fn compile(&self) -> (Compilation, Option<TokenizerVectors>) {
        match &self.tokenizer {
            Some((json, loaded)) => (vocab::compile(json, loaded), vocab::vectors(loaded)),
            None => (Compilation::Other, None),
        }
    }
}

/// The tokenizer, once it loads and none of its ids is beyond the vocabulary. It may well have fewer ids than the model:
/// many vocabularies are padded.
fn tokenizer(
    folder: &Folder,
    vocab_size: Option<usize>,
    problems: &Problems,
    warnings: &mut Vec<Warning>,
) -> Option<(Vec<u8>, Tokenizer)> {
    let Some(bytes) = folder.read(TOKENIZER, problems) else {
        if !folder.has(TOKENIZER) {
            warnings.push(Warning::NoTokenizer { has_model: folder.has("tokenizer.model") });
        }
        return None;
    };
    let loaded = match vocab::load(&bytes) {
        Ok(loaded) => loaded,
        Err(cause) => {
            problems.file(TOKENIZER, What::Tokenizer { cause });
            return None;
        }
    };
    let last = loaded.get_vocab(true).into_iter().max_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    if let (Some((token, got)), Some(vocab_size)) = (last, vocab_size)
        && got as usize >= vocab_size
    {
        problems.file(TOKENIZER, What::TokenId { field: format!("the id of token '{token}'"), got, vocab_size });
    }
    Some((bytes, loaded))
}

/// Generation defaults: generation_config.json first, for the token ids config.json where it is silent, and the text model in
/// it where that is too.
fn defaults(
    generation: Fields,
    config: Option<Fields>,
    tokens: Fields,
    vocab_size: Option<usize>,
    warnings: &mut Vec<Warning>,
) -> GenerationDefaults {
    let ids = |field: &str| {
        let text = config.and_then(|config| config.object("text_config"));
        let from = [Some(generation), config, text].into_iter().flatten().find(|f| f.get(field).is_some())?;
        let ids = from.ids(field)?;
        for &got in ids.iter().filter(|&&id| vocab_size.is_some_and(|n| id as usize >= n)) {
            let vocab_size = vocab_size.unwrap_or_default();
            from.problem(What::TokenId { field: field.to_string(), got, vocab_size });
        }
        Some(ids)
    };
    let mut eos_ids = ids("eos_token_id").unwrap_or_default();
    let mut seen = std::collections::HashSet::new();
    eos_ids.retain(|id| seen.insert(*id));
    if eos_ids.is_empty() {
        warnings.push(Warning::NoEos);
    }
    let ranged = |field: &str, expected: &str, fine: fn(f64) -> bool| {
        let value = generation.number(field)?;
        if !fine(value) {
            generation.wrong(field, value, expected);
        }
        Some(value)
    };
    let temperature = ranged("temperature", "0 or more", |x| x >= 0.0);
    // Said out loud, greedy is what the makers mean, whatever temperature stands beside it.
    let greedy = generation.flag("do_sample") == Some(false);
    GenerationDefaults {
        bos_id: ids("bos_token_id").and_then(|ids| ids.first().copied()),
        add_bos: tokens.flag("add_bos_token"),
        eos_ids,
        temperature: if greedy { Some(0.0) } else { temperature },
        top_k: generation.size("top_k").map(|k| u32::try_from(k).unwrap_or(u32::MAX)),
        top_p: ranged("top_p", "above 0 and at most 1", |x| x > 0.0 && x <= 1.0),
        min_p: ranged("min_p", "0 to 1", |x| (0.0..=1.0).contains(&x)),
        repeat_penalty: ranged("repetition_penalty", "above 0", |x| x > 0.0),
        ..GenerationDefaults::default()
    }
}

/// The hashes of the files that were read. Those of the weights take longer than all else that needs no other result, so
/// they fill the time in which one thread reads the tokenizer: [`Hashes::shards`] stops when asked, and goes on later.
#[derive(Default)]
pub(crate) struct Hashes {
    sha256: bool,
    done: Vec<SourceFile>,
    /// Of the shard after those, as far as it is hashed.
    blake3: blake3::Hasher,
    sha: Sha256,
    at: usize,
}

impl Hashes {
    /// Nothing hashed yet; with the SHA-256 of each file or without.
    pub fn new(sha256: bool) -> Hashes {
        Hashes { sha256, ..Hashes::default() }
    }

    /// Bytes that are not hashed yet of a checkpoint.
    pub fn left(&self, folder: &Folder, checkpoint: &Checkpoint) -> usize {
        let small = folder.files().values().map(Vec::len).sum::<usize>();
        let shards = checkpoint.shards[self.done.len()..].iter().map(|shard| shard.map.len()).sum::<usize>();
        small + shards - self.at
    }

    /// Goes on through the shards as long as `go_on`, told how many bytes were hashed last, says so.
    pub fn shards(&mut self, checkpoint: &Checkpoint, mut go_on: impl FnMut(usize) -> Result<bool>) -> Result<()> {
        let mut hashed = 0;
        while let Some(shard) = checkpoint.shards.get(self.done.len()) {
            if !go_on(hashed)? {
                return Ok(());
            }
            let rest = &shard.map[self.at..];
            hashed = rest.len().min(HASH_CHUNK);
            self.update(&rest[..hashed]);
            if hashed == rest.len() {
                self.end(&shard.name);
            }
        }
        go_on(hashed).map(|_| ())
    }

    fn update(&mut self, bytes: &[u8]) {
        let Hashes { sha256, blake3, sha, .. } = self;
        // SHA-256 goes byte after byte: one thread does it, the others what can be split.
        let sha = || {
            if *sha256 {
                sha.update(bytes);
            }
        };
        rayon::join(sha, || _ = blake3.update_rayon(bytes));
        self.at += bytes.len();
    }

    /// What was hashed since the last end is a file.
    fn end(&mut self, name: &str) {
        let blake3 = std::mem::take(&mut self.blake3).finalize().to_hex().to_string();
        let sha256 = std::mem::take(&mut self.sha).finalize();
        let sha256 = self.sha256.then(|| sha256.iter().map(|byte| format!("{byte:02x}")).collect());
        let bytes = std::mem::take(&mut self.at) as u64;
        self.done.push(SourceFile { name: name.to_string(), bytes, blake3, sha256 });
    }

    /// What was read, with hashes, in the order of names; and by which program with which options.
    pub fn provenance(
        mut self,
        recipe: String,
        origin: Provenance,
        small: &BTreeMap<String, Vec<u8>>,
        checkpoint: &Checkpoint,
        watch: &Watch,
    ) -> Result<Provenance> {
        self.shards(checkpoint, |hashed| {
            watch.advance(hashed);
            watch.go_on().map(|()| true)
        })?;
        for (name, bytes) in small {
            self.update(bytes);
            self.end(name);
            watch.advance(bytes.len());
        }
        self.done.sort_by(|a, b| a.name.cmp(&b.name));
        let converter = concat!("nanoserve-convert ", env!("CARGO_PKG_VERSION")).to_string();
        Ok(Provenance { converter, recipe, sources: self.done, ..origin })
    }
}
