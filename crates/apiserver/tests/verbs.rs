//! kubectl's verbs that need no node: what each prints when it works, and what it prints when it must not.

mod common;

use common::{WEB, World, command, kubectl_with, world};

fn with_web() -> World {
    let world = world();
    world.kubectl_in("create -f -", WEB).done();
    world
}

#[track_caller]
fn says(world: &World, args: &str, expected: &str) {
    let said = world.kubectl(args);
    assert!(said.ok && said.out.contains(expected), "kubectl {args}\n{}{}\nexpected: {expected}", said.out, said.err);
}

#[track_caller]
fn refuses(world: &World, args: &str, expected: &str) {
    let said = world.kubectl(args).refused();
    assert!(said.contains(expected), "kubectl {args}\n{said}\nexpected: {expected}");
}

#[test]
fn a_patch_of_each_kind_changes_what_it_names() {
    let world = with_web();
    let strategic = r#"{"spec":{"template":{"spec":{"containers":[{"name":"nginx","env":[{"name":"A","value":"1"}]},{"name":"side","image":"nginx:1"}]}}}}"#;
    says(&world, &format!("patch deploy web -p {strategic}"), "deployment.apps/web patched");
    let containers = ".spec.template.spec.containers[*]";
    // Merged by name: the image stays, the new container comes first, as the patch has it last in no order list.
    let mut names: Vec<String> =
        world.field("deploy/web", &format!("{containers}.name")).split(' ').map(str::to_owned).collect();
    names.sort();
    assert_eq!(names, ["nginx", "side"]);
    assert!(world.field("deploy/web", &format!("{containers}.image")).contains("nginx:latest"));
    says(&world, &format!("patch deploy web -p {strategic}"), "deployment.apps/web patched (no change)");
    // A JSON merge patch replaces lists whole.
    let merge = r#"{"spec":{"replicas":4,"template":{"spec":{"containers":[{"name":"only","image":"nginx:2"}]}}}}"#;
    says(&world, &format!("patch deploy web --type=merge -p {merge}"), "patched");
    assert_eq!(world.field("deploy/web", &format!("{containers}.name")), "only");
    let steps =
        r#"[{"op":"test","path":"/spec/replicas","value":4},{"op":"replace","path":"/spec/replicas","value":5}]"#;
    says(&world, &format!("patch deploy web --type=json -p {steps}"), "patched");
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "5");
    says(&world, r#"patch deploy web --subresource=scale --type=merge -p {"spec":{"replicas":1}}"#, "patched");
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "1");
}

