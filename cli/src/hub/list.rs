//! `nanoserve list`: what is in the cache.

use super::cache::{INCOMPLETE, MODELS};
use super::own::ENDING;
use super::settings::Settings;
use crate::console::{self, size, tell};
use crate::programs::Program;
use anyhow::Result;
use clap::{Command, Parser};
use nanoserve_format::Foreign;
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Digits of a commit that a person reads.
const DIGITS: usize = 12;

/// Show which models are in the cache: as the Hub has them, and converted.
#[derive(Debug, Parser)]
#[command(
    name = "nanoserve-list",
    version,
    after_help = "\
KIND is 'hub' for a checkpoint as the Hub has it, 'converted' for a file that 'nanoserve run --hf' made of one, and 'partial' \
for an unfinished download. Revisions share equal files, so the sum may be less than the rows. HF_HOME, HF_HUB_CACHE and XDG_CACHE_HOME say where the cache is; 'nanoserve rm' removes."
)]
pub struct List {
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    repo: String,
    commit: String,
    refs: Vec<String>,
    kind: &'static str,
    bytes: u64,
    used: SystemTime,
    path: PathBuf,
}

impl Program for List {
    fn start(self, _: &mut Command) -> ExitCode {
        console::exit(self.run())
    }
}

impl List {
    fn run(&self) -> Result<ExitCode> {
        let settings = Settings::read()?;
        let mut files = Files::default();
        let mut rows = hub(&settings.cache, &mut files);
        rows.extend(converted(&settings.own, &mut files));
        rows.sort_by(|a, b| (&a.repo, a.kind, &a.commit).cmp(&(&b.repo, b.kind, &b.commit)));
        if rows.is_empty() && !self.json {
            let (hub, own) = (settings.cache.display(), settings.own.display());
            tell(format_args!("nothing is in {hub} and {own}: nanoserve pull ORG/NAME brings a model"));
            return Ok(ExitCode::SUCCESS);
        }
        let text = if self.json { to_json(&rows) } else { table(&rows, files.bytes()) };
        console::print(format_args!("{text}\n"), true)
    }
}

/// The size of each file once, however many links lead to it.
#[derive(Debug, Default)]
struct Files(HashMap<PathBuf, u64>);

impl Files {
    fn bytes(&self) -> u64 {
        self.0.values().sum()
    }

    /// Adds a file, links followed. Returns its size, and when it was last read or written.
    fn add(&mut self, path: &Path) -> Option<(u64, SystemTime)> {
        let (real, m) = (fs::canonicalize(path).ok()?, fs::metadata(path).ok()?);
        if !m.is_file() {
            return None;
        }
        self.0.insert(real, m.len());
        let times = [m.accessed(), m.modified()].into_iter().flatten();
        Some((m.len(), times.max().unwrap_or(UNIX_EPOCH)))
    }

    /// Adds all files below a folder; folders that are links are left out.
    fn add_all(&mut self, folder: &Path) -> (u64, SystemTime) {
        let (mut bytes, mut used) = (0, UNIX_EPOCH);
        for path in children(folder) {
            let is_folder = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            let (b, u) = if is_folder { self.add_all(&path) } else { self.add(&path).unwrap_or((0, UNIX_EPOCH)) };
            (bytes, used) = (bytes + b, used.max(u));
        }
        (bytes, used)
    }
}

