//! A container's log as `kubectl logs` wants it: from the files the shim writes, older ones first.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::shim::state::PodState;

/// How often a followed file is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// As the API's query parameters.
#[derive(Clone, Debug, Default)]
pub struct LogOptions {
    pub follow: bool,
    /// The run before the last.
    pub previous: bool,
    pub timestamps: bool,
    /// Only the last lines.
    pub tail_lines: Option<u64>,
    /// Only lines of that time or later.
    pub since: Option<Timestamp>,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("pod {0} is not on this node")]
    NoPod(String),
    #[error("container {container:?} in pod {pod:?} is waiting to start")]
    NotStarted { pod: String, container: String },
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious { pod: String, container: String },
    #[error("cannot read the log {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
}

/// Streams the log of a container of the pod in `dir`.
pub fn stream(
    dir: &Path,
    pod: &str,
    container: &str,
    options: LogOptions,
) -> Result<impl Stream<Item = Result<Bytes, LogError>> + Send + use<>, LogError> {
    let place = locate(dir, pod, container, &options)?;
    let (sender, receiver) = mpsc::channel(16);
    let reader = Reader {
        dir: dir.to_path_buf(),
        container: container.to_owned(),
        left: options.limit_bytes,
        options,
        sender,
        at_line_start: true,
    };
    tokio::spawn(reader.run(place));
    Ok(futures::stream::unfold(
        receiver,
        |mut receiver| async move { receiver.recv().await.map(|item| (item, receiver)) },
    ))
}

fn locate(dir: &Path, pod: &str, container: &str, options: &LogOptions) -> Result<(u32, PathBuf), LogError> {
    let (pod, name) = (pod.to_owned(), container.to_owned());
    let runs = PodState::load(dir).map(|state| state.runs).unwrap_or_default();
    let mut own = runs.into_iter().rev().filter(|run| run.name == container);
    let found = if options.previous {
        own.nth(1).ok_or(LogError::NoPrevious { pod, container: name })
    } else {
        own.next().ok_or(LogError::NotStarted { pod, container: name })
    };
    found.map(|run| (run.attempt, run.log))
}

struct Reader {
    dir: PathBuf,
    container: String,
    options: LogOptions,
    /// Bytes that may still be sent.
    left: Option<u64>,
    sender: mpsc::Sender<Result<Bytes, LogError>>,
    at_line_start: bool,
}

/// The other side is not interested any more, or has had enough.
struct Enough;

impl Reader {
    async fn run(mut self, (attempt, path): (u32, PathBuf)) {
        let _ = self.read(attempt, &path).await;
    }

    async fn read(&mut self, attempt: u32, path: &Path) -> Result<(), Enough> {
        let (text, mut file) = match read_all(path).await {
            Ok(found) => found,
            Err(source) => {
                let error = LogError::Read { path: path.to_path_buf(), source };
                let _ = self.sender.send(Err(error)).await;
                return Err(Enough);
            }
        };
        let (begun, ready) = {
            let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            (text[end..].to_vec(), self.select(&text[..end]))
        };
        self.send(ready).await?;
        if !self.options.follow || self.options.previous {
            return Ok(());
        }
        self.follow(attempt, path, &mut file, begun).await
    }

    /// What a reader who comes now is shown.
    fn select(&mut self, text: &[u8]) -> Vec<u8> {
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let lines: Vec<Line<'_>> = lines.into_iter().filter_map(Line::parse).collect();
        let from = match self.options.tail_lines {
            Some(count) => tail_start(&lines, count),
            None => 0,
        };
        let mut out = Vec::new();
        for line in &lines[from..] {
            self.render(line, &mut out);
        }
        out
    }

    fn render(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if self.options.since.is_some_and(|since| line.is_before(since)) {
            return;
        }
        if self.options.timestamps && self.at_line_start {
            out.extend_from_slice(line.time);
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if line.is_full {
            out.push(b'\n');
        }
        self.at_line_start = line.is_full;
    }

    async fn send(&mut self, mut bytes: Vec<u8>) -> Result<(), Enough> {
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        if !bytes.is_empty() && self.sender.send(Ok(bytes.into())).await.is_err() {
            return Err(Enough);
        }
        if self.left == Some(0) { Err(Enough) } else { Ok(()) }
    }

    async fn follow(
        &mut self,
        attempt: u32,
        path: &Path,
        file: &mut tokio::fs::File,
        mut begun: Vec<u8>,
    ) -> Result<(), Enough> {
        loop {
            // Asked before reading: what is written before the end is read after it.
            let ended = self.has_ended(attempt);
            let mut more = Vec::new();
            if file.read_to_end(&mut more).await.is_err() {
                return Err(Enough);
            }
            if more.is_empty()
                && was_rotated(path, file).await
                && let Ok(next) = tokio::fs::File::open(path).await
            {
                *file = next;
                continue;
            }
            begun.extend(more);
            let end = begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let rest = begun.split_off(end);
            let mut out = Vec::new();
            for line in begun.split_inclusive(|byte| *byte == b'\n').filter_map(Line::parse) {
                self.render(&line, &mut out);
            }
            begun = rest;
            self.send(out).await?;
            if ended {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                () = self.sender.closed() => return Err(Enough),
            }
        }
    }

    fn has_ended(&self, attempt: u32) -> bool {
        let Some(state) = PodState::load(&self.dir) else {
            return true;
        };
        let run = state.runs.iter().find(|run| run.name == self.container && run.attempt == attempt);
        run.is_none_or(|run| run.ended.is_some())
    }
}

/// One line of CRI's format.
struct Line<'a> {
    time: &'a [u8],
    text: &'a [u8],
    is_full: bool,
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (time, _stream, tag) = (parts.next()?, parts.next()?, parts.next()?);
        let text = parts.next().unwrap_or_default();
        Some(Self { time, text, is_full: tag != b"P" })
    }

    fn is_before(&self, since: Timestamp) -> bool {
        let time = std::str::from_utf8(self.time).ok().and_then(|text| text.parse::<Timestamp>().ok());
        time.is_some_and(|time| time < since)
    }
}

