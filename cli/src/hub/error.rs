//! What can go wrong between this machine and the Hub, in sentences that say what to do.

use crate::console::size;
use nanoserve_format::ErrorKind;
use std::io;
use std::path::{Path, PathBuf};

/// Why a model could not be had, listed or removed.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Nothing says where the user's files are.
    #[error("there is no home folder to keep models in: set HOME, or HF_HOME and XDG_CACHE_HOME")]
    NoHome,
    /// A token that no request can carry.
    #[error("the token (HF_TOKEN, or the file that a login leaves) holds a character that no token has: copy it again")]
    BadToken,
    /// An address that is none.
    #[error("HF_ENDPOINT is '{endpoint}', expected an address that begins with https:// or http://")]
    BadEndpoint {
        /// What it is.
        endpoint: String,
    },
    /// A file of certificates that is none.
    #[error("{}: cannot read certificates of it: {cause}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// The owner wants terms accepted first.
    #[error("{repo} is gated: accept its terms at {page} with your account there, then {}", with_token(*had_token))]
    Gated {
        /// The model.
        repo: String,
        /// Its page.
        page: String,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// A token that the Hub does not know.
    #[error(
        "{host} does not know your token (HF_TOKEN, or the file that a login leaves): make a new one in its settings"
    )]
    UnknownToken {
        /// The Hub.
        host: String,
    },
    /// A model that is not there, or not for everybody.
    #[error("{host} has no model {repo}{}", or_private(*had_token))]
    NoModel {
        /// The Hub.
        host: String,
        /// The model.
        repo: String,
        /// Whether a token was sent.
        had_token: bool,
    },
    /// A revision that the model does not have.
    #[error("{repo} has no branch, tag or commit '{revision}'{}", of_quantization(revision))]
    NoRevision {
        /// The model.
        repo: String,
        /// What was asked for.
        revision: String,
    },
    /// Nothing in it can be converted.
    #[error("{repo} holds no model.safetensors and no model.safetensors.index.json{found}: nothing to convert")]
    NoWeights {
        /// The model.
        repo: String,
        /// What it holds instead: a clause, or nothing.
        found: String,
    },
    /// An index that cannot be read, or names what is not there.
    #[error("{repo}: model.safetensors.index.json {cause}")]
    BadIndex {
        /// The model.
        repo: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Any other refusal.
    #[error("{url}: the server answers {status}{}", said(message))]
    Refused {
        /// What was asked for.
        url: String,
        /// The status code.
        status: u16,
        /// What the server says, or nothing.
        message: String,
    },
    /// A server that is no Hub.
    #[error("{url}: the answer has no {header} as the Hub's have; does HF_ENDPOINT, or a proxy, lead elsewhere?")]
    NotTheHub {
        /// What was asked for.
        url: String,
        /// The header that is missing or not in order.
        header: &'static str,
    },
    /// No connection, or one that does not come back.
    #[error("{url}: {cause}; is the network there? What came is kept: the same command goes on from it")]
    Network {
        /// What was asked for.
        url: String,
        /// What the system says.
        cause: String,
    },
    /// The network may not be used, and the cache does not have it.
    #[error("{name} is not in the cache {}, and HF_HUB_OFFLINE is set", cache.display())]
    Offline {
        /// The model.
        name: String,
        /// The folder.
        cache: PathBuf,
    },
    /// What came is not what the Hub says it is.
    #[error(
        "{file}: the bytes that came have the hash {got}, the Hub says {expected}; they were removed: try again, and should \
         it happen again, look for what changes files on the way (a proxy) or at the disk"
    )]
    WrongHash {
        /// The file.
        file: String,
        /// What the Hub says.
        expected: String,
        /// What was computed.
        got: String,
    },
    /// More bytes than the Hub says.
    #[error("{file}: more bytes come than the {expected} that the Hub says it has; they were removed")]
    TooLong {
        /// The file.
        file: String,
        /// The size by the Hub.
        expected: u64,
    },
    /// Too little room for what is to come.
    #[error("{} needs {} more, and {} are free there", folder.display(), size(*need), size(*room))]
    NoRoom {
        /// Where it is to be.
        folder: PathBuf,
        /// Bytes that are still to come.
        need: u64,
        /// Bytes that are free.
        room: u64,
    },
    /// The file system refuses.
    #[error("{}: cannot {action}: {source}{}", path.display(), goes_on(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// Another program is at it.
    #[error("{}: another program is downloading here: wait for it, or end it", path.display())]
    Busy {
        /// The folder, or file.
        path: PathBuf,
    },
    /// Nobody can be asked.
    #[error("{what}: give --yes to go on without a question")]
    NobodyToAsk {
        /// What would be done.
        what: String,
    },
    /// The answer was no.
    #[error("nothing was done")]
    Declined,
    /// Somebody pressed Ctrl-C.
    #[error("stopped; what came is kept: the same command goes on from it")]
    Cancelled,
    /// Not among what is kept.
    #[error("{name} is not in the cache: nanoserve list shows what is")]
    NotCached {
        /// What was asked for.
        name: String,
    },
    /// A link where a folder of the cache should be.
    #[error("{} is a link that leads out of the cache: remove it, and what it leads to, by hand", path.display())]
    LeadsOut {
        /// The link.
        path: PathBuf,
    },
}

