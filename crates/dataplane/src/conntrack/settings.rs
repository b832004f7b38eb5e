//! What conntrack is to be set to, as values: who writes them, and whether, is others' affair.

use std::time::Duration;

/// Settings of conntrack, with kube-proxy's defaults (`KubeProxyConfiguration.conntrack`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConntrackSettings {
    /// Entries per core; 0 leaves the table's size alone.
    pub max_per_core: u32,
    /// Least size of the table, whatever the cores; counts only with `max_per_core`.
    pub min: u32,
    /// How long an idle TCP connection is known; zero leaves it alone.
    pub tcp_established_timeout: Duration,
    /// How long one half closed is; zero leaves it alone.
    pub tcp_close_wait_timeout: Duration,
    /// How long an unanswered UDP flow is known; zero leaves it alone.
    pub udp_timeout: Duration,
    /// How long an answered one is; zero leaves it alone.
    pub udp_stream_timeout: Duration,
    /// TCP segments out of the window count as part of the connection.
    pub tcp_be_liberal: bool,
}

impl Default for ConntrackSettings {
    fn default() -> Self {
        Self {
            max_per_core: 32_768,
            min: 131_072,
            tcp_established_timeout: Duration::from_secs(24 * 3600),
            tcp_close_wait_timeout: Duration::from_secs(3600),
            udp_timeout: Duration::ZERO,
            udp_stream_timeout: Duration::ZERO,
            tcp_be_liberal: false,
        }
    }
}

/// Whose setting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Of one network namespace: the node's own.
    Namespace,
    /// Of the whole machine: to be written on a real node only, and only where it is asked for.
    Machine,
}

/// One setting and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// As sysctl(8) names it; the hash's size is a module's parameter and named by its path.
    pub key: &'static str,
    /// What to write.
    pub value: u64,
    /// Whose it is.
    pub scope: Scope,
    /// Written only where the value found is less: the hash table never shrinks.
    pub only_raise: bool,
}

impl ConntrackSettings {
    /// The settings to make on a machine of so many cores.
    pub fn plan(&self, cores: u32) -> Vec<Sysctl> {
        let mut plan = Vec::new();
        if self.max_per_core > 0 {
            let max = (u64::from(self.max_per_core) * u64::from(cores)).max(u64::from(self.min));
            plan.push(machine("net.netfilter.nf_conntrack_max", max));
            let buckets =
                Sysctl { only_raise: true, ..machine("/sys/module/nf_conntrack/parameters/hashsize", max / 4) };
            plan.push(buckets);
        }
        let timeouts = [
            ("net.netfilter.nf_conntrack_tcp_timeout_established", self.tcp_established_timeout),
            ("net.netfilter.nf_conntrack_tcp_timeout_close_wait", self.tcp_close_wait_timeout),
            ("net.netfilter.nf_conntrack_udp_timeout", self.udp_timeout),
            ("net.netfilter.nf_conntrack_udp_timeout_stream", self.udp_stream_timeout),
        ];
        let set = timeouts.into_iter().filter(|(_, value)| value.as_secs() > 0);
        plan.extend(set.map(|(key, value)| namespace(key, value.as_secs())));
        if self.tcp_be_liberal {
            plan.push(namespace("net.netfilter.nf_conntrack_tcp_be_liberal", 1));
        }
        plan
    }
}

fn machine(key: &'static str, value: u64) -> Sysctl {
    Sysctl { key, value, scope: Scope::Machine, only_raise: false }
}

fn namespace(key: &'static str, value: u64) -> Sysctl {
    Sysctl { key, value, scope: Scope::Namespace, only_raise: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(settings: &ConntrackSettings, cores: u32) -> Vec<String> {
        let line = |s: &Sysctl| format!("{:?} {} {}", s.scope, s.key.rsplit(['.', '/']).next().unwrap_or(""), s.value);
        settings.plan(cores).iter().map(line).collect()
    }

    #[test]
    fn the_defaults_are_kube_proxys() {
        let expected = [
            "Machine nf_conntrack_max 131072",
            "Machine hashsize 32768",
            "Namespace nf_conntrack_tcp_timeout_established 86400",
            "Namespace nf_conntrack_tcp_timeout_close_wait 3600",
        ];
        assert_eq!(lines(&ConntrackSettings::default(), 2), expected);
        let big = lines(&ConntrackSettings::default(), 64);
        assert_eq!(big[..2], ["Machine nf_conntrack_max 2097152", "Machine hashsize 524288"]);
    }

    #[test]
    fn what_is_zero_is_left_alone_and_the_rest_is_written_when_asked() {
        let settings = ConntrackSettings {
            max_per_core: 0,
            tcp_established_timeout: Duration::ZERO,
            tcp_close_wait_timeout: Duration::ZERO,
            udp_timeout: Duration::from_secs(30),
            udp_stream_timeout: Duration::from_secs(120),
            tcp_be_liberal: true,
            ..ConntrackSettings::default()
        };
        let expected = [
            "Namespace nf_conntrack_udp_timeout 30",
            "Namespace nf_conntrack_udp_timeout_stream 120",
            "Namespace nf_conntrack_tcp_be_liberal 1",
        ];
        assert_eq!(lines(&settings, 8), expected);
    }
}
