//! A pod's link as the nameserver comes to know it: the kernel gives an index again when its link is gone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use portolan_dns::{Client, Transport};
use portolan_model::{Attachment, IfName, NsName};
use portolan_pods::resolv::ClusterDns;

use crate::dns;
use crate::dns_pods::DnsPods;
use crate::last_known::quiet_nameserver;

fn pod(name: &str) -> (NsName, Pod) {
    let mut pod = Pod::default();
    (pod.metadata.namespace, pod.metadata.name) = (Some("shop".into()), Some(name.into()));
    (NsName::new("shop", name), pod)
}

fn attachment(address: &str) -> Attachment {
    let addresses = vec![address.parse().expect("an address")];
    Attachment { link: IfName("cali1".into()), addresses, host_ports: Vec::new() }
}

/// Whose queries come by this link from this address.
async fn who(handle: &dns::Handle, link: u32, address: &str) -> Option<String> {
    handle.records().await.expect("it runs");
    let addr = (address.parse::<std::net::IpAddr>().expect("an address"), 40_000).into();
    let client = Client { addr, local: ([10, 96, 0, 10], 53).into(), transport: Transport::Udp, link };
    let site: Arc<portolan_dns::Site> = handle.site();
    site.pods().of(&client).map(|pod| pod.key.name.to_string())
}

#[tokio::test]
async fn a_link_is_the_pods_that_has_it_now_in_whatever_order_the_old_one_is_told_to_be_gone() {
    for old_goes_first in [true, false] {
        let handle = quiet_nameserver().await;
        let cluster = ClusterDns { servers: Vec::new(), domain: "cluster.local".to_owned() };
        let pods = DnsPods::new(handle.clone(), "/nowhere".into(), cluster);
        let ((old, of_old), (new, of_new)) = (pod("old"), pod("new"));
        pods.told(&of_old);
        pods.attached(&old, &attachment("10.244.0.5"), 7);
        assert_eq!(who(&handle, 7, "10.244.0.5").await.as_deref(), Some("old"));
        assert_eq!(who(&handle, 8, "10.244.0.6").await, None);
        pods.told(&of_new);
        if old_goes_first {
            pods.detached(&old);
            assert_eq!(who(&handle, 7, "10.244.0.5").await, None, "it has no link any more");
            pods.attached(&new, &attachment("10.244.0.6"), 7);
        } else {
            pods.attached(&new, &attachment("10.244.0.6"), 7);
            pods.detached(&old);
        }
        pods.forget(&old);
        assert_eq!(who(&handle, 7, "10.244.0.6").await.as_deref(), Some("new"), "{old_goes_first}");
        assert_eq!(who(&handle, 0, "10.244.0.5").await, None, "{old_goes_first}");
        pods.detached(&new);
        assert_eq!(who(&handle, 7, "10.244.0.6").await, None, "{old_goes_first}");
    }
}
