use std::time::Duration;

use super::*;
use crate::image::HostImage;
use crate::image::documents::MEDIA_MANIFEST;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A registry that gives out one store's blobs, on loopback; `spoil` changes a byte of each blob.
async fn registry(store: Store, image: Image, spoil: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, store.clone(), image.clone(), spoil));
        }
    });
    address
}

async fn serve(stream: TcpStream, store: Store, image: Image, spoil: bool) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut path = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if path.is_empty() {
                path = line.split(' ').nth(1).expect("a request line").to_owned();
            }
            if line == "\r\n" {
                break;
            }
        }
        let (kind, body) = match path.rsplit_once('/').expect("a path") {
            ("/v2/library/cat/manifests", _) => {
                (MEDIA_MANIFEST, std::fs::read(store.blob(&image.digest)).expect("there"))
            }
            ("/v2/library/cat/blobs", digest) => {
                let mut body = std::fs::read(store.blob(digest)).expect("there");
                body[0] ^= u8::from(spoil);
                ("application/octet-stream", body)
            }
            _ => ("text/plain", Vec::new()),
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(&body).await.is_err() {
            return;
        }
    }
}

async fn pulled(spoil: bool) -> (Image, Result<Image, ImageError>) {
    let (here, there) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
    let origin = Store::open(there.path()).expect("opens");
    let spec = HostImage { name: "cat:1".into(), programs: vec!["/bin/cat".into()], ..HostImage::default() };
    let image = origin.build_from_host(&spec).expect("builds");
    let address = registry(origin, image.clone(), spoil).await;
    let options = PullOptions {
        mirrors: [("docker.io".to_owned(), address.clone())].into(),
        insecure: vec![address],
        ..PullOptions::default()
    };
    let store = Store::open(here.path()).expect("opens");
    let puller = StorePuller { store, options, broker: None };
    let result = puller.pull("cat:1", Vec::new()).await.inspect(|image| {
        assert!(image.rootfs.join("bin/cat").exists());
    });
    (image, result)
}

#[tokio::test]
async fn an_image_comes_from_its_mirror_with_the_same_digest() {
    let (image, result) = pulled(false).await;
    let fetched = result.expect("pulled");
    assert_eq!((fetched.digest, fetched.id), (image.digest, image.id));
}

#[tokio::test]
async fn a_spoiled_blob_is_refused() {
    let error = pulled(true).await.1.expect_err("refused").to_string();
    assert!(error.contains("digest"), "{error}");
}

#[tokio::test]
async fn without_a_registry_nobody_is_asked_and_the_message_says_what_to_do() {
    let dir = tempfile::tempdir().expect("temp");
    let store = Store::open(dir.path()).expect("opens");
    let puller = StorePuller { store, options: PullOptions::default(), broker: None };
    assert!(!puller.may_ask("nope:1"));
    let error = puller.pull("nope:1", Vec::new()).await.expect_err("not there").to_string();
    assert_eq!(
        error,
        "image \"nope:1\" is not in the store, and docker.io is no registry that may be asked: bring the image with \
         portolan image import|pull|build-from-host, or name the registry with --registry or --registry-mirror"
    );
}

#[test]
fn a_registry_is_asked_if_it_is_named_mirrored_insecure_or_any() {
    let named = |registries: &[&str], insecure: &[&str]| {
        let own = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        PullOptions {
            mirrors: [("docker.io".into(), "mirror:5000".into())].into(),
            registries: own(registries),
            insecure: own(insecure),
        }
    };
    for (options, registry, asked) in [
        (PullOptions::default(), "docker.io", None),
        (named(&[], &[]), "docker.io", Some("mirror:5000")),
        (named(&[], &[]), "quay.io", None),
        (named(&["quay.io"], &[]), "quay.io", Some("quay.io")),
        (named(&[ANY_REGISTRY], &[]), "quay.io", Some("quay.io")),
        (named(&[], &["127.0.0.1:5000"]), "127.0.0.1:5000", Some("127.0.0.1:5000")),
    ] {
        assert_eq!(options.source_of(registry), asked, "{options:?}");
    }
}

/// A broker over a fresh store, and a puller of another process's kind that shares the store.
fn brokered(
    dir: &std::path::Path,
    options: &PullOptions,
    idle: Duration,
) -> (StorePuller, JoinHandle<std::io::Result<()>>) {
    std::fs::create_dir_all(dir).expect("made");
    let socket = dir.join("pull.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("binds");
    let store = Store::open(&dir.join("store")).expect("opens");
    let served = tokio::spawn(broker::serve(listener, store.clone(), options.clone(), idle));
    (StorePuller { store, options: options.clone(), broker: Some(socket) }, served)
}

#[tokio::test]
async fn a_broker_fetches_what_it_may_tells_why_it_cannot_and_ends_when_nobody_asks() {
    let (dir, there) = (tempfile::tempdir().expect("temp"), tempfile::tempdir().expect("temp"));
    let origin = Store::open(there.path()).expect("opens");
    let spec = HostImage { name: "cat:1".into(), programs: vec!["/bin/cat".into()], ..HostImage::default() };
    let image = origin.build_from_host(&spec).expect("builds");
    let address = registry(origin, image.clone(), false).await;
    let options = PullOptions {
        mirrors: [("docker.io".to_owned(), address.clone())].into(),
        insecure: vec![address],
        ..PullOptions::default()
    };
    let (puller, served) = brokered(dir.path(), &options, Duration::from_secs(3600));
    let (one, two) = tokio::join!(puller.pull("cat:1", Vec::new()), puller.pull("cat:1", Vec::new()));
    assert_eq!((one.expect("pulled").digest, two.expect("pulled").digest), (image.digest.clone(), image.digest));
    // The asker allows more than the broker: the broker's word counts.
    let mut greedy = puller.clone();
    greedy.options.registries.push(ANY_REGISTRY.to_owned());
    let error = greedy.pull("quay.invalid/x:1", Vec::new()).await.expect_err("refused").to_string();
    assert!(error.contains("quay.invalid/x:1") && error.contains("--registry"), "{error}");
    served.abort();
    let (puller, served) = brokered(&dir.path().join("second"), &options, Duration::from_millis(50));
    served.await.expect("no panic").expect("it ends by itself");
    let error = puller.pull("cat:1", Vec::new()).await.expect_err("nobody there").to_string();
    assert!(error.contains("pull.sock"), "{error}");
}
