//! The time that `strftime_now` sees: the local time, or a fixed one.

use crate::error::{Outcome, value_error};
use crate::limits::pay;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::str::FromStr;
use std::time::SystemTime;

/// A date and time without a zone, as `datetime.now()` gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock(DateTime);

impl Clock {
    /// The local time of the machine, now.
    pub fn now() -> Clock {
        Clock::at(SystemTime::now())
    }

    /// The local time at a time of the machine's clock, which may be set to anything: before the year -9999 or after the year
    /// 9999 it is the first or the last time that there is.
    pub fn at(time: SystemTime) -> Clock {
        let end = if time < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
        let time = Timestamp::try_from(time).unwrap_or(end);
        Clock(time.to_zoned(TimeZone::system()).datetime())
    }

    /// `strftime`, as in the locale "C".
    pub(crate) fn format(self, format: &str) -> Outcome<String> {
        pay(32usize.saturating_mul(format.len()))?;
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = String::from("%");
            for c in chars.by_ref() {
                directive.push(c);
                if !"-_0^#".contains(c) {
                    break;
                }
            }
            let spelt = match directive.as_str() {
                "%c" => "%a %b %e %H:%M:%S %Y",
                "%x" | "%D" => "%m/%d/%y",
                "%X" => "%H:%M:%S",
                "%r" => "%I:%M:%S %p",
                "%h" => "%b",
                "%f" => {
                    out.push_str(&format!("{:06}", self.0.subsec_nanosecond() / 1000));
                    continue;
                }
                // There is no zone to print.
                "%z" | "%Z" => continue,
                other => other,
            };
            match jiff::fmt::strtime::format(spelt, self.0) {
                Ok(text) => out.push_str(&text),
                // C leaves unknown directives as they are.
                Err(_) if directive.len() > 1 => out.push_str(&directive),
                Err(_) => return value_error("stray % in format string"),
            }
        }
        Ok(out)
    }
}

/// Reads `2026-01-15T12:00:00`, `2026-01-15 12:00` or `2026-01-15`.
impl FromStr for Clock {
    type Err = String;

    fn from_str(text: &str) -> Result<Clock, String> {
        text.parse()
            .map(Clock)
            .map_err(|e: jiff::Error| format!("'{text}' is no time, expected 2026-01-15T12:00:00: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_clock_may_be_set_to_anything() {
        crate::limits::begin(0);
        let year = |time: SystemTime| Clock::at(time).format("%Y").unwrap();
        for (seconds, after, before) in
            [(10_000_000_000, "2286", "1653"), (253_500_000_000, "9999", "-6064"), (1 << 62, "9999", "-9999")]
        {
            let offset = Duration::from_secs(seconds);
            assert_eq!(year(SystemTime::UNIX_EPOCH.checked_add(offset).unwrap()), after, "{seconds}");
            assert_eq!(year(SystemTime::UNIX_EPOCH.checked_sub(offset).unwrap()), before, "{seconds}");
        }
        // Nothing of the text of a time fails there either.
        for time in
            [Clock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 62)), "9999-12-31T23:59:59".parse().unwrap()]
        {
            assert!(time.format("%Y-%m-%d %H:%M:%S %j %A %y %G %V %s").unwrap().starts_with("9999-12-"));
        }
    }
}
