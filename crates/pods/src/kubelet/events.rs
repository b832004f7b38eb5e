//! What kubelet's events say of a container that waits for a bad reason. Values only.

/// Type, reason and message of an event.
pub(super) type Row = (&'static str, &'static str, String);

/// The events of beginning to wait for `reason` with the status message `message`.
///
/// Source: kubelet's image manager and `startContainer`, Kubernetes 1.33.
pub(super) fn of_waiting(reason: &str, image: &str, message: String) -> Vec<Row> {
    let error = || ("Warning", "Failed", format!("Error: {reason}"));
    match reason {
        "CrashLoopBackOff" => vec![("Warning", "BackOff", message)],
        "ImagePullBackOff" => vec![("Normal", "BackOff", format!("Back-off pulling image {image:?}")), error()],
        "ErrImagePull" => vec![("Warning", "Failed", format!("Failed to pull image {image:?}: {message}")), error()],
        "ErrImageNeverPull" => vec![("Warning", "ErrImageNeverPull", message), error()],
        "InvalidImageName" => vec![("Warning", "InspectFailed", message), error()],
        _ => vec![("Warning", "Failed", message)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_pull_is_two_events_and_its_back_off_two_more() {
        let rows = |reason| of_waiting(reason, "x:1", "why".to_owned());
        assert_eq!(
            rows("ErrImagePull"),
            [
                ("Warning", "Failed", "Failed to pull image \"x:1\": why".to_owned()),
                ("Warning", "Failed", "Error: ErrImagePull".to_owned()),
            ]
        );
        assert_eq!(
            rows("ImagePullBackOff"),
            [
                ("Normal", "BackOff", "Back-off pulling image \"x:1\"".to_owned()),
                ("Warning", "Failed", "Error: ImagePullBackOff".to_owned()),
            ]
        );
        assert_eq!(rows("CreateContainerConfigError"), [("Warning", "Failed", "why".to_owned())]);
    }
}
