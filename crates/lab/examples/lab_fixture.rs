//! A program that can be a lab: the lab's hidden subcommands, with a toy server and a toy agent.
//!
//! For the tests of this crate. The toy agent starts one "pod": a sleeping process with a network
//! namespace of its own that belongs to the lab's init, as a real pod's sandbox does.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = portolan_lab::reexec(&args) {
        return code;
    }
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    match words.get(1).map(String::as_str) {
        Some("server") => serve(),
        Some("agent") => be_agent(&words),
        Some("toy-pod") => be_pod(),
        Some("resolve") => resolve(&words[2], &words[3]),
        Some("fetch") => fetch(&words[2]),
        Some("up-detached") => up_detached(&words[2]),
        Some("stop-node") => stop_node(&words[2], &words[3]),
        Some("shell") => shell(&words[2], &words[3], &words[4..]),
        other => {
            eprintln!("lab_fixture: {other:?} is not known");
            ExitCode::from(2)
        }
    }
}

/// Says hello to whoever connects to the machine's listener.
fn serve() -> ExitCode {
    if std::env::var_os("TOY_SERVER_FAILS").is_some() {
        eprintln!("toy server: told to fail");
        return ExitCode::FAILURE;
    }
    // SAFETY: the lab's init passes its listener at 3.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    for mut stream in listener.incoming().flatten() {
        let _ = stream.write_all(b"hello from the server");
    }
    ExitCode::SUCCESS
}

fn be_agent(words: &[String]) -> ExitCode {
    let pods = Path::new("/run/portolan/pods/uid-1");
    if !pods.exists() {
        fs::create_dir_all(pods).expect("the node's /run is writable");
        // The shell ends at once, so that the pod becomes the lab init's child.
        let exe = std::env::current_exe().expect("/proc is there");
        let line = format!("{} toy-pod & echo $!", exe.display());
        let output = Command::new("sh").args(["-c", &line]).stderr(std::process::Stdio::null()).output();
        let text = String::from_utf8(output.expect("sh is there").stdout).expect("a number");
        let pid: u32 = text.trim().parse().expect("a number");
        // Known only once it has its own network, as a real sandbox is.
        let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        while network(&pid.to_string()) == network("self") {
            std::thread::sleep(Duration::from_millis(1));
        }
        let state = format!(
            r#"{{"version":1,"pod":{{"namespace":"default","name":"toy","uid":"uid-1"}},"sandbox":{{"pid":{pid},"start_ticks":0}}}}"#
        );
        fs::write(pods.join("state.json"), state).expect("the node's /run is writable");
    }
    println!("toy agent: {}", words[1..].join(" "));
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn be_pod() -> ExitCode {
    // SAFETY: one thread. The shell that waits for our output must see it end.
    unsafe {
        libc::setsid();
        libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWUTS);
        libc::close(1);
    }
    let error = Command::new("sleep").arg("1000000").exec();
    eprintln!("toy pod: {error}");
    ExitCode::FAILURE
}

/// Prints the reply's code and its last four bytes, which are the address of an A record.
fn resolve(server: &str, name: &str) -> ExitCode {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a free port");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("not zero");
    socket.send_to(&message, (server, 53)).expect("a way there");
    let mut reply = [0; 512];
    let length = socket.recv(&mut reply).expect("an answer");
    let [a, b, c, d] = reply[length - 4..length] else { unreachable!("four bytes") };
    println!("code={} last={a}.{b}.{c}.{d}", reply[3] & 15);
    ExitCode::SUCCESS
}

/// Brings up a lab whose nodes will not become Ready for a long time.
fn up_detached(state_dir: &str) -> ExitCode {
    let exe = std::env::current_exe().expect("/proc is there");
    let images = Path::new(state_dir).with_file_name("images");
    let config = portolan_lab::LabConfig {
        state_dir: state_dir.into(),
        ready: portolan_lab::Ready::Nodes(Duration::from_secs(600)),
        ..portolan_lab::LabConfig::new("interrupted", 1, exe, images)
    };
    let outcome = portolan_lab::up(&config, portolan_lab::Attachment::Detached);
    eprintln!("{:?}", outcome.err());
    ExitCode::FAILURE
}

/// Ends a node of any lab, by its number.
fn stop_node(state_dir: &str, number: &str) -> ExitCode {
    let lab = portolan_lab::Lab::open(Path::new(state_dir)).expect("it is up");
    match lab.stop_node(number.parse().expect("a number")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command at a place of a lab with our own streams.
fn shell(state_dir: &str, place: &str, argv: &[String]) -> ExitCode {
    let lab = portolan_lab::Lab::open(Path::new(state_dir)).expect("it is up");
    let status = lab.run_in(&place.parse().expect("a place"), argv).expect("a program");
    ExitCode::from(status.code().map_or(128, |code| code as u8))
}

/// Prints what an HTTP server says.
fn fetch(address: &str) -> ExitCode {
    let mut stream = std::net::TcpStream::connect(address).expect("a way there");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("open");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    print!("{text}");
    ExitCode::SUCCESS
}
