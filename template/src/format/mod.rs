//! Python's two ways to put values into a text: `"%s" % x` and `"{}".format(x)`.
//!
//! `minijinja::formatting` writes the digits of numbers ([`spec`]). The rest is ours, because Python differs: `!r` and
//! `%r`, formats within formats, `{:%}` and `{:=5}`, widths in characters, markup, undefined values that raise an
//! error, Python's errors, and the cost of all this.

mod braces;
mod percent;
mod spec;

pub(crate) use braces::braces;
pub(crate) use percent::percent;
