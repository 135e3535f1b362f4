//! A server with TLS as other people's programs see it, by certificate and by token: openssl, grpcurl, a client in Python; and `sockpilot`.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use sockpilot_identity::tls::Own;
use sockpilot_programs::{GRPCURL, OPENSSL, PYTHON3, skipped};
use sockpilot_proto::v1;
use sockpilot_tests::{
    machine::{Machine, Needs, scenario},
    postgres::{Durability, Postgres},
    process::{self, Process},
    server::{Database, Server},
};

struct World<'m> {
    server: Server<'m>,
    address: String,
    ca: PathBuf,
    _postgres: Postgres<'m>,
}

impl<'m> World<'m> {
    fn start(machine: &'m Machine, arguments: &[&str]) -> Result<Self> {
        let postgres = Postgres::start(machine, Durability::Process)?;
        let server = Server::start_secured(machine, Database::Url(postgres.url()), arguments)?;
        server.pki()?.make(&["person", "vi", "--role", "viewer"])?;
        let (address, ca) = (server.url().replace("https://", ""), server.pki()?.file("ca.pem"));
        Ok(Self { server, address, ca, _postgres: postgres })
    }

    /// A token for somebody.
    fn token(&self, name: &str, role: &str) -> Result<String> {
        let file = self.server.pki()?.file(&format!("{name}.token"));
        let to = file.to_str().context("a path is not UTF-8")?;
        self.server.says(&["access", "create-token", name, "--role", role, "--life", "1h", "--to", to])?;
        Ok(std::fs::read_to_string(&file).context("reading a token")?.trim().to_owned())
    }
}

fn run(mut command: Command) -> Result<(bool, String)> {
    let output = command.stdin(std::process::Stdio::null()).output().context("running a program")?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn openssl_sees_which_versions_are_spoken() {
    scenario(Needs::Nothing, |machine| {
        let speaks = |world: &World<'_>, address: &str, version: &str| -> Result<bool> {
            let mut command = OPENSSL.command()?;
            command.args(["s_client", "-connect", address, version, "-alpn", "h2", "-verify_return_error", "-CAfile"]);
            command.arg(&world.ca);
            let (_, said) = run(command)?;
            Ok(said.contains("New, TLSv")
                && said.contains("Verify return code: 0")
                && said.contains("ALPN protocol: h2"))
        };
        for (arguments, old) in [(&[][..], false), (&["--tls-min", "1.2"], true)] {
            let world = World::start(machine, arguments)?;
            for door in [world.address.clone(), world.server.node_url().replace("https://", "")] {
                ensure!(speaks(&world, &door, "-tls1_3")?, "1.3 at {door}");
                ensure!(speaks(&world, &door, "-tls1_2")? == old, "1.2 at {door} with {arguments:?}");
                ensure!(!speaks(&world, &door, "-tls1_1")?, "1.1 at {door}");
            }
        }
        Ok(())
    });
}

#[test]
fn grpcurl_calls_as_the_documentation_says() {
    scenario(Needs::Nothing, |machine| {
        // From another registry than all else, which may be out of reach.
        if let Err(missing) = GRPCURL.find() {
            skipped(missing);
            return Ok(());
        }
        let world = World::start(machine, &[])?;
        let (token, Own { certificate, key }) = (world.token("ci", "viewer")?, world.server.pki()?.own("person-vi"));
        let call = |by_certificate: bool, method: &str| -> Result<(bool, String)> {
            let mut command = GRPCURL.command()?;
            command.arg("-cacert").arg(&world.ca);
            match by_certificate {
                true => command.arg("-cert").arg(&certificate).arg("-key").arg(&key),
                false => command.env("SOCKPILOT_TOKEN", &token).args([
                    "-expand-headers",
                    "-H",
                    "authorization: Bearer ${SOCKPILOT_TOKEN}",
                ]),
            };
            command.args([&world.address, method]);
            run(command)
        };
        for by_certificate in [true, false] {
            let (done, said) = call(by_certificate, "sockpilot.v1.FleetService/ListNodes")?;
            ensure!(done, "{said}");
            let (done, said) = call(by_certificate, "sockpilot.v1.AccessService/ListTokens")?;
            ensure!(!done && said.contains("PermissionDenied"), "{said}");
        }
        Ok(())
    });
}

