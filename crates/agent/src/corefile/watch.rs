//! The watch of the two ConfigMaps: just these objects, each told whole before anything is decided.

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc::UnboundedSender;
use tracing::warn;

use super::maps::{Data, Maps};
use crate::source::Pause;

const NAMESPACE: &str = "kube-system";
pub(super) const MAIN: &str = "coredns";
const CUSTOM: &str = "coredns-custom";

/// A ConfigMap as it is now.
#[derive(Debug)]
pub(super) struct News {
    name: &'static str,
    /// `None`: there is none.
    object: Option<(Data, String)>,
}

/// What was told so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    maps: Maps,
    uid: Option<String>,
    told: [bool; 2],
}

impl Seen {
    pub(super) fn take(&mut self, News { name, object }: News) {
        let (data, uid) = object.unzip();
        if name == MAIN {
            (self.maps.main, self.uid, self.told[0]) = (data, uid, true);
        } else {
            (self.maps.custom, self.told[1]) = (data, true);
        }
    }

    /// Once both were told.
    pub(super) fn whole(&self) -> Option<&Maps> {
        (self.told == [true; 2]).then_some(&self.maps)
    }

    /// Of `coredns`.
    pub(super) fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }
}

/// Follows both until the process ends.
pub(super) fn start(client: &Client, told: &UnboundedSender<News>) {
    for name in [MAIN, CUSTOM] {
        tokio::spawn(follow(client.clone(), name, told.clone()));
    }
}

async fn follow(client: Client, name: &'static str, told: UnboundedSender<News>) {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}")).streaming_lists();
    let maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let mut stream = watcher(maps, config).backoff(Pause::default()).boxed();
    // Whoever hears may have ended with the process.
    let tell = |object| drop(told.send(News { name, object }));
    let mut listed = None;
    while let Some(event) = stream.next().await {
        match event {
            Ok(watcher::Event::Init) => listed = None,
            Ok(watcher::Event::InitApply(object)) => listed = Some(content(object)),
            Ok(watcher::Event::InitDone) => tell(listed.take()),
            Ok(watcher::Event::Apply(object)) => tell(Some(content(object))),
            Ok(watcher::Event::Delete(_)) => tell(None),
            Err(error) => warn!(name, %error, "the watch of a ConfigMap broke; it starts again"),
        }
    }
}

fn content(object: ConfigMap) -> (Data, String) {
    (object.data.unwrap_or_default(), object.metadata.uid.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(name: &'static str, corefile: Option<&str>) -> News {
        let data = |text: &str| Data::from([("Corefile".to_owned(), text.to_owned())]);
        News { name, object: corefile.map(|text| (data(text), format!("uid of {text}"))) }
    }

    #[test]
    fn both_maps_are_waited_for_and_each_change_or_end_of_either_is_seen() {
        let mut seen = Seen::default();
        seen.take(news(MAIN, Some("a")));
        assert_eq!(seen.whole(), None, "what it imports is not known yet");
        seen.take(news(CUSTOM, None));
        let text = |data: &Option<Data>| data.as_ref().map(|data| data["Corefile"].clone()).unwrap_or_default();
        let said =
            |seen: &Seen| seen.whole().map(|maps| (text(&maps.main), text(&maps.custom))).expect("both were told");
        assert_eq!(said(&seen), ("a".into(), String::new()));
        seen.take(news(CUSTOM, Some("c")));
        assert_eq!(said(&seen), ("a".into(), "c".into()));
        assert_eq!(seen.uid(), Some("uid of a"), "Events are about the one that everybody knows");
        seen.take(news(MAIN, Some("b")));
        assert_eq!((said(&seen), seen.uid()), (("b".into(), "c".into()), Some("uid of b")));
        seen.take(news(CUSTOM, None));
        seen.take(news(MAIN, None));
        assert_eq!((said(&seen), seen.uid()), ((String::new(), String::new()), None));
        assert!(!seen.whole().expect("both").is_there());
    }
}
