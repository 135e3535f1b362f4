//! Tokens of an identity provider: JWTs, whose signature is checked against the keys in a JWKS file. Nobody is asked over the network.
//!
//! RS256, ES256 and EdDSA with public keys only: with an algorithm that the caller could choose freely, or a shared secret, there
//! would be nothing to check.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;
use sockpilot_identity::{
    files::{self, FileError, Watched},
    name::{self, Role},
};

/// How far the provider's clock may be off.
const LEEWAY: Duration = Duration::from_secs(60);

/// Which tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The provider's public keys.
    pub jwks: PathBuf,
    /// `iss` must be this.
    pub issuer: String,
    /// `aud` must be or have this.
    pub audience: String,
    /// Which claim is a person's name.
    pub name_claim: String,
    /// Which claim is their role, or has it in a list.
    pub role_claim: String,
}

#[derive(Debug, Deserialize)]
struct Jwks {
    keys: Vec<Jwk>,
}

/// One public key; of others' kinds only that they are there.
#[derive(Debug, Deserialize)]
struct Jwk {
    kty: String,
    #[serde(default)]
    kid: String,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    /// Extensions that must be understood; none is.
    crit: Option<Value>,
}

/// Who a token names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub role: Option<Role>,
    /// When it was made; 1970 if it does not say.
    pub made: SystemTime,
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unbelieved {
    /// It is no such token, or of somebody else, or for somebody else.
    Other,
    Expired,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Oidc {
    settings: Settings,
    keys: Watched<Vec<Jwk>>,
}

fn read_keys(path: &Path) -> Result<Vec<Jwk>, FileError> {
    let read = serde_json::from_slice::<Jwks>(&files::read(path)?);
    read.map(|jwks| jwks.keys).map_err(|_| FileError::content(path, "no JSON Web Key Set"))
}

impl Oidc {
    /// Reads the keys.
    ///
    /// # Errors
    /// If the file will not do.
    pub fn open(settings: Settings) -> Result<Self, FileError> {
        let jwks = settings.jwks.clone();
        let keys = Watched::new(vec![jwks.clone()], move || read_keys(&jwks))?;
        Ok(Self { settings, keys })
    }

    /// Reads the keys anew if their file has changed.
    ///
    /// # Errors
    /// If the file will not do.
    pub fn refresh(&self) -> Result<bool, FileError> {
        self.keys.refresh()
    }

    /// Who a token names.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn check(&self, token: &str, now: SystemTime) -> Result<Named, Unbelieved> {
        let claims = signed_claims(token, &self.keys.get()).ok_or(Unbelieved::Other)?;
        let Settings { jwks: _, issuer, audience, name_claim, role_claim } = &self.settings;
        let text = |claim: &str| claims.get(claim).and_then(Value::as_str);
        let time = |claim: &str| {
            let seconds = claims.get(claim).and_then(Value::as_f64).filter(|seconds| (0.0..1e11).contains(seconds))?;
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds))
        };
        let for_us = match claims.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one == audience),
            _ => false,
        };
        if text("iss") != Some(issuer) || !for_us || time("nbf").is_some_and(|from| from > now + LEEWAY) {
            return Err(Unbelieved::Other);
        }
        // One that never runs out is not taken.
        let until = time("exp").ok_or(Unbelieved::Other)?;
        if now > until + LEEWAY {
            return Err(Unbelieved::Expired);
        }
        let name = text(name_claim).and_then(|text| name::person(text).ok()).ok_or(Unbelieved::Other)?;
        let role = match claims.get(role_claim) {
            Some(Value::String(one)) => one.parse().ok(),
            Some(Value::Array(several)) => several.iter().filter_map(|one| one.as_str()?.parse::<Role>().ok()).max(),
            _ => None,
        };
        Ok(Named { name, role, made: time("iat").unwrap_or(SystemTime::UNIX_EPOCH) })
    }
}

fn signed_claims(token: &str, keys: &[Jwk]) -> Option<Value> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
    let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
    if header.crit.is_some() {
        return None;
    }
    let signature = decode(signature)?;
    let fits = |key: &&Jwk| key.kid == header.kid && verify(key, &header.alg, signed.as_bytes(), &signature).is_some();
    keys.iter().find(fits)?;
    serde_json::from_slice(&decode(claims)?).ok()
}

