//! What a step needs of the steps before it: made for real and without showing it where those are left out.

use super::StepError;
use super::cluster::has_rules_for;
use super::stage::Stage;

/// Something that a step leaves for later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// The Deployment, with two nginx pods that are ready.
    Pods,
    /// The Service `ngx-svc`, in both nodes' rules.
    Service,
    /// A pod on node-1 to ask from.
    Shell,
}

/// Makes what is not there yet; in a reader's words, what was made.
pub(super) fn prepare(stage: &mut Stage, needs: &[Need]) -> Result<Vec<&'static str>, StepError> {
    let lacking: Vec<Need> = needs.iter().filter(|need| !stage.has(**need)).copied().collect();
    for need in &lacking {
        need.provide(stage)?;
        stage.have(&[*need]);
    }
    Ok(lacking.into_iter().map(Need::named).collect())
}

impl Need {
    fn named(self) -> &'static str {
        match self {
            Self::Pods => "the Deployment with two nginx pods",
            Self::Service => "the Service ngx-svc",
            Self::Shell => "a pod `shell` to ask from",
        }
    }

    fn manifest(self) -> &'static str {
        match self {
            Self::Pods => "deployment.yaml",
            Self::Service => "ngx-svc.yaml",
            Self::Shell => "shell.yaml",
        }
    }

    fn provide(self, stage: &mut Stage) -> Result<(), StepError> {
        let file = stage.example(self.manifest());
        let applied = stage.run_kubectl(&["apply", "-f", &file])?;
        let fault = |why: &str| StepError::Run(format!("cannot make {} ({file}): {why}", self.named()));
        if !applied.ok {
            return Err(fault(applied.text.trim()));
        }
        match stage.until(|stage| self.is_there(stage)) {
            true => Ok(()),
            false => Err(fault("it was taken, but did not come to be in time")),
        }
    }

    fn is_there(self, stage: &Stage) -> bool {
        match self {
            Self::Pods => stage.nginx_pods().len() == 2,
            Self::Service => {
                let targets: Vec<String> = stage.nginx_pods().iter().map(|pod| format!("{}:80", pod.ip)).collect();
                targets.len() == 2 && ["node-1", "node-2"].iter().all(|node| has_rules_for(stage, node, &targets))
            }
            Self::Shell => stage.ready_pods("app=shell").len() == 1,
        }
    }
}
