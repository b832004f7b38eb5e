//! Verbs that change what runs: rollouts and their history, drains, waits, watches; the real kubectl, real pods.
//!
//! What kubectl's verbs print where no node takes part is the API server's own test (`verbs`).

mod support;

use std::io::{BufRead, BufReader};

use support::{Space, wait_for};

fn space(name: &'static str) -> Space {
    support::world("t-comfort").space(name)
}

#[track_caller]
fn says(space: Space, args: &str, expected: &str) {
    let said = space.kubectl(args);
    assert!(said.ok() && said.out.contains(expected), "kubectl {args}\n{}{}\nexpected: {expected}", said.out, said.err);
}

#[track_caller]
fn refuses(space: Space, args: &str, expected: &str) {
    let said = space.kubectl(args).refused(1);
    assert!(said.contains(expected), "kubectl {args}\n{said}\nexpected: {expected}");
}

/// Changes the template and waits until the change runs.
#[track_caller]
fn roll(space: Space, change: &str) {
    space.kubectl(change).done();
    says(space, "rollout status deploy/web --timeout=60s", "deployment \"web\" successfully rolled out");
}

/// Revision and change cause of each line of the history.
#[track_caller]
fn history(space: Space) -> Vec<(u32, String)> {
    let text = space.kubectl("rollout history deploy/web").done();
    let mut lines = text.lines();
    assert_eq!(lines.next().map(str::trim), Some("deployment.apps/web"), "{text}");
    assert_eq!(lines.next(), Some("REVISION  CHANGE-CAUSE"), "{text}");
    let line = |line: &str| {
        let (revision, cause) = line.split_once(' ').expect("two columns");
        (revision.parse().expect("a number"), cause.trim().to_owned())
    };
    lines.filter(|text| !text.is_empty()).map(line).collect()
}

/// What the running pods have in `COLOUR`, each value once.
fn colours(space: Space) -> Vec<String> {
    let names = space.kubectl("get pods -l app=web --field-selector=status.phase=Running -o name").done();
    let mut seen: Vec<String> =
        names.lines().map(|pod| space.exec(pod, &["sh", "-c", "echo $COLOUR"]).out.trim().to_owned()).collect();
    seen.sort();
    seen.dedup();
    seen
}

#[test]
fn a_rollout_has_a_history_and_goes_back_in_it() {
    let space = space("history");
    space.deployment("web", 2);
    roll(space, "set env deploy/web COLOUR=blue");
    space.kubectl_words(&["annotate", "deploy/web", "kubernetes.io/change-cause=painted blue"]).done();
    wait_for("the cause in the history", 20, || {
        (history(space) == [(1, "<none>".into()), (2, "painted blue".into())]).then_some(())
    });
    roll(space, "set env deploy/web COLOUR=red");
    assert_eq!(history(space).len(), 3);
    let second = space.kubectl("rollout history deploy/web --revision=2").done();
    assert!(second.contains("deployment.apps/web with revision #2") && second.contains("COLOUR:\tblue"), "{second}");
    refuses(space, "rollout history deploy/web --revision=9", "unable to find the specified revision");

    says(space, "rollout undo deploy/web", "deployment.apps/web rolled back");
    says(space, "rollout status deploy/web --timeout=60s", "successfully rolled out");
    let revisions: Vec<u32> = history(space).into_iter().map(|(revision, _)| revision).collect();
    assert_eq!(revisions, [1, 3, 4], "revision 2 runs again and is called 4");
    wait_for("blue pods alone", 20, || (colours(space) == ["blue"]).then_some(()));
    roll(space, "rollout undo deploy/web --to-revision=1");
    let revisions: Vec<u32> = history(space).into_iter().map(|(revision, _)| revision).collect();
    assert_eq!(revisions, [3, 4, 5]);
    refuses(
        space,
        "rollout undo deploy/web --to-revision=99",
        "error: unable to find specified revision 99 in history",
    );
    says(
        space,
        "rollout undo deploy/web --to-revision=5",
        "skipped rollback (current template already matches revision 5)",
    );
    let sets = space.kubectl("get rs --no-headers").done();
    assert_eq!(sets.lines().count(), 3, "each template keeps its one ReplicaSet: {sets}");
}

