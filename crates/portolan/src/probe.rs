//! `portolan probe`: one marked packet from where this program stands; `trace` runs it on a lab's host outside.
//!
//! Hidden: programs speak it, people use `trace`. Shapes: `portolan_story::evidence::Probe` in, `Probed` out.

use std::io::Read;

use portolan_story::evidence::Probe;

use crate::failure::Failure;

/// Longer than any probe.
const MAX_INPUT_BYTES: u64 = 1 << 16;

pub fn run() -> Result<(), Failure> {
    let mut text = String::new();
    let input = std::io::stdin().take(MAX_INPUT_BYTES).read_to_string(&mut text);
    input.map_err(|error| Failure::input(format!("cannot read a probe from standard input: {error}")))?;
    let probed = portolan_agent::trace::send_here(&read(&text)?).map_err(Failure::input)?;
    println!("{}", serde_json::to_string(&probed).expect("plain values have a JSON form"));
    Ok(())
}

fn read(text: &str) -> Result<Probe, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::input(format!("standard input is no probe: {error}; `portolan trace` writes them")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_is_read_as_trace_writes_it_and_anything_else_is_named() {
        let written = r#"{"pod":null,"to":{"address":"172.18.0.11:30080"},"proto":"Tcp",
            "flow":{"by":"sequence","number":7},"sourcePort":null,"patienceMs":1000}"#;
        let probe = read(written).map_err(|failure| failure.to_string()).expect("a probe");
        assert_eq!((probe.patience_ms, probe.families.len()), (1000, 0));
        let again = serde_json::to_string(&probe).expect("JSON");
        assert_eq!(read(&again).map_err(|failure| failure.to_string()), Ok(probe));
        let error = read("{}").expect_err("no probe").to_string();
        assert!(error.contains("missing field") && error.contains("portolan trace"), "{error}");
    }
}
