//! Files made worse in seeded ways: a value or problems, never a panic, and not for long.

use std::time::Duration;

use super::super::*;
use super::kubeadm::KUBEADM;
use super::without_places;

const SEEDS: &[&str] = &[
    KUBEADM,
    "(s) {\n  errors\n  forward . {args[0]} {\n    except {$A:b}\n  }\n}\na.example:54, 10.0.0.0/9 {\n  import s 10.0.0.1\n  import f\n}\n",
    ". {\n  rewrite continue name regex ^(.*)\\.(a|b)\\.$ {1}.{2}.c answer name (.*) {1}.d\n  rewrite ttl a.example 3-\n  template IN A a.example {\n    match \"^(?P<x>[0-9]+)\\.\"\n    answer \"{{ .Name }} 60 IN A 10.0.0.{{ parseInt .Group.x 16 8 }}\"\n    authority \"a. IN SOA a. b. (1 2 3 4 5)\"\n  }\n}\n",
    "fd00::/9 .:54 {\n  acl {\n    block type ANY net 10.0.0.0/8\n  }\n  hosts /etc/hosts {\n    10.0.0.1 a.example\n  }\n  cache 30 {\n    prefetch 5 1m 10%\n    serve_stale 1h verify 5s\n  }\n  rrl {\n    window 3\n  }\n}\n",
];

/// Pieces that mean something to a reader.
const PIECES: &[&str] = &[
    "{",
    "}",
    "\"",
    "\\",
    "#",
    "\n",
    " ",
    "import ",
    "import s",
    "import f",
    "(s) {",
    "{$",
    "}",
    "{%A%}",
    "{args[0]}",
    ",",
    ":53",
    "://",
    "/1",
    "999999999999999999999",
    "-1",
    "0",
    "\u{0}",
    "\u{feff}",
    "é",
    "{{",
    "}}",
    "(",
    ")",
    "[",
    "*",
    "(?P<",
    ".{1000000}",
    "(a{900}){900}",
    "1h",
    "%",
    "::",
    "forward . ",
    "fallthrough",
    "tls://",
    "match ",
    "answer ",
    "rewrite name regex ",
    "type",
    "net",
];

/// Numbers without a pattern that matters here; the seed is all there is to them.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}

fn worse(text: &str, numbers: &mut Numbers) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=numbers.below(6) {
        let at = numbers.below(chars.len() + 1);
        let end = (at + numbers.below(12)).min(chars.len());
        match numbers.below(5) {
            0 => drop(chars.drain(at..end)),
            1 => {
                let copy: Vec<char> = chars[at..end].to_vec();
                let to = numbers.below(chars.len() + 1);
                chars.splice(to..to, copy);
            }
            2 => chars.truncate(at.max(1)),
            3 => {
                let other: Vec<char> = SEEDS[numbers.below(SEEDS.len())].chars().collect();
                let from = numbers.below(other.len());
                chars.splice(at..at, other[from..(from + 40).min(other.len())].iter().copied());
            }
            _ => drop(chars.splice(at..end, PIECES[numbers.below(PIECES.len())].chars())),
        }
    }
    chars.into_iter().collect()
}

/// Of the processor's time: however much else a machine does, a reader that is slow is slow by this.
const GENEROUS: Duration = Duration::from_secs(10);

/// The processor's time that this thread had so far (proc(5): `utime` and `stime`, in hundredths of a second).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("procfs");
    let (_, behind_name) = stat.rsplit_once(')').expect("the name stands in brackets");
    let ticks = behind_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number"));
    Duration::from_millis(ticks.sum::<u64>() * 10)
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let before = processor_time();
    let done = work();
    (processor_time() - before, done)
}

#[test]
fn no_file_ends_the_reader_or_holds_it_up() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut slowest = (Duration::ZERO, String::new());
    let mut right = 0;
    for round in 0..4_000 {
        let text = worse(SEEDS[round % SEEDS.len()], &mut numbers);
        let imported = worse(SEEDS[1], &mut numbers);
        let files = |name: &str| (name == "f").then(|| vec![("f".to_owned(), imported.clone())]);
        let variables = |name: &str| (name == "A").then(|| "{$A} \"".to_owned());
        let sources = Sources { files: &files, variables: &variables };
        let (took, found) = timed(|| read(&text, &sources));
        slowest = slowest.max((took, text.clone()));
        match found {
            Ok(corefile) => {
                right += 1;
                let printed = corefile.to_string();
                let again = read(&printed, &sources);
                let again =
                    again.unwrap_or_else(|found| panic!("{text}\nprints as\n{printed}\n{}", super::told(&found)));
                assert_eq!(without_places(corefile), without_places(again), "{text}\nprints as\n{printed}");
            }
            Err(problems) => assert!(!problems.is_empty() && problems.len() <= 100, "{text}"),
        }
    }
    assert!(right > 40, "only {right} of the files were right: most of the reader was not reached");
    assert!(slowest.0 < GENEROUS, "{:?} for\n{}", slowest.0, slowest.1);
}

#[test]
fn large_files_are_read_in_time_that_grows_with_their_size() {
    let blocks: String = (0..10_000).map(|n| format!("a{n}.example {{\n  loop\n}}\n")).collect();
    let heads: String = (0..20_000).map(|n| format!("a{n}.example ")).collect();
    let plugins: String = (0..20_000).map(|n| format!("plugin{n} x\n")).collect();
    let hosts: String = (0..20_000).map(|n| format!("10.0.{}.{} a{n}.example\n", n / 256, n % 256)).collect();
    let read_all = || {
        assert_eq!(super::whole(&blocks).blocks.len(), 10_000);
        assert_eq!(super::block(&format!("{heads} {{\n}}")).zones.len(), 20_000);
        assert_eq!(super::problems(&format!(". {{\n{plugins}}}")).lines().count(), 100);
        assert_eq!(super::block(&format!(". {{\nhosts {{\n{hosts}}}\n}}")).hosts.unwrap().inline.len(), 20_000);
    };
    let (took, ()) = timed(read_all);
    // Squares of these sizes would take minutes.
    assert!(took < 3 * GENEROUS, "{took:?}");
}