/// `Some`: the key is for the algorithm, and has signed it.
fn verify(key: &Jwk, algorithm: &str, signed: &[u8], signature: &[u8]) -> Option<()> {
    let decode = |part: &Option<String>| URL_SAFE_NO_PAD.decode(part.as_ref()?).ok();
    match (algorithm, key.kty.as_str(), key.crv.as_deref()) {
        ("RS256", "RSA", _) => {
            let components = RsaPublicKeyComponents { n: decode(&key.n)?, e: decode(&key.e)? };
            components.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature).ok()
        }
        ("ES256", "EC", Some("P-256")) => {
            let point = [vec![4], decode(&key.x)?, decode(&key.y)?].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).ok()
        }
        ("EdDSA", "OKP", Some("Ed25519")) => {
            UnparsedPublicKey::new(&ED25519, decode(&key.x)?).verify(signed, signature).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
    };
    use serde_json::json;

    use super::*;

    struct Provider {
        key: EcdsaKeyPair,
        oidc: Oidc,
        _directory: tempfile::TempDir,
    }

    fn encoded(value: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(value)
    }

    fn provider() -> Provider {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("a key");
        let point = key.public_key().as_ref();
        let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
        let jwks = json!({ "keys": [
            { "kty": "oct", "kid": "k", "k": "c2VjcmV0" },
            { "kty": "EC", "kid": "k", "crv": "P-256", "x": x, "y": y },
        ] });
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("jwks.json");
        std::fs::write(&file, jwks.to_string()).expect("written");
        let settings = Settings {
            jwks: file,
            issuer: "https://id.test".to_owned(),
            audience: "sockpilot".to_owned(),
            name_claim: "sub".to_owned(),
            role_claim: "roles".to_owned(),
        };
        Provider { key, oidc: Oidc::open(settings).expect("keys"), _directory: directory }
    }

    impl Provider {
        fn token(&self, header: &Value, claims: &Value) -> String {
            let signed = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
            let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
            format!("{signed}.{}", encoded(signature))
        }

        fn check(&self, token: &str) -> Result<Named, Unbelieved> {
            self.oidc.check(token, SystemTime::UNIX_EPOCH + Duration::from_secs(1_000))
        }
    }

    fn claims() -> Value {
        json!({ "iss": "https://id.test", "aud": ["other", "sockpilot"], "sub": "ann@fleet.test", "exp": 2_000, "iat": 900,
                "roles": ["sales", "viewer", "operator"] })
    }

    #[test]
    fn a_token_of_the_provider_names_somebody() {
        let provider = provider();
        let token = provider.token(&json!({ "alg": "ES256", "kid": "k" }), &claims());
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(900);
        assert_eq!(
            provider.check(&token),
            Ok(Named { name: "ann@fleet.test".to_owned(), role: Some(Role::Operator), made })
        );
    }

    #[test]
    fn no_other_token_is_believed() {
        let provider = provider();
        let header = json!({ "alg": "ES256", "kid": "k" });
        let with = |claim: &str, value: Value| {
            let mut claims = claims();
            claims[claim] = value;
            provider.check(&provider.token(&header, &claims))
        };
        assert_eq!(with("exp", json!(900)), Err(Unbelieved::Expired));
        for (claim, value) in [
            ("iss", json!("https://id.evil")),
            ("aud", json!("other")),
            ("aud", Value::Null),
            ("exp", Value::Null),
            ("exp", json!(-1)),
            ("nbf", json!(1_500)),
            ("sub", json!("controllers/rollout")),
            ("sub", json!("")),
            ("sub", json!(7)),
        ] {
            assert_eq!(with(claim, value.clone()), Err(Unbelieved::Other), "{claim} {value}");
        }
        for header in [
            json!({ "alg": "none", "kid": "k" }),
            json!({ "alg": "HS256", "kid": "k" }),
            json!({ "alg": "RS256", "kid": "k" }),
            json!({ "alg": "ES256", "kid": "other" }),
            json!({ "alg": "ES256", "kid": "k", "crit": ["b64"] }),
        ] {
            assert_eq!(provider.check(&provider.token(&header, &claims())), Err(Unbelieved::Other), "{header}");
        }
        let token = provider.token(&header, &claims());
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let other = super::tests::provider().token(&header, &claims());
        let (_, foreign) = other.rsplit_once('.').expect("three parts");
        for bad in [
            format!("{signed}."),
            format!("{signed}.{foreign}"),
            format!("{signed}x.{signature}"),
            "a.b".to_owned(),
            String::new(),
        ] {
            assert_eq!(provider.check(&bad), Err(Unbelieved::Other), "{bad}");
        }
    }
}
