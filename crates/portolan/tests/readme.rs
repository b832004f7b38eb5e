//! The documentation says what is: its commands are run and print what it shows, its excerpts are in a real walk.
//!
//! What a fenced block holds, its info string says:
//!
//! * `console`: a shell session at the root of the repository, compared byte for byte;
//! * `console lab`: the same with a lab; compared by mask, as addresses and names differ from run to run;
//! * `text walk`: an excerpt of the walk, compared by mask; a line `…` stands for what is left out;
//! * `text walk: Step 4`: all that the walk prints below that heading, compared by mask; lines of one output in any order;
//! * `sh`: commands of which make's targets are looked up.
//!
//! `PORTOLAN_BLESS=1` writes into the pages what the commands of `console` blocks and the walk's headings print. Needs root,
//! as the walk does.

mod support;

#[path = "readme/mask.rs"]
mod mask;
#[path = "readme/recording.rs"]
mod recording;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use mask::mask;

/// Stands between the outputs of two commands.
const MARK: &str = "== portolan readme ==";
/// Ends what a session's commands left: a server, and a lab if the session broke off before its own `down`.
const FAREWELL: &str = "[ -z \"$!\" ] || { kill $!; wait $!; }; portolan down --all >/dev/null 2>&1; exit";

/// A fenced block of a page.
struct Block {
    page: PathBuf,
    /// What stands behind the opening fence.
    info: String,
    /// Line of the page that `lines` begins at, from 1.
    at: usize,
    lines: Vec<String>,
}

/// A command with the output that the page shows.
struct Shown {
    command: String,
    /// Line of the page where its output begins, from 1.
    at: usize,
    output: Vec<String>,
}

/// Everything written for users.
fn pages() -> Vec<PathBuf> {
    let root = support::root();
    let docs = fs::read_dir(root.join("docs")).expect("docs are there").flatten().map(|entry| entry.path());
    let mut pages: Vec<PathBuf> = docs.filter(|path| path.extension().is_some_and(|x| x == "md")).collect();
    pages.sort();
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"];
    top.iter().map(|name| root.join(name)).chain(pages).collect()
}

fn read(page: &Path) -> String {
    fs::read_to_string(page).unwrap_or_else(|e| panic!("cannot read {}: {e}", page.display()))
}

/// The blocks of all pages with this info string.
fn blocks(info: &str) -> Vec<Block> {
    blocks_with(|found| found == info, info)
}

/// The blocks whose info string is as `wanted` says, in words `what`.
fn blocks_with(wanted: impl Fn(&str) -> bool, what: &str) -> Vec<Block> {
    let all = pages().into_iter().flat_map(|page| fenced(&page));
    let found: Vec<Block> = all.filter(|block| wanted(&block.info)).collect();
    assert!(!found.is_empty(), "no page has a block ```{what}: this test would show nothing");
    found
}

fn fenced(page: &Path) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open = false;
    for (number, line) in read(page).lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(info), false) => {
                blocks.push(Block { page: page.to_owned(), info: info.to_owned(), at: number + 2, lines: Vec::new() });
                open = true;
            }
            (Some(_), true) => open = false,
            (None, true) => blocks.last_mut().expect("a block is open").lines.push(line.to_owned()),
            (None, false) => {}
        }
    }
    blocks
}

impl Block {
    fn commands(&self) -> Vec<Shown> {
        let mut shown: Vec<Shown> = Vec::new();
        for (number, line) in self.lines.iter().enumerate() {
            match (line.strip_prefix("$ "), shown.last_mut()) {
                (Some(command), _) => {
                    shown.push(Shown { command: command.to_owned(), at: self.at + number + 1, output: Vec::new() });
                }
                (None, Some(last)) => last.output.push(line.clone()),
                (None, None) => panic!("{}:{}: a block of commands begins with `$ `", self.page.display(), self.at),
            }
        }
        shown
    }
}

/// A shell that reads commands and prints what they say, errors too.
struct Session {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _home: tempfile::TempDir,
}

