//! A container's output as CRI's log format, rotated by size.
//!
//! `2026-01-02T03:04:05.000000006Z stdout F text`: one line each, `P` for a part of a longer line.
//! Spec: Kubernetes "CRI logging".

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// Longer lines are cut, as containerd does.
const MAX_LINE_BYTES: usize = 16 * 1024;
/// kubelet's containerLogMaxSize and containerLogMaxFiles.
const MAX_FILE_BYTES: u64 = 10 << 20;
const MAX_FILES: u32 = 5;

/// Which of the container's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

/// Writes one container's log.
pub struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    max_bytes: u64,
    /// Begun lines, by output.
    begun: [Vec<u8>; 2],
}

impl LogFile {
    /// Opens the file, appending to what is there.
    pub fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self {
            path: path.to_path_buf(),
            size: file.metadata()?.len(),
            file,
            max_bytes: MAX_FILE_BYTES,
            begun: [Vec::new(), Vec::new()],
        })
    }

    /// Takes bytes as the container wrote them.
    pub fn write(&mut self, output: Output, bytes: &[u8], now: Timestamp) -> io::Result<()> {
        let mut begun = std::mem::take(&mut self.begun[output as usize]);
        begun.extend_from_slice(bytes);
        let mut rest = &begun[..];
        loop {
            let line = rest.iter().take(MAX_LINE_BYTES + 1).position(|byte| *byte == b'\n');
            match line {
                Some(end) => {
                    self.line(output, 'F', &rest[..end], now)?;
                    rest = &rest[end + 1..];
                }
                None if rest.len() > MAX_LINE_BYTES => {
                    self.line(output, 'P', &rest[..MAX_LINE_BYTES], now)?;
                    rest = &rest[MAX_LINE_BYTES..];
                }
                None => break,
            }
        }
        self.begun[output as usize] = rest.to_vec();
        Ok(())
    }

    /// Writes what has no newline; nothing more comes.
    pub fn finish(&mut self, now: Timestamp) -> io::Result<()> {
        for output in [Output::Stdout, Output::Stderr] {
            let rest = std::mem::take(&mut self.begun[output as usize]);
            if !rest.is_empty() {
                self.line(output, 'P', &rest, now)?;
            }
        }
        Ok(())
    }

    fn line(&mut self, output: Output, tag: char, text: &[u8], now: Timestamp) -> io::Result<()> {
        let stream = match output {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
        };
        let mut line = format!("{now:.9} {stream} {tag} ").into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        if self.size > 0 && self.size + line.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        self.size += line.len() as u64;
        self.file.write_all(&line)
    }

    /// `0.log` becomes `0.log.1`, that `0.log.2`, the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..MAX_FILES - 1).rev() {
            let _ = std::fs::rename(rotated(&self.path, number), rotated(&self.path, number + 1));
        }
        std::fs::rename(&self.path, rotated(&self.path, 1))?;
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

/// Name of an older file; 1 is the newest of them.
pub fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(parts: &[(Output, &[u8])]) -> String {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("c/0.log");
        let mut log = LogFile::open(&path).expect("opens");
        for (output, bytes) in parts {
            log.write(*output, bytes, Timestamp::UNIX_EPOCH).expect("writes");
        }
        log.finish(Timestamp::UNIX_EPOCH).expect("writes");
        std::fs::read_to_string(path).expect("reads").replace("1970-01-01T00:00:00.000000000Z ", "")
    }

    #[test]
    fn lines_keep_their_stream_however_they_are_cut() {
        let parts: [(Output, &[u8]); 4] = [
            (Output::Stdout, b"he"),
            (Output::Stderr, b"oops\n"),
            (Output::Stdout, b"llo\nwor"),
            (Output::Stdout, b"ld"),
        ];
        assert_eq!(written(&parts), "stderr F oops\nstdout F hello\nstdout P world\n");
    }

    #[test]
    fn a_long_line_is_cut_into_parts() {
        let long = [vec![b'x'; MAX_LINE_BYTES + 3], vec![b'\n']].concat();
        let text = written(&[(Output::Stdout, &long)]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].len(), "stdout P ".len() + MAX_LINE_BYTES);
        assert_eq!(lines[1], "stdout F xxx");
    }

    #[test]
    fn a_full_file_is_rotated_and_the_oldest_goes() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("0.log");
        let mut log = LogFile::open(&path).expect("opens");
        log.max_bytes = 100;
        for number in 0..20 {
            let line = format!("line {number:02} {}\n", "x".repeat(40));
            log.write(Output::Stdout, line.as_bytes(), Timestamp::UNIX_EPOCH).expect("writes");
        }
        let read = |path: PathBuf| std::fs::read_to_string(path).expect("reads");
        assert!(read(path.clone()).contains("line 19"));
        assert!(read(rotated(&path, 1)).contains("line 18"));
        assert!(read(rotated(&path, MAX_FILES - 1)).contains("line 15"));
        assert!(!rotated(&path, MAX_FILES).exists());
    }
}