#[test]
fn a_wrong_patch_is_refused_in_kubernetes_words_and_changes_nothing() {
    let world = with_web();
    let before = world.field("deploy/web", ".metadata.resourceVersion");
    for (patch, expected) in [
        (
            r#"-p {"spec":{"replicas":"three"}}"#,
            r#"The request is invalid: patch: Invalid value: "{\"spec\":{\"replicas\":\"three\"}}": json: cannot unmarshal string"#,
        ),
        (r#"--type=merge -p {"spec":{"replicas":"three"}}"#, "of type int32"),
        (
            r#"-p {"spec":{"replicas":-1}}"#,
            r#"The Deployment "web" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"#,
        ),
        (r#"-p {"spec":{"selector":{"matchLabels":{"app":"db"}}}}"#, "field is immutable"),
        (
            r#"--type=json -p [{"op":"test","path":"/spec/replicas","value":9}]"#,
            "The request is invalid: the server rejected our request due to an error in our request",
        ),
        (r#"--type=json -p [{"op":"remove","path":"/spec/nothing"}]"#, "the server rejected our request"),
        (
            r#"-p {"metadata":{"resourceVersion":"1"}}"#,
            "Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your changes to the latest version and try again",
        ),
        (r#"-p {"metadata":{"name":"other"}}"#, "does not match"),
        (
            r#"-p {"spec":{"template":{"spec":{"containers":[{"image":"x"}]}}}}"#,
            "does not contain declared merge key: name",
        ),
    ] {
        refuses(&world, &format!("patch deploy web {patch}"), expected);
    }
    let said = world.kubectl(r#"patch deploy web -p {"spec":{"replcas":3}}"#);
    assert_eq!(said.err, "Warning: unknown field \"spec.replcas\"\n");
    assert_eq!(said.done(), "deployment.apps/web patched (no change)\n");
    refuses(&world, r#"patch deploy nobody -p {}"#, "deployments.apps \"nobody\" not found");
    assert_eq!(world.field("deploy/web", ".metadata.resourceVersion"), before);
}

#[test]
fn labels_and_annotations_are_set_changed_and_taken_away() {
    let world = with_web();
    for (what, past) in [("label", "labeled"), ("annotate", "annotated")] {
        let kept = if what == "label" { ".metadata.labels" } else { ".metadata.annotations" };
        says(&world, &format!("{what} deploy web tier=front"), &format!("deployment.apps/web {past}"));
        refuses(&world, &format!("{what} deploy web tier=back"), "--overwrite is false");
        says(&world, &format!("{what} deploy web tier=back --overwrite"), past);
        assert_eq!(world.field("deploy/web", &format!("{kept}.tier")), "back");
        world.kubectl(&format!("{what} deploy web tier-")).done();
        assert_eq!(world.field("deploy/web", &format!("{kept}.tier")), "");
    }
    world.kubectl("create cm a --from-literal=x=1").done();
    world.kubectl("create cm b --from-literal=x=1").done();
    says(&world, "label cm --all set=both", "configmap/a labeled\nconfigmap/b labeled\n");
    assert_eq!(world.kubectl("get cm -l set=both -o name").done(), "configmap/a\nconfigmap/b\n");
    refuses(&world, "label cm a tier=-bad-", "a valid label must be an empty string or consist of");
    refuses(&world, "label cm a bad%20key=x", "name part must consist of alphanumeric characters");
}

fn edit(world: &World, what: &str, script: &str) -> common::Said {
    let mut command = command(&world.kubeconfig, world.dir.path());
    command
        .env("KUBE_EDITOR", format!("sed -i {script}"))
        .env("TMPDIR", world.dir.path())
        .args(["edit"])
        .args(what.split(' '));
    command.output().expect("kubectl runs").into()
}

#[test]
fn edit_sends_what_the_editor_changed() {
    let world = with_web();
    assert_eq!(edit(&world, "deploy web", "s/replicas:.2/replicas:\\ 7/").done(), "deployment.apps/web edited\n");
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "7");
    let nothing = edit(&world, "deploy web", "s/no-such-text//");
    assert!(nothing.ok && nothing.err.contains("Edit cancelled, no changes made."), "{}", nothing.err);
    // kubectl opens the editor again with the complaint on top; one that changes nothing then ends it.
    let wrong = edit(&world, "deploy web", "s/replicas:.7/replicas:\\ -7/").refused();
    assert!(wrong.contains("error: deployments.apps \"web\" is invalid"), "{wrong}");
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "7");
    assert!(edit(&world, "deploy nobody", "s/a/b/").refused().contains("deployments.apps \"nobody\" not found"));
}

#[test]
fn replace_puts_a_whole_object_in_the_place_of_the_old_one() {
    let world = with_web();
    let said = world.kubectl_in("replace -f -", &WEB.replace("replicas: 2", "replicas: 6")).done();
    assert_eq!(said, "deployment.apps/web replaced\n");
    assert_eq!(world.field("deploy/web", ".spec.replicas"), "6");
    let uid = world.field("deploy/web", ".metadata.uid");
    let mut stale = world.json("deploy web");
    world.kubectl("label deploy web x=y").done();
    stale["spec"]["replicas"] = 9.into();
    let refused = world.kubectl_in("replace -f -", &stale.to_string()).refused();
    let expected = "Error from server (Conflict): error when replacing \"STDIN\": Operation cannot be fulfilled on deployments.apps \"web\": the object has been modified; please apply your changes to the latest version and try again";
    assert!(refused.contains(expected), "{refused}");
    let refused = world.kubectl_in("replace -f -", &WEB.replace("name: web", "name: other")).refused();
    assert!(refused.contains("deployments.apps \"other\" not found"), "{refused}");
    let forced = world.kubectl_in("replace --force -f -", WEB).done();
    assert_eq!(forced, "deployment.apps \"web\" deleted\ndeployment.apps/web replaced\n");
    assert_ne!(world.field("deploy/web", ".metadata.uid"), uid, "it is another object");
}

#[test]
fn diff_and_dry_runs_show_what_would_be_and_change_nothing() {
    let world = world();
    let said = world.kubectl_in("diff -f -", WEB);
    assert!(!said.ok && said.out.contains("+  name: web"), "{}{}", said.out, said.err);
    world.kubectl_in("apply -f -", WEB).done();
    assert_eq!(world.kubectl_in("diff -f -", WEB).done(), "");
    let changed = WEB.replace("replicas: 2", "replicas: 3");
    let said = world.kubectl_in("diff -f -", &changed);
    assert!(!said.ok && said.out.contains("-  replicas: 2\n+  replicas: 3\n"), "{}{}", said.out, said.err);
    let before = world.field("deploy/web", ".metadata.resourceVersion");
    for command in ["apply", "replace"] {
        let said =
            world.kubectl_in(&format!("{command} --dry-run=server -o jsonpath={{.spec.replicas}} -f -"), &changed);
        assert_eq!(said.done(), "3", "{command}");
    }
    says(&world, "scale deploy web --replicas=9 --dry-run=server", "scaled (server dry run)");
    says(&world, "delete deploy web --dry-run=server", "deleted (server dry run)");
    says(&world, "create cm c --from-literal=a=1 --dry-run=server", "configmap/c created (server dry run)");
    says(&world, "run box --image=nginx --dry-run=server -o name", "pod/box");
    refuses(&world, "run Box --image=nginx --dry-run=server", "metadata.name: Invalid value: \"Box\"");
    let drawn = world.kubectl("run box --image=nginx --labels=a=b --port=80 --dry-run=client -o yaml").done();
    assert!(drawn.contains("containerPort: 80"), "{drawn}");
    assert_eq!(world.field("deploy/web", ".metadata.resourceVersion"), before);
    assert_eq!(world.kubectl("get cm,pods -o name").done(), "", "nothing was made");
}

#[test]
fn set_changes_images_environment_and_resources_of_a_template() {
    let world = with_web();
    says(&world, "set image deploy/web nginx=nginx:1.27", "deployment.apps/web image updated");
    refuses(&world, "set image deploy/web nosuch=nginx:1", "error: unable to find container named \"nosuch\"");
    says(&world, "set env deploy/web COLOUR=blue", "deployment.apps/web env updated");
    says(&world, "set env deploy/web --list", "COLOUR=blue");
    says(&world, "set resources deploy/web --limits=cpu=200m,memory=64Mi", "resource requirements updated");
    let container = &world.json("deploy web")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "nginx:1.27");
    assert_eq!(container["env"][0]["value"], "blue");
    assert_eq!(container["resources"]["limits"]["memory"], "64Mi");
    refuses(&world, "set resources deploy/web --limits=cpu=much", "quantities must match the regular expression");
    world.kubectl("set env deploy/web COLOUR-").done();
    assert_eq!(world.field("deploy/web", ".spec.template.spec.containers[0].env"), "");
    world.kubectl("create service clusterip web --tcp=80").done();
    says(&world, "set selector svc web app=other", "selector updated");
    assert_eq!(world.field("svc/web", ".spec.selector.app"), "other");
}

#[test]
fn wait_ends_when_it_is_so_and_says_when_it_is_not() {
    let world = with_web();
    std::thread::scope(|scope| {
        let waits = [
            "--for=condition=Available deploy/web",
            "--for=jsonpath={.status.readyReplicas}=2 deploy/web",
            "--for=jsonpath={.status.readyReplicas} deploy/web",
        ];
        let waiting = waits.map(|what| {
            scope.spawn({
                let world = &world;
                move || world.kubectl(&format!("wait {what} --timeout=30s"))
            })
        });
        let status =
            r#"{"status":{"replicas":2,"readyReplicas":2,"conditions":[{"type":"Available","status":"True"}]}}"#;
        says(&world, &format!("patch deploy web --subresource=status --type=merge -p {status}"), "patched");
        for wait in waiting {
            assert_eq!(wait.join().expect("it ends").done(), "deployment.apps/web condition met\n");
        }
    });
    let timed_out = "error: timed out waiting for the condition on deployments/web";
    refuses(&world, "wait --for=condition=Progressing deploy/web --timeout=1s", timed_out);
    refuses(&world, "wait --for=jsonpath={.status.readyReplicas}=9 deploy/web --timeout=1s", timed_out);
    refuses(&world, "wait --for=delete deploy/web --timeout=1s", timed_out);
    refuses(&world, "wait --for=condition=Available deploy/nobody --timeout=1s", "not found");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.kubectl("wait --for=delete deploy/web --timeout=30s"));
        says(&world, "delete deploy web", "deployment.apps \"web\" deleted");
        waiting.join().expect("it ends").done();
    });
}

