//! The switches of a model's description, in words.

use nanoserve_format::{Activation, ModelSpec, QkNorm, Rope, RopeScaling};

/// A phrase for each property of the model: first those that every model has, then those that only some have.
pub fn words(spec: &ModelSpec) -> Vec<String> {
    let norms = match (spec.pre_norm, spec.post_norm) {
        (true, false) => "before",
        (false, _) => "behind",
        (true, true) => "before and behind",
    };
    let activation = match spec.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu (tanh)",
    };
    let mut all = vec![
        format!("norms {norms} blocks, eps {:e}", spec.norm_eps),
        activation.to_string(),
        format!("rope {}", rope(&spec.rope, spec.head_dim)),
    ];
    let mut add = |there: bool, what: String| all.extend(there.then_some(what));
    add(spec.qk_norm == QkNorm::Head, "queries and keys normed by heads".into());
    add(spec.qk_norm == QkNorm::Projection, "queries and keys normed".into());
    if let Some(window) = &spec.window {
        let own = window.rope.as_ref().map_or(String::new(), |r| format!(", rope {}", rope(r, spec.head_dim)));
        add(true, format!("window {} in layers {}{own}", window.size, ranges(&window.layers)));
    }
    add(!spec.no_rope_layers.is_empty(), format!("no rope in layers {}", ranges(&spec.no_rope_layers)));
    let biases = [(spec.qkv_bias, "q, k, v"), (spec.attn_out_bias, "o"), (spec.mlp_bias, "gate, up, down")];
    let biases: Vec<&str> = biases.into_iter().filter_map(|(there, of)| there.then_some(of)).collect();
    add(!biases.is_empty(), format!("biases of {}", biases.join(", ")));
    for (name, value) in
        [("scale", spec.attn_scale), ("score cap", spec.attn_softcap), ("logit cap", spec.logit_softcap)]
    {
        add(value.is_some(), format!("{name} {}", value.unwrap_or_default()));
    }
    for (name, value) in [
        ("embeddings times", spec.embed_scale),
        ("blocks times", spec.residual_scale),
        ("logits divided by", spec.logit_divisor),
    ] {
        add(value != 1.0, format!("{name} {value}"));
    }
    add(spec.tied_lm_head, "head tied".into());
    all
}

fn rope(rope: &Rope, head_dim: usize) -> String {
    let part = rope.rotary_dim.filter(|&dim| dim != head_dim);
    let part = part.map_or(String::new(), |dim| format!(", {dim} of {head_dim} elements"));
    let scaling = match &rope.scaling {
        RopeScaling::Default {} => String::new(),
        RopeScaling::Linear { factor } => format!(", linear x{factor}"),
        RopeScaling::Llama3 { factor, original_context, .. } => format!(", llama3 x{factor} from {original_context}"),
        RopeScaling::Yarn { factor, original_context, .. } => format!(", yarn x{factor} from {original_context}"),
        RopeScaling::Dynamic { factor, original_context } => format!(", dynamic x{factor} from {original_context}"),
        RopeScaling::LongRope { original_context, .. } => format!(", longrope from {original_context}"),
    };
    format!("theta {}{part}{scaling}", rope.theta)
}

/// Ascending numbers as ranges, such as `0-4, 6`.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => runs.push((n, n)),
        }
    }
    let run = |&(first, last): &(usize, usize)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nanoserve_format::Window;

    #[test]
    fn a_model_in_words() {
        let llama = ModelSpec { tied_lm_head: true, ..ModelSpec::default() };
        assert_eq!(words(&llama), ["norms before blocks, eps 1e-5", "silu", "rope theta 10000", "head tied"]);
        let local = Rope { theta: 10000.0, rotary_dim: None, scaling: RopeScaling::Default {} };
        let spec = ModelSpec {
            n_layers: 8,
            head_dim: 8,
            window: Some(Window { size: 512, layers: vec![0, 1, 2, 4, 6, 7], rope: Some(local) }),
            rope: Rope { theta: 1e6, rotary_dim: Some(6), scaling: RopeScaling::Linear { factor: 8.0 } },
            post_norm: true,
            qk_norm: QkNorm::Head,
            activation: Activation::GeluTanh,
            attn_softcap: Some(50.0),
            embed_scale: 1.5,
            no_rope_layers: vec![3],
            ..ModelSpec::default()
        };
        spec.check().unwrap();
        assert_eq!(
            words(&spec).join("; "),
            "norms before and behind blocks, eps 1e-5; gelu (tanh); rope theta 1000000, 6 of 8 elements, linear x8; queries \
             and keys normed by heads; window 512 in layers 0-2, 4, 6-7, rope theta 10000; no rope in layers 3; score cap \
             50; embeddings times 1.5"
        );
    }
}
