//! Certificates: one CA for the API server, its users and the nodes' own HTTPS.
//!
//! ```text
//!  ca ─┬─ server                       the API server's face
//!      ├─ apiserver-kubelet-client     the API server when it calls a node (O=system:masters)
//!      ├─ client(user, groups)         CN = user, O = group
//!      └─ node(name, addrs)            CN=system:node:NAME O=system:nodes, also the node's face on :10250
//! ```
//! ECDSA P-256, valid one year from the day before they are made.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};

const VALID_DAYS: i64 = 365;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {verb} {path}: {source}")]
    File { verb: &'static str, path: PathBuf, source: std::io::Error },
    #[error("cannot make the certificate for {subject}: {source}")]
    Make { subject: String, source: rcgen::Error },
    #[error("the key in {path} cannot be read: {source}; remove the folder to make new certificates")]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("the certificate for {subject} would carry {count} groups; at most two fit")]
    Groups { subject: String, count: usize },
}

/// The files the API server reads.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    pub ca_cert: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// What the API server shows to nodes.
    pub kubelet_client_cert: PathBuf,
    pub kubelet_client_key: PathBuf,
}

impl ServerFiles {
    /// The names [`ensure`] gives them in `dir`.
    pub fn in_dir(dir: &Path) -> ServerFiles {
        ServerFiles {
            ca_cert: dir.join("ca.crt"),
            cert: dir.join("server.crt"),
            key: dir.join("server.key"),
            kubelet_client_cert: dir.join("apiserver-kubelet-client.crt"),
            kubelet_client_key: dir.join("apiserver-kubelet-client.key"),
        }
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct KeyPairPem {
    pub cert: String,
    pub key: String,
    /// The CN.
    pub name: String,
}

/// A certificate authority that can sign.
pub struct Pki {
    dir: PathBuf,
    ca_cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Opens the authority in `dir`, making what is not there yet: `ca`, `server` and
/// `apiserver-kubelet-client`, each as `.crt` and `.key`. Names are taken for DNS names unless they
/// parse as addresses. Existing files are left as they are.
pub fn ensure(dir: &Path, server_names: &[String]) -> Result<Pki, PkiError> {
    fs::create_dir_all(dir).map_err(|source| PkiError::File { verb: "create", path: dir.to_owned(), source })?;
    let pki = Pki::open_or_make(dir)?;
    pki.ensure_leaf("server", || {
        let mut params = leaf("portolan-apiserver", &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = server_names.iter().map(|name| alt_name(name)).collect::<Result<_, _>>()?;
        pki.sign(params, "portolan-apiserver")
    })?;
    pki.ensure_leaf("apiserver-kubelet-client", || pki.client("kube-apiserver-kubelet-client", &["system:masters"]))?;
    Ok(pki)
}

impl Pki {
    fn open_or_make(dir: &Path) -> Result<Pki, PkiError> {
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        if !cert_path.exists() || !key_path.exists() {
            let key = KeyPair::generate().map_err(|source| making("the CA", source))?;
            let cert = ca_params().self_signed(&key).map_err(|source| making("the CA", source))?;
            write_private(&key_path, &key.serialize_pem())?;
            write(&cert_path, &cert.pem())?;
        }
        let key =
            KeyPair::from_pem(&read(&key_path)?).map_err(|source| PkiError::Key { path: key_path.clone(), source })?;
        let ca_cert_pem = read(&cert_path)?;
        Ok(Pki { dir: dir.to_owned(), ca_cert_pem, issuer: Issuer::new(ca_params(), key) })
    }

    fn ensure_leaf(&self, name: &str, make: impl FnOnce() -> Result<KeyPairPem, PkiError>) -> Result<(), PkiError> {
        let (cert_path, key_path) = (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        if cert_path.exists() && key_path.exists() {
            return Ok(());
        }
        let pair = make()?;
        write_private(&key_path, &pair.key)?;
        write(&cert_path, &pair.cert)
    }

    pub fn server_files(&self) -> ServerFiles {
        ServerFiles::in_dir(&self.dir)
    }

    pub fn ca_cert_pem(&self) -> &str {
        &self.ca_cert_pem
    }

    /// A client certificate: CN = `user`, O = `groups` (at most two).
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<KeyPairPem, PkiError> {
        let mut params = leaf(user, groups)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, user)
    }

    /// A node's certificate: client of the API server and server on its own addresses.
    pub fn node(&self, name: &str, addrs: &[IpAddr]) -> Result<KeyPairPem, PkiError> {
        let user = format!("system:node:{name}");
        let mut params = leaf(&user, &["system:nodes"])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![alt_name(name)?];
        params.subject_alt_names.extend(addrs.iter().map(|addr| SanType::IpAddress(*addr)));
        self.sign(params, &user)
    }

    /// A kubeconfig that carries everything inside: no other file is needed.
    pub fn kubeconfig(&self, server_url: &str, user: &KeyPairPem) -> String {
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        let name = &user.name;
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: portolan\nclusters:\n- name: portolan\n  cluster:\n    server: {server_url}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {name:?}\n  user:\n    client-certificate-data: {cert}\n    client-key-data: {key}\n\
             contexts:\n- name: portolan\n  context:\n    cluster: portolan\n    user: {name:?}\n",
            ca = encode(&self.ca_cert_pem),
            cert = encode(&user.cert),
            key = encode(&user.key),
        )
    }

    fn sign(&self, params: CertificateParams, subject: &str) -> Result<KeyPairPem, PkiError> {
        let key = KeyPair::generate().map_err(|source| making(subject, source))?;
        let cert = params.signed_by(&key, &self.issuer).map_err(|source| making(subject, source))?;
        Ok(KeyPairPem { cert: cert.pem(), key: key.serialize_pem(), name: subject.to_owned() })
    }
}

/// The CA's parameters. They are the same at every start, so the issuer can be rebuilt from the key alone.
fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "portolan-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params);
    params
}

fn leaf(common_name: &str, groups: &[&str]) -> Result<CertificateParams, PkiError> {
    if groups.len() > 2 {
        return Err(PkiError::Groups { subject: common_name.to_owned(), count: groups.len() });
    }
    let mut params = CertificateParams::default();
    // The certificate library keeps one value per attribute name; the same attribute under its
    // number makes room for a second group.
    let places = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    for (place, group) in places.into_iter().zip(groups) {
        params.distinguished_name.push(place, DnValue::Utf8String((*group).to_owned()));
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from(rand::random::<u64>() >> 1));
    set_validity(&mut params);
    Ok(params)
}

fn set_validity(params: &mut CertificateParams) {
    let day = |offset_days: i64| {
        let then = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * offset_days);
        let date = then.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(-1);
    params.not_after = day(VALID_DAYS);
}

fn alt_name(name: &str) -> Result<SanType, PkiError> {
    match name.parse::<IpAddr>() {
        Ok(addr) => Ok(SanType::IpAddress(addr)),
        Err(_) => name.try_into().map(SanType::DnsName).map_err(|source| making(name, source)),
    }
}

fn making(subject: &str, source: rcgen::Error) -> PkiError {
    PkiError::Make { subject: subject.to_owned(), source }
}

fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::File { verb: "read", path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    fs::write(path, text).map_err(|source| PkiError::File { verb: "write", path: path.to_owned(), source })
}

fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|source| PkiError::File {
        verb: "write",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::user_of_certificate;

    #[test]
    fn a_reopened_authority_signs_certificates_that_its_first_ones_accept() {
        let dir = tempfile::tempdir().expect("a folder");
        ensure(dir.path(), &["localhost".into(), "127.0.0.1".into()]).expect("made");
        let first_ca = fs::read(dir.path().join("ca.crt")).expect("there");
        let again = ensure(dir.path(), &["other".into()]).expect("opened");
        assert_eq!(fs::read(dir.path().join("ca.crt")).expect("there"), first_ca, "the CA is made once");
        let node = again.node("node-1", &["172.18.0.11".parse().expect("an address")]).expect("signed");
        let (_, ca) = x509_parser::pem::parse_x509_pem(&first_ca).expect("PEM");
        let (_, leaf) = x509_parser::pem::parse_x509_pem(node.cert.as_bytes()).expect("PEM");
        let (ca, leaf) = (ca.parse_x509().expect("X.509"), leaf.parse_x509().expect("X.509"));
        assert_eq!(leaf.issuer().as_raw(), ca.subject().as_raw());
    }

    #[test]
    fn a_client_certificate_names_user_and_groups() {
        let dir = tempfile::tempdir().expect("a folder");
        let pki = ensure(dir.path(), &[]).expect("made");
        let pair = pki.client("ann", &["system:masters", "dev"]).expect("signed");
        let (_, der) = x509_parser::pem::parse_x509_pem(pair.cert.as_bytes()).expect("PEM");
        let user = user_of_certificate(&der.contents).expect("a user");
        assert_eq!(user.name, "ann");
        assert_eq!(user.groups, ["system:masters", "dev", "system:authenticated"]);
    }
}
