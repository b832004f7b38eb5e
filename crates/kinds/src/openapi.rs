//! OpenAPI v3 documents for kubectl's `apply`, `create` and `explain`.
//!
//! They are generated, compressed and carried in the binary; this room hands them out. Each
//! root schema names its group, version and kind, and each path's operations do, with the
//! `fieldValidation` parameter that kubectl looks for before it leaves validation to the server.

use std::io::Read;

use crate::generated::documents::DOCUMENTS;

/// One group version's document.
pub(crate) struct Document {
    /// `api/v1`, `apis/apps/v1`.
    pub path: &'static str,
    /// Changes when the document does.
    pub hash: &'static str,
    pub json_gz: &'static [u8],
}

/// Path and hash of every document, sorted by path: what `/openapi/v3` lists.
pub fn index() -> Vec<(String, String)> {
    DOCUMENTS.iter().map(|document| (document.path.to_owned(), document.hash.to_owned())).collect()
}

/// The JSON document of a group version path (`apis/apps/v1`), `None` if there is no such group.
pub fn document(group_version_path: &str) -> Option<Vec<u8>> {
    let document = DOCUMENTS.iter().find(|document| document.path == group_version_path)?;
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(document.json_gz)
        .read_to_end(&mut json)
        .expect("the documents were compressed by xtask and are whole");
    Some(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::types::KINDS;
    use serde_json::{Value, json};

    fn parsed(path: &str) -> Value {
        serde_json::from_slice(&document(path).expect("the document exists")).expect("it is JSON")
    }

    #[test]
    fn every_kind_is_marked_in_the_document_of_its_group() {
        for kind in KINDS {
            let (group, version) = kind.api_version.split_once('/').unwrap_or(("", kind.api_version));
            let path = match group {
                "" => format!("api/{version}"),
                _ => format!("apis/{group}/{version}"),
            };
            let document = parsed(&path);
            let mark = json!([{ "group": group, "kind": kind.kind, "version": version }]);
            let schemas = document["components"]["schemas"].as_object().expect("schemas");
            let marked = schemas.values().filter(|s| s["x-kubernetes-group-version-kind"] == mark).count();
            assert_eq!(marked, 1, "{} {}", kind.api_version, kind.kind);
        }
    }

    #[test]
    fn patching_a_deployment_takes_field_validation() {
        let document = parsed("apis/apps/v1");
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({ "group": "apps", "kind": "Deployment", "version": "v1" })
        );
        let parameters = patch["parameters"].as_array().expect("parameters");
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation"));
    }

    #[test]
    fn every_reference_has_its_schema() {
        for (path, _) in index() {
            let text = String::from_utf8(document(&path).expect("listed")).expect("JSON is UTF-8");
            let schemas = parsed(&path)["components"]["schemas"].clone();
            for part in text.split("\"#/components/schemas/").skip(1) {
                let name = part.split('"').next().expect("split gives one part");
                assert!(schemas.get(name).is_some(), "{path}: {name}");
            }
        }
    }

    #[test]
    fn a_group_that_is_not_served_has_no_document() {
        assert_eq!(document("apis/batch/v1"), None);
    }
}
