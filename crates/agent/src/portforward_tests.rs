use std::future::Future;
use std::net::TcpListener as StdListener;

use tokio::net::TcpListener;

use super::*;

/// A client of one session: what it sends, and what it is sent, by stream.
struct Client {
    to_server: mpsc::Sender<Bytes>,
    from_server: mpsc::Receiver<Bytes>,
    decoder: Decoder,
    got: HashMap<u32, Vec<u8>>,
    ended: Vec<u32>,
    resets: Vec<u32>,
}

/// This process's own network namespace stands in for a pod's.
fn begin() -> Client {
    let (to_server, mut incoming) = mpsc::channel::<Bytes>(4);
    let (outgoing, from_server) = mpsc::channel(4096);
    let pod = Pod { name: "n/p".to_owned(), netns: "/proc/self/ns/net".into() };
    let incoming = futures::stream::poll_fn(move |context| incoming.poll_recv(context));
    tokio::spawn(serve(incoming, outgoing, pod));
    let (got, ended, resets) = Default::default();
    Client { to_server, from_server, decoder: Decoder::new(), got, ended, resets }
}

/// A header block as a stored deflate block, without a dictionary; the session's first has zlib's header.
fn syn_stream(stream: u32, is_first: bool, headers: &[(&str, &str)]) -> Bytes {
    let mut block = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend((text.len() as u32).to_be_bytes());
        block.extend(text.bytes());
    }
    let mut payload = [stream.to_be_bytes(), [0; 4]].concat();
    payload.extend([0, 0]);
    payload.extend_from_slice(if is_first { &[0x78, 0x01] } else { &[] });
    payload.push(0);
    payload.extend((block.len() as u16).to_le_bytes());
    payload.extend((!(block.len() as u16)).to_le_bytes());
    payload.extend(block);
    let mut frame = 0x8003_0001_u32.to_be_bytes().to_vec();
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.into()
}

impl Client {
    async fn say(&self, frame: Bytes) {
        self.to_server.send(frame).await.expect("the session goes on");
    }

    /// Opens the streams `2·id + 1` (error) and `2·id + 3` (data) of request `id`, which is even.
    async fn open(&self, id: u32, port: &str) {
        let (error, data, text) = (2 * id + 1, 2 * id + 3, id.to_string());
        for (stream, kind) in [(error, "error"), (data, "data")] {
            let headers = [("streamtype", kind), ("port", port), ("requestid", &text)];
            self.say(syn_stream(stream, stream == 1, &headers)).await;
        }
    }

    /// Hears until this is so.
    async fn until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        while !holds(self) {
            let heard = tokio::time::timeout(Duration::from_secs(20), self.from_server.recv()).await;
            let bytes = heard.expect("an answer in time").expect("the session goes on");
            self.decoder.feed(&bytes);
            while let Some(frame) = self.decoder.next().expect("SPDY") {
                match frame {
                    Frame::Data { stream, bytes, fin } => {
                        self.got.entry(stream).or_default().extend(&bytes);
                        self.ended.extend(fin.then_some(stream));
                    }
                    Frame::Reset { stream } => self.resets.push(stream),
                    _ => {}
                }
            }
        }
    }

    fn text(&self, stream: u32) -> String {
        String::from_utf8_lossy(self.got.get(&stream).map_or(&[], Vec::as_slice)).into_owned()
    }
}

/// Answers each connection with what it was sent, after its end, in capitals.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut all = Vec::new();
                socket.read_to_end(&mut all).await.expect("reads");
                socket.write_all(&all.to_ascii_uppercase()).await.expect("writes");
            });
        }
    });
    port
}

