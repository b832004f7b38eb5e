//! TCP sockets of a network namespace, as `/proc/PID/net/tcp` and `tcp6` list them.
//!
//! A line is `sl local remote st tx_queue:rx_queue …`, numbers in hexadecimal. Of a listening socket rx_queue is the
//! number of connections that wait to be accepted; of others tx_queue is what the peer has not acknowledged, FIN included.
//! Source: proc_pid_net(5), Linux net/ipv4/tcp_ipv4.c (`get_tcp4_sock`).

use std::io;

const SYN_RECV: u8 = 0x03;
const FIN_WAIT1: u8 = 0x04;
const LAST_ACK: u8 = 0x09;
const LISTEN: u8 = 0x0A;
const CLOSING: u8 = 0x0B;

/// One socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    state: u8,
    tx_queue: u32,
    rx_queue: u32,
}

impl Socket {
    /// A connection the kernel has taken and the program has not: it would be reset if the program stopped listening.
    pub(crate) fn waits_for_accept(&self) -> bool {
        self.state == SYN_RECV || self.state == LISTEN && self.rx_queue > 0
    }

    /// Closed by its program, and the peer has not got everything.
    pub(crate) fn is_orphan_with_data(&self) -> bool {
        matches!(self.state, FIN_WAIT1 | LAST_ACK | CLOSING) && self.tx_queue > 0
    }
}

/// The sockets of the network namespace that a process is in; an error if it has ended.
pub(crate) fn of_process(pid: i32) -> io::Result<Vec<Socket>> {
    let mut sockets = parse(&std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?);
    // A kernel without IPv6 has no such file.
    let v6 = std::fs::read_to_string(format!("/proc/{pid}/net/tcp6")).unwrap_or_default();
    sockets.extend(parse(&v6));
    Ok(sockets)
}

fn parse(text: &str) -> Vec<Socket> {
    text.lines().skip(1).filter_map(line).collect()
}

fn line(line: &str) -> Option<Socket> {
    let mut words = line.split_ascii_whitespace().skip(3);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let (tx, rx) = words.next()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    Some(Socket { state, tx_queue: number(tx)?, rx_queue: number(rx)? })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::*;

    const TABLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0200F40A:0050 0300F40A:8F1A 04 00001F40:00000000 01:00000014 00000000     0        0 0 1 0 20 4 30 10 -1
   2: 0200F40A:0050 0300F40A:8F1C 06 00000000:00000000 03:00001770 00000000     0        0 0 3 0
broken
";

    #[test]
    fn a_table_tells_who_waits_and_what_is_not_taken() {
        let sockets = parse(TABLE);
        let waits: Vec<bool> = sockets.iter().map(Socket::waits_for_accept).collect();
        let orphans: Vec<bool> = sockets.iter().map(Socket::is_orphan_with_data).collect();
        assert_eq!((waits, orphans), (vec![true, false, false], vec![false, true, false]));
    }

    /// In a namespace of its own, so that no other socket shows.
    fn alone<T: Send>(look: impl FnOnce(i32) -> T + Send) -> T {
        let run = || {
            // SAFETY: takes no pointers; this thread ends with the closure.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "a network namespace; this needs root");
            loopback_up();
            // SAFETY: a number of this thread, which is the one in the namespace.
            look(unsafe { libc::gettid() })
        };
        std::thread::scope(|scope| scope.spawn(run).join().expect("it ran"))
    }

    fn loopback_up() {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket to ask by");
        // SAFETY: an ifreq of zeroes is a valid one; the name fits and the kernel writes no more than an ifreq.
        unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_name[0] = b'l' as libc::c_char;
            request.ifr_name[1] = b'o' as libc::c_char;
            request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
            let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
            assert_eq!(libc::ioctl(fd, libc::SIOCSIFFLAGS, &request), 0, "lo goes up");
        }
    }

    fn wait_for(what: &str, look: impl Fn() -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !look() {
            assert!(Instant::now() < until, "waited in vain for: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn the_kernel_shows_an_unaccepted_connection_and_data_of_a_closed_one() {
        alone(|tid| {
            let any = |is: fn(&Socket) -> bool| of_process(tid).expect("our own").iter().any(is);
            let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
            let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("the kernel takes it");
            wait_for("a connection in the queue", || any(Socket::waits_for_accept));
            let (mut server, _) = listener.accept().expect("accepted");
            assert!(!any(Socket::waits_for_accept), "accepted");
            server.set_nonblocking(true).expect("set");
            // More than the client's buffer takes while it does not read.
            let mut sent = 0;
            while let Ok(more) = server.write(&[7; 65536]) {
                sent += more;
            }
            drop(server);
            assert!(any(Socket::is_orphan_with_data), "{sent} bytes are on their way");
            let mut got = vec![0; sent];
            client.read_exact(&mut got).expect("all of it");
            wait_for("everything to be taken", || !any(Socket::is_orphan_with_data));
        });
    }
}
