//! Requests to the Hub, and what its answers mean.
//!
//! Redirects are followed here and not by the library: the user's token goes to the Hub alone, never to the servers that its
//! files lie on, and what the Hub says of a file stands in the answer that leads there.

use super::error::HubError;
use super::name::Name;
use super::settings::Settings;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::io;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

/// The longest wait for a connection, for an answer, and for more of its bytes.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most redirects of one request.
const MOST_REDIRECTS: usize = 8;
/// How often a request is tried that the server is too busy for.
const TRIES: u32 = 5;
/// The longest wait that a busy server may ask for.
const LONGEST_WAIT: u64 = 60;
/// The most bytes of an answer that is held in memory: the index of a model with very many tensors has some millions.
const MOST_IN_MEMORY: u64 = 64 << 20;
/// Addresses of the Hub itself, which may see the token wherever HF_ENDPOINT leads.
const HUBS: [&str; 2] = ["https://huggingface.co", "https://hf.co"];
/// What stays as it is in a part of a path.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What speaks with the Hub.
#[derive(Clone, Debug)]
pub struct Client {
    agent: Agent,
    settings: Settings,
}

/// A model at one commit: what files it has.
#[derive(Clone, Debug, Deserialize)]
pub struct Info {
    /// The commit's hash.
    pub sha: String,
    /// Its files.
    #[serde(default)]
    pub siblings: Vec<Sibling>,
}

/// A file of a model.
#[derive(Clone, Debug, Deserialize)]
pub struct Sibling {
    /// Its path in the repository.
    pub rfilename: String,
}

/// What the Hub says of a file's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Their hash: SHA-256 in 64 digits, or git's SHA-1 of a small file in 40.
    pub etag: String,
    /// Their number.
    pub size: u64,
}

