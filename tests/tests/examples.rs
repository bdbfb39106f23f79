//! The examples do what they say, with the demo.

use std::path::Path;

#[path = "../../examples/convert.rs"]
mod convert;
#[path = "../../examples/generate.rs"]
mod generate;
#[path = "../../examples/read_file.rs"]
mod read_file;
#[path = "../../examples/two_sequences.rs"]
mod two_sequences;

#[test]
fn the_demo_is_converted_read_stepped_and_talks() {
    let folder = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../weights/demo");
    let model = folder.path().join("demo.nsv");
    let (demo, model) = (demo.to_str().unwrap(), model.to_str().unwrap());
    assert_eq!(convert::run(demo, model).unwrap(), 39);
    let row = read_file::run(model).unwrap();
    assert!(row.len() == 4 && row.iter().all(|x| x.is_finite() && *x != 0.0), "{row:?}");
    assert!(two_sequences::run(model).unwrap());
    let text = generate::run(model, "ROMEO:").unwrap();
    assert!(!text.trim().is_empty(), "{text:?}");
    assert!(generate::run(folder.path().join("none.nsv").to_str().unwrap(), "ROMEO:").is_err());
}
