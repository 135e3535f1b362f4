//! Faults of configuration, as opposed to outages: what no waiting will mend is said as what it is, with the remedy.

use sqlx::error::DatabaseError;

/// What a person must correct, if it is that. Passwords are never in it.
#[must_use]
pub fn of(error: &sqlx::Error) -> Option<String> {
    match error {
        sqlx::Error::Configuration(why) => Some(format!("{why}; correct DATABASE_URL")),
        sqlx::Error::Tls(why) => Some(of_tls(&why.to_string())),
        sqlx::Error::Io(error) => of_io(error),
        sqlx::Error::Database(error) => of_database(error.as_ref()),
        sqlx::Error::Protocol(why) if why.contains("SSLRequest") => {
            Some("what answers there is no Postgres; correct host and port in DATABASE_URL".to_owned())
        }
        sqlx::Error::Protocol(why) if why.contains("unsupported authentication method") => {
            Some(format!("{why}; let the user log in by password, certificate or trust in pg_hba.conf"))
        }
        _ => None,
    }
}

fn of_tls(why: &str) -> String {
    if why.contains("server does not support TLS") {
        return "the database speaks no TLS, which sslmode asks for; turn ssl on there, or say sslmode=prefer"
            .to_owned();
    }
    format!("TLS: {why}; correct sslmode, sslrootcert, sslcert or sslkey in DATABASE_URL")
}

fn of_io(error: &std::io::Error) -> Option<String> {
    let why = error.to_string();
    match error.kind() {
        // What the TLS library refuses comes as this.
        std::io::ErrorKind::InvalidData => Some(of_handshake(&why)),
        std::io::ErrorKind::PermissionDenied => {
            Some(format!("{why}; let this user reach the database's socket and files"))
        }
        _ if ["Name or service not known", "No address associated"].iter().any(|text| why.contains(text)) => {
            Some("there is no host of that name; correct the host in DATABASE_URL".to_owned())
        }
        _ => None,
    }
}

fn of_handshake(why: &str) -> String {
    let remedy = if why.contains("UnknownIssuer") {
        "its certificate is of an issuer that is not known here; give the issuer's certificate as sslrootcert"
    } else if why.contains("not valid for name") || why.contains("NotValidForName") {
        "its certificate is for another name; write that name as the host, or say sslmode=verify-ca"
    } else if why.contains("xpired") || why.contains("NotValidYet") {
        "its certificate is out of date, or one of the clocks is wrong"
    } else if why.contains("CertificateRequired") || why.contains("certificate required") {
        "it asks for a certificate of this server; give sslcert and sslkey"
    } else {
        "correct sslrootcert, sslcert and sslkey in DATABASE_URL, or the database's certificate"
    };
    format!("TLS with the database failed ({why}): {remedy}")
}

fn of_database(error: &dyn DatabaseError) -> Option<String> {
    let (code, message) = (error.code().unwrap_or_default(), error.message());
    let remedy = match code.as_ref() {
        "28P01" => "correct user and password in DATABASE_URL",
        "28000" => "correct user and sslmode in DATABASE_URL, or pg_hba.conf of the database",
        "3D000" => "make the database, or correct its name in DATABASE_URL",
        "42501" => {
            "grant this user what it is denied, or have whoever owns the schema run `sockpilot-server --migrate-for USER`"
        }
        "3F000" => "make the schema that search_path of this user names",
        "42704" | "22023" if message.contains("role") => "correct the user in DATABASE_URL",
        "08P01" if message.contains("unsupported startup parameter") => {
            "add that parameter to ignore_startup_parameters of the pooler"
        }
        "08P01" | "08000" if ["no such database", "no such user"].iter().any(|text| message.contains(text)) => {
            "correct DATABASE_URL, or the settings of the pooler"
        }
        _ => return None,
    };
    Some(format!("the database says \"{message}\"; {remedy}"))
}