impl HubError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            HubError::Refused { status, .. } if *status == 429 || *status >= 500 => ErrorKind::Machine,
            HubError::Network { .. }
            | HubError::WrongHash { .. }
            | HubError::TooLong { .. }
            | HubError::NoRoom { .. }
            | HubError::Io { .. }
            | HubError::Busy { .. }
            | HubError::Declined => ErrorKind::Machine,
            HubError::Cancelled => ErrorKind::Cancelled,
            _ => ErrorKind::Input,
        }
    }

    /// An error of the file system, at a path.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> HubError {
        let path = path.to_path_buf();
        move |source| HubError::Io { path, action, source }
    }
}

fn with_token(had_token: bool) -> &'static str {
    match had_token {
        true => "try again (the token that was sent is of an account that has not, or may not read gated models)",
        false => "make a token there and give it as HF_TOKEN, or log in with 'hf auth login'",
    }
}

fn or_private(had_token: bool) -> &'static str {
    match had_token {
        true => ", or not for your token's account",
        false => "; a private one needs your token (HF_TOKEN, or 'hf auth login')",
    }
}

/// What follows the colon is the name of a quantization in some other programs.
fn of_quantization(revision: &str) -> &'static str {
    let name = revision.to_ascii_uppercase();
    let is_one =
        ["Q2", "Q3", "Q4", "Q5", "Q6", "Q8", "IQ", "F16", "F32", "BF16", "FP16"].iter().any(|q| name.starts_with(q));
    if is_one {
        ": what follows the colon is a revision; how weights are stored is 'nanoserve convert --dtype'"
    } else {
        ""
    }
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn goes_on(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; what came is kept: make room (nanoserve list, nanoserve rm), and the same command goes on from it"
        }
        io::ErrorKind::FileTooLarge => {
            "; what came is kept: a limit on the size of files is set (ulimit -f), or the file system has one"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_how_to_go_on() {
        let path = Path::new("/cache/blobs/a.incomplete");
        for (kind, words) in [
            (io::ErrorKind::StorageFull, "the same command goes on from it"),
            (io::ErrorKind::QuotaExceeded, "nanoserve rm"),
        ] {
            let error = HubError::io(path, "write")(kind.into());
            assert_eq!(error.kind(), ErrorKind::Machine);
            let text = error.to_string();
            assert!(text.starts_with("/cache/blobs/a.incomplete: cannot write: ") && text.contains(words), "{text}");
        }
        let denied = HubError::io(path, "write")(io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(!denied.contains("kept"), "{denied}");
    }

    #[test]
    fn a_quantization_is_no_revision() {
        let text = |revision: &str| HubError::NoRevision { repo: "a/b".into(), revision: revision.into() }.to_string();
        assert_eq!(text("dev"), "a/b has no branch, tag or commit 'dev'");
        assert!(text("Q4_K_M").contains("--dtype") && text("f16").contains("--dtype"));
    }
}
