//! Certificates and kubeconfigs, made before anything is started.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use portolan_apiserver::pki;

use crate::config::{Files, LabConfig};
use crate::error::{LabError, file};
use crate::topology::API_PORT;

/// Writes the authority, the server's certificate, the administrator's kubeconfig (by 127.0.0.1) and
/// each node's kubeconfig (by the LAN) and serving certificate.
pub(crate) fn write(config: &LabConfig, files: &Files, api_port: u16) -> Result<(), LabError> {
    let topology = config.topology();
    let api = topology.api_server().address.addr();
    let pki = pki::ensure(&files.pki(), &server_names(config, api))?;
    let admin = pki.client("kubernetes-admin", &["system:masters"])?;
    let local = format!("https://127.0.0.1:{api_port}");
    write_private(&files.kubeconfig(), &pki.kubeconfig(&local, &admin))?;
    for number in 1..=config.nodes {
        let host = topology.node(number);
        let pair = pki.node(&host.name, &host.addresses())?;
        let dir = files.place(&host.name);
        make_dir(&dir)?;
        let url = format!("https://{api}:{API_PORT}");
        write_private(&dir.join("kubeconfig"), &pki.kubeconfig(&url, &pair))?;
        write_private(&dir.join("tls.crt"), &pair.cert)?;
        write_private(&dir.join("tls.key"), &pair.key)?;
        write_private(&dir.join("ca.crt"), pki.ca_cert_pem())?;
    }
    Ok(())
}

/// A folder only its owner can enter, with its parents.
pub(crate) fn make_dir(dir: &Path) -> Result<(), LabError> {
    fs::create_dir_all(dir).map_err(file("cannot make the folder", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(file("cannot close the folder", dir))
}

fn server_names(config: &LabConfig, api: IpAddr) -> Vec<String> {
    // The first address of the range is the Service default/kubernetes.
    let service = config.service_cidr.hosts().next().expect("a service range has addresses");
    let mut names = vec!["127.0.0.1".to_owned(), "localhost".to_owned(), api.to_string(), service.to_string()];
    let mut name = "kubernetes".to_owned();
    names.push(name.clone());
    for part in ["default", "svc", config.cluster_domain.as_str()] {
        name = format!("{name}.{part}");
        names.push(name.clone());
    }
    names
}

fn write_private(path: &Path, text: &str) -> Result<(), LabError> {
    let mut options = fs::OpenOptions::new();
    let open = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    let write = open.and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()));
    write.map_err(file("cannot write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_known_by_every_name_it_is_reached_by() {
        let config = LabConfig::new("lab", 1, "/exe".into(), "/images".into());
        let names = server_names(&config, "172.18.0.2".parse().unwrap());
        for name in
            ["127.0.0.1", "172.18.0.2", "10.96.0.1", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        {
            assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
        }
    }

    #[test]
    fn every_node_gets_its_own_folder_of_files_nobody_else_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        let config = LabConfig::new("lab", 2, "/exe".into(), "/images".into());
        write(&config, &files, 4242).unwrap();
        for node in ["node-1", "node-2"] {
            for name in ["kubeconfig", "tls.crt", "tls.key", "ca.crt"] {
                let path = files.place(node).join(name);
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{path:?}");
            }
        }
        let admin = fs::read_to_string(files.kubeconfig()).unwrap();
        assert!(admin.contains("https://127.0.0.1:4242"), "{admin}");
    }
}
