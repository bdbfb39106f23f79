//! Memory that sequences were promised and have not touched yet.
//!
//! The system provides a cache's memory when it is first touched and reports it as free until then. Two caches could
//! therefore be admitted although both together do not fit. An engine's ledger counts what was promised; requests are
//! admitted against the free memory minus that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that the sequences of an engine were promised and have not touched.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<AtomicU64>);

impl Ledger {
    /// The sum of all promises, in bytes.
    pub fn promised(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// A new promise, of 0 bytes so far.
    pub fn promise(&self) -> Promise {
        Promise { ledger: self.clone(), bytes: 0 }
    }
}

/// A sequence's share of the ledger. Dropping it returns the share.
#[derive(Debug)]
pub struct Promise {
    ledger: Ledger,
    bytes: u64,
}

impl Promise {
    /// The sum of all promises of the ledger, in bytes.
    pub fn of_all(&self) -> u64 {
        self.ledger.promised()
    }

    /// Sets how many bytes are promised and not touched yet.
    pub fn set(&mut self, bytes: u64) {
        // If the number shrinks, the wrapping addition subtracts.
        self.ledger.0.fetch_add(bytes.wrapping_sub(self.bytes), Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_add_up_and_go_when_they_are_dropped() {
        let ledger = Ledger::default();
        let (mut a, mut b) = (ledger.promise(), ledger.promise());
        a.set(70);
        b.set(30);
        assert_eq!(ledger.promised(), 100);
        a.set(20);
        assert_eq!(ledger.promised(), 50);
        drop(b);
        assert_eq!(ledger.promised(), 20);
        drop(a);
        assert_eq!(ledger.promised(), 0);
    }
}