impl Session {
    /// A shell at the root of the repository, with `portolan` and Debian's programs on PATH.
    ///
    /// Its /run is its own and empty, so that a lab of the default name is nobody else's.
    fn start() -> Session {
        let home = tempfile::Builder::new().prefix("ptl-t-").tempdir().expect("a folder");
        let program = Path::new(env!("CARGO_BIN_EXE_portolan")).parent().expect("it is in a folder");
        let path = std::env::var("PATH").expect("PATH is set");
        let mut child = Command::new("unshare")
            .args(["--mount", "sh"])
            .env("PATH", format!("{}:{path}:{}", program.display(), support::deb_bin().display()))
            .env("PORTOLAN_DEB_BIN", support::deb_bin())
            .env("PORTOLAN_IMAGES", support::images())
            .env("PORTOLAN_LOG", "off")
            .env("HOME", home.path())
            .env_remove("KUBECONFIG")
            .current_dir(support::root())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is part of every Debian");
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut session = Session { child, input, output, _home: home };
        assert_eq!(session.say("exec 2>&1; mount -t tmpfs tmpfs /run"), Vec::<String>::new());
        session
    }

    /// Runs a command; one that ends in ` &` is a server, and this waits until it listens.
    fn say(&mut self, command: &str) -> Vec<String> {
        writeln!(self.input, "{command}\necho '{MARK}'").expect("the shell listens");
        let mut said = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("the shell speaks UTF-8");
            assert!(read > 0, "the shell ended at `{command}`, which said {said:?}");
            match line.trim_end_matches('\n').strip_suffix(MARK) {
                Some("") => break,
                Some(unfinished) => {
                    said.push(unfinished.to_owned());
                    break;
                }
                None => said.push(line.trim_end_matches('\n').to_owned()),
            }
        }
        if let Some(server) = command.strip_suffix(" &") {
            until_it_listens(server);
        }
        said
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The shell may have ended; then there is nothing to end.
        let _ = writeln!(self.input, "{FAREWELL}");
        let _ = self.child.wait();
    }
}

fn until_it_listens(server: &str) {
    let mut words = server.split_whitespace().skip_while(|word| *word != "--listen");
    let address: SocketAddr = words.nth(1).expect("a server has --listen").parse().expect("an address and a port");
    assert!(address.ip().is_loopback(), "{address}: documentation serves on loopback only");
    support::wait_for(&format!("{address} to listen"), 10, || TcpStream::connect(address).ok());
}

/// Runs a block's commands in order and compares what each prints, as `same` sees it.
fn holds(block: &Block, same: fn(&str) -> String) {
    let mut session = Session::start();
    let seen = |lines: &[String]| same(&lines.join("\n"));
    let mut printed = Vec::new();
    for shown in block.commands() {
        let said = session.say(&shown.command);
        if std::env::var_os("PORTOLAN_BLESS").is_none() {
            let page = block.page.display();
            assert_eq!(
                seen(&shown.output),
                seen(&said),
                "{page}:{}: left is what the page shows, right what `{}` prints",
                shown.at,
                shown.command
            );
        }
        printed.push(format!("$ {}", shown.command));
        printed.extend(said);
    }
    if std::env::var_os("PORTOLAN_BLESS").is_some() {
        bless(block, &printed);
    }
}

/// Writes what was printed into the page.
fn bless(block: &Block, printed: &[String]) {
    let text = read(&block.page);
    let old = fence(block, &block.lines);
    assert_eq!(text.matches(&old).count(), 1, "{}:{}: the block stands once", block.page.display(), block.at);
    fs::write(&block.page, text.replace(&old, &fence(block, printed))).expect("the page can be written");
}

fn fence(block: &Block, lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    format!("```{}\n{lines}```\n", block.info)
}

#[test]
fn commands_that_need_no_lab_print_what_the_pages_show() {
    blocks("console").iter().for_each(|block| holds(block, str::to_owned));
}

#[test]
fn commands_of_a_lab_print_what_the_pages_show() {
    let _turn = support::turn();
    support::ensure_nginx();
    blocks("console lab").iter().for_each(|block| holds(block, mask));
}

