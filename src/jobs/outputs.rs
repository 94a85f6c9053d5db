//! What a run left behind: its log and record, what its stages brought home, and what changed in its directory meanwhile.
//!
//! Nothing is kept about outputs but the places that stages copy to; the file system knows the rest. Deliberately absent:
//! files that the command wrote elsewhere, which nobody noted.

use super::run_record::RunRecord;
use crate::image::store::text_of;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A file or directory, in the words of GEF's volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    pub name: String,
    pub size: u64,
    /// RFC 3339.
    pub modified: String,
    pub is_folder: bool,
    /// From the job's directory, or absolute where it lies elsewhere.
    pub path: PathBuf,
    pub folder_tree: Vec<Entry>,
}

/// A job's directory may be somebody's home: looking ends here.
const MOST: u32 = 100_000;

/// All outputs of a run. `log` is where its output went.
pub fn of(record: &RunRecord, log: Option<&Path>) -> Vec<Entry> {
    let root = Path::new(&record.output_directory);
    let mut budget = MOST;
    let during = |modified: &str| {
        modified >= record.start.as_str()
            && (record.end.is_empty() || modified <= record.end.as_str())
    };
    let mut found = inside(root, root, &during, &mut budget);
    let places = record.outputs.iter().map(|place| root.join(place));
    for place in places.chain(log.map(Path::to_path_buf)) {
        // A directory that holds some new files is listed whole if a stage filled it.
        found.retain(|entry| root.join(&entry.path) != place);
        if !covered(&found, &place, root) {
            found.extend(entry(root, &place, &|_| true, &mut budget));
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Whether a file is in the list already, at any depth.
fn covered(entries: &[Entry], place: &Path, root: &Path) -> bool {
    entries.iter().any(|entry| {
        !entry.is_folder && root.join(&entry.path) == place
            || covered(&entry.folder_tree, place, root)
    })
}

fn inside(
    root: &Path,
    directory: &Path,
    wanted: &dyn Fn(&str) -> bool,
    budget: &mut u32,
) -> Vec<Entry> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    paths.sort();
    let list = paths
        .iter()
        .filter_map(|path| entry(root, path, wanted, budget));
    list.collect()
}

fn entry(
    root: &Path,
    path: &Path,
    wanted: &dyn Fn(&str) -> bool,
    budget: &mut u32,
) -> Option<Entry> {
    *budget = budget.checked_sub(1)?;
    let metadata = std::fs::symlink_metadata(path).ok()?;
    let modified = metadata.modified().map(text_of).unwrap_or_default();
    let folder_tree = match metadata.is_dir() {
        true => inside(root, path, wanted, budget),
        false => Vec::new(),
    };
    if !wanted(&modified) && folder_tree.is_empty() {
        return None;
    }
    // A directory that merely changed has lost something, which is no output.
    if metadata.is_dir() && folder_tree.is_empty() && !wanted("") {
        return None;
    }
    Some(Entry {
        name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        size: if metadata.is_dir() { 0 } else { metadata.len() },
        modified,
        is_folder: metadata.is_dir(),
        path: path.strip_prefix(root).unwrap_or(path).to_path_buf(),
        folder_tree,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_meanwhile_and_what_stages_brought() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path();
        for name in ["sub", "home/deep", "empty"] {
            std::fs::create_dir_all(root.join(name)).expect("made");
        }
        let file = |name: &str, seconds: u64| {
            let file = std::fs::File::create(root.join(name)).expect("made");
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            file.set_modified(time).expect("set");
        };
        file("old", 1_000);
        file("sub/new", 2_000);
        file("sub/old", 1_000);
        file("later", 9_000);
        file("home/deep/kept", 500);
        let record = RunRecord {
            start: "1970-01-01T00:30:00Z".into(),
            end: "1970-01-01T00:40:00Z".into(),
            output_directory: root.display().to_string(),
            outputs: vec!["home".into(), "absent".into()],
            ..RunRecord::default()
        };
        let list = of(&record, Some(&root.join("later")));
        let names: Vec<&str> = list.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["home", "later", "sub"]);
        assert_eq!(
            list[0].folder_tree[0].folder_tree[0].path,
            Path::new("home/deep/kept")
        );
        assert_eq!(list[2].folder_tree.len(), 1);
    }
}
