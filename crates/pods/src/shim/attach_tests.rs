use std::io::{PipeReader, PipeWriter, pipe};

use super::*;

const RUN: &str = "c-0";

/// What a user holds: the way to the container, and what comes from it.
struct Ends {
    stdin: PipeWriter,
    stdout: PipeReader,
}

fn joined(attachments: &mut Attachments, client: u64, with_stdin: bool) -> Ends {
    let (theirs, stdin) = pipe().expect("a pipe");
    let (stdout, out) = pipe().expect("a pipe");
    let (_, err) = pipe().expect("a pipe");
    attachments.attach(client, RUN, [theirs.into(), out.into(), err.into()], with_stdin).expect("attached");
    Ends { stdin, stdout }
}

/// A container that keeps its input open; the far end of that.
fn container(attachments: &mut Attachments, plan: StdioPlan) -> PipeReader {
    let (reader, writer) = pipe().expect("a pipe");
    let file = File::from(OwnedFd::from(writer));
    set_nonblocking(file.as_fd()).expect("set");
    attachments.keep_input(RUN, file, plan);
    reader
}

const OPEN: StdioPlan = StdioPlan { stdin: true, stdin_once: false, tty: false };
const ONCE: StdioPlan = StdioPlan { stdin_once: true, ..OPEN };

/// More than a pipe holds.
fn much() -> Vec<u8> {
    (0..400_000_u32).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_user_who_is_slow_holds_the_output_and_misses_nothing() {
    let mut attachments = Attachments::default();
    let mut ends = joined(&mut attachments, 1, false);
    attachments.output(RUN, Output::Stdout, &much());
    assert!(attachments.is_held(RUN) && !attachments.is_held("other-0"));
    attachments.end(RUN);
    assert_eq!(attachments.finished(Instant::now()), [0_u64; 0], "there is still something to take");
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        ends.stdout.read_to_end(&mut all).expect("read");
        all
    });
    let mut done = Vec::new();
    while done.is_empty() {
        attachments.ready(Place::UserOutput(1));
        done = attachments.finished(Instant::now());
    }
    assert_eq!(done, [1]);
    assert!(reading.join().expect("reads") == much());
}

#[test]
fn a_user_who_takes_nothing_is_let_go_in_the_end() {
    let mut attachments = Attachments::default();
    let _ends = joined(&mut attachments, 1, false);
    let now = Instant::now();
    assert_eq!(attachments.patience(now), None);
    attachments.output(RUN, Output::Stdout, &much());
    assert!(attachments.patience(now).is_some_and(|wait| wait > PATIENCE / 2));
    assert!(attachments.finished(now + PATIENCE / 2).is_empty());
    assert_eq!(attachments.finished(Instant::now() + PATIENCE), [1]);
    assert!(!attachments.is_held(RUN), "the container goes on");
}

#[test]
fn input_arrives_whole_and_ends_once_where_it_is_wanted_once() {
    let mut attachments = Attachments::default();
    let mut reader = container(&mut attachments, ONCE);
    let ends = joined(&mut attachments, 1, true);
    let mut stdin = ends.stdin;
    let writing = std::thread::spawn(move || stdin.write_all(&much()));
    let reading = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("read");
        all
    });
    // As the shim's poll, which names more than this.
    while !reading.is_finished() {
        let places: Vec<Place> = attachments.watched().into_iter().map(|(place, ..)| place).collect();
        places.into_iter().for_each(|place| attachments.ready(place));
    }
    writing.join().expect("writes").expect("written");
    assert!(reading.join().expect("reads") == much());
    assert!(attachments.finished(Instant::now()).is_empty(), "its output is waited for");
    attachments.end(RUN);
    assert_eq!(attachments.finished(Instant::now()), [1]);
}

#[test]
fn leaving_a_container_that_keeps_its_input_open_lets_the_user_go_and_others_in() {
    let mut attachments = Attachments::default();
    let mut reader = container(&mut attachments, OPEN);
    let first = joined(&mut attachments, 1, true);
    drop(first.stdin);
    attachments.ready(Place::UserStdin(1));
    assert_eq!(attachments.finished(Instant::now()), [1]);
    let mut second = joined(&mut attachments, 2, true);
    second.stdin.write_all(b"here").expect("written");
    attachments.ready(Place::UserStdin(2));
    let mut got = [0; 4];
    reader.read_exact(&mut got).expect("read");
    assert_eq!(&got, b"here");
    // One whose connection breaks is gone without a word, and so is what he would have been told.
    attachments.forget(2);
    attachments.output(RUN, Output::Stdout, b"to nobody");
    let mut rest = String::new();
    second.stdout.read_to_string(&mut rest).expect("read");
    assert_eq!(rest, "");
}

#[test]
fn a_container_without_input_takes_none() {
    let mut attachments = Attachments::default();
    let mut ends = joined(&mut attachments, 1, true);
    assert_eq!(ends.stdin.write(b"x").expect_err("nobody reads").kind(), io::ErrorKind::BrokenPipe);
}
