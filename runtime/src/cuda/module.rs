//! Compiles the kernels' text to machine code, which is kept in the user's cache folder.
//!
//! ```text
//! text       kernels.cu with the files that it includes: one translation unit
//! embedded   PTX compiled from that text beforehand (scripts/ptx.sh); its first line has the text's BLAKE3
//! image      machine code for this GPU, from the cache, or
//!              from the embedded PTX, with the driver's own compiler: nothing else is needed
//!              from the text, with NVRTC, if the text has changed since the PTX was made
//! ```
//!
//! The embedded PTX is preferred: a driver is always there, NVRTC (a part of the toolkit) seldom is, and the first
//! start is faster from PTX. The cache has a file for each text, architecture and driver, written whole or not at all
//! and followed by its hash; a damaged file is made again. Without a cache folder, the code is compiled at each start.

use super::device::DeviceError;
use std::path::{Path, PathBuf};

/// The kernels' files by name. The first one includes the others.
const FILES: &[(&str, &str)] = &[
    ("kernels.cu", include_str!("kernels/kernels.cu")),
    ("argmax.cuh", include_str!("kernels/argmax.cuh")),
    ("attention.cuh", include_str!("kernels/attention.cuh")),
    ("cache.cuh", include_str!("kernels/cache.cuh")),
    ("decode.cuh", include_str!("kernels/decode.cuh")),
    ("device.cuh", include_str!("kernels/device.cuh")),
    ("embed.cuh", include_str!("kernels/embed.cuh")),
    ("encoding.cuh", include_str!("kernels/encoding.cuh")),
    ("flash.cuh", include_str!("kernels/flash.cuh")),
    ("matmul.cuh", include_str!("kernels/matmul.cuh")),
    ("matmul_f32.cuh", include_str!("kernels/matmul_f32.cuh")),
    ("matvec.cuh", include_str!("kernels/matvec.cuh")),
    ("rate.cuh", include_str!("kernels/rate.cuh")),
    ("reduce.cuh", include_str!("kernels/reduce.cuh")),
    ("small.cuh", include_str!("kernels/small.cuh")),
    ("to_f16.cuh", include_str!("kernels/to_f16.cuh")),
    ("top.cuh", include_str!("kernels/top.cuh")),
];

/// PTX of the text, for Hopper and later GPUs.
const EMBEDDED: &str = include_str!("ptx/kernels.ptx");

/// The lowest compute capability that has everything the kernels use.
const LEAST: (u32, u32) = (8, 0);

/// The embedded PTX for a GPU. GPUs before Hopper do not have overlapping launches. Without the lines for those, the
/// PTX is what the compiler makes for Ampere, which scripts/ptx.sh checks.
fn ptx(capability: (u32, u32)) -> String {
    if capability >= (9, 0) {
        return EMBEDDED.to_string();
    }
    let older = EMBEDDED.replacen(".version 7.8", ".version 7.4", 1).replacen(".target sm_90", ".target sm_80", 1);
    older.split_inclusive('\n').filter(|line| !line.starts_with("griddepcontrol.")).collect()
}

/// Bytes of the hash after a cached image.
const HASH: usize = 32;

/// All kernels as one text.
///
/// # Panics
/// When an included file is missing, which is a bug in this program.
pub fn text() -> String {
    let (_, first) = FILES[0];
    let lines = first.split_inclusive('\n').map(|line| match line.strip_prefix("#include \"") {
        None => line,
        Some(name) => {
            let name = name.trim_end().trim_end_matches('"');
            let file = FILES.iter().find(|(file, _)| *file == name);
            file.unwrap_or_else(|| panic!("{name} is included and not there")).1
        }
    });
    lines.collect()
}

/// Compiles PTX to machine code.
type Link<'a> = &'a dyn Fn(&str) -> Result<Vec<u8>, DeviceError>;

/// Compiles the kernels' text to machine code for a GPU.
type Compile<'a> = &'a dyn Fn(&str, (u32, u32)) -> Result<Vec<u8>, DeviceError>;

/// True if PTX was made from this text.
fn made_of(ptx: &str, text: &str) -> bool {
    ptx.lines().next() == Some(&format!("// kernels {}", blake3::hash(text.as_bytes())))
}

/// Machine code of all kernels for a GPU. `link` is the driver's PTX compiler, `driver` the driver's version.
///
/// # Errors
/// When the GPU is too old, or the kernels cannot be compiled.
pub fn image(capability: (u32, u32), driver: u32, link: Link) -> Result<Vec<u8>, DeviceError> {
    cached(cache_folder().as_deref(), &text(), capability, driver, link, &compile)
}

/// Like [`image`], with everything external as an argument.
fn cached(
    folder: Option<&Path>,
    text: &str,
    capability: (u32, u32),
    driver: u32,
    link: Link,
    compile: Compile,
) -> Result<Vec<u8>, DeviceError> {
    let (major, minor) = capability;
    if capability < LEAST {
        let cause = format!("this GPU has compute capability {major}.{minor}, the kernels need 8.0");
        return Err(DeviceError::Missing { cause, remedy: None });
    }
    let ptx = ptx(capability);
    let key = format!("{text}\0{ptx}\0sm_{major}{minor}\0{driver}\0{}", env!("CARGO_PKG_VERSION"));
    let path = folder.map(|folder| folder.join(format!("kernels-{}.cubin", blake3::hash(key.as_bytes()).to_hex())));
    if let Some(image) = path.as_deref().and_then(read) {
        return Ok(image);
    }
    let image = if made_of(&ptx, text) { link(&ptx)? } else { compile(text, capability)? };
    if let (Some(folder), Some(path)) = (folder, path) {
        // If the image cannot be stored, the next start compiles again: slower, but no reason to stop.
        let whole = [&image[..], blake3::hash(&image).as_bytes()].concat();
        _ = std::fs::create_dir_all(folder).map(|()| nanoserve_format::replace(&path, &whole));
    }
    Ok(image)
}

