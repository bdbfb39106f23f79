//! The measurements: speeds of the rounds, memory, and the row that holds them.

use nanoserve_runtime::KvType;
use nanoserve_runtime::diagnose::roofline::{Limits, Work};

/// A figure of each round, sorted.
pub struct Figures(Vec<f64>);

impl Figures {
    pub fn new(mut all: Vec<f64>) -> Figures {
        all.sort_by(f64::total_cmp);
        Figures(all)
    }

    pub fn median(&self) -> f64 {
        let n = self.0.len();
        (self.0[(n - 1) / 2] + self.0[n / 2]) / 2.0
    }

    /// The smallest and the largest.
    pub fn range(&self) -> [f64; 2] {
        [self.0[0], self.0[self.0.len() - 1]]
    }

    /// The median as text, with the largest deviation from it in percent.
    pub fn show(&self) -> String {
        let (median, [least, most]) = (self.median(), self.range());
        if median == 0.0 {
            return "-".to_string();
        }
        let off = 100.0 * (most - median).max(median - least) / median;
        // Large figures drop their decimals, so that the text fits its column.
        let digits = |x: f64, limit| usize::from(x < limit);
        let off = format!("+-{off:.*}%", digits(off, 9.95));
        format!("{median:.*} {off:>6}", digits(median, 9999.5))
    }
}

/// The memory of this process in bytes; None where the system does not report it.
#[derive(Clone, Copy, Default)]
pub struct Memory {
    /// Pages of files: the map, shared with other processes that map it.
    pub file: Option<u64>,
    /// Pages of its own, not of files.
    pub anonymous: Option<u64>,
    /// The most that it has ever held of both together.
    pub peak: Option<u64>,
}

impl Memory {
    pub fn now() -> Memory {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bytes = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            Some(1024 * line.split_whitespace().next()?.parse::<u64>().ok()?)
        };
        Memory { file: bytes("RssFile:"), anonymous: bytes("RssAnon:"), peak: bytes("VmHWM:") }
    }
}

/// What is measured: a prompt behind `depth` tokens that are not timed, and tokens generated after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub depth: usize,
    pub prompt: usize,
    pub n_gen: usize,
}

impl Test {
    /// Positions that it takes.
    pub fn positions(&self) -> usize {
        self.depth.saturating_add(self.prompt).saturating_add(self.n_gen)
    }
}

/// What one test gave with one number of threads.
pub struct Row {
    pub test: Test,
    /// How the model's matrices are stored.
    pub weights: String,
    pub threads: usize,
    pub isa: &'static str,
    /// The GPU's name, if it has layers.
    pub gpu: Option<String>,
    pub chunk: usize,
    pub kv: KvType,
    pub prompt: Figures,
    pub generate: Figures,
    pub work: Work,
    /// Bytes of keys and values that a generated token reads.
    pub attended: f64,
    pub limits: Option<Limits>,
    pub load_s: f64,
    pub memory: Memory,
    pub logits_hash: String,
}

impl Row {
    pub fn gb_s(&self) -> f64 {
        self.work.read_bytes as f64 * self.generate.median() / 1e9
    }

    /// The prompt's share of the machine's rate of products.
    pub fn prompt_share(&self) -> Option<f64> {
        Some(self.limits?.prompt_s(&self.work)? * self.prompt.median())
    }

    /// Generation's share of the machine's rate of reading.
    pub fn generate_share(&self) -> Option<f64> {
        let gb_s = self.gb_s() + self.attended * self.generate.median() / 1e9;
        self.limits.filter(|_| gb_s > 0.0).map(|limits| gb_s / limits.read_gb_s)
    }
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(Figures::new(vec![9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Figures::new(vec![4.0, 1.0, 9.0, 2.0]).median(), 3.0);
    }

    #[test]
    fn the_spread_is_the_round_that_is_furthest_off() {
        assert_eq!(Figures::new(vec![100.0, 90.0, 101.0]).show(), "100.0  +-10%");
        assert_eq!(Figures::new(vec![100.0, 102.0, 99.0]).show(), "100.0 +-2.0%");
    }
}
