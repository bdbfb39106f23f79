//! Reads rotary embeddings in every form that config.json has had for them.
//!
//! Old: `rope_theta` and, beside it, `rope_scaling`; new: both in `rope_parameters`. If a file has both forms,
//! transformers takes `rope_scaling`. The kind is `rope_type`, or `type` in the oldest files. Fields that a kind omits
//! follow from its formula (`modeling_rope_utils.py` of transformers).

use crate::hf::json::Fields;
use crate::hf::layers::FULL;
use nanoserve_format::{Rope, RopeScaling};

/// The kinds that are supported.
pub(crate) const KINDS: [&str; 6] = ["default", "linear", "dynamic", "yarn", "longrope", "llama3"];
const ORIGINAL: &str = "original_max_position_embeddings";

/// The form of a family's rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Form {
    /// One for all layers; it rotates the whole head.
    Whole,
    /// One for all layers; it rotates a part of the head if `partial_rotary_factor` says so. Its only scaling is
    /// longrope, which is also named `su` or `yarn`.
    Partial,
    /// One for layers without a window, one for those with one.
    ByLayer,
}

/// Where a rotary embedding is read from, and its defaults.
pub(crate) struct Source<'a> {
    /// config.json, or the object of the text model in it.
    pub outer: Fields<'a>,
    /// The objects that may hold its fields; the first that has a field wins.
    pub inner: Vec<Fields<'a>>,
    /// The field of `outer` that holds the base.
    pub theta: &'static str,
    /// The base if no field holds it.
    pub default_theta: f64,
    /// Positions of the first training if no field gives them; None means the positions the model was made for.
    pub default_original: Option<usize>,
    /// Which form it has.
    pub form: Form,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// The object of the flat forms, if it is there and not empty.
pub(crate) fn flat(outer: Fields) -> Vec<Fields> {
    let object = |field| outer.object(field).filter(|inner| !inner.is_empty());
    object("rope_scaling").or_else(|| object("rope_parameters")).into_iter().collect()
}

/// The objects of one type of layer: its own; before it, for layers without a window, the old `rope_scaling`.
pub(crate) fn of_layers<'a>(outer: Fields<'a>, layers: &'static str) -> Vec<Fields<'a>> {
    let object = |fields: Fields<'a>, field| fields.object(field).filter(|inner| !inner.is_empty());
    let own = object(outer, "rope_parameters").and_then(|all| {
        if !all.has_objects() && layers == FULL {
            all.wrong(FULL, "missing", "the objects full_attention and sliding_attention");
        }
        object(all, layers)
    });
    let old = if layers == FULL { object(outer, "rope_scaling") } else { None };
    old.into_iter().chain(own).collect()
}