/// A cached image, if it exists and is intact.
fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = std::fs::read(path).ok()?;
    let image = bytes.len().checked_sub(HASH).filter(|len| *len > 0)?;
    (blake3::hash(&bytes[..image]) == bytes[image..]).then(|| {
        bytes.truncate(image);
        bytes
    })
}

/// The program's folder in the user's cache.
fn cache_folder() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("nanoserve"))
}

/// Compiles a text to machine code with NVRTC.
#[cfg(feature = "cuda")]
fn compile(text: &str, (major, minor): (u32, u32)) -> Result<Vec<u8>, DeviceError> {
    use cudarc::nvrtc::{result, sys};
    let call = || "compiling kernels".to_string();
    // SAFETY: loads libnvrtc in the usual way.
    if !unsafe { sys::is_culib_present() } {
        let cause =
            "the kernels' text has changed since their PTX was made, and there is no NVRTC (libnvrtc.so) to compile it";
        let remedy = Some("run scripts/ptx.sh, or install the CUDA toolkit's NVRTC");
        return Err(DeviceError::Missing { cause: cause.into(), remedy });
    }
    let failed = |e: result::NvrtcError| DeviceError::Call { call: call(), cause: e.to_string() };
    let source = std::ffi::CString::new(text).expect("kernels are text");
    let program = result::create_program(&source, Some(c"kernels.cu")).map_err(failed)?;
    let options = [format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".to_string()];
    // SAFETY: the program was just made and is destroyed once, at the end; NVRTC itself reports the sizes.
    unsafe {
        let compiled = result::compile_program(program, &options);
        let log = result::get_program_log(program).unwrap_or_default();
        let said: String = log.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect();
        let mut image = Vec::new();
        let got = compiled.and_then(|()| {
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
            image.resize(size, 0u8);
            sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result()
        });
        _ = result::destroy_program(program);
        got.map(|()| image).map_err(|e| DeviceError::Call { call: call(), cause: format!("{e} {said}") })
    }
}

#[cfg(not(feature = "cuda"))]
fn compile(_: &str, _: (u32, u32)) -> Result<Vec<u8>, DeviceError> {
    Err(DeviceError::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn every_file_of_the_folder_is_part_of_the_text() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/kernels");
        let mut there: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        there.sort();
        let mut ours: Vec<_> = FILES.iter().map(|(name, _)| std::ffi::OsString::from(name)).collect();
        ours.sort();
        assert_eq!(there, ours);
        let text = text();
        assert!(!text.contains("#include"));
        for kernel in super::super::launch::KERNELS {
            assert!(EMBEDDED.contains(&format!(".entry {kernel}(")), "no {kernel} in the PTX");
        }
    }

    #[test]
    fn embedded_ptx_was_made_of_the_text() {
        for capability in [(8, 0), (8, 9), (9, 0), (10, 0)] {
            let ptx = ptx(capability);
            assert!(made_of(&ptx, &text()), "the kernels have changed: run scripts/ptx.sh");
            let hopper = capability >= (9, 0);
            assert_eq!(ptx.contains("griddepcontrol"), hopper);
            assert!(ptx.contains(if hopper { "\n.target sm_90\n" } else { "\n.target sm_80\n" }));
        }
        assert!(!made_of(EMBEDDED, "another text"));
    }

    #[test]
    fn code_is_made_once_and_again_when_anything_changes() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("made/when/missing");
        let (linked, compiled) = (Cell::new(0), Cell::new(0));
        let link = |ptx: &str| {
            linked.set(linked.get() + 1);
            Ok(ptx.as_bytes()[..100].to_vec())
        };
        let compile = |text: &str, _| {
            compiled.set(compiled.get() + 1);
            Ok(text.as_bytes().to_vec())
        };
        let text = text();
        let get = |text: &str, capability, driver| {
            cached(Some(&cache), text, capability, driver, &link, &compile).map(|image| image.len())
        };
        for _ in 0..2 {
            assert_eq!(get(&text, (9, 0), 13000), Ok(100));
        }
        assert_eq!((linked.get(), compiled.get()), (1, 0));
        assert_eq!(get(&text, (9, 0), 13010), Ok(100));
        assert_eq!(get(&text, (12, 0), 13000), Ok(100));
        assert_eq!(get(&text, (8, 6), 13000), Ok(100));
        assert_eq!((linked.get(), compiled.get()), (4, 0));
        // Another text is compiled, because the PTX was not made from it.
        for _ in 0..2 {
            assert_eq!(get("changed", (9, 0), 13000), Ok(7));
        }
        assert_eq!((linked.get(), compiled.get()), (4, 1));
        // A damaged file is detected.
        for entry in std::fs::read_dir(&cache).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[3] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        assert_eq!(get("changed", (9, 0), 13000), Ok(7));
        assert_eq!(compiled.get(), 2);
        let old = get(&text, (7, 5), 13000).unwrap_err().to_string();
        assert!(old.contains("compute capability 7.5, the kernels need 8.0"), "{old}");
        // A folder that cannot be created is like no folder.
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(cached(Some(&file.join("x")), &text, (9, 0), 1, &link, &compile).is_ok());
        assert!(cached(None, &text, (9, 0), 1, &link, &compile).is_ok());
    }
}
