//! Server-side apply as kubectl users meet it: owners, conflicts, force, and the way over from plain apply.

mod common;

use common::{Said, WEB, World, world};

fn apply(world: &World, more: &str, manifest: &str) -> Said {
    world.kubectl_in(&format!("apply --server-side {more} -f -"), manifest)
}

fn config(data: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: c }}\ndata: {data}\n")
}

#[test]
fn what_is_applied_is_made_kept_changed_and_given_up() {
    let world = world();
    assert_eq!(apply(&world, "", WEB).done(), "deployment.apps/web serverside-applied\n");
    assert_eq!(world.field("deploy/web --show-managed-fields", ".metadata.managedFields[*].manager"), "kubectl");
    let version = world.field("deploy/web", ".metadata.resourceVersion");
    apply(&world, "", WEB).done();
    assert_eq!(world.field("deploy/web", ".metadata.resourceVersion"), version, "twice is once");
    let less =
        WEB.replace(", labels: { app: web } }\nspec", " }\nspec").replace(", ports: [{ containerPort: 80 }]", "");
    apply(&world, "", &less).done();
    let object = world.json("deploy web");
    assert!(object["metadata"].get("labels").is_none(), "{}", object["metadata"]);
    let container = &object["spec"]["template"]["spec"]["containers"][0];
    assert!(container.get("ports").is_none() && container["imagePullPolicy"] == "Always", "{container}");
    assert!(!world.kubectl("get deploy web -o yaml").done().contains("managedFields"), "kubectl hides them");
    let wrong = apply(&world, "", &WEB.replace("replicas: 2", "replcas: 2")).refused();
    assert!(wrong.contains("unknown field \"spec.replcas\""), "{wrong}");
    let wrong = apply(&world, "", &WEB.replace("replicas: 2", "replicas: -2")).refused();
    assert!(wrong.contains("spec.replicas: Invalid value: -2"), "{wrong}");
    let nameless = apply(&world, "", &WEB.replace("name: nginx, ", "")).refused();
    assert!(nameless.contains("associative list with keys has an element that omits key field \"name\""), "{nameless}");
}

#[test]
fn managers_share_an_object_conflict_and_take_over() {
    let world = world();
    apply(&world, "--field-manager=ann", &config("{ a: one, b: one }")).done();
    apply(&world, "--field-manager=bob", &config("{ c: two }")).done();
    assert_eq!(world.field("cm/c", ".data"), r#"{"a":"one","b":"one","c":"two"}"#);
    let refused = apply(&world, "--field-manager=bob", &config("{ a: two }")).refused();
    let expected =
        "error: Apply failed with 1 conflict: conflict with \"ann\" using v1: .data.a\nPlease review the fields above";
    assert!(refused.contains(expected), "{refused}");
    assert_eq!(world.field("cm/c", ".data"), r#"{"a":"one","b":"one","c":"two"}"#, "nothing is changed");
    apply(&world, "--field-manager=bob --force-conflicts", &config("{ a: two }")).done();
    assert_eq!(world.field("cm/c", ".data"), r#"{"a":"two","b":"one"}"#, "bob gave c up");
    // A plain write takes what it changes.
    world.kubectl("patch cm c --type=merge -p {\"data\":{\"b\":\"three\"}}").done();
    let refused = apply(&world, "--field-manager=ann", &config("{ b: one }")).refused();
    assert!(refused.contains("conflict with \"kubectl-patch\" using v1 at 20"), "{refused}");
    let dry = apply(&world, "--field-manager=new --dry-run=server", &config("{ d: four }")).done();
    assert_eq!(dry, "configmap/c serverside-applied (server dry run)\n");
    assert_eq!(world.field("cm/c", ".data.d"), "");
}

#[test]
fn scale_and_status_have_owners_of_their_own() {
    let world = world();
    apply(&world, "", WEB).done();
    world.kubectl("scale deploy web --replicas=5").done();
    let refused = apply(&world, "", WEB).refused();
    assert!(
        refused.contains("with subresource \"scale\" using apps/v1") && refused.contains(".spec.replicas"),
        "{refused}"
    );
    apply(&world, "", &WEB.replace("  replicas: 2\n", "")).done();
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "5", "who says nothing leaves it to others");
    world.kubectl("patch deploy web --subresource=status --type=merge -p {\"status\":{\"replicas\":5}}").done();
    let entries = world.field("deploy/web --show-managed-fields", ".metadata.managedFields[*].subresource");
    assert_eq!(entries, "scale status");
}

#[test]
fn an_object_of_plain_apply_goes_over_and_a_diff_shows_what_would_be() {
    let world = world();
    world.kubectl_in("apply -f -", WEB).done();
    let changed = WEB.replace("replicas: 2", "replicas: 3");
    let diff = world.kubectl_in("diff --server-side -f -", &changed);
    assert!(!diff.ok && diff.out.contains("-  replicas: 2\n+  replicas: 3\n"), "{}{}", diff.out, diff.err);
    apply(&world, "", &changed).done();
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "3");
    apply(&world, "", &WEB.replace(", ports: [{ containerPort: 80 }]", "")).done();
    let container = &world.json("deploy web")["spec"]["template"]["spec"]["containers"][0];
    assert!(container.get("ports").is_none(), "what plain apply had set is given up as well: {container}");
    assert_eq!(
        world.kubectl_in("diff --server-side -f -", &WEB.replace(", ports: [{ containerPort: 80 }]", "")).done(),
        ""
    );
}
