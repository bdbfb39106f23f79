//! Jinja's filters, with transformers' `tojson`: the table of them all.

mod numbers;
mod sequences;
mod texts;

use crate::access;
use crate::arithmetic;
use crate::calls::Args;
use crate::error::{Outcome, raise};
use crate::limits;
use crate::methods::{self, list};
use crate::value::{Kind, int, kind, markup, same_markup, text};
use minijinja::Value;
use std::cmp::Ordering;

/// A filter of a value, with the arguments in parentheses.
pub(crate) type Filter = fn(&Value, &Args) -> Outcome<Value>;

/// Every filter by its name.
pub(crate) const ALL: [(&str, Filter); 45] = [
    ("abs", numbers::abs),
    ("attr", |v, a| access::own(v, &text(a.need(0, "name")?)?)),
    ("capitalize", |v, _| same_markup(v, methods::capitalize(&text(v)?)?)),
    ("count", |v, _| Ok(int(access::length(v)? as i128))),
    ("d", default),
    ("default", default),
    ("dictsort", sequences::dict_sort),
    ("e", texts::escape_filter),
    ("escape", texts::escape_filter),
    ("first", sequences::first),
    ("float", numbers::float),
    ("format", texts::format),
    ("indent", texts::indent),
    ("int", numbers::integer),
    ("items", sequences::items),
    ("join", texts::join),
    ("last", sequences::last),
    ("length", |v, _| Ok(int(access::length(v)? as i128))),
    ("list", |v, _| list(access::items(v)?)),
    ("lower", |v, _| same_markup(v, methods::lower(&text(v)?)?)),
    ("map", sequences::map),
    ("max", |v, a| sequences::extreme(v, a, Ordering::Greater)),
    ("min", |v, a| sequences::extreme(v, a, Ordering::Less)),
    ("reject", |v, a| sequences::select(v, a, false, false)),
    ("rejectattr", |v, a| sequences::select(v, a, true, false)),
    ("replace", texts::replace),
    ("reverse", sequences::reverse),
    ("round", numbers::round),
    ("safe", |v, _| markup(text(v)?)),
    ("select", |v, a| sequences::select(v, a, false, true)),
    ("selectattr", |v, a| sequences::select(v, a, true, true)),
    ("sort", sequences::sort),
    ("string", |v, _| same_markup(v, text(v)?)),
    ("sum", sequences::sum),
    ("title", |v, _| same_markup(v, methods::title(&text(v)?, true)?)),
    ("tojson", crate::json::to_json),
    ("trim", texts::trim),
    ("unique", sequences::unique),
    ("upper", |v, _| same_markup(v, methods::upper(&text(v)?)?)),
    // Names that only `crate::rewrite` writes.
    ("$iter", |v, _| Ok(Value::from(access::items(v)?))),
    ("$dict", sequences::new_dict),
    // A list or tuple literal.
    ("$new", |v, _| {
        limits::pay(limits::OBJECT)?;
        limits::shallow(v.clone())
    }),
    // What a namespace is to keep.
    ("$kept", |v, _| limits::kept(v.clone())),
    // The named arguments of a call, from a dict.
    ("$names", |v, _| {
        limits::pay_items(v.len().unwrap_or(0))?;
        Ok(v.clone())
    }),
    ("$neg", |v, _| arithmetic::negative(v)),
];

/// The filter of this name.
pub(crate) fn find(name: &str) -> Option<Filter> {
    ALL.iter().find(|(own, _)| *own == name && !name.starts_with('$')).map(|(_, filter)| *filter)
}

fn need(name: &str) -> Outcome<Filter> {
    find(name).map_or_else(|| raise("TemplateRuntimeError", format!("No filter named '{name}'.")), Ok)
}

fn default(v: &Value, a: &Args) -> Outcome<Value> {
    a.expect_only("do_default", &["default_value", "boolean"])?;
    let absent = matches!(kind(v), Kind::Undefined) || (a.flag(1, "boolean", false) && !v.is_true());
    Ok(if absent { a.get(0, "default_value").cloned().unwrap_or_else(|| Value::from("")) } else { v.clone() })
}
