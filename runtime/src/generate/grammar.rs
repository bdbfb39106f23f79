//! What an answer must match: a JSON schema, or a grammar. Tokens that cannot lead to a match are never chosen.
//!
//! The `llguidance` crate keeps the parser's state and says which tokens may follow. Of the tokenizer it knows only the
//! bytes of each token. The trap: a token's text can depend on its neighbours, so these are the bytes that the token
//! adds in the middle of a text ([`Tokenizer::token_bytes`]).

use super::schema;
use crate::error::Result;
use llguidance::api::{GrammarInit, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use nanoserve_tokenizer::{Tokenizer, catch_panic};
use std::fmt;
use std::sync::Arc;

pub use crate::error::GrammarError;

/// Allowed between the parts of JSON: nothing, a space, or one or two line ends and some indentation. Not more, because
/// a model that has lost its way writes spaces for ever.
const WHITESPACE: &str = r"\x20|\x0A{1,2}[\x20\x09]{0,20}";

/// llguidance's tables hold fewer tokens than `MAX_VOCABULARY`, each of at most `MAX_TOKEN` bytes.
const MAX_VOCABULARY: usize = 1 << 21;
const MAX_TOKEN: usize = 1000;

/// The most bytes of a schema's or a grammar's text.
const MAX_TEXT: usize = 1 << 20;
/// The most states of the machine that splits an answer into a grammar's terminals: at most 2 kB each.
const MAX_STATES: usize = 50_000;
/// The work that one answer's machine may take in all to make states, in the library's measure: 14,000 take about a millisecond.
/// A step of its own may take [`STEP_WORK`]; an honest grammar makes nearly all of its states within a few steps.
const MAX_WORK: u64 = 4_000_000;
const STEP_WORK: u64 = 200_000;

/// A grammar, and how far an answer has followed it.
#[derive(Clone)]
pub struct Grammar {
    matcher: Matcher,
    /// Whether there is an end token, which can be chosen where the answer may end.
    has_end: bool,
    tokens: usize,
    /// What was spent of [`MAX_WORK`].
    spent: u64,
}

/// A model's tokens in the form that grammars need. Making it takes a moment: the bytes of every token are sorted.
pub struct GrammarTokens {
    factory: ParserFactory,
    has_end: bool,
}

impl GrammarTokens {
    /// The tokens of a tokenizer whose model gives `vocab_size` logits. An answer may end with one of `eos_ids`.
    ///
    /// # Errors
    /// When the tokenizer cannot be read, or has too many tokens.
    pub fn new(tokenizer: &Tokenizer, vocab_size: usize, eos_ids: &[u32]) -> Result<Self> {
        if vocab_size >= MAX_VOCABULARY {
            let cause = format!("{vocab_size} tokens, at most {MAX_VOCABULARY} are possible");
            return Err(GrammarError::Refused { what: "tokenizer", cause }.into());
        }
        let mut words = tokenizer.token_bytes(vocab_size)?;
        // No grammar needs them, and llguidance's tables have no room for them.
        words.iter_mut().filter(|word| word.len() > MAX_TOKEN).for_each(Vec::clear);
        let ends: Vec<u32> = eos_ids.iter().copied().filter(|id| (*id as usize) < vocab_size).collect();
        let no_token = llguidance::toktrie::INVALID_TOKEN;
        let info = TokRxInfo::new(vocab_size as u32, ends.first().copied().unwrap_or(no_token));
        let factory = call_library("tokenizer", || {
            let trie = TokTrie::from(&info, &words);
            let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
            let tokens: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
            ParserFactory::new(&tokens, InferenceCapabilities::default(), &SlicedBiasComputer::json_slices())
        });
        let mut factory = factory?;
        let limits = factory.quiet().limits_mut();
        limits.verbose_errors = false;
        limits.max_lexer_states = MAX_STATES;
        limits.step_lexer_fuel = STEP_WORK;
        Ok(GrammarTokens { factory, has_end: !ends.is_empty() })
    }

    /// The grammar of the values that a JSON schema allows.
    ///
    /// # Errors
    /// When the text is no JSON, a keyword is not supported or cannot be held to exactly, or no value is valid.
    pub fn json_schema(&self, text: &str) -> Result<Grammar> {
        within("JSON schema", text)?;
        let grammar = call_library("JSON schema", || Ok::<_, GrammarError>(schema::compile(text, WHITESPACE)))??;
        self.compile("JSON schema", grammar)
    }

    /// The grammar that a text describes in Lark notation, as llguidance reads it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn lark(&self, text: &str) -> Result<Grammar> {
        within("grammar", text)?;
        if text.contains("::=") {
            return Err(GrammarError::Gbnf.into());
        }
        self.compile("grammar", GrammarInit::Serialized(TopLevelGrammar::from_lark(text.to_owned())))
    }

    fn compile(&self, what: &'static str, grammar: GrammarInit) -> Result<Grammar> {
        let parser = call_library(what, || self.factory.create_parser_from_init_default(grammar))?;
        Ok(Grammar { matcher: Matcher::new(Ok(parser)), has_end: self.has_end, tokens: 0, spent: 0 })
    }
}