/// Index of the first piece of the last `count` lines.
fn tail_start(lines: &[Line<'_>], count: u64) -> usize {
    let mut seen = 0;
    for (at, line) in lines.iter().enumerate().rev() {
        // A full piece ends a line; the newest may be open still.
        if line.is_full || at + 1 == lines.len() {
            seen += 1;
        }
        if seen > count {
            return at + 1;
        }
    }
    0
}

/// Older files first, then the current one, which stays open at its end.
async fn read_all(path: &Path) -> io::Result<(Vec<u8>, tokio::fs::File)> {
    let mut file = tokio::fs::File::open(path).await?;
    let mut text = Vec::new();
    for number in (1..10).rev() {
        if let Ok(older) = tokio::fs::read(crate::shim::rotated(path, number)).await {
            text.extend(older);
        }
    }
    file.read_to_end(&mut text).await?;
    Ok((text, file))
}

async fn was_rotated(path: &Path, file: &tokio::fs::File) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (tokio::fs::metadata(path).await, file.metadata().await) {
        (Ok(named), Ok(open)) => named.ino() != open.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ident::PodIdent;
    use crate::shim::state::{Ended, ProcessId, Run, STATE_VERSION};
    use futures::StreamExt;

    const LOG: &str = "2026-01-01T00:00:01.000000000Z stdout F one\n\
                       2026-01-01T00:00:02.000000000Z stderr P tw\n\
                       2026-01-01T00:00:02.000000000Z stderr F o\n\
                       2026-01-01T00:00:03.000000000Z stdout F three\n";

    fn run(dir: &Path, attempt: u32, ended: bool) -> Run {
        let log = dir.join(format!("{attempt}.log"));
        Run {
            name: "c".into(),
            attempt,
            streak: 0,
            id: format!("c-{attempt}"),
            process: None,
            started_at: Timestamp::UNIX_EPOCH,
            ended: ended.then(|| Ended {
                at: Timestamp::UNIX_EPOCH,
                exit_code: 0,
                signal: None,
                reason: "Completed".into(),
                message: None,
            }),
            image: String::new(),
            image_id: String::new(),
            stop_signal: 15,
            log,
        }
    }

    fn pod_with(dir: &Path, runs: Vec<Run>) {
        let state = PodState {
            version: STATE_VERSION,
            pod: PodIdent { namespace: "n".into(), name: "p".into(), uid: "u".into() },
            shim: ProcessId { pid: 1, start_ticks: 0 },
            sandbox: None,
            generation: 0,
            notes: Default::default(),
            runs,
        };
        state.save(dir).expect("saved");
    }

    async fn text(dir: &Path, options: LogOptions) -> String {
        let stream = stream(dir, "p", "c", options).expect("there is a log");
        let parts: Vec<Bytes> = stream.map(|part| part.expect("readable")).collect().await;
        String::from_utf8(parts.concat()).expect("text")
    }

    #[tokio::test]
    async fn options_choose_lines_as_kubectl_does() {
        let dir = tempfile::tempdir().expect("temp");
        std::fs::write(dir.path().join("1.log"), LOG).expect("written");
        std::fs::write(dir.path().join("0.log"), LOG.replace("three", "before")).expect("written");
        pod_with(dir.path(), vec![run(dir.path(), 0, true), run(dir.path(), 1, true)]);
        let all = LogOptions::default;
        let since = "2026-01-01T00:00:03Z".parse().ok();
        for (options, expected) in [
            (all(), "one\ntwo\nthree\n"),
            (LogOptions { tail_lines: Some(2), ..all() }, "two\nthree\n"),
            (LogOptions { tail_lines: Some(0), ..all() }, ""),
            (LogOptions { since, timestamps: true, ..all() }, "2026-01-01T00:00:03.000000000Z three\n"),
            (LogOptions { limit_bytes: Some(5), ..all() }, "one\nt"),
            (LogOptions { previous: true, tail_lines: Some(1), ..all() }, "before\n"),
            (LogOptions { follow: true, ..all() }, "one\ntwo\nthree\n"),
        ] {
            assert_eq!(text(dir.path(), options).await, expected);
        }
    }

    #[tokio::test]
    async fn a_followed_log_goes_on_over_a_rotation_and_ends_with_the_container() {
        let dir = tempfile::tempdir().expect("temp");
        let path = dir.path().join("0.log");
        std::fs::write(&path, LOG).expect("written");
        pod_with(dir.path(), vec![run(dir.path(), 0, false)]);
        let options = LogOptions { follow: true, tail_lines: Some(1), ..LogOptions::default() };
        let mut stream = Box::pin(stream(dir.path(), "p", "c", options).expect("there is a log"));
        assert_eq!(stream.next().await.expect("some").expect("readable"), "three\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).expect("rotated");
        std::fs::write(&path, "2026-01-01T00:00:04.000000000Z stdout F four\n").expect("written");
        assert_eq!(stream.next().await.expect("some").expect("readable"), "four\n");
        pod_with(dir.path(), vec![run(dir.path(), 0, true)]);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_container_that_never_ran_has_no_log() {
        let dir = tempfile::tempdir().expect("temp");
        let error = stream(dir.path(), "p", "c", LogOptions::default()).err().expect("refused");
        assert_eq!(error.to_string(), "container \"c\" in pod \"p\" is waiting to start");
    }
}