/// What is in a folder, in the order of names; nothing where there is none.
pub fn children(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// The last part of a path, as text.
pub fn last(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The models' folders in a cache, and their names.
fn models(cache: &Path) -> impl Iterator<Item = (String, PathBuf)> {
    let name = |path: PathBuf| Some((last(&path).strip_prefix(MODELS)?.replace("--", "/"), path));
    children(cache).into_iter().filter_map(name)
}

/// The revisions of a model's folder, by the commit that they are.
pub fn refs(folder: &Path) -> BTreeMap<String, Vec<String>> {
    fn walk(folder: &Path, before: &str, all: &mut BTreeMap<String, Vec<String>>) {
        for path in children(folder) {
            let name = format!("{before}{}", last(&path));
            if fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir()) {
                walk(&path, &format!("{name}/"), all);
            } else if let Ok(commit) = fs::read_to_string(&path) {
                all.entry(commit.trim().to_string()).or_default().push(name);
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(&folder.join("refs"), "", &mut all);
    all
}

fn hub(cache: &Path, files: &mut Files) -> Vec<Row> {
    let mut rows = Vec::new();
    for (repo, folder) in models(cache) {
        let mut refs = refs(&folder);
        for path in children(&folder.join("snapshots")).into_iter().filter(|path| path.is_dir()) {
            let (commit, (bytes, used)) = (last(&path), files.add_all(&path));
            let refs = refs.remove(&commit).unwrap_or_default();
            rows.push(Row { repo: repo.clone(), commit, refs, kind: "hub", bytes, used, path });
        }
        for path in children(&folder.join("blobs")) {
            let Some((bytes, used)) = files.add(&path) else { continue };
            if last(&path).ends_with(INCOMPLETE) {
                let (repo, commit) = (repo.clone(), String::new());
                rows.push(Row { repo, commit, refs: Vec::new(), kind: "partial", bytes, used, path });
            }
        }
    }
    rows
}

fn converted(own: &Path, files: &mut Files) -> Vec<Row> {
    let mut rows = Vec::new();
    for (repo, folder) in models(own) {
        let mut refs = refs(&folder);
        for path in children(&folder) {
            let Some(commit) = last(&path).strip_suffix(ENDING).map(str::to_string) else { continue };
            let Some((bytes, used)) = files.add(&path) else { continue };
            let refs = refs.remove(&commit).unwrap_or_default();
            rows.push(Row { repo: repo.clone(), commit, refs, kind: "converted", bytes, used, path });
        }
    }
    rows
}

fn to_json(rows: &[Row]) -> String {
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let one = |row: &Row| {
        json!({"model": row.repo, "commit": row.commit, "revisions": row.refs, "kind": row.kind, "bytes": row.bytes,
               "used": seconds(row.used), "path": row.path})
    };
    console::json(&rows.iter().map(one).collect::<Vec<_>>())
}

fn table(rows: &[Row], all: u64) -> String {
    let now = SystemTime::now();
    let head = ["NAME", "REVISION", "KIND", "SIZE", "USED"].map(str::to_string);
    let row = |row: &Row| {
        let commit: String = row.commit.chars().take(DIGITS).collect();
        let refs = if row.refs.is_empty() { String::new() } else { format!(" ({})", Foreign(&row.refs.join(", "))) };
        [
            Foreign(&row.repo).to_string(),
            format!("{}{refs}", Foreign(&commit)),
            row.kind.into(),
            size(row.bytes),
            ago(now, row.used),
        ]
    };
    let cells: Vec<[String; 5]> = [head].into_iter().chain(rows.iter().map(row)).collect();
    let width = |i: usize| cells.iter().map(|cells| cells[i].chars().count()).max().unwrap_or(0);
    let (name, revision, kind, bytes) = (width(0), width(1), width(2), width(3));
    let line = |[a, b, c, d, e]: &[String; 5]| format!("{a:name$}  {b:revision$}  {c:kind$}  {d:>bytes$}  {e}");
    let lines: Vec<String> = cells.iter().map(line).collect();
    format!("{}\n{} on the disk", lines.join("\n"), size(all))
}

/// How long ago, for a person.
fn ago(now: SystemTime, then: SystemTime) -> String {
    let seconds = now.duration_since(then).unwrap_or(Duration::ZERO).as_secs();
    for (unit, length) in [
        ("year", 365 * 86400),
        ("month", 30 * 86400),
        ("week", 7 * 86400),
        ("day", 86400),
        ("hour", 3600),
        ("minute", 60),
    ] {
        let count = seconds / length;
        if count > 0 {
            return format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" });
        }
    }
    "now".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_one_unit() {
        let now = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        for (seconds, text) in [
            (0, "now"),
            (59, "now"),
            (60, "1 minute ago"),
            (7199, "1 hour ago"),
            (7200, "2 hours ago"),
            (8 * 86400, "1 week ago"),
            (800 * 86400, "2 years ago"),
        ] {
            assert_eq!(ago(now, now - Duration::from_secs(seconds)), text);
        }
        assert_eq!(ago(now, now + Duration::from_secs(5)), "now");
    }

    #[test]
    fn the_columns_stand_below_each_other() {
        let row = |repo: &str, refs: &[&str], bytes| Row {
            repo: repo.into(),
            commit: "0123456789abcdef".into(),
            refs: refs.iter().map(|r| r.to_string()).collect(),
            kind: "hub",
            bytes,
            used: SystemTime::now(),
            path: PathBuf::new(),
        };
        let text = table(&[row("a/b", &["main", "v1"], 5_000_000_000), row("long/name", &[], 1)], 5_000_000_001);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "NAME       REVISION                 KIND     SIZE  USED");
        assert_eq!(lines[1], "a/b        0123456789ab (main, v1)  hub   5.00 GB  now");
        assert_eq!(lines[2], "long/name  0123456789ab             hub   1 bytes  now");
        assert_eq!(lines[3], "5.00 GB on the disk");
    }
}