#[test]
fn what_the_pages_show_of_the_walk_is_what_a_walk_prints() {
    let text = whole_walk();
    let recordings = blocks_with(|info| recording::heading(info).is_some(), "text walk: HEADING");
    if std::env::var_os("PORTOLAN_BLESS").is_some() {
        return recordings.iter().for_each(|block| bless(block, &recording::of(block, &text)));
    }
    recordings.iter().for_each(|block| recording::holds(block, &text));
    let walk: Vec<&str> = text.lines().collect();
    let missing: Vec<String> = blocks("text walk").iter().flat_map(|excerpt| missing(excerpt, &walk)).collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// What a walk prints into a pipe; with Debian's kubectl, as others word some things otherwise.
fn whole_walk() -> String {
    let _turn = support::turn();
    let path = std::env::var("PATH").expect("PATH is set");
    let mut command = support::portolan();
    command.arg("walk").env("PATH", format!("{}:{path}", support::deb_bin().display()));
    let output = command.output().expect("the walk runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "the walk failed:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What of an excerpt is not in the walk, in its order.
fn missing(excerpt: &Block, walk: &[&str]) -> Vec<String> {
    let masked: Vec<String> = mask(&walk.join("\n")).lines().map(str::to_owned).collect();
    let parts = excerpt.lines.split(|line| line.trim() == "…").filter(|part| !part.is_empty());
    let mut from = 0;
    let mut complaints = Vec::new();
    for part in parts {
        let wanted: Vec<String> = mask(&part.join("\n")).lines().map(str::to_owned).collect();
        match masked[from..].windows(wanted.len()).position(|lines| lines == wanted) {
            Some(place) => from += place + wanted.len(),
            None => complaints.push(complaint(excerpt, part, &wanted, walk, &masked)),
        }
    }
    complaints
}

/// The part, and the lines of the walk that agree with it longest.
fn complaint(excerpt: &Block, part: &[String], wanted: &[String], walk: &[&str], masked: &[String]) -> String {
    let agree = |at: usize| masked[at..].iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let best = (0..masked.len()).rev().max_by_key(|at| agree(*at)).unwrap_or(0);
    let near = walk[best..].iter().take(part.len()).copied().collect::<Vec<_>>().join("\n");
    let page = excerpt.page.display();
    format!("{page}:{}: this is not in the walk:\n{}\nthe nearest there is:\n{near}\n", excerpt.at, part.join("\n"))
}

#[test]
fn the_make_targets_that_pages_name_exist() {
    let lines = blocks("sh").into_iter().flat_map(|block| block.lines);
    let targets: Vec<String> = lines.filter_map(|line| line.strip_prefix("make ").map(first_word)).collect();
    assert!(
        targets.iter().any(|t| t == "demo") && targets.iter().any(|t| t == "test"),
        "README names both: {targets:?}"
    );
    for target in targets {
        let dry = Command::new("make").args(["-n", &target]).current_dir(support::root()).output().expect("make runs");
        assert!(dry.status.success(), "make {target}: {}", String::from_utf8_lossy(&dry.stderr));
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

#[test]
fn links_of_the_pages_lead_to_files() {
    for page in pages() {
        let text = read(&page);
        let folder = page.parent().expect("a page is in a folder");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|t| !t.contains("://") && !t.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            assert!(folder.join(file).exists(), "{}: {target} leads nowhere", page.display());
        }
    }
}

#[test]
fn a_changed_line_of_an_excerpt_is_missed() {
    let excerpt = |lines: &[&str]| Block {
        page: "page".into(),
        info: "text walk".to_owned(),
        at: 1,
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
    };
    let walk = ["one 10.244.0.1", "two", "three", "four"];
    assert!(missing(&excerpt(&["one 10.244.0.9", "two", "…", "four"]), &walk).is_empty());
    assert_eq!(missing(&excerpt(&["one", "two"]), &walk).len(), 1);
    assert_eq!(missing(&excerpt(&["two", "four"]), &walk).len(), 1, "what is left out is said");
    assert_eq!(missing(&excerpt(&["four", "…", "two"]), &walk).len(), 1, "the order is the walk's");
}
