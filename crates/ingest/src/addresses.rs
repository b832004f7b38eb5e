//! Addresses and prefixes as old and new API servers wrote them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Complaints;

/// Reads an address; IPv4 octets may carry leading zeros and are decimal.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| without_leading_zeros(text)?.parse().ok())
}

/// Reads a prefix, with blanks around it and leading zeros forgiven; host bits are cleared.
pub(crate) fn prefix(text: &str) -> Option<IpNet> {
    let (addr, len) = text.trim().split_once('/')?;
    IpNet::new(address(addr)?, len.parse().ok()?).ok().map(|net| net.trunc())
}

/// Reads a list of addresses; each that cannot be read is left out with a complaint naming `field`.
pub(crate) fn addresses<'a>(
    texts: impl IntoIterator<Item = &'a String>,
    field: &str,
    complaints: &mut Complaints,
) -> Vec<IpAddr> {
    read_all(texts, field, complaints, address)
}

/// Reads a list of prefixes in the manner of [`addresses`].
pub(crate) fn prefixes<'a>(
    texts: impl IntoIterator<Item = &'a String>,
    field: &str,
    complaints: &mut Complaints,
) -> Vec<IpNet> {
    read_all(texts, field, complaints, prefix)
}

fn read_all<'a, T>(
    texts: impl IntoIterator<Item = &'a String>,
    field: &str,
    complaints: &mut Complaints,
    read: fn(&str) -> Option<T>,
) -> Vec<T> {
    let mut values = Vec::new();
    for text in texts {
        match read(text) {
            Some(value) => values.push(value),
            None => complaints
                .add("InvalidAddress", format!("{field}: {text:?} is not an address of this kind; it is left out")),
        }
    }
    values
}

fn without_leading_zeros(text: &str) -> Option<String> {
    let octets: Option<Vec<String>> = text
        .split('.')
        .map(|octet| {
            let digits = !octet.is_empty() && octet.bytes().all(|b| b.is_ascii_digit());
            digits
                .then(|| octet.trim_start_matches('0'))
                .map(|rest| if rest.is_empty() { "0" } else { rest }.to_owned())
        })
        .collect();
    octets.filter(|octets| octets.len() == 4).map(|octets| octets.join("."))
}
