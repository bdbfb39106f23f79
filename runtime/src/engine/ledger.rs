//! What sequences were promised and have not touched yet.
//!
//! The system gives a cache's memory when it is touched. Until then it counts as free for whoever asks the system, so two
//! caches could be admitted whose sum does not fit. The ledger of an engine counts what was promised: who asks for memory is
//! admitted against what the system can give less that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes that the sequences of an engine were promised and have not touched.
#[derive(Clone, Debug, Default)]
pub struct Ledger(Arc<AtomicU64>);

impl Ledger {
    /// Bytes of all promises.
    pub fn promised(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// A promise of no bytes yet.
    pub fn promise(&self) -> Promise {
        Promise { ledger: self.clone(), bytes: 0 }
    }
}

/// A sequence's part of the ledger; dropping it gives the part back.
#[derive(Debug)]
pub struct Promise {
    ledger: Ledger,
    bytes: u64,
}

impl Promise {
    /// So many bytes are promised and not touched.
    pub fn set(&mut self, bytes: u64) {
        // Wrapping addition is subtraction where it has become less.
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