#[test]
fn a_paused_deployment_gathers_changes_and_a_restart_makes_new_pods_of_the_same() {
    let space = space("paused");
    space.deployment("web", 2);
    says(space, "rollout pause deploy/web", "deployment.apps/web paused");
    refuses(space, "rollout pause deploy/web", "is already paused");
    space.kubectl("set env deploy/web COLOUR=green").done();
    space.kubectl("set resources deploy/web --requests=cpu=10m").done();
    refuses(space, "rollout undo deploy/web", "error: no rollout history found for deployment \"web\"");
    refuses(space, "rollout restart deploy/web", "can't restart paused deployment (run rollout resume first)");
    says(
        space,
        "wait --for=jsonpath={.status.conditions[?(@.type==\"Progressing\")].reason}=DeploymentPaused deploy/web --timeout=20s",
        "condition met",
    );
    assert_eq!(space.kubectl("get rs -o name").done().lines().count(), 1, "nothing has rolled");
    roll(space, "rollout resume deploy/web");
    assert_eq!(history(space).len(), 2, "two changes, one revision");
    wait_for("green pods alone", 20, || (colours(space) == ["green"]).then_some(()));
    refuses(space, "rollout resume deploy/web", "is not paused");
    space.kubectl("rollout pause deploy/web").done();
    refuses(space, "rollout undo deploy/web", "error: you cannot rollback a paused deployment; resume it first");
    space.kubectl("rollout resume deploy/web").done();

    let before = space.kubectl("get pods -l app=web -o name").done();
    roll(space, "rollout restart deploy/web");
    let pods = wait_for("two pods", 30, || {
        let names = space.kubectl("get pods -l app=web -o name").done();
        (names.lines().count() == 2).then_some(names)
    });
    assert!(pods.lines().all(|pod| !before.contains(pod)), "{before}{pods}");
    assert_eq!(history(space).len(), 3);
}

#[test]
fn a_rollout_that_cannot_end_is_called_late_keeps_serving_and_is_undone() {
    let space = space("stuck");
    space.deployment("web", 2);
    space.kubectl("patch deploy web -p {\"spec\":{\"progressDeadlineSeconds\":3}}").done();
    space.kubectl("set image deploy/web nginx=nosuch.invalid/image:1").done();
    refuses(
        space,
        "rollout status deploy/web --timeout=60s",
        "error: deployment \"web\" exceeded its progress deadline",
    );
    says(space, "wait --for=condition=Progressing=false deploy/web --timeout=10s", "condition met");
    let reason = space.field("deploy/web", ".status.conditions[?(@.type==\"Progressing\")].reason");
    assert_eq!(reason, "ProgressDeadlineExceeded");
    assert_eq!(space.field("deploy/web", ".status.readyReplicas"), "2", "the old pods stay");
    wait_for("the pod's trouble", 30, || space.kubectl("get pods").done().contains("Image").then_some(()));
    refuses(
        space,
        "wait --for=condition=Ready pod -l app=web --timeout=1s",
        "timed out waiting for the condition on pods/web-",
    );
    roll(space, "rollout undo deploy/web");
    assert_eq!(space.field("deploy/web", ".spec.template.spec.containers[0].image"), "nginx:latest");
}

