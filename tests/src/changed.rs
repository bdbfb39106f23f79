//! Options that differ from others in some fields.

/// A value with some fields changed, written as a literal: `changed!(EngineOptions { threads, ..EngineOptions::default() })`.
/// The literal itself may stand only in the crate of its struct where that is `#[non_exhaustive]`.
#[macro_export]
macro_rules! changed {
    (@value $field:ident) => { $field };
    (@value $field:ident $value:expr) => { $value };
    ($struct:ident { $($field:ident $(: $value:expr)?,)+ ..$base:expr }) => {{
        let mut changed: $struct = $base;
        $(changed.$field = $crate::changed!(@value $field $($value)?);)+
        changed
    }};
}
