//! Services over updates: what was allocated stays unless the type no longer wants it.

use serde_json::Value;

use crate::alloc::{service_type, wants_cluster_ip, wants_node_ports};
use crate::object::{child_mut, text};

/// Carries allocated values over when the client left them out, and drops those that belonged to the
/// old type and were not meant for the new one.
pub fn keep_allocated(old: &Value, new: &mut Value) {
    fill_in(old, new);
    drop_type_dependent(old, new);
}

fn fill_in(old: &Value, new: &mut Value) {
    if wants_cluster_ip(old) && wants_cluster_ip(new) {
        for member in ["clusterIP", "clusterIPs"] {
            let is_unset = new.pointer(&format!("/spec/{member}")).is_none_or(|value| value.is_null() || *value == "");
            if let (true, Some(value)) = (is_unset, old.pointer(&format!("/spec/{member}"))) {
                child_mut(new, "spec").insert(member.into(), value.clone());
            }
        }
    }
    if wants_node_ports(old) && wants_node_ports(new) {
        keep_node_ports(old, new);
    }
    for member in ["ipFamilies", "ipFamilyPolicy"] {
        let both_take = service_type(old) != "ExternalName" && service_type(new) != "ExternalName";
        if let (true, None, Some(value)) =
            (both_take, new.pointer(&format!("/spec/{member}")), old.pointer(&format!("/spec/{member}")))
        {
            child_mut(new, "spec").insert(member.into(), value.clone());
        }
    }
}

/// A port is the same port when protocol and number are.
fn keep_node_ports(old: &Value, new: &mut Value) {
    let identity = |port: &Value| {
        let protocol = port.get("protocol").and_then(Value::as_str).unwrap_or("TCP").to_owned();
        (protocol, port.get("port").and_then(Value::as_u64))
    };
    let number = |port: &Value| port.get("nodePort").and_then(Value::as_u64).filter(|number| *number != 0);
    let before = old.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
    let Some(ports) = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else { return };
    let mut used: Vec<u64> = ports.iter().filter_map(number).collect();
    for port in ports.iter_mut().filter(|port| number(port).is_none()) {
        let same = before.iter().find(|old| identity(old) == identity(port));
        if let Some(kept) = same.and_then(number).filter(|kept| !used.contains(kept)) {
            used.push(kept);
            port["nodePort"] = kept.into();
        }
    }
}

fn drop_type_dependent(old: &Value, new: &mut Value) {
    if service_type(old) == service_type(new) {
        return;
    }
    if !wants_node_ports(new) {
        let before = old.pointer("/spec/ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let ports = new.pointer_mut("/spec/ports").and_then(Value::as_array_mut);
        for port in ports.into_iter().flatten() {
            let unchanged = before.iter().any(|old| old.get("nodePort") == port.get("nodePort"));
            if let (true, Some(members)) = (unchanged, port.as_object_mut()) {
                members.remove("nodePort");
            }
        }
    }
    let is_name = service_type(new) == "ExternalName";
    let is_external = matches!(service_type(new), "NodePort" | "LoadBalancer");
    let same_ip = text(old, "/spec/clusterIP") == text(new, "/spec/clusterIP");
    let same_policy = text(old, "/spec/externalTrafficPolicy") == text(new, "/spec/externalTrafficPolicy");
    let balancer = service_type(new) == "LoadBalancer";
    let spec = child_mut(new, "spec");
    if is_name && same_ip {
        ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]
            .iter()
            .for_each(|member| drop(spec.remove(*member)));
    }
    if !is_external && same_policy {
        spec.remove("externalTrafficPolicy");
    }
    if !balancer {
        ["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"]
            .iter()
            .for_each(|member| drop(spec.remove(*member)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn allocated_values_survive_an_update_that_leaves_them_out() {
        let old = json!({ "spec": { "type": "NodePort", "clusterIP": "10.96.5.5", "clusterIPs": ["10.96.5.5"],
            "ports": [{ "port": 80, "protocol": "TCP", "nodePort": 30080 }] } });
        let mut new = json!({ "spec": { "type": "NodePort", "ports": [{ "port": 80 }, { "port": 81 }] } });
        keep_allocated(&old, &mut new);
        assert_eq!(new["spec"]["clusterIP"], "10.96.5.5");
        assert_eq!(new["spec"]["ports"], json!([{ "port": 80, "nodePort": 30080 }, { "port": 81 }]));
    }

    #[test]
    fn a_change_to_cluster_ip_drops_the_node_port_and_one_to_external_name_the_address() {
        let old = json!({ "spec": { "type": "NodePort", "clusterIP": "10.96.5.5", "clusterIPs": ["10.96.5.5"],
            "externalTrafficPolicy": "Cluster", "ports": [{ "port": 80, "nodePort": 30080 }] } });
        let mut cluster_ip = old.clone();
        cluster_ip["spec"]["type"] = "ClusterIP".into();
        keep_allocated(&old, &mut cluster_ip);
        assert_eq!(cluster_ip["spec"]["ports"], json!([{ "port": 80 }]));
        assert_eq!(cluster_ip["spec"]["clusterIP"], "10.96.5.5");
        assert!(cluster_ip["spec"].get("externalTrafficPolicy").is_none());
        let mut name = old.clone();
        name["spec"]["type"] = "ExternalName".into();
        keep_allocated(&old, &mut name);
        assert!(name["spec"].get("clusterIP").is_none());
    }
}
