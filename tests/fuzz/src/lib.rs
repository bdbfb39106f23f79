//! The fuzz targets for cargo-fuzz. Each calls a function of `nanoserve-tests`, which the smoke test calls too.

/// Defines the fuzz target of a function: inputs get libFuzzer's own changes and, every other time, those of the smoke
/// test, which know numbers in text and edges of ranges.
#[macro_export]
macro_rules! target {
    ($function:ident) => {
        libfuzzer_sys::fuzz_target!(
            init: {
                // A panic that a library catches inside is no crash. One that gets out is, and libFuzzer sees it.
                std::panic::set_hook(Box::new(|panic| {
                    let theirs = |file: &str| file.contains("/tokenizers-") || file.contains("/onig-");
                    if panic.location().is_none_or(|at| !theirs(at.file())) {
                        eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
                    }
                }));
            },
            |data: &[u8]| {
                nanoserve_tests::targets::$function(data);
            }
        );
        libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            if seed % 2 == 0 {
                return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
            }
            let mut random = nanoserve_tests::SplitMix64::new(seed.into());
            let mut changed = nanoserve_tests::mutate::mutate(&mut random, &data[..size], &data[size / 2..size]);
            changed.truncate(max_size);
            data[..changed.len()].copy_from_slice(&changed);
            changed.len()
        });
    };
}
