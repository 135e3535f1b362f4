//! An authority and certificates, made by `sockpilot pki` as people make them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use nix::unistd::User;
use sockpilot_identity::{
    authority::{Authority, Issued, Validity},
    files::Watched,
    name::Name,
    tls::{self, ClientTls, Own},
};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{machine::Machine, process};

/// The fleet's name.
pub const DOMAIN: &str = "fleet.test";
const HOUR: Duration = Duration::from_secs(3_600);

/// Where everything is, and who makes more.
#[derive(Debug, Clone)]
pub struct Pki {
    directory: PathBuf,
    /// Who has to read the server's files.
    user: Option<User>,
}

impl Pki {
    /// An authority, a certificate for a server on this machine, and one for the admin `root`.
    ///
    /// # Errors
    /// If the command line refuses.
    pub fn new(machine: &Machine, user: Option<User>) -> Result<Self> {
        let pki = Self { directory: machine.folder("pki")?, user };
        pki.make(&["init", DOMAIN])?;
        pki.make(&["server", "127.0.0.1", "localhost"])?;
        pki.make(&["person", "root", "--role", "admin"])?;
        Ok(pki)
    }

    /// Makes what is asked of `sockpilot pki`. The server can read it.
    ///
    /// # Errors
    /// If the command line refuses.
    pub fn make(&self, arguments: &[&str]) -> Result<()> {
        let mut command = process::own("sockpilot")?;
        command.args(["pki", "--dir"]).arg(&self.directory).args(arguments);
        let output = command.output().context("starting sockpilot")?;
        ensure!(output.status.success(), "pki {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        self.hand_over()
    }

    /// A file here.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Replaces a file as a whole, as tools do that renew certificates.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn replace(&self, name: &str, text: &str) -> Result<()> {
        let new = self.file(&format!("{name}.written"));
        fs::write(&new, text).with_context(|| format!("writing {new:?}"))?;
        self.hand_over()?;
        fs::rename(&new, self.file(name)).with_context(|| format!("replacing {name}"))
    }

    fn hand_over(&self) -> Result<()> {
        let Some(user) = &self.user else { return Ok(()) };
        let entries = fs::read_dir(&self.directory).context("looking at certificates")?;
        let mut paths = entries.flatten().map(|entry| entry.path()).chain([self.directory.clone()]);
        paths.try_for_each(|path| {
            nix::unistd::chown(&path, Some(user.uid), Some(user.gid)).with_context(|| format!("giving away {path:?}"))
        })
    }

    /// Certificate and key of a name of files, as in `person-root`.
    #[must_use]
    pub fn own(&self, name: &str) -> Own {
        Own { certificate: self.file(&format!("{name}.pem")), key: self.file(&format!("{name}-key.pem")) }
    }

    /// What tells the server where its files are.
    ///
    /// # Errors
    /// If a path is not UTF-8.
    pub fn server_arguments(&self) -> Result<Vec<String>> {
        let Own { certificate, key } = self.own("server");
        let [ca, issuer] = [self.file("ca.pem"), self.file("ca-key.pem")];
        let options = [("--tls-ca", ca), ("--tls-cert", certificate), ("--tls-key", key), ("--issuer-key", issuer)];
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
        let all: Result<Vec<_>> = options.iter().map(|(name, path)| Ok([(*name).to_owned(), text(path)?])).collect();
        Ok(all?.concat())
    }

    /// A certificate that is in no file at first: for somebody who is played. Written under `name`.
    ///
    /// # Errors
    /// If the authority cannot be read.
    pub fn issue(&self, name: &str, path: &str, life: Duration) -> Result<Own> {
        let authority = Authority::read(&self.file("ca.pem"), &self.file("ca-key.pem"))?;
        let subject: Name = format!("spiffe://{DOMAIN}/{path}").parse().map_err(anyhow::Error::msg)?;
        let Issued { certificate, key } = authority.issue(&subject, &[], Validity { now: SystemTime::now(), life })?;
        let own = self.own(name);
        fs::write(&own.key, key).context("writing a key")?;
        fs::write(&own.certificate, certificate).context("writing a certificate")?;
        Ok(own)
    }

    /// TLS of a node that is played, with a certificate for an hour.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn node(&self, id: &str) -> Result<Arc<Watched<ClientTls>>> {
        let own = self.issue(&format!("node-{id}"), &format!("node/{id}"), HOUR)?;
        self.client(Some(&own))
    }

    /// TLS of whoever has a certificate, or none.
    ///
    /// # Errors
    /// If files will not do.
    pub fn client(&self, own: Option<&Own>) -> Result<Arc<Watched<ClientTls>>> {
        Ok(Arc::new(tls::client(&self.file("ca.pem"), own)?))
    }
}

/// A channel that connects when it is used, with TLS by files as they are then; `None`: in the clear.
///
/// # Errors
/// If the address is none.
pub fn channel(url: &str, tls: Option<Arc<Watched<ClientTls>>>, timeout: Option<Duration>) -> Result<Channel> {
    let mut endpoint = Endpoint::from_shared(url.to_owned()).context("reading the address")?;
    if let Some(timeout) = timeout {
        endpoint = endpoint.timeout(timeout);
    }
    let Some(tls) = tls else { return Ok(endpoint.connect_lazy()) };
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |server: Uri| {
        let tls = tls.clone();
        async move {
            // As they are now.
            let _ = tls.refresh();
            let host = server.host().unwrap_or_default().to_owned();
            let stream = TcpStream::connect((host.as_str(), server.port_u16().unwrap_or_default())).await?;
            stream.set_nodelay(true)?;
            tls.get().connect(&host, stream).await.map(TokioIo::new)
        }
    })))
}