#[test]
fn a_drained_node_gives_its_pods_away_and_takes_new_ones_when_it_is_back() {
    let space = space("drained");
    space.deployment("moved", 2);
    let on = |node: &str| {
        let list = format!("get pods -l app=moved --field-selector=spec.nodeName={node} -o name");
        space.kubectl(&list).done().lines().count()
    };
    // A pod of nobody, with the label by which the drain chooses: other tests use the node meanwhile.
    space.pod("moved", "node-1", "", ", terminationGracePeriodSeconds: 0");
    space.ready("moved");
    let chosen = "--pod-selector=app=moved --ignore-daemonsets --delete-emptydir-data --timeout=60s";
    refuses(space, &format!("drain node-1 {chosen}"), "cannot delete Pods that declare no controller");
    let said = space.kubectl(&format!("drain node-1 --force {chosen}"));
    assert!(said.out.contains("node/node-1 drained"), "{}{}", said.out, said.err);
    assert_eq!(on("node-1"), 0);
    says(space, "rollout status deploy/moved --timeout=60s", "successfully rolled out");
    assert_eq!(on("node-2"), 2);
    let line = space.kubectl("get node node-1 --no-headers").done();
    assert!(line.contains("Ready,SchedulingDisabled"), "{line}");
    says(space, "uncordon node-1", "node/node-1 uncordoned");
    space.kubectl("scale deploy moved --replicas=4").done();
    says(space, "rollout status deploy/moved --timeout=60s", "successfully rolled out");
    assert!(on("node-1") > 0, "it takes pods again");
}

#[test]
fn run_waits_and_watches_follow_a_pod_from_its_start_to_its_end() {
    let space = space("run");
    let mut watch = space.world.kubectl_command();
    watch.args(["-n", space.name, "get", "pods", "-w", "--no-headers"]);
    let mut watch = watch.spawn().expect("kubectl starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    says(
        space,
        "run once --image=nginx:latest --restart=Never --env=A=said --command -- sh -c echo${IFS}$A",
        "pod/once created",
    );
    says(space, "wait --for=jsonpath={.status.phase}=Succeeded pod/once --timeout=40s", "pod/once condition met");
    assert_eq!(space.kubectl("logs once").done(), "said\n");
    let line = space.kubectl("get pod once --no-headers").done();
    assert!(line.contains("Completed"), "{line}");
    loop {
        let line = lines.next().expect("the watch goes on").expect("text");
        assert!(line.starts_with("once "), "{line}");
        if line.contains("Completed") {
            break;
        }
    }
    watch.kill().expect("it runs");
    watch.wait().expect("reaped");
    let told = space.kubectl("events --for pod/once").done();
    for reason in ["Scheduled", "Started"] {
        assert!(told.contains(reason), "{told}");
    }
    space.kubectl("run box --image=nginx:latest").done();
    space.ready("box");
    let replaced = space.world.kubectl_in(
        &format!("-n {} replace --force -f -", space.name),
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"box","labels":{"second":"yes"}},"spec":{"containers":[{"name":"box","image":"nginx:latest"}]}}"#,
    );
    assert_eq!(replaced.done(), "pod \"box\" deleted\npod/box replaced\n");
    says(space, "wait --for=condition=Ready pod -l second --timeout=40s", "pod/box condition met");
}

#[test]
fn what_is_applied_by_the_server_runs_and_controllers_own_what_they_write() {
    let space = space("owned");
    let manifest = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: web }\nspec:\n  \
         selector: { matchLabels: { app: web } }\n  template:\n    metadata: { labels: { app: web } }\n    \
         spec: { containers: [{ name: nginx, image: \"nginx:latest\" }] }\n";
    let apply = format!("-n {} apply --server-side -f -", space.name);
    assert_eq!(space.world.kubectl_in(&apply, manifest).done(), "deployment.apps/web serverside-applied\n");
    says(space, "rollout status deploy/web --timeout=60s", "successfully rolled out");
    let owners = || space.field("deploy/web --show-managed-fields", ".metadata.managedFields[*].manager");
    assert_eq!(owners(), "kubectl kube-controller-manager kube-controller-manager", "of its annotation, of its status");
    space.kubectl("scale deploy web --replicas=2").done();
    says(space, "rollout status deploy/web --timeout=60s", "successfully rolled out");
    // Nobody wants a conflict over what the manifest does not say.
    space.world.kubectl_in(&apply, manifest).done();
    assert_eq!(space.field("deploy/web", ".status.readyReplicas"), "2");
}