#[test]
fn get_gives_every_form_and_every_choice() {
    let world = with_web();
    world.kubectl("create ns other").done();
    for (name, namespace) in [("one", "default"), ("two", "default"), ("three", "other")] {
        world.kubectl(&format!("create cm {name} -n {namespace} --from-literal=a={name}")).done();
        world.kubectl(&format!("label cm {name} -n {namespace} length=l{}", name.len())).done();
    }
    for (args, expected) in [
        ("get cm -o name", "configmap/one\nconfigmap/two\n"),
        ("get cm one -o jsonpath={.data.a}", "one"),
        ("get cm -o jsonpath={.items[*].metadata.name}", "one two"),
        ("get cm -o custom-columns=N:.metadata.name,A:.data.a", "N     A\none   one\ntwo   two\n"),
        ("get cm -A -l length=l5 -o jsonpath={.items[*].metadata.name}", "three"),
        (
            "get cm -A -l length -o custom-columns=N:.metadata.name --sort-by=.metadata.name --no-headers",
            "one\nthree\ntwo\n",
        ),
        ("get cm --field-selector metadata.name!=one -o name", "configmap/two\n"),
        ("get cm,deploy -o name", "configmap/one\nconfigmap/two\ndeployment.apps/web\n"),
        ("get cm one -o go-template={{.kind}}", "ConfigMap"),
        ("get --raw /api/v1/namespaces/default/configmaps?limit=1&fieldSelector=metadata.name=two", "\"name\":\"two\""),
    ] {
        says(&world, args, expected);
    }
    let sorted = world.kubectl("get cm --sort-by={.metadata.name} --show-labels").done();
    let lines: Vec<_> = sorted.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(lines[0] == "NAME DATA AGE LABELS" && lines[1].ends_with("length=l3"), "{sorted}");
    let label = world.kubectl("get cm one -L length --no-headers").done();
    assert!(label.trim_end().ends_with("l3"), "{label}");
    refuses(&world, "get cm --field-selector data.a=one", "field label not supported: data.a");
    refuses(&world, "get cm -l a=b=c", "unable to parse requirement");
    refuses(&world, "get nosuch", "error: the server doesn't have a resource type \"nosuch\"");
    refuses(&world, "get cm one nobody", "configmaps \"nobody\" not found");
    says(&world, "describe cm one", "Name:         one");
}

