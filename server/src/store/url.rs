//! `DATABASE_URL` as people write it, in both forms that libpq has: a URL, or `host=… dbname=…`. Several hosts are several places.

use std::{fs::File, path::Path, str::FromStr};

use sockpilot_settings::environment;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

type Parameters = Vec<(String, String)>;

/// What the driver gets.
const PASSED: [&str; 8] =
    ["user", "password", "dbname", "sslmode", "sslrootcert", "sslcert", "sslkey", "application_name"];
/// Taken, and without effect: this server has limits of its own.
const IDLE: [&str; 11] = [
    "connect_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "fallback_application_name",
    "client_encoding",
    "load_balance_hosts",
    "gssencmode",
    "channel_binding",
];

/// Reads where the database may be, in the order to try.
///
/// # Errors
/// The fault, with a remedy and without the password.
pub fn read(text: &str) -> Result<Vec<PgConnectOptions>, String> {
    let text = text.trim();
    let url = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    let parameters = match url {
        Some(rest) => of_url(rest)?,
        None if text.contains('=') && !text.split('=').next().is_some_and(|key| key.contains("://")) => of_words(text)?,
        None => {
            return Err("is neither a URL nor a list of parameters; write postgres://USER@HOST:PORT/DATABASE or \
                        host=HOST user=USER dbname=DATABASE"
                .to_owned());
        }
    };
    check(&parameters)?;
    places(&parameters)?.iter().map(|(host, port)| options(host, port, &parameters)).collect()
}

/// Whether there is a password in it, however it is written; also if it cannot be read to its end.
#[must_use]
pub fn has_password(text: &str) -> bool {
    let text = text.trim();
    let url = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    match url.map_or_else(|| of_words(text), of_url) {
        Ok(parameters) => last(&parameters, "password").is_some(),
        Err(_) => text.contains("password") || url.is_some_and(|rest| rest.contains('@') && rest.contains(':')),
    }
}

fn last<'p>(parameters: &'p Parameters, key: &str) -> Option<&'p str> {
    parameters.iter().rev().find(|(other, _)| other == key).map(|(_, value)| value.as_str())
}

fn of_url(rest: &str) -> Result<Parameters, String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let mut parameters = Parameters::new();
    let mut add = |key: &str, value: &str| -> Result<(), String> {
        if !value.is_empty() {
            parameters.push((key.to_owned(), decoded(key, value)?));
        }
        Ok(())
    };
    add("user", user)?;
    add("password", password)?;
    add("dbname", database)?;
    let (names, ports): (Vec<_>, Vec<_>) = hosts.split(',').map(host_and_port).unzip();
    add("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("has \"{pair}\"; write parameter=value"))?;
        add(&decoded("a parameter", key)?, value)?;
    }
    Ok(parameters)
}

fn host_and_port(text: &str) -> (&str, &str) {
    match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => (address, port.trim_start_matches(':')),
        None => text.split_once(':').unwrap_or((text, "")),
    }
}

fn decoded(key: &str, text: &str) -> Result<String, String> {
    let fault = || format!("{key} is wrongly encoded; write %25 for a %, and other bytes as % and two digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(fault);
        bytes.push(match byte {
            b'%' => u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).map_err(|_| fault())?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| fault())
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// `key = value`, `key='va lue'`; a backslash takes the next character as it is.
fn of_words(text: &str) -> Result<Parameters, String> {
    let mut parameters = Parameters::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Ok(parameters);
        }
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=') {
            key.push(c);
        }
        let key = key.trim().to_owned();
        if rest.next().is_none() || key.is_empty() || key.contains(char::is_whitespace) {
            return Err("has a word without a value; write host=HOST user=USER dbname=DATABASE".to_owned());
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        let mut ended = !quoted;
        while let Some(c) = rest.next() {
            match c {
                '\\' => value.extend(rest.next()),
                '\'' if quoted => {
                    ended = true;
                    break;
                }
                c if !quoted && c.is_whitespace() => break,
                c => value.push(c),
            }
        }
        if !ended {
            return Err(format!("has {key}='… without the second quote"));
        }
        if !value.is_empty() {
            parameters.push((key, value));
        }
    }
}

