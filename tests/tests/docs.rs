//! The pages that lead a reader to files: each file that they name is there.

use std::fs;
use std::path::Path;

#[test]
fn every_path_in_the_guides_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for page in
        ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/adding-a-model.md", "docs/troubleshooting.md"]
    {
        let text = fs::read_to_string(root.join(page)).unwrap();
        // What stands in backticks, has a folder in it, and is no command.
        let quoted = text.split('`').skip(1).step_by(2).filter(|quoted| {
            let ends = [".rs", ".md", ".sh", ".py", ".toml", "/"].iter().any(|end| quoted.ends_with(end));
            ends && quoted.trim_end_matches('/').contains('/') && !quoted.contains([' ', '<', '{', '*', '$'])
        });
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(to, _)| to);
        let links = links.filter(|to| !to.contains(':') && !to.starts_with('#')).map(|to| {
            // A link is meant from its page.
            let to = to.split('#').next().unwrap_or(to);
            let folder = Path::new(page).parent().unwrap_or(Path::new(""));
            folder.join(to).to_string_lossy().into_owned()
        });
        let missing: Vec<String> =
            quoted.map(str::to_string).chain(links).filter(|path| !root.join(path).exists()).collect();
        assert!(missing.is_empty(), "{page} names what is not there: {missing:?}");
    }
}