#[test]
fn events_are_one_store_under_two_groups() {
    let world = world();
    let old = r#"{"apiVersion":"v1","kind":"Event","metadata":{"generateName":"box.","namespace":"default"},
        "involvedObject":{"apiVersion":"v1","kind":"Pod","name":"box","namespace":"default"},"reason":"Started","message":"it runs",
        "type":"Normal","count":3,"lastTimestamp":"2026-01-01T00:00:00Z","source":{"component":"agent"}}"#;
    let made = world.kubectl_in("create -f - -o name", old).done();
    assert!(made.starts_with("event/box."), "a name may end in a dot before its five letters: {made}");
    let new = r#"{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"name":"box.new","namespace":"default"},
        "regarding":{"apiVersion":"v1","kind":"Pod","name":"box","namespace":"default"},"reason":"Stopped","note":"it ends","action":"Stop",
        "type":"Warning","eventTime":"2026-01-01T00:00:00.000000Z","reportingController":"test","reportingInstance":"t"}"#;
    world.kubectl_in("create -f -", new).done();
    assert_eq!(world.field("event/box.new", ".message"), "it ends");
    assert_eq!(world.field("events.events.k8s.io/box.new", ".note"), "it ends");
    assert_eq!(world.field("events.events.k8s.io", ".items[*].regarding.name"), "box box");
    assert_eq!(world.field("events.v1.events.k8s.io", ".items[0].apiVersion"), "events.k8s.io/v1");
    let chosen = "get events.events.k8s.io --field-selector regarding.name=box,reason=Started -o jsonpath={.items[*].deprecatedCount}";
    says(&world, chosen, "3");
    says(
        &world,
        "get events --field-selector involvedObject.name=box,type=Warning -o jsonpath={.items[*].reason}",
        "Stopped",
    );
    let listed = world.kubectl("events --for pod/box").done();
    assert!(listed.contains("Pod/box") && listed.contains("it runs") && listed.contains("it ends"), "{listed}");
    let table = world.kubectl("get events.events.k8s.io").done();
    assert!(table.contains("pod/box") && table.contains("Stopped"), "{table}");
    says(&world, "patch events.events.k8s.io box.new --type=merge -p {\"note\":\"ended\"}", "patched");
    assert_eq!(world.field("event/box.new", ".message"), "ended");
    let wrong = world.kubectl_in("create -f -", &new.replace("box.new", "box.bad").replace("\"action\":\"Stop\",", ""));
    assert!(wrong.refused().contains("action: Required value"));
    let wrong = world.kubectl_in("create -f -", &new.replace("\"note\":\"it ends\"", "\"message\":\"x\"")).refused();
    assert!(wrong.contains("unknown field \"message\""), "{wrong}");
    world.kubectl("delete events.events.k8s.io box.new").done();
    refuses(&world, "get event box.new", "not found");
}

