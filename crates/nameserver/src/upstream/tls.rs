//! TLS towards upstreams: whose certificates are believed, and ours where one is asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_dns::corefile::config::TlsConfig;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where distributions keep the authorities that they trust, in one file.
const ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why no connection under TLS can be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("cannot read {path}: {source}; the option `tls` of `forward` names it")]
    File { path: String, source: rustls_pki_types::pem::Error },
    #[error("no authority is known: none of {} can be read; name a file with the option `tls CA` of `forward`", ROOTS.join(", "))]
    NoRoots,
    #[error("{name:?} is no name of a server; correct `tls_servername`")]
    Name { name: String },
    #[error("the certificate and key of `forward`'s `tls` cannot be used: {0}")]
    Use(#[from] rustls::Error),
}

/// Configurations, each read once.
#[derive(Default)]
pub(super) struct Configs {
    known: BTreeMap<(TlsConfig, Option<&'static [u8]>), Arc<ClientConfig>>,
}

/// Makes connections to one server.
#[derive(Clone)]
pub(super) struct Connector {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Connector {
    pub(super) async fn connect(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, String> {
        self.connector.connect(self.name.clone(), tcp).await.map_err(|error| error.to_string())
    }
}

impl Configs {
    /// For the server at `addr`, whose certificate must have the configured name, or that address. DNS over TLS names no
    /// protocol: some servers that know others refuse the one that nobody had to name so far.
    pub(super) fn connector(
        &mut self,
        tls: &TlsConfig,
        addr: SocketAddr,
        alpn: Option<&'static [u8]>,
    ) -> Result<Connector, TlsError> {
        let name = match &tls.server_name {
            None => ServerName::from(addr.ip()),
            Some(name) => {
                let bare = name.trim_end_matches('.').to_owned();
                ServerName::try_from(bare).map_err(|_| TlsError::Name { name: name.clone() })?
            }
        };
        let key = (tls.clone(), alpn);
        if !self.known.contains_key(&key) {
            self.known.insert(key.clone(), Arc::new(config(tls, alpn)?));
        }
        Ok(Connector { connector: TlsConnector::from(self.known[&key].clone()), name })
    }
}

fn config(tls: &TlsConfig, alpn: Option<&[u8]>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots(tls)?);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let own =
                PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File { path: key.clone(), source })?;
            builder.with_client_auth_cert(certificates(certificate)?, own)?
        }
    };
    config.alpn_protocols = alpn.map(<[u8]>::to_vec).into_iter().collect();
    Ok(config)
}

fn roots(tls: &TlsConfig) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match &tls.ca_file {
        Some(path) => drop(roots.add_parsable_certificates(certificates(path)?)),
        None => {
            let found = ROOTS.iter().find_map(|path| certificates(path).ok()).ok_or(TlsError::NoRoots)?;
            roots.add_parsable_certificates(found);
        }
    }
    Ok(roots)
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let all = CertificateDer::pem_file_iter(path).map_err(failed)?;
    all.collect::<Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error>>().map_err(failed)
}