/// Refuses a text that is too long before it is read.
fn within(what: &'static str, text: &str) -> Result<(), GrammarError> {
    match text.len() {
        0..=MAX_TEXT => Ok(()),
        got => Err(GrammarError::Refused { what, cause: format!("it has {got} bytes, at most {MAX_TEXT} are read") }),
    }
}

/// Calls llguidance, which expects good input: a panic becomes an error, and its message goes to standard error.
fn call_library<T, E: fmt::Display>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, E>,
) -> Result<T, GrammarError> {
    let refused = |cause| GrammarError::Refused { what, cause };
    match catch_panic("grammar", work) {
        Ok(done) => done.map_err(|e| refused(format!("{e:#}"))),
        Err(panicked) => Err(refused(panicked.to_string())),
    }
}

impl fmt::Debug for GrammarTokens {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("GrammarTokens").field("has_end", &self.has_end).finish_non_exhaustive()
    }
}

impl Grammar {
    /// The same grammar at its beginning.
    pub fn restarted(&self) -> Grammar {
        let mut matcher = self.matcher.deep_clone();
        // A failure shows at the first mask.
        let _ = matcher.reset();
        // The states that were made are kept.
        Grammar { matcher, has_end: self.has_end, tokens: 0, spent: self.spent }
    }

    /// Sets the logits, `[vocab_size]`, of tokens that cannot follow to minus infinity.
    ///
    /// # Errors
    /// When llguidance gives up: the grammar is too ambiguous, or a push failed before.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|e| self.failed(&e))?;
        self.spent += self.matcher.last_step_stats().map_or(0, |step| step.lexer_cost);
        if self.spent > MAX_WORK {
            let cause = "its terminals take more work than any that are in use; make them simpler";
            return Err(self.failed(&cause).into());
        }
        for (logits, word) in logits.chunks_mut(32).zip(mask.as_slice()) {
            if *word == u32::MAX {
                continue;
            }
            for (bit, logit) in logits.iter_mut().enumerate() {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        Ok(())
    }

    /// Moves past a token that is not an end token. Returns whether the answer is complete and nothing may follow.
    /// Without an end token, the answer ends as soon as it is complete.
    ///
    /// # Errors
    /// When the token cannot follow.
    pub fn push(&mut self, id: u32) -> Result<bool> {
        self.matcher.consume_token(id).map_err(|e| self.failed(&e))?;
        self.tokens += 1;
        Ok(self.matcher.is_stopped() || (!self.has_end && self.matcher.is_accepting().map_err(|e| self.failed(&e))?))
    }

    fn failed(&self, cause: &dyn fmt::Display) -> GrammarError {
        GrammarError::Step { tokens: self.tokens, cause: cause.to_string() }
    }
}

impl fmt::Debug for Grammar {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Grammar").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}
