//! File names with `*` and `?`, as `import` of a Corefile has them.

use std::path::{Component, Path, PathBuf};

/// The files that a pattern stands for, in the order of their names. One without `*` and `?` stands for itself, there or
/// not; names that begin with a dot are taken only by patterns that do.
pub fn files(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let Component::Normal(name) = part else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        found = match name.to_str().filter(|name| name.contains(['*', '?'])) {
            None => found.into_iter().map(|path| path.join(name)).collect(),
            Some(pattern) => found.iter().flat_map(|folder| inside(folder, pattern)).collect(),
        };
    }
    found
}

fn inside(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // A folder that is not there holds nothing.
    let entries = std::fs::read_dir(here).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let fits = |name: &String| (!name.starts_with('.') || pattern.starts_with('.')) && fits(pattern, name);
    let mut names: Vec<String> = names.filter(fits).collect();
    names.sort();
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// `*` is any text, `?` one character.
fn fits(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much it was taken to hold.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, held)) => {
                    star = Some((at, held + 1));
                    (p, n) = (at + 1, held + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_one_character() {
        for (pattern, name, wanted) in [
            ("*.override", "a.override", true),
            ("*.override", "a.server", false),
            ("*.override", ".override", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxb", true),
            ("*a*b*", "xxbxxa", false),
            ("**", "", true),
            ("", "x", false),
        ] {
            assert_eq!(fits(pattern, name), wanted, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_stands_for_what_is_there_in_order_and_a_name_for_itself() {
        let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        std::fs::create_dir(home.path().join("custom")).expect("a folder");
        for name in ["b.server", "a.server", ".c.server", "a.override"] {
            std::fs::write(home.path().join("custom").join(name), "").expect("a file");
        }
        let names = |pattern: &str| -> Vec<String> {
            let found = files(&home.path().join(pattern));
            found.iter().map(|p| p.strip_prefix(home.path()).expect("below").display().to_string()).collect()
        };
        assert_eq!(names("custom/*.server"), ["custom/a.server", "custom/b.server"]);
        assert_eq!(names("cust?m/a.*"), ["custom/a.override", "custom/a.server"]);
        assert_eq!(names("nowhere/*.server"), [] as [&str; 0]);
        assert_eq!(names("nowhere/a"), ["nowhere/a"]);
    }
}