impl Source<'_> {
    /// The rotary embedding; None if a problem was noted that leaves it unknown.
    pub fn read(&self) -> Option<Rope> {
        let theta = self.number("rope_theta").or_else(|| self.outer.number(self.theta)).unwrap_or(self.default_theta);
        let rotary_dim = self.rotary_dim();
        Some(Rope { theta, rotary_dim, scaling: self.scaling()? })
    }

    fn find(&self, field: &str) -> Option<&Fields<'_>> {
        self.inner.iter().find(|inner| inner.get(field).is_some())
    }

    fn number(&self, field: &str) -> Option<f64> {
        self.find(field)?.number(field)
    }

    /// Number of rotated elements of a head; None if all are rotated.
    fn rotary_dim(&self) -> Option<usize> {
        const PART: &str = "partial_rotary_factor";
        let (fields, part) = match self.find(PART) {
            Some(inner) => (inner, inner.number(PART)?),
            None => (&self.outer, self.outer.number(PART)?),
        };
        // A head_dim of 0 is noted elsewhere.
        if part == 1.0 || self.head_dim == 0 {
            return None;
        }
        if self.form != Form::Partial {
            fields.unsupported(PART, part, "1.0 in a model of this family");
            return None;
        }
        let dim = (self.head_dim as f64 * part) as usize;
        if !(0.0..1.0).contains(&part) || dim == 0 || !dim.is_multiple_of(2) {
            fields.wrong(PART, part, format!("a share of head_dim, {}, that is an even number", self.head_dim));
        }
        Some(dim)
    }

    fn scaling(&self) -> Option<RopeScaling> {
        let Some(own) = self.inner.first() else { return Some(RopeScaling::Default {}) };
        let named = if self.find("rope_type").is_some() { "rope_type" } else { "type" };
        let kind = match self.find(named) {
            Some(inner) => inner.text(named)?,
            // transformers reads a missing type as "default", but then nothing but theta has a meaning.
            None if self.find("factor").is_some() || own.has_objects() => {
                own.wrong("rope_type", "missing", KINDS.join(", "));
                return None;
            }
            None => "default",
        };
        match kind {
            "default" => Some(RopeScaling::Default {}),
            "longrope" => self.longrope(own),
            "su" | "yarn" if self.form == Form::Partial => self.longrope(own),
            other if self.form == Form::Partial => {
                own.unsupported(named, other, "default or longrope in a model of this family");
                None
            }
            "linear" => Some(RopeScaling::Linear { factor: self.required(own, "factor")? }),
            // transformers does not read the field for the first training here: it takes the model's context.
            "dynamic" => Some(RopeScaling::Dynamic {
                factor: self.required(own, "factor")?,
                original_context: self.context_length,
            }),
            "llama3" => {
                let number = |field| self.required(own, field);
                let (factor, low, high) = (number("factor"), number("low_freq_factor"), number("high_freq_factor"));
                Some(RopeScaling::Llama3 {
                    factor: factor?,
                    low_freq_factor: low?,
                    high_freq_factor: high?,
                    original_context: self.original(),
                })
            }
            "yarn" => self.yarn(own),
            other => {
                own.unsupported(named, other, KINDS.join(", "));
                None
            }
        }
    }

    fn required(&self, own: &Fields, field: &str) -> Option<f64> {
        own.required(field, "a number above 0", self.number(field))
    }

    /// Positions of the first training. The field beside the object wins over the one in it, as in transformers.
    fn original(&self) -> usize {
        let inner = || self.find(ORIGINAL).and_then(|inner| inner.size(ORIGINAL));
        self.outer.size(ORIGINAL).or(self.default_original).or_else(inner).unwrap_or(self.context_length)
    }

    fn yarn(&self, own: &Fields) -> Option<RopeScaling> {
        let original_context = self.original();
        let factor = if own.is_null("factor") {
            self.context_length as f64 / original_context as f64
        } else {
            self.required(own, "factor")?
        };
        // 0.1 m ln(factor) + 1, as in the paper; models that scale attention themselves give two m, and the quotient is
        // used.
        let stretch = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * libm::log(factor) + 1.0 };
        let set = |field| self.number(field).filter(|&x| x != 0.0);
        let attention_factor =
            self.number("attention_factor").unwrap_or_else(|| match (set("mscale"), set("mscale_all_dim")) {
                (Some(m), Some(all)) => stretch(m) / stretch(all),
                _ => stretch(1.0),
            });
        Some(RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: set("beta_fast").unwrap_or(32.0),
            beta_slow: set("beta_slow").unwrap_or(1.0),
            truncate: self.find("truncate").and_then(|inner| inner.flag("truncate")).unwrap_or(true),
            attention_factor,
        })
    }

    fn longrope(&self, own: &Fields) -> Option<RopeScaling> {
        let list = |field| {
            let found = self.find(field).and_then(|inner| inner.numbers(field));
            own.required(field, "a list of numbers above 0", found)
        };
        let (short_factor, long_factor) = (list("short_factor"), list("long_factor"));
        let original_context = self.original();
        let factor = self.number("factor").unwrap_or(self.context_length as f64 / original_context as f64);
        let attention_factor = self.number("attention_factor").unwrap_or_else(|| {
            if factor <= 1.0 { 1.0 } else { libm::sqrt(1.0 + libm::log(factor) / libm::log(original_context as f64)) }
        });
        Some(RopeScaling::LongRope {
            short_factor: short_factor?,
            long_factor: long_factor?,
            original_context,
            attention_factor,
        })
    }
}

/// Positions that a model can run, with its rotary embedding stretched by its whole factor: with these two kinds, the
/// context field gives the positions of the first training.
pub(crate) fn stretched(rope: &Rope, context_length: usize) -> usize {
    match rope.scaling {
        RopeScaling::Dynamic { factor, original_context } | RopeScaling::Yarn { factor, original_context, .. } => {
            // A factor out of range is noted elsewhere; this saturates.
            context_length.max((factor * original_context as f64) as usize)
        }
        _ => context_length,
    }
}