fn on_runtime(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

#[test]
fn connections_side_by_side_keep_their_bytes_apart_and_half_close() {
    on_runtime(async {
        let port = echo().await.to_string();
        let mut client = begin();
        for id in [0, 2, 4] {
            client.open(id, &port).await;
        }
        for (id, text) in [(0, "one"), (2, "two"), (4, "three")] {
            client.say(spdy::data(2 * id + 3, text.as_bytes(), true)).await;
        }
        client.until(|client| client.ended.len() == 6).await;
        assert_eq!([3, 7, 11].map(|stream| client.text(stream)), ["ONE", "TWO", "THREE"]);
        assert_eq!([1, 5, 9].map(|stream| client.text(stream)), ["", "", ""], "no error");
    });
}

#[test]
fn a_port_nobody_listens_on_is_told_of_on_its_error_stream_and_the_session_goes_on() {
    on_runtime(async {
        let free = StdListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port();
        let mut client = begin();
        client.open(0, &free.to_string()).await;
        client.until(|client| client.ended.contains(&1) && client.ended.contains(&3)).await;
        let said = client.text(1);
        let expected =
            format!("error forwarding port {free} to pod n/p: cannot connect to 127.0.0.1:{free} in the pod: ");
        assert!(said.starts_with(&expected) && said.contains("onnection refused"), "{said}");
        client.open(2, &echo().await.to_string()).await;
        client.say(spdy::data(7, b"still there", true)).await;
        client.until(|client| client.ended.contains(&7)).await;
        assert_eq!(client.text(7), "STILL THERE");
    });
}

#[test]
fn a_reset_closes_the_pods_side_and_ends_the_error_stream() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port().to_string();
        let mut client = begin();
        client.open(0, &port).await;
        let (mut socket, _) = listener.accept().await.expect("a connection");
        client.say(spdy::reset(3, Reset::Refused)).await;
        assert_eq!(socket.read(&mut [0; 8]).await.expect("closed"), 0);
        // Kubectl waits for it before it lets go of the user's connection.
        client.until(|client| client.ended.contains(&1)).await;
    });
}

#[test]
fn what_a_pod_does_not_read_is_kept_to_a_bound_and_then_waits() {
    on_runtime(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port().to_string();
        let client = begin();
        client.open(0, &port).await;
        let (mut socket, _) = listener.accept().await.expect("a connection");
        const PIECES: usize = 64;
        let piece = spdy::data(3, &vec![7; 1 << 20], false);
        let mut taken = 0;
        // A slow machine ends this early and shows less; one that keeps all of it ends it late, and is found out.
        while taken < PIECES
            && tokio::time::timeout(Duration::from_secs(1), client.to_server.send(piece.clone())).await.is_ok()
        {
            taken += 1;
        }
        assert!(taken < PIECES / 2, "{taken} MiB are kept for a pod that reads nothing");
        tokio::spawn(async move {
            for _ in taken..PIECES {
                client.say(piece.clone()).await;
            }
            client.say(spdy::data(3, b"", true)).await;
            std::future::pending::<()>().await;
        });
        let mut count = 0;
        let mut buffer = vec![0; 1 << 16];
        while let length @ 1.. = socket.read(&mut buffer).await.expect("reads") {
            count += length;
        }
        assert_eq!(count, PIECES << 20);
    });
}

#[test]
fn streams_that_make_no_sense_are_reset_and_too_many_are_refused() {
    on_runtime(async {
        let mut client = begin();
        let port = [("port", "80")];
        for (at, headers) in [
            &[("streamtype", "data"), ("port", "http")][..],
            &[("streamtype", "data"), ("port", "0")],
            &[("streamtype", "side"), ("port", "80")],
            &port,
            &[("streamtype", "data")],
        ]
        .into_iter()
        .enumerate()
        {
            client.say(syn_stream(at as u32 * 2 + 1, at == 0, headers)).await;
        }
        client.until(|client| client.resets.len() == 5).await;
        assert_eq!(client.resets, [1, 3, 5, 7, 9]);
        for at in 0..=MAX_CONNECTIONS as u32 {
            let id = format!("r{at}");
            let headers = [("streamtype", "error"), ("port", "80"), ("requestid", &id)];
            client.say(syn_stream(101 + 2 * at, false, &headers)).await;
        }
        let last = 101 + 2 * MAX_CONNECTIONS as u32;
        client.until(|client| client.resets.contains(&last)).await;
        assert_eq!(client.resets.len(), 6, "only the one too many");
    });
}