#[test]
fn explain_and_the_lists_of_what_is_served_are_whole() {
    let world = world();
    for (args, expected) in [
        ("explain deployment", "Deployment enables declarative updates for Pods and ReplicaSets."),
        ("explain deployment.spec.strategy.rollingUpdate.maxSurge", "FIELD: maxSurge <IntOrString>"),
        ("explain pod.spec.containers.livenessProbe.httpGet.port", "DESCRIPTION:"),
        ("explain svc --recursive", "    trafficDistribution\t<string>"),
        ("explain events --api-version=events.k8s.io/v1", "regarding\t<ObjectReference>"),
        ("api-resources --namespaced=false -o name", "namespaces\nnodes\n"),
        ("api-resources --api-group=apps --no-headers", "apps/v1   true   ReplicaSet"),
        (
            "api-versions",
            "apps/v1\nauthentication.k8s.io/v1\nauthorization.k8s.io/v1\ncoordination.k8s.io/v1\ndiscovery.k8s.io/v1\nevents.k8s.io/v1\nv1\n",
        ),
        ("cluster-info", "Kubernetes control plane"),
        ("get --raw /apis/events.k8s.io", "\"preferredVersion\":{\"groupVersion\":\"events.k8s.io/v1\""),
    ] {
        says(&world, args, expected);
    }
    refuses(&world, "explain pod.spec.nosuch", "error: field \"nosuch\" does not exist");
    refuses(&world, "explain nosuch", "the server doesn't have a resource type \"nosuch\"");
}

