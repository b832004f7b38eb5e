//! What a program needs to run: its loader and libraries, read from the ELF file itself.
//!
//! No program is started to find out, so a folder of another machine's files is fine as well.
//! Spec: System V ABI, chapters 4 and 5 (program header, dynamic section); ld.so(8) for the search order.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use super::ImageError;

/// The dynamic facts of one ELF file; all empty for a static program.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// `/lib64/ld-linux-x86-64.so.2`.
    pub loader: Option<PathBuf>,
    /// DT_NEEDED.
    pub libraries: Vec<String>,
    /// DT_RUNPATH and DT_RPATH, split.
    pub run_path: Vec<String>,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// Reads a 64-bit little-endian ELF image; `None` if `bytes` is anything else.
pub fn needs(bytes: &[u8]) -> Option<Needs> {
    if bytes.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
        return None;
    }
    let headers = read_u64(bytes, 32)? as usize;
    let size = usize::from(read_u16(bytes, 54)?);
    let count = usize::from(read_u16(bytes, 56)?);
    let mut needs = Needs::default();
    let mut loads = Vec::new();
    let mut dynamic = None;
    for number in 0..count {
        let at = headers.checked_add(number.checked_mul(size)?)?;
        let offset = read_u64(bytes, at + 8)? as usize;
        let length = read_u64(bytes, at + 32)? as usize;
        match read_u32(bytes, at)? {
            PT_LOAD => loads.push((read_u64(bytes, at + 16)?, offset as u64, length as u64)),
            PT_DYNAMIC => dynamic = Some((offset, length)),
            PT_INTERP => needs.loader = Some(PathBuf::from(text_at(bytes, offset)?)),
            _ => {}
        }
    }
    if let Some((offset, length)) = dynamic {
        read_dynamic(bytes, bytes.get(offset..offset.checked_add(length)?)?, &loads, &mut needs)?;
    }
    Some(needs)
}

fn read_dynamic(bytes: &[u8], section: &[u8], loads: &[(u64, u64, u64)], needs: &mut Needs) -> Option<()> {
    let entries: Vec<(u64, u64)> = section
        .chunks_exact(16)
        .filter_map(|entry| Some((read_u64(entry, 0)?, read_u64(entry, 8)?)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let Some((_, table)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
        return Some(());
    };
    let table = loads.iter().find_map(|(address, offset, length)| {
        (*table >= *address && *table < address + length).then(|| table - address + offset)
    })?;
    for (tag, value) in entries {
        let text = || text_at(bytes, usize::try_from(table.checked_add(value)?).ok()?);
        match tag {
            DT_NEEDED => needs.libraries.push(text()?),
            DT_RUNPATH | DT_RPATH => needs.run_path.extend(text()?.split(':').map(str::to_owned)),
            _ => {}
        }
    }
    Some(())
}

fn text_at(bytes: &[u8], at: usize) -> Option<String> {
    let tail = bytes.get(at..)?;
    let end = tail.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&tail[..end]).into_owned())
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Everything `programs` need beside themselves: image path → file to copy. Looks below `root` first,
/// then on the host; a library keeps the folder it was found in, so that the loader finds it again.
pub fn closure(programs: &[PathBuf], root: Option<&Path>) -> Result<BTreeMap<PathBuf, PathBuf>, ImageError> {
    let folders = library_folders();
    let mut found = BTreeMap::new();
    let mut open: VecDeque<PathBuf> = programs.iter().cloned().collect();
    while let Some(file) = open.pop_front() {
        let bytes = fs::read(&file).map_err(ImageError::io("read", &file))?;
        let Some(needs) = needs(&bytes) else {
            continue;
        };
        let pack = |reason: String| ImageError::Pack { program: file.clone(), reason };
        if let Some(loader) = &needs.loader {
            let source =
                locate(root, loader).ok_or_else(|| pack(format!("its loader {} is missing", loader.display())))?;
            found.entry(loader.clone()).or_insert(source);
        }
        let own = needs.run_path.iter().map(|folder| expand_origin(folder, &file));
        let search: Vec<PathBuf> = own.chain(folders.iter().cloned()).collect();
        for library in &needs.libraries {
            let places = || search.iter().map(|folder| folder.join(library));
            let (place, source) = places()
                .filter_map(|place| Some((real_file(&below(root?, &place))?, place)))
                .chain(places().filter_map(|place| Some((real_file(&place)?, place))))
                .next()
                .map(|(source, place)| (place, source))
                .ok_or_else(|| pack(format!("library {library} is neither in the given folder nor on this machine; install its package or give it with --file")))?;
            found.extend(name_services(library, &place, root));
            if found.insert(place, source.clone()).is_none() {
                open.push_back(source);
            }
        }
    }
    Ok(found)
}

/// Users and host names: a glibc before 2.34 loads these modules when they are first asked for, and no program names
/// them as a library it needs. They lie beside it and need nothing else.
fn name_services(library: &str, place: &Path, root: Option<&Path>) -> Vec<(PathBuf, PathBuf)> {
    if library != "libc.so.6" {
        return Vec::new();
    }
    let modules = ["libnss_files.so.2", "libnss_dns.so.2"].map(|module| place.with_file_name(module));
    modules.into_iter().filter_map(|module| Some((module.clone(), locate(root, &module)?))).collect()
}

/// The file behind an absolute image path: below `root`, else on the host.
pub fn locate(root: Option<&Path>, path: &Path) -> Option<PathBuf> {
    let inside = root.and_then(|root| real_file(&below(root, path)));
    inside.or_else(|| real_file(path))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn real_file(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().filter(|real| real.is_file())
}

fn expand_origin(folder: &str, file: &Path) -> PathBuf {
    let origin = file.parent().unwrap_or(Path::new("/")).display().to_string();
    PathBuf::from(folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin))
}

/// The loader's own folders on Debian and elsewhere; the image has no ld.so.cache, so only these work in it.
fn library_folders() -> Vec<PathBuf> {
    let arch = std::env::consts::ARCH;
    [
        format!("/lib/{arch}-linux-gnu"),
        format!("/usr/lib/{arch}-linux-gnu"),
        "/lib64".to_owned(),
        "/usr/lib64".to_owned(),
        "/lib".to_owned(),
        "/usr/lib".to_owned(),
    ]
    .map(PathBuf::from)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_names_its_loader_and_libc() {
        let own = fs::read("/proc/self/exe").expect("readable");
        let needs = needs(&own).expect("an ELF file");
        assert!(needs.loader.is_some());
        assert!(needs.libraries.iter().any(|name| name.starts_with("libc.so")));
    }

    #[test]
    fn text_and_broken_files_need_nothing() {
        assert_eq!(needs(b"#!/bin/sh\n"), None);
        let own = fs::read("/proc/self/exe").expect("readable");
        for length in [0, 6, 20, 60, 64, 100, 1000] {
            let _ = needs(&own[..length]); // must not panic
        }
    }

    #[test]
    fn the_closure_holds_loader_and_libc_at_places_the_loader_looks() {
        let found = closure(&[PathBuf::from("/bin/sh")], None).expect("sh can be packed");
        assert!(found.keys().any(|path| path.ends_with("libc.so.6")));
        assert!(found.keys().any(|path| path.to_string_lossy().contains("ld-linux")));
        assert!(found.keys().any(|path| path.ends_with("libnss_files.so.2")), "names of users are found");
    }
}