fn check(parameters: &Parameters) -> Result<(), String> {
    for (key, value) in parameters {
        match (key.as_str(), value.as_str()) {
            ("gssencmode" | "channel_binding", "require") => {
                return Err(format!("asks for {key}=require, which this server cannot do; leave it out"));
            }
            ("target_session_attrs", "any" | "read-write" | "primary") => {}
            ("target_session_attrs", other) => {
                return Err(format!("has target_session_attrs={other}; this server makes changes: write read-write"));
            }
            ("sslmode", mode) if mode.parse::<PgSslMode>().is_err() => {
                return Err(format!("has sslmode={mode}; write disable, prefer, require, verify-ca or verify-full"));
            }
            ("sslrootcert", "system") => {}
            ("sslrootcert" | "sslcert" | "sslkey", file) => {
                File::open(Path::new(file))
                    .map_err(|error| format!("has {key}={file}, which cannot be read: {error}"))?;
            }
            ("host" | "hostaddr" | "port", _) => {}
            (key, _) if PASSED.contains(&key) || IDLE.contains(&key) => {}
            (key, _) => {
                return Err(format!(
                    "has the parameter {key}, which is not known here; known are host, hostaddr, port, {}, \
                     target_session_attrs",
                    PASSED.join(", ")
                ));
            }
        }
    }
    if last(parameters, "sslcert").is_some() != last(parameters, "sslkey").is_some() {
        return Err("has one of sslcert and sslkey; write both".to_owned());
    }
    Ok(())
}

/// Hosts with their ports, each or all.
fn places(parameters: &Parameters) -> Result<Vec<(String, String)>, String> {
    let said = |key: &str, variable: &str| {
        last(parameters, key).map(str::to_owned).or_else(|| environment::variable(variable)).unwrap_or_default()
    };
    let hosts = last(parameters, "hostaddr").map_or_else(|| said("host", "PGHOST"), str::to_owned);
    let ports = said("port", "PGPORT");
    let hosts: Vec<_> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
    let ports: Vec<_> = ports.split(',').map(|port| port.trim().to_owned()).collect();
    if ports.len() > 1 && ports.len() != hosts.len() {
        return Err(format!("has {} ports for {} hosts; write one for each, or one for all", ports.len(), hosts.len()));
    }
    if let Some(bad) = ports.iter().find(|port| !port.is_empty() && !port.parse::<u16>().is_ok_and(|port| port > 0)) {
        return Err(format!("has the port \"{bad}\"; write 1 to 65535, usually 5432"));
    }
    if let Some(bad) = hosts.iter().find(|host| host.contains(char::is_whitespace) && !host.starts_with('/')) {
        return Err(format!("has the host \"{bad}\"; write a name, an address, or a socket's directory"));
    }
    Ok(hosts.into_iter().zip(ports.into_iter().cycle()).collect())
}