#[test]
fn everybody_may_ask_who_he_is_and_what_he_may() {
    let world = world();
    let whoami = world.kubectl("auth whoami").done();
    assert!(
        whoami.contains("Username    admin") && whoami.contains("[system:masters system:authenticated]"),
        "{whoami}"
    );
    assert_eq!(world.kubectl("auth can-i delete pods").done(), "yes\n");
    says(&world, "auth can-i --list", "*.*         []                  []               [*]");
    let ann = world.user("ann", &["dev"]);
    let as_ann = |args: &str| kubectl_with(&ann, world.dir.path(), args, None);
    assert!(as_ann("auth whoami").done().contains("Username    ann"));
    let no = as_ann("auth can-i create pods");
    assert!(!no.ok && no.out == "no\n", "{}{}", no.out, no.err);
    assert_eq!(as_ann("auth can-i get /version").done(), "yes\n");
    assert!(as_ann("auth can-i --list").done().contains("selfsubjectreviews.authentication.k8s.io"));
    // An administrator may look through somebody else's eyes, nobody else may.
    let no = world.kubectl("auth can-i create pods --as=ann");
    assert!(!no.ok && no.out == "no\n", "{}{}", no.out, no.err);
    let node = "--as=system:node:node-1 --as-group=system:nodes";
    assert_eq!(world.kubectl(&format!("auth can-i list services {node}")).done(), "yes\n");
    assert!(!world.kubectl(&format!("auth can-i create services {node}")).ok);
    refuses(&world, "get pods --as=ann", "User \"ann\" cannot list resource \"pods\" in API group \"\"");
    let refused = as_ann("get pods --as=admin --as-group=system:masters").refused();
    assert!(refused.contains("User \"ann\" cannot impersonate resource \"users\""), "{refused}");
    let unclear = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","spec":{}}"#;
    let refused = world.kubectl_in("create -f -", unclear).refused();
    assert!(
        refused.contains("exactly one of nonResourceAttributes or resourceAttributes must be specified"),
        "{refused}"
    );
    refuses(&world, "get selfsubjectaccessreviews", "the server does not allow this method on the requested resource");
}

