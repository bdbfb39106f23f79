//! A conversion that is stopped half-way leaves the old output.

use super::*;
use crate::{Progress, Step};
use std::sync::atomic::Ordering;

/// Asks to stop when a step begins.
struct StopAt<'a>(Step, &'a AtomicBool);

impl Progress for StopAt<'_> {
    fn begin(&self, step: Step, _: u64) {
        if step == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
    fn advance(&self, _: u64) {}
}

#[test]
fn the_old_output_stays() {
    let fixture = Fixture::plain();
    let old = [&nanoserve_format::MAGIC[..], b"old"].concat();
    fixture.write().put("out.nsv", &old);
    let cancel = AtomicBool::new(false);
    let result = convert(&fixture.options(Encoding::Q8), &StopAt(Step::Encode, &cancel), &cancel);
    assert!(matches!(result, Err(ConvertError::Cancelled)));
    assert_eq!(fs::read(fixture.output()).unwrap(), old);
    assert_eq!(fs::read_dir(fixture.dir.path()).unwrap().count(), 3);
}