/// One place as the driver has it, which also looks into the password file and the environment.
fn options(host: &str, port: &str, parameters: &Parameters) -> Result<PgConnectOptions, String> {
    let passed = PASSED.iter().filter_map(|key| last(parameters, key).map(|value| (*key, value)));
    let places = [("host", host), ("port", port)].into_iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<_> = passed
        .filter(|pair| *pair != ("sslrootcert", "system"))
        .chain(places)
        .map(|(key, value)| format!("{key}={}", encoded(value)))
        .collect();
    let mut options = PgConnectOptions::from_str(&format!("postgres:///?{}", pairs.join("&")))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if options.get_username().is_empty() {
        return Err("says no user; write postgres://USER@HOST/DATABASE".to_owned());
    }
    // As libpq has it: whoever gives a root certificate wants it to be looked at, and a socket has no TLS.
    let rooted = last(parameters, "sslrootcert");
    options = match (options.get_ssl_mode(), rooted) {
        _ if options.get_host().starts_with('/') || host.starts_with('/') => options.ssl_mode(PgSslMode::Disable),
        (PgSslMode::Require, Some("system")) => options.ssl_mode(PgSslMode::VerifyFull),
        (PgSslMode::Require, Some(_)) => options.ssl_mode(PgSslMode::VerifyCa),
        _ => options,
    };
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<String> {
        let place = |options: &PgConnectOptions| {
            let host = options.get_socket().map_or(options.get_host().to_owned(), |path| path.display().to_string());
            let database = options.get_database().unwrap_or_default();
            format!("{}@{host}:{}/{database}", options.get_username(), options.get_port())
        };
        read(text).unwrap_or_else(|fault| panic!("{text}: {fault}")).iter().map(place).collect()
    }

    #[test]
    fn every_form_of_libpq_leads_to_the_same_place() {
        for text in [
            "postgres://u@h:1/d",
            "postgresql://u@h:1/d?sslmode=prefer&connect_timeout=5",
            "postgresql://h/d?user=u&port=1",
            "postgres:///?host=h&port=1&user=u&dbname=d",
            "host=h port=1 user=u dbname=d",
            " host = h port='1'  user=u dbname = 'd' ",
            "postgres://u@h:1,/d?host=h&port=1",
        ] {
            assert_eq!(places(text), ["u@h:1/d"], "{text}");
        }
        for text in [
            "postgresql://u@/d?host=/run/pg%20x&port=1",
            "postgresql://u@%2Frun%2Fpg%20x:1/d",
            "host='/run/pg x' port=1 user=u dbname=d",
        ] {
            assert_eq!(places(text), ["u@/run/pg x:1/d"], "{text}");
        }
        assert_eq!(places("postgres://u@[::1]:1/d"), ["u@::1:1/d"]);
        assert_eq!(places("postgres://u@a:1,b:2,[::1]:3/d?target_session_attrs=read-write").len(), 3);
        assert_eq!(places("host=a,b port=7 user=u dbname=d"), ["u@a:7/d", "u@b:7/d"]);
    }

    #[test]
    fn a_password_is_seen_in_every_form() {
        for text in [
            "postgres://u:p@h/d",
            "postgres://h/d?password=p",
            "postgres://h/d?pass%77ord=p",
            "host=h password=p",
            "password = 'p' host=h",
            "postgres://u:%zz@h/d",
            "host=h password='p",
        ] {
            assert!(has_password(text), "{text}");
        }
        for text in
            ["postgres://u@h:1/d", "postgres://u@[::1]:1/d", "host=h user=password", "postgres://h/d?passfile=x", ""]
        {
            assert!(!has_password(text), "{text}");
        }
    }

    #[test]
    fn refusals_name_the_fault_and_never_the_password() {
        for (text, expected) in [
            ("", "neither a URL"),
            ("mysql://u@h/d?a=b", "neither a URL"),
            ("h:5432", "neither a URL"),
            ("postgres://u:secret@h:99999/d", "the port \"99999\""),
            ("postgres://u:secret@h/d?sslmode=yes", "sslmode=yes; write disable"),
            ("postgres://u:secret@h/d?sslrootcert=/no/such.pem", "/no/such.pem, which cannot be read"),
            ("postgres://u:secret@h/d?sslcert=/dev/null", "write both"),
            ("postgres://u:secret@h/d?sslmod=require", "the parameter sslmod, which is not known"),
            ("postgres://u:secret@h/d?options=-csearch_path%3Dx", "the parameter options"),
            ("postgres://u:secret@h/d?channel_binding=require", "leave it out"),
            ("postgres://u:secret@h/d?target_session_attrs=standby", "write read-write"),
            ("postgres://u:sec%ret@h/d", "password is wrongly encoded"),
            ("postgres://u:secret@a:1,b:2,c/d?port=1,2", "2 ports for 3 hosts"),
            ("host=h user", "a word without a value"),
            ("host=h password='secret", "without the second quote"),
        ] {
            let fault = read(text).expect_err(text);
            assert!(fault.contains(expected) && !fault.contains("secret"), "{text}: {fault}");
        }
    }

    #[test]
    fn a_root_certificate_is_looked_at_and_a_socket_has_no_tls() {
        let mode = |text: &str| format!("{:?}", read(text).expect(text)[0].get_ssl_mode());
        assert_eq!(mode("postgres://u@h/d?sslmode=require&sslrootcert=/dev/null"), "VerifyCa");
        assert_eq!(mode("postgres://u@h/d?sslmode=require&sslrootcert=system"), "VerifyFull");
        assert_eq!(mode("postgres://u@h/d?sslmode=require"), "Require");
        assert_eq!(mode("postgres://u@/d?host=/run&sslmode=require"), "Disable");
    }
}