#[test]
fn an_eviction_deletes_the_pod_within_its_grace() {
    let world = world();
    let pod = |name: &str, node: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}"}},"spec":{{{node}"containers":[{{"name":"a","image":"nginx"}}]}}}}"#
        )
    };
    world.kubectl_in("create -f -", &pod("bound", r#""nodeName":"node-1","#)).done();
    world.kubectl_in("create -f -", &pod("free", "")).done();
    let evict = |name: &str, eviction: &str| {
        let path = format!("create --raw /api/v1/namespaces/default/pods/{name}/eviction -f -");
        world.kubectl_in(&path, eviction)
    };
    let plain =
        |name: &str| format!(r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{name}"}}}}"#);
    assert!(evict("free", &plain("bound")).refused().contains("name in URL does not match name in Eviction object"));
    evict("free", &plain("free")).done();
    refuses(&world, "get pod free", "not found");
    let dry = plain("bound").replace("}}", r#"},"deleteOptions":{"dryRun":["All"]}}"#);
    evict("bound", &dry).done();
    assert_eq!(world.field("pod/bound", ".metadata.deletionTimestamp"), "");
    let hurried = plain("bound").replace("}}", r#"},"deleteOptions":{"gracePeriodSeconds":7}}"#);
    assert!(evict("bound", &hurried).done().contains("Success"));
    assert_eq!(world.field("pod/bound", ".metadata.deletionGracePeriodSeconds"), "7");
    assert!(evict("nobody", &plain("nobody")).refused().contains("pods \"nobody\" not found"));
    let other = plain("bound").replace("policy/v1", "v1");
    assert!(evict("bound", &other).refused().contains("does not match the expected"));
}

#[test]
fn fields_that_stand_twice_or_are_unknown_are_refused_warned_of_or_passed_over() {
    let world = world();
    let create = |validation: &str, body: &str| {
        let path = format!("create --raw /api/v1/namespaces/default/configmaps?fieldValidation={validation} -f -");
        world.kubectl_in(&path, body)
    };
    let body = |name: &str| {
        format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}"}},"data":{{"a":"1","a":"2"}},"colour":1}}"#
        )
    };
    let refused = create("Strict", &body("strict")).refused();
    let expected = "strict decoding error: duplicate field \"data.a\", unknown field \"colour\"";
    assert!(refused.contains(expected), "{refused}");
    let warned = create("Warn", &body("warn"));
    for warning in ["Warning: duplicate field \"data.a\"", "Warning: unknown field \"colour\""] {
        assert!(warned.err.contains(warning), "{}", warned.err);
    }
    warned.done();
    let ignored = create("Ignore", &body("ignore"));
    assert_eq!(ignored.err, "");
    ignored.done();
    assert_eq!(world.field("cm", ".items[*].data.a"), "2 2", "the last one counts");
    assert!(create("Loose", &body("loose")).refused().contains("fieldValidation: Unsupported value: \"Loose\""));
    let said = world.kubectl_in("replace --raw /api/v1/namespaces/default/configmaps/warn -f -", &body("warn"));
    assert!(said.err.contains("Warning: duplicate field \"data.a\""), "{}", said.err);
}

#[test]
fn kinds_that_are_not_served_are_not_found_and_the_rest_is_made() {
    let world = with_web();
    for (args, expected) in [
        ("create ns spaces", "namespace/spaces created"),
        ("create cm c --from-literal=a=1 --from-literal=b=2", "configmap/c created"),
        ("create secret generic s --from-literal=a=1", "secret/s created"),
        (
            "create secret docker-registry r --docker-server=x --docker-username=u --docker-password=p",
            "secret/r created",
        ),
        ("create sa robot", "serviceaccount/robot created"),
        ("create service clusterip c --tcp=80:8080", "service/c created"),
        ("create service nodeport n --tcp=80 --node-port=30123", "service/n created"),
        ("create service loadbalancer l --tcp=80", "service/l created"),
        ("create service externalname e --external-name=ylzhong.top", "service/e created"),
        ("expose deploy web --port=80 --name=front", "service/front exposed"),
        ("run box --image=nginx --port=80 --env=A=1 --expose", "service/box created\npod/box created"),
        ("create deployment other --image=nginx -r 3", "deployment.apps/other created"),
    ] {
        says(&world, args, expected);
    }
    assert_eq!(world.field("svc/e", ".spec.externalName"), "ylzhong.top");
    assert_eq!(world.field("svc/n", ".spec.ports[0].nodePort"), "30123");
    for args in [
        "create job j --image=nginx",
        "create role r --verb=get --resource=pods",
        "create ingress i --rule=a/b=c:80",
        "create quota q --hard=pods=1",
        "autoscale deploy web --max=3",
    ] {
        refuses(&world, args, "the server could not find the requested resource");
    }
    refuses(&world, "create ns spaces", "namespaces \"spaces\" already exists");
    refuses(
        &world,
        "create cm c --from-literal=a=1",
        "error: failed to create configmap: configmaps \"c\" already exists",
    );
    refuses(&world, "top pods", "error: Metrics API not available");
}

#[test]
fn the_kubernetes_service_comes_back_when_somebody_deletes_it() {
    let world = world();
    world.kubectl("delete svc,endpoints,endpointslices --all").done();
    for what in ["svc", "endpoints", "endpointslice"] {
        says(&world, &format!("wait --for=create {what}/kubernetes --timeout=30s"), "condition met");
    }
    assert_eq!(world.field("service/kubernetes", ".spec.clusterIP"), "10.96.0.1");
}
