//! Maintainers' tool: writes the Kubernetes tables that `portolan-kinds` carries.
//!
//! ```text
//! k8s-openapi (schemars) ─► definitions ─┬─► data/openapi/*.json.gz   what kubectl reads
//!                                        ├─► generated/types.rs       JSON fields and their types
//! k8s-pb (prost attributes) ─────────────┴─► generated/messages.rs    protobuf tags of those fields
//! ```
//!
//! `cargo run -- generate` writes them, `cargo run -- check` fails if what is committed differs.
//! Run it in this folder after a change of Kubernetes version; nobody who only builds Portolan does.

mod kinds;
mod openapi;
mod protobuf;
mod source;
mod types;
mod zeroes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is generated: path below `crates/kinds`, and its bytes.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/kinds");
    let outcome = match wanted.as_deref() {
        Some("generate") => generate().and_then(|files| write(&root, &files)),
        Some("check") => generate().and_then(|files| compare(&root, &files)),
        _ => Err("usage: cargo run -- generate|check".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            eprintln!("{complaint}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<Files, String> {
    let definitions = openapi::definitions();
    let messages = protobuf::read(&definitions)?;
    let mut files = openapi::files(&definitions);
    files.insert(
        "src/generated/types.rs".into(),
        types::source(&definitions).into_bytes(),
    );
    files.insert(
        "src/generated/messages.rs".into(),
        protobuf::source(&definitions, &messages)?.into_bytes(),
    );
    Ok(files)
}

fn write(root: &Path, files: &Files) -> Result<(), String> {
    for (path, bytes) in files {
        let target = root.join(path);
        let folder = target.parent().expect("every generated path has a folder");
        std::fs::create_dir_all(folder).map_err(|e| format!("create {}: {e}", folder.display()))?;
        std::fs::write(&target, bytes).map_err(|e| format!("write {}: {e}", target.display()))?;
        println!("{:>8} {}", bytes.len(), path.display());
    }
    Ok(())
}

fn compare(root: &Path, files: &Files) -> Result<(), String> {
    let stale: Vec<String> = files
        .iter()
        .filter(|(path, bytes)| std::fs::read(root.join(path)).ok().as_ref() != Some(bytes))
        .map(|(path, _)| path.display().to_string())
        .collect();
    match stale.is_empty() {
        true => Ok(()),
        false => Err(format!(
            "not as generated, run `cargo run -- generate`: {}",
            stale.join(", ")
        )),
    }
}
