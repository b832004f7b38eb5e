//! A file's whole way through this room: text, manifest, fields, defaults, rules, types.

use serde_json::Value;

use crate::validate::FieldError;
use crate::{defaults, manifest, schema, typed, validate, yaml};

/// A learner's file, with the slip in its first line and blanks in its last.
const NOTES_DEPLOYMENT: &str = "apiVersion: v1
kind: Deployment
metadata:
  name: nginx-deployment
spec:
  selector:
    matchLabels:
      app: nginx
  replicas: 2
  template:
    metadata:
      labels:
        app: nginx
    spec:
      containers:
      - name: nginx
        image: nginx:latest
        ports:
        - containerPort: 80
    \n";

const NOTES_SERVICE: &str = "apiVersion: v1
kind: Service
metadata:
  name: ngx-svc
spec:
  ports:
  - name: http
    port: 80
    targetPort: 80
  selector:
    app: nginx
  type: ClusterIP
";

/// Objects with their warnings, findings and errors, as text.
fn taken(text: &str) -> Vec<(Value, Vec<String>)> {
    let documents = yaml::documents(text.as_bytes()).expect("it parses");
    let manifests = manifest::objects(documents).expect("they are objects");
    manifests.into_iter().map(|manifest| judged(manifest.value, manifest.warnings)).collect()
}

fn judged(mut object: Value, mut complaints: Vec<String>) -> (Value, Vec<String>) {
    let (api_version, kind) = crate::value::group_version_kind(&object);
    let findings = schema::check(api_version, kind, &object);
    complaints.extend(findings.iter().map(ToString::to_string));
    defaults::apply(&mut object);
    complaints.extend(validate::create(&object).iter().map(FieldError::to_string));
    (object, complaints)
}

#[test]
fn the_notes_deployment_is_taken_with_its_warning_alone() {
    let taken = taken(NOTES_DEPLOYMENT);
    let (object, complaints) = &taken[0];
    assert_eq!(taken.len(), 1);
    assert_eq!(complaints.len(), 1, "{complaints:?}");
    assert!(complaints[0].contains("apps/v1"), "{complaints:?}");
    let deployment = typed::deployment(object).expect("it fits its type");
    assert_eq!(deployment.spec.and_then(|spec| spec.replicas), Some(2));
}

#[test]
fn the_notes_service_is_taken_without_complaint() {
    let taken = taken(NOTES_SERVICE);
    let (object, complaints) = &taken[0];
    assert_eq!(complaints, &Vec::<String>::new());
    let service = typed::service(object).expect("it fits its type");
    let port = service.spec.and_then(|spec| spec.ports).and_then(|ports| ports.into_iter().next()).expect("one port");
    assert_eq!((port.port, port.protocol.as_deref()), (80, Some("TCP")));
}

#[test]
fn every_document_of_a_broken_file_is_judged_on_its_own() {
    let text = format!(
        "{NOTES_SERVICE}---\n{}---\n{NOTES_SERVICE}",
        NOTES_SERVICE.replace("port: 80\n    t", "port: 70000\n    t")
    );
    let complaints: Vec<Vec<String>> = taken(&text).into_iter().map(|(_, complaints)| complaints).collect();
    let wrong = "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive".to_owned();
    assert_eq!(complaints, [vec![], vec![wrong], vec![]]);
}
