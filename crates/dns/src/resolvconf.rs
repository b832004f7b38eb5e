//! A node's `/etc/resolv.conf`: upstreams, search list, options.
//!
//! As the C library reads it: the last `search` or `domain` line wins, options add up, what is not understood is skipped.
//! Spec: resolv.conf(5).

use std::net::{IpAddr, SocketAddr};

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines, in order, without doubles.
    pub nameservers: Vec<IpAddr>,
    /// The last `search` (or `domain`) line.
    pub search: Vec<String>,
    /// All `options`, in order.
    pub options: Vec<String>,
}

/// Reads the file; also says, in one line each, what it skipped and why.
pub fn parse(text: &str) -> (ResolvConf, Vec<String>) {
    let mut conf = ResolvConf::default();
    let mut complaints = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words: Vec<&str> = words.take_while(|word| !word.starts_with(['#', ';'])).collect();
        if let Err(why) = take(&mut conf, keyword, &words) {
            complaints.push(format!("resolv.conf line {}: {why}", index + 1));
        }
    }
    (conf, complaints)
}

fn take(conf: &mut ResolvConf, keyword: &str, words: &[&str]) -> Result<(), String> {
    match keyword {
        "nameserver" => {
            let word = words.first().ok_or("nameserver without an address; skipped")?;
            let addr = word.parse().map_err(|_| format!("nameserver \"{word}\" is no IP address; skipped"))?;
            if !conf.nameservers.contains(&addr) {
                conf.nameservers.push(addr);
            }
        }
        "search" | "domain" => conf.search = words.iter().map(ToString::to_string).collect(),
        "options" => conf.options.extend(words.iter().map(ToString::to_string)),
        _ => {}
    }
    Ok(())
}

/// The addresses to forward to, port 53, without `own`, our own listeners: a query sent there would come back to us.
/// The second list names those that were left out.
pub fn upstreams(conf: &ResolvConf, own: &[IpAddr]) -> (Vec<SocketAddr>, Vec<String>) {
    let (loops, others): (Vec<IpAddr>, Vec<IpAddr>) = conf.nameservers.iter().partition(|addr| own.contains(addr));
    let complaints = loops.iter().map(|addr| {
        format!(
            "nameserver {addr} is this DNS server itself: queries would loop; not used, put the real upstream there"
        )
    });
    (others.into_iter().map(|addr| SocketAddr::new(addr, 53)).collect(), complaints.collect())
}
