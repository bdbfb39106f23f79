//! Adapters: LoRA and the like, which change what the model beside them computes. They are refused until they are merged.

use crate::error::{Problems, What};
use crate::hf::checkpoint::Folder;
use crate::hf::json;

/// The description that peft writes.
pub(crate) const CONFIG: &str = "adapter_config.json";
/// The weights of an adapter.
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Refuses a folder with an adapter, in one line: transformers would load both, and answer otherwise than the model.
/// Returns whether there is one.
pub(crate) fn refuse(folder: &Folder, problems: &Problems) -> bool {
    if folder.has(CONFIG) {
        let before = problems.len();
        let bytes = folder.read(CONFIG, problems);
        let fields = bytes.and_then(|bytes| json::object(CONFIG, &bytes, problems));
        let text = |field: &str| fields.as_ref()?.get(field)?.as_str().map(str::to_string);
        if problems.len() == before {
            problems.file(CONFIG, What::Adapter { kind: text("peft_type"), base: text("base_model_name_or_path") });
        }
    } else if let Some(weights) = WEIGHTS.into_iter().find(|name| folder.has(name)) {
        problems.file(weights, What::Adapter { kind: None, base: None });
    } else {
        return false;
    }
    true
}

/// Whether a tensor belongs to an adapter that was saved within its model.
pub(crate) fn is_adapters(key: &str) -> bool {
    let part = |part: &str| part.starts_with("lora_") || part == "modules_to_save";
    key.split('.').any(part)
}
