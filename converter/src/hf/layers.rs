//! Reads which layers have a window, and which have no rotary embedding, in every form that config.json has had for it.

use crate::hf::json::Fields;
use nanoserve_format::{ModelSpec, Window};

/// What `layer_types` calls a layer that sees all positions.
pub(crate) const FULL: &str = "full_attention";
/// What `layer_types` calls a layer with a window.
pub(crate) const SLIDING: &str = "sliding_attention";
const TYPES: &str = "layer_types";
const SIZE: &str = "sliding_window";

/// The layers with a window according to `layer_types`; None if the field is absent.
pub(crate) fn listed(fields: Fields, n_layers: usize) -> Option<Vec<usize>> {
    let names = fields.texts(TYPES)?;
    if let Some(other) = names.iter().find(|name| ![FULL, "attention", SLIDING].contains(name)) {
        fields.unsupported(TYPES, other, format!("{FULL} or {SLIDING}"));
    } else if names.len() != n_layers && n_layers > 0 {
        fields.wrong(TYPES, format!("{} names", names.len()), format!("{n_layers}, as num_hidden_layers"));
    }
    Some((0..names.len()).filter(|&i| names[i] == SLIDING).collect())
}

/// The window's size: `default` if the field is absent, None if it is null.
pub(crate) fn size(fields: Fields, default: Option<usize>) -> Option<usize> {
    fields.size(SIZE).or(if fields.is_null(SIZE) { None } else { default })
}

/// Gives `layers` a window of `size`.
pub(crate) fn window(fields: Fields, spec: &mut ModelSpec, size: Option<usize>, layers: Vec<usize>) {
    if layers.is_empty() {
        return;
    }
    match size {
        Some(size) => spec.window = Some(Window { size, layers, rope: None }),
        None => fields.wrong(SIZE, "null or switched off", format!("a size: {} layers have a window", layers.len())),
    }
}

/// Gives every layer a window, or none. Such a model does not read `layer_types`, which must not say otherwise.
pub(crate) fn all_or_none(fields: Fields, spec: &mut ModelSpec, size: Option<usize>) {
    let layers: Vec<usize> = (0..spec.n_layers).filter(|_| size.is_some()).collect();
    if listed(fields, spec.n_layers).is_some_and(|listed| listed != layers) {
        let expected = if size.is_some() { SLIDING } else { FULL };
        fields.unsupported(TYPES, "of some layers", format!("{expected} for every layer in a model of this family"));
    }
    window(fields, spec, size, layers);
}

/// Gives a window, if `use_sliding_window` asks for one, to the layers from `max_window_layers` on or those listed.
pub(crate) fn upper(fields: Fields, spec: &mut ModelSpec) {
    let on = fields.flag("use_sliding_window").unwrap_or(false);
    let size = size(fields, Some(4096)).filter(|_| on);
    let first = fields.size("max_window_layers").unwrap_or(28);
    let layers = listed(fields, spec.n_layers);
    let layers = layers.unwrap_or_else(|| (first..spec.n_layers).filter(|_| size.is_some()).collect());
    window(fields, spec, size, layers);
}

/// Gives a window to all layers but each `every`th, or to those listed.
pub(crate) fn alternating(fields: Fields, spec: &mut ModelSpec, every: usize) {
    if every == 0 {
        fields.wrong("sliding_window_pattern", 0, "1 or more");
    }
    let size = size(fields, Some(4096));
    let layers = listed(fields, spec.n_layers);
    let layers = layers.unwrap_or_else(|| (0..spec.n_layers).filter(|i| !(i + 1).is_multiple_of(every)).collect());
    window(fields, spec, size, layers);
}

/// Finds the layers without rotary embedding: those with a 0 in `no_rope_layers`, or each `no_rope_layer_interval`th.
/// They alone, or those listed, get a window if `use_sliding_window` asks for one.
pub(crate) fn without_rope(fields: Fields, spec: &mut ModelSpec) {
    const LIST: &str = "no_rope_layers";
    const INTERVAL: &str = "no_rope_layer_interval";
    spec.no_rope_layers = match fields.numbers(LIST) {
        Some(list) => {
            if list.len() < spec.n_layers || list.iter().any(|x| ![0.0, 1.0].contains(x)) {
                fields.wrong(LIST, format!("{} numbers", list.len()), format!("{} of 0 or 1", spec.n_layers));
            }
            (0..spec.n_layers.min(list.len())).filter(|&i| list[i] == 0.0).collect()
        }
        None => {
            let every = fields.size(INTERVAL).unwrap_or(4);
            if every == 0 {
                fields.wrong(INTERVAL, 0, "1 or more");
            }
            (0..spec.n_layers).filter(|i| (i + 1).is_multiple_of(every)).collect()
        }
    };
    let on = fields.flag("use_sliding_window").unwrap_or(false);
    let size = size(fields, None).filter(|_| on);
    let layers = listed(fields, spec.n_layers);
    let layers = layers.unwrap_or_else(|| if size.is_some() { spec.no_rope_layers.clone() } else { Vec::new() });
    window(fields, spec, size, layers);
}