#[test]
fn a_client_in_python_needs_no_files_of_ours() {
    scenario(Needs::Nothing, |machine| {
        let installed = std::env::var_os("SOCKPILOT_PYTHON_GRPC").map(PathBuf::from);
        let Some(installed) = installed.filter(|place| place.join("grpc").is_dir()) else {
            skipped("a client in Python: grpcio is missing; run ./setup.sh, then source target/setup.env");
            return Ok(());
        };
        let world = World::start(machine, &[])?;
        let (viewer, operator) = (world.token("look", "viewer")?, world.token("ci", "operator")?);
        let pki = world.server.pki()?;
        let says = |own: Option<Own>, token: Option<&str>| -> Result<Vec<String>> {
            let mut command = PYTHON3.command()?;
            command.arg("-c").arg(include_str!("client.py")).env("PYTHONPATH", &installed).arg(&world.address);
            command.arg(&world.ca).args(own.into_iter().flat_map(|own| [own.certificate, own.key]));
            command.env_remove("SOCKPILOT_TOKEN").envs(token.map(|token| ("SOCKPILOT_TOKEN", token)));
            let (done, said) = run(command)?;
            ensure!(done, "{said}");
            let calls = said.lines().filter_map(|line| {
                let words: Vec<_> = line.split_whitespace().take(2).collect();
                Some(words.join(" ")).filter(|_| words.len() == 2)
            });
            Ok(calls.collect())
        };
        let looks = ["WhoAmI OK", "ListNodes OK", "CreatePolicy PERMISSION_DENIED", "ListTokens PERMISSION_DENIED"];
        let changes = ["WhoAmI OK", "ListNodes OK", "CreatePolicy OK", "ListTokens PERMISSION_DENIED"];
        let all = ["WhoAmI OK", "ListNodes OK", "CreatePolicy ALREADY_EXISTS", "ListTokens OK"];
        for (what, found, expected) in [
            ("a viewer's certificate", says(Some(pki.own("person-vi")), None)?, &looks[..]),
            ("a viewer's token", says(None, Some(&viewer))?, &looks),
            ("an operator's token", says(None, Some(&operator))?, &changes),
            ("an admin's certificate", says(Some(pki.own("person-root")), None)?, &all),
            ("a token goes before the certificate", says(Some(pki.own("person-root")), Some(&viewer))?, &looks),
            ("nothing", says(None, None)?, &["reflection UNAUTHENTICATED"]),
            ("no token of ours", says(None, Some("sockpilot-none"))?, &["reflection UNAUTHENTICATED"]),
        ] {
            ensure!(found == expected, "{what}: {found:?}");
        }
        Ok(())
    });
}

#[test]
fn lists_of_access_are_read_to_their_ends() {
    scenario(Needs::Nothing, |machine| {
        const PEOPLE: usize = 205;
        let world = World::start(machine, &["--person-limit", "10000,10000,64"])?;
        let admin = world.server.admin()?;
        for number in 0..PEOPLE {
            let (name, role) = (format!("people/p{number:03}"), v1::Role::Viewer.into());
            let request =
                v1::UpdatePersonRequest { person: Some(v1::Person { name, role, bound: None }), reason: String::new() };
            admin.call(admin.access().update_person(request))?;
            let request = v1::RevokeRequest { name: format!("nodes/n{number:03}"), reason: String::new() };
            admin.call(admin.access().revoke(request))?;
        }
        for (list, last) in [("people", "people/p204"), ("revocations", "nodes/n204")] {
            let said = world.server.says(&["access", list])?;
            ensure!(said.contains(last) && said.lines().count() == PEOPLE + 1, "{list}: {}", said.lines().count());
        }
        Ok(())
    });
}

#[test]
fn without_tls_the_server_listens_on_this_machine_only() {
    scenario(Needs::Nothing, |machine| {
        let state = machine.folder("refused")?;
        let mut command = process::own("sockpilot-server")?;
        command.args(["--listen", "0.0.0.0:7460", "--state-dir"]).arg(&state).env_remove("DATABASE_URL");
        let mut server = Process::start(machine, "refused", command)?;
        let status = server.wait(Duration::from_secs(30))?;
        let said = server.log();
        ensure!(
            !status.success() && said.contains("sockpilot pki init") && said.contains("--insecure-listen"),
            "{said}"
        );
        Ok(())
    });
}
