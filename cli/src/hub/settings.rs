//! Where the Hub is, where its cache is and who asks: read once from the environment, by the names and rules of
//! Hugging Face's own tools, so that both share one cache and one login.

use super::error::HubError;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

const ENDPOINT: &str = "https://huggingface.co";

/// All that the environment says.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Hub's address, without a slash at its end (`HF_ENDPOINT`).
    pub endpoint: String,
    /// The folder of the Hub's cache (`HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`).
    pub cache: PathBuf,
    /// The folder of files that were converted for `run --hf` (`XDG_CACHE_HOME`).
    pub own: PathBuf,
    /// Who asks (`HF_TOKEN`, or the file that a login leaves).
    pub token: Option<String>,
    /// Whether the network may not be used (`HF_HUB_OFFLINE`).
    pub offline: bool,
    /// Certificates to trust in place of the built-in ones (`SSL_CERT_FILE` and its like).
    pub certificates: Option<PathBuf>,
}

impl Settings {
    /// What the environment of this process says.
    ///
    /// # Errors
    /// A home folder that nothing names, or a token that cannot be one.
    pub fn read() -> Result<Settings, HubError> {
        Settings::of(|name| std::env::var_os(name))
    }

    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, HubError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let first = |names: &[&str]| names.iter().find_map(|name| set(name));
        let text = |names: &[&str]| first(names).map(|value| value.to_string_lossy().into_owned());
        let home = set("HOME").map(PathBuf::from);
        let own = own(&variable)?;
        let path = |names: &[&str]| -> Result<Option<PathBuf>, HubError> {
            first(names).map(|value| expand(PathBuf::from(value), home.as_deref())).transpose()
        };
        let user = |below: &str| match (path(&["XDG_CACHE_HOME"])?, &home) {
            (Some(cache), _) => Ok(cache.join(below)),
            (None, Some(home)) => Ok(home.join(".cache").join(below)),
            (None, None) => Err(HubError::NoHome),
        };
        let hf_home = || path(&["HF_HOME"])?.map_or_else(|| user("huggingface"), Ok);
        let cache = match path(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])? {
            Some(cache) => cache,
            None => hf_home()?.join("hub"),
        };
        let token = match text(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]).and_then(clean) {
            Some(token) => Some(token),
            None => {
                let file = path(&["HF_TOKEN_PATH"])?.or_else(|| Some(hf_home().ok()?.join("token")));
                file.and_then(|file| std::fs::read_to_string(file).ok()).and_then(clean)
            }
        };
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(HubError::BadToken);
        }
        let endpoint = text(&["HF_ENDPOINT"]).unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_string();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(HubError::BadEndpoint { endpoint });
        }
        let offline =
            text(&["HF_HUB_OFFLINE"]).or_else(|| text(&["TRANSFORMERS_OFFLINE"])).is_some_and(|v| is_true(&v));
        let certificates = path(&["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])?;
        Ok(Settings { endpoint, cache, own, token, offline, certificates })
    }

    /// The Hub's host as messages name it.
    pub fn host(&self) -> &str {
        self.endpoint.split_once("://").map_or(self.endpoint.as_str(), |(_, host)| host)
    }
}

/// The folder of what nanoserve keeps for this user.
///
/// # Errors
/// A home folder that nothing names.
pub fn own_folder() -> Result<PathBuf, HubError> {
    own(|name| std::env::var_os(name))
}

fn own(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, HubError> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("HOME");
    let cache = match set("XDG_CACHE_HOME") {
        Some(cache) => expand(cache, home.as_deref())?,
        None => home.ok_or(HubError::NoHome)?.join(".cache"),
    };
    Ok(cache.join("nanoserve"))
}

/// A path whose `~` is the home folder: where a shell does not replace it, as in a container's file.
fn expand(path: PathBuf, home: Option<&Path>) -> Result<PathBuf, HubError> {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Ok(home.join(rest)),
        (Ok(_), None) => Err(HubError::NoHome),
        (Err(_), _) => Ok(path),
    }
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

fn clean(token: String) -> Option<String> {
    let token = token.trim().to_string();
    (!token.is_empty()).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::of(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_cache_is_where_the_hubs_own_tools_have_it() {
        for (variables, cache, own) in [
            (&[("HOME", "/h")][..], "/h/.cache/huggingface/hub", "/h/.cache/nanoserve"),
            (&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub", "/x/nanoserve"),
            (&[("HOME", "/h"), ("HF_HOME", "~/hf")], "/h/hf/hub", "/h/.cache/nanoserve"),
            (&[("HOME", "/h"), ("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")], "/c", "/h/.cache/nanoserve"),
            (&[("HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")], "/old", "/h/.cache/nanoserve"),
            (&[("HOME", "/h"), ("HF_HOME", "")], "/h/.cache/huggingface/hub", "/h/.cache/nanoserve"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub", "/x/nanoserve"),
        ] {
            let got = of(variables).unwrap();
            assert_eq!((got.cache, got.own), (PathBuf::from(cache), PathBuf::from(own)), "{variables:?}");
        }
        assert!(matches!(of(&[]), Err(HubError::NoHome)));
        assert!(matches!(of(&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~")]), Err(HubError::NoHome)));
    }

    #[test]
    fn the_token_is_a_variable_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let hf = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), " hf_file\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other").unwrap();
        let other = folder.path().join("other").display().to_string();
        let base = [("HOME", "/h"), ("HF_HOME", hf)];
        let token = |more: &[(&str, &str)]| of(&[&base, more].concat()).unwrap().token;
        assert_eq!(token(&[]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN", "hf_set\n")]).as_deref(), Some("hf_set"));
        assert_eq!(token(&[("HF_TOKEN", " ")]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN_PATH", &other)]).as_deref(), Some("hf_other"));
        assert_eq!(token(&[("HF_TOKEN_PATH", "/nowhere")]), None);
        assert!(matches!(of(&[("HOME", "/h"), ("HF_TOKEN", "a\u{e9}")]), Err(HubError::BadToken)));
    }

    #[test]
    fn the_endpoint_and_the_switches() {
        let of = |more: &[(&str, &str)]| of(&[&[("HOME", "/h")], more].concat());
        let plain = of(&[]).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.host(), plain.offline), (ENDPOINT, "huggingface.co", false));
        assert_eq!(of(&[("HF_ENDPOINT", "http://127.0.0.1:1/")]).unwrap().endpoint, "http://127.0.0.1:1");
        assert!(matches!(of(&[("HF_ENDPOINT", "hub.local")]), Err(HubError::BadEndpoint { .. })));
        for (value, offline) in [("1", true), ("yes", true), ("TRUE", true), ("0", false), ("", false)] {
            assert_eq!(of(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, offline, "{value}");
        }
        assert!(of(&[("TRANSFORMERS_OFFLINE", "ON")]).unwrap().offline);
    }
}
