//! The pipe's words and the lock. What a guard does to a node is shown in a lab.

use super::role::{Heard, hear};
use super::*;

fn some_orders(lock: PathBuf) -> Orders {
    Orders {
        lock,
        patience_ms: 1,
        addresses: vec!["10.96.0.10".parse().expect("IPv4")],
        iptables: vec![Family::V4],
        restore: dns_left::iptables(),
        batches: Vec::new(),
    }
}

fn heard(words: &str) -> Word {
    let orders = some_orders("/nowhere".into());
    let text = serde_json::to_string(&orders).expect("JSON") + "\n" + words;
    let Heard { orders: read, last } = hear(text.as_bytes()).expect("orders");
    assert_eq!(read, orders);
    last
}

#[test]
fn the_last_word_before_the_pipe_breaks_counts() {
    assert_eq!(heard(""), Word::Others, "an agent that died before it knew");
    assert_eq!(heard("others\nalone\n"), Word::Alone);
    assert_eq!(heard("alone\nothers\n"), Word::Others);
    assert_eq!(heard("dismissed\nothers\n"), Word::Dismissed, "nothing is waited for after that");
    for word in [Word::Others, Word::Alone, Word::Dismissed] {
        assert_eq!(heard(word.line()), word);
    }
}

#[test]
fn what_is_no_order_is_refused_with_a_word_of_who_writes_them() {
    let error = hear("{}\n".as_bytes()).expect_err("no orders");
    assert!(error.contains("missing field") && error.contains("an agent starts guards"), "{error}");
    assert!(hear("".as_bytes()).is_err());
}

#[test]
fn the_lock_is_one_agents_and_free_when_it_is_gone() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join(LOCK);
    let first = take_lock(&path).expect("nobody has it");
    let other = File::options().write(true).open(&path).expect("it is there");
    assert!(matches!(other.try_lock(), Err(TryLockError::WouldBlock)));
    drop(first);
    assert!(other.try_lock().is_ok());
}