impl Client {
    /// What speaks with the Hub that the settings name, through the proxy that the environment names.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(settings: &Settings) -> Result<Client, HubError> {
        let tls = match &settings.certificates {
            Some(path) => {
                let bad = |cause: String| HubError::Certificates { path: path.clone(), cause };
                let pem = std::fs::read(path).map_err(|e| bad(e.to_string()))?;
                let only = |item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
                    Ok(_) => None,
                    Err(e) => Some(Err(bad(format!("{e}")))),
                };
                let all = parse_pem(&pem).filter_map(only).collect::<Result<Vec<Certificate>, _>>()?;
                if all.is_empty() {
                    return Err(bad("it holds none".into()));
                }
                TlsConfig::builder().root_certs(RootCerts::new_with_certs(&all)).build()
            }
            None => TlsConfig::default(),
        };
        let config = Agent::config_builder()
            .tls_config(tls)
            .user_agent(concat!("nanoserve/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(PATIENCE))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build();
        Ok(Client { agent: Agent::new_with_config(config), settings: settings.clone() })
    }

    /// Which commit a revision is, and which files it has.
    ///
    /// # Errors
    /// No such model or revision, none that this user may have, or no connection.
    pub fn info(&self, name: &Name) -> Result<Info, HubError> {
        let url = format!("{}/api/models/{}/revision/{}", self.settings.endpoint, name.repo, encoded(&name.revision));
        let answer = self.get(&url, None, name)?;
        let info = self.read(answer, &url)?;
        let info: Info =
            serde_json::from_slice(&info).map_err(|_| HubError::NotTheHub { url: url.clone(), header: "JSON" })?;
        match super::name::is_commit(&info.sha) {
            true => Ok(info),
            false => Err(HubError::NotTheHub { url, header: "sha" }),
        }
    }

    /// The hash and the size of a file at a commit.
    ///
    /// # Errors
    /// As those of [`Client::info`].
    pub fn remote(&self, name: &Name, commit: &str, file: &str) -> Result<Remote, HubError> {
        let url = self.url(name, commit, file);
        let (mut etag, mut linked, mut length, mut of_commit) = (None, None, None, None);
        let answer = self.send(Method::Head, &url, None, |response| {
            let text = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
            let redirects = response.status().is_redirection();
            of_commit = of_commit.take().or(text("x-repo-commit"));
            linked = linked.take().or(text("x-linked-etag"));
            etag = text("etag").or(etag.take());
            length = text("x-linked-size").or(length.take()).or(text("content-length").filter(|_| !redirects));
        })?;
        self.checked(answer, &url, name)?;
        let not = |header| HubError::NotTheHub { url: url.clone(), header };
        if of_commit.as_deref() != Some(commit) {
            return Err(not("X-Repo-Commit of that commit"));
        }
        let etag = linked.or(etag).ok_or_else(|| not("ETag"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_string();
        if !matches!(etag.len(), 40 | 64) || !etag.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(not("ETag that is a hash"));
        }
        let size = length.and_then(|text| text.parse().ok()).ok_or_else(|| not("X-Linked-Size or Content-Length"))?;
        Ok(Remote { etag, size })
    }

    /// The whole of a small file at a commit. Its hash is not looked at.
    ///
    /// # Errors
    /// As those of [`Client::info`].
    pub fn small(&self, name: &Name, commit: &str, file: &str) -> Result<Vec<u8>, HubError> {
        let url = self.url(name, commit, file);
        let answer = self.get(&url, None, name)?;
        self.read(answer, &url)
    }

    /// A file's bytes at a commit, from one of them on if the server can do that: then the status is 206.
    ///
    /// # Errors
    /// As those of [`Client::info`].
    pub fn bytes(&self, name: &Name, commit: &str, file: &str, from: u64) -> Result<Response<Body>, HubError> {
        self.get(&self.url(name, commit, file), (from > 0).then_some(from), name)
    }

    /// Where a file is.
    pub fn url(&self, name: &Name, commit: &str, file: &str) -> String {
        let file: Vec<String> = file.split('/').map(encoded).collect();
        format!("{}/{}/resolve/{commit}/{}", self.settings.endpoint, name.repo, file.join("/"))
    }

    fn get(&self, url: &str, from: Option<u64>, name: &Name) -> Result<Response<Body>, HubError> {
        let answer = self.checked(self.send(Method::Get, url, from, |_| ())?, url, name)?;
        match answer.status().is_success() {
            true => Ok(answer),
            false => Err(HubError::NotTheHub { url: url.into(), header: "Location that can be followed" }),
        }
    }

    /// The whole answer, in memory.
    fn read(&self, answer: Response<Body>, url: &str) -> Result<Vec<u8>, HubError> {
        let read = answer.into_body().into_with_config().limit(MOST_IN_MEMORY).read_to_vec();
        read.map_err(|e| network(url, e))
    }

    /// Sends a request, again where the server is too busy. `see` gets every answer on the way.
    fn send(
        &self,
        method: Method,
        url: &str,
        from: Option<u64>,
        mut see: impl FnMut(&Response<Body>),
    ) -> Result<Response<Body>, HubError> {
        let mut tries = 1;
        loop {
            let answer = self.follow(method, url, from, &mut see)?;
            let status = answer.status();
            let is_busy = status == StatusCode::TOO_MANY_REQUESTS || matches!(status.as_u16(), 500 | 502..=504);
            if !is_busy || tries == TRIES {
                return Ok(answer);
            }
            let asked = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            std::thread::sleep(asked.map_or_else(|| wait(tries), |s: u64| Duration::from_secs(s.min(LONGEST_WAIT))));
            tries += 1;
        }
    }

    fn follow(
        &self,
        method: Method,
        url: &str,
        from: Option<u64>,
        see: &mut impl FnMut(&Response<Body>),
    ) -> Result<Response<Body>, HubError> {
        let mut at = url.to_string();
        for _ in 0..MOST_REDIRECTS {
            let mut request = match method {
                Method::Get => self.agent.get(&at),
                Method::Head => self.agent.head(&at),
            };
            if let Some(token) = self.settings.token.as_ref().filter(|_| self.is_hub(&at)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if let Some(from) = from {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let answer = request.call().map_err(|e| network(&at, e))?;
            see(&answer);
            let next = location(&at, answer.headers()).filter(|_| answer.status().is_redirection());
            // Where it leads away from the Hub, this answer has said all that there is to say of a file.
            match next.filter(|next| matches!(method, Method::Get) || self.is_hub(next)) {
                Some(next) if at.starts_with("https:") && !next.starts_with("https:") => {
                    return Err(HubError::Network { url: at, cause: "it leads to an address without TLS".into() });
                }
                Some(next) => at = next,
                None => return Ok(answer),
            }
        }
        Err(HubError::Network { url: url.into(), cause: format!("more than {MOST_REDIRECTS} redirects") })
    }

    /// Whether an address is the Hub's: of HF_ENDPOINT or of the public one.
    fn is_hub(&self, url: &str) -> bool {
        let of = origin(url);
        of.is_some() && [self.settings.endpoint.as_str()].iter().chain(&HUBS).any(|hub| origin(hub) == of)
    }

    /// An answer that is one; else what the Hub's refusal means.
    fn checked(&self, answer: Response<Body>, url: &str, name: &Name) -> Result<Response<Body>, HubError> {
        let status = answer.status();
        if status.is_success() || status.is_redirection() {
            return Ok(answer);
        }
        let text = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let (code, message) = (text("x-error-code"), text("x-error-message"));
        let (repo, had_token, host) =
            (name.repo.clone(), self.settings.token.is_some(), self.settings.host().to_string());
        Err(match (status.as_u16(), code) {
            (_, "GatedRepo") => HubError::Gated { page: format!("{}/{repo}", self.settings.endpoint), repo, had_token },
            (_, "RevisionNotFound") => HubError::NoRevision { repo, revision: name.revision.clone() },
            (401, _) if message.starts_with("Invalid credentials") => HubError::UnknownToken { host },
            (401, _) | (_, "RepoNotFound") => HubError::NoModel { host, repo, had_token },
            (404, "") if url.contains("/api/models/") => HubError::NoModel { host, repo, had_token },
            (status, _) => HubError::Refused { url: url.into(), status, message: message.into() },
        })
    }
}

#[derive(Clone, Copy)]
enum Method {
    Get,
    Head,
}

/// How long to wait after so many tries in vain.
pub fn wait(tries: u32) -> Duration {
    Duration::from_millis(250 << tries.min(6))
}

/// An error of a connection, for a person.
pub fn network(url: &str, error: impl Into<ureq::Error>) -> HubError {
    let cause = match error.into() {
        ureq::Error::Io(e) if e.kind() == io::ErrorKind::UnexpectedEof => "the connection was cut".into(),
        ureq::Error::Io(e) => e.to_string(),
        ureq::Error::HostNotFound => "there is no host of that name".into(),
        ureq::Error::Timeout(_) => format!("no answer within {} s", PATIENCE.as_secs()),
        e => e.to_string(),
    };
    HubError::Network { url: url.into(), cause }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PART).to_string()
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_string();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// Where an answer leads; None if nowhere that can be followed.
fn location(from: &str, headers: &HeaderMap) -> Option<String> {
    let to = headers.get(header::LOCATION)?.to_str().ok()?;
    if to.starts_with("https://") || to.starts_with("http://") {
        return Some(to.to_string());
    }
    let uri: Uri = from.parse().ok()?;
    let (scheme, authority) = (uri.scheme_str()?, uri.authority()?);
    match to.strip_prefix("//") {
        Some(to) => Some(format!("{scheme}://{to}")),
        None => to.starts_with('/').then(|| format!("{scheme}://{authority}{to}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_whole_or_of_the_same_server() {
        let to = |text: &str| {
            let headers = HeaderMap::from_iter([(header::LOCATION, text.parse().unwrap())]);
            location("https://hub.local:8/a/b?c", &headers)
        };
        assert_eq!(to("/x?y").as_deref(), Some("https://hub.local:8/x?y"));
        assert_eq!(to("//cdn.local/x").as_deref(), Some("https://cdn.local/x"));
        assert_eq!(to("http://cdn.local/x").as_deref(), Some("http://cdn.local/x"));
        assert_eq!(to("file:///etc/passwd"), None);
    }

    #[test]
    fn names_become_parts_of_an_address() {
        assert_eq!(encoded("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(encoded("a b+c%.json"), "a%20b%2Bc%25.json");
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://Hub.local/a"), origin("https://hub.local:443/b"));
        for other in ["http://hub.local/", "https://hub.local:8443/", "https://hub.local.evil/", "hub.local"] {
            assert_ne!(origin("https://hub.local/"), origin(other), "{other}");
        }
    }
}
