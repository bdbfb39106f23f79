//! Jinja's filters, with transformers' `tojson`: the table of them all.

mod numbers;
mod sequences;
mod texts;

use super::access;
use super::calls::Args;
use super::error::{Outcome, raise};
use super::limits::shallow;
use super::methods::{self, list};
use super::value::{self, Kind, escape, int, kind, same_markup, text};
use minijinja::Value;
use std::cmp::Ordering;

/// A filter: the value, and what stands in parentheses.
pub(super) type Filter = fn(&Value, &Args) -> Outcome<Value>;

/// Every filter by its name.
pub(super) const ALL: [(&str, Filter); 58] = [
    ("abs", numbers::abs),
    ("attr", |v, a| access::own(v, &text(a.need(0, "name")?)?)),
    ("batch", sequences::batch),
    ("capitalize", |v, _| Ok(same_markup(v, methods::capitalize(&text(v)?)))),
    ("center", texts::center),
    ("count", |v, _| Ok(int(access::length(v)? as i128))),
    ("d", default),
    ("default", default),
    ("dictsort", sequences::dict_sort),
    ("e", texts::escape_filter),
    ("escape", texts::escape_filter),
    ("filesizeformat", numbers::file_size),
    ("first", sequences::first),
    ("float", numbers::float),
    ("forceescape", |v, _| Ok(Value::from_safe_string(escape(&text(v)?)))),
    ("format", texts::format),
    ("groupby", sequences::group_by),
    ("indent", texts::indent),
    ("int", numbers::integer),
    ("items", sequences::items),
    ("join", texts::join),
    ("last", sequences::last),
    ("length", |v, _| Ok(int(access::length(v)? as i128))),
    ("list", |v, _| list(access::items(v)?)),
    ("lower", |v, _| Ok(same_markup(v, text(v)?.to_lowercase()))),
    ("map", sequences::map),
    ("max", |v, a| sequences::extreme(v, a, Ordering::Greater)),
    ("min", |v, a| sequences::extreme(v, a, Ordering::Less)),
    ("pprint", |v, _| Ok(Value::from(value::repr(v)?))),
    ("random", |_, _| raise("TemplateRuntimeError", "a prompt must not depend on chance: no filter named 'random'")),
    ("reject", |v, a| sequences::select(v, a, false, false)),
    ("rejectattr", |v, a| sequences::select(v, a, true, false)),
    ("replace", texts::replace),
    ("reverse", sequences::reverse),
    ("round", numbers::round),
    ("safe", |v, _| Ok(Value::from_safe_string(text(v)?))),
    ("select", |v, a| sequences::select(v, a, false, true)),
    ("selectattr", |v, a| sequences::select(v, a, true, true)),
    ("slice", sequences::slice),
    ("sort", sequences::sort),
    ("string", |v, _| Ok(same_markup(v, text(v)?))),
    ("striptags", |v, _| Ok(Value::from(texts::strip_tags(&text(v)?)))),
    ("sum", sequences::sum),
    ("title", |v, _| Ok(same_markup(v, methods::title(&text(v)?, true)))),
    ("tojson", super::json::to_json),
    ("trim", texts::trim),
    ("truncate", texts::truncate),
    ("unique", sequences::unique),
    ("upper", |v, _| Ok(same_markup(v, text(v)?.to_uppercase()))),
    ("urlencode", texts::url_encode),
    ("urlize", |_, _| raise("TemplateRuntimeError", "no filter named 'urlize'")),
    ("wordcount", |v, _| Ok(int(texts::word_count(&text(v)?)))),
    ("wordwrap", texts::word_wrap),
    ("xmlattr", texts::xml_attributes),
    // Names that only the engine's own code writes.
    ("$iter", |v, _| Ok(Value::from(access::items(v)?))),
    ("$dict", sequences::new_dict),
    // A list or tuple that a template has written down.
    ("$new", |v, _| shallow(v.clone())),
    ("$neg", |v, _| value::negative(v)),
];

/// The filter of a name.
pub(super) fn find(name: &str) -> Option<Filter> {
    ALL.iter().find(|(known, _)| *known == name && !name.starts_with('$')).map(|(_, filter)| *filter)
}

fn need(name: &str) -> Outcome<Filter> {
    find(name).map_or_else(|| raise("TemplateRuntimeError", format!("No filter named '{name}'.")), Ok)
}

fn default(v: &Value, a: &Args) -> Outcome<Value> {
    a.only("do_default", &["default_value", "boolean"])?;
    let absent = matches!(kind(v), Kind::Undefined) || (a.flag(1, "boolean", false) && !v.is_true());
    Ok(if absent { a.get(0, "default_value").cloned().unwrap_or_else(|| Value::from("")) } else { v.clone() })
}
