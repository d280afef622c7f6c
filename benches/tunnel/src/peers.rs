//! Public tunnels, as far as they are installed, each with its own defaults and TLS on every hop.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::procs::{Process, free_port, on_path, output, wait_for};
use crate::tunnel::Tunnel;

/// Starts one peer with its files in a folder and its far end at the measuring server.
type Make = fn(&Path, SocketAddr) -> Result<Vec<Tunnel>>;

/// Starts every peer that is there; gives the tunnels, and a line for each that is not.
pub(crate) fn start(folder: &Path, target: SocketAddr) -> (Vec<Tunnel>, Vec<String>) {
    let (mut tunnels, mut missing) = (Vec::new(), Vec::new());
    let peers: [(&str, &str, Make); 4] =
        [("wstunnel", "wstunnel", wstunnel), ("rathole", "rathole", rathole), ("ssh", "sshd", ssh), ("chisel", "chisel", chisel)];
    for (name, program, make) in peers {
        if on_path(program).is_none() {
            missing.push(format!("{name}: not on the PATH"));
            continue;
        }
        let place = folder.join(name);
        match fs::create_dir_all(&place).map_err(Into::into).and_then(|()| make(&place, target)) {
            Ok(made) => tunnels.extend(made),
            Err(error) => missing.push(format!("{name}: does not run here: {error:#}")),
        }
    }
    (tunnels, missing)
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn tunnel(name: &str, entry: u16, processes: Vec<Process>) -> Result<Tunnel> {
    wait_for(&format!("{name} listens"), local(entry))?;
    let roots = processes.iter().map(Process::pid).collect();
    Ok(Tunnel { name: name.to_owned(), entry: local(entry), roots, _processes: processes })
}

/// The device dials out and offers its port at the relay; the engineer dials in and takes it: both hops over wss.
fn wstunnel(folder: &Path, target: SocketAddr) -> Result<Vec<Tunnel>> {
    let (relay, middle, entry) = (free_port()?, free_port()?, free_port()?);
    let url = format!("wss://127.0.0.1:{relay}");
    let start = |name: &str, arguments: &[&str]| Process::start(name, folder, Command::new("wstunnel").args(arguments));
    let server = start("relay", &["server", &url])?;
    wait_for("wstunnel's relay listens", local(relay))?;
    let device = start("device", &["client", "-R", &format!("tcp://127.0.0.1:{middle}:{target}"), &url])?;
    wait_for("wstunnel's device is there", local(middle))?;
    let engineer = start("engineer", &["client", "-L", &format!("tcp://127.0.0.1:{entry}:127.0.0.1:{middle}"), &url])?;
    Ok(vec![tunnel("wstunnel, wss, two hops", entry, vec![engineer, device, server])?])
}

/// Two pairs in a row, each websocket with TLS.
fn rathole(folder: &Path, target: SocketAddr) -> Result<Vec<Tunnel>> {
    let at = folder.display();
    output(Command::new("openssl").args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]).args([
        "-keyout",
        &format!("{at}/key.pem"),
        "-out",
        &format!("{at}/cert.pem"),
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]))?;
    output(Command::new("openssl").args(["pkcs12", "-export", "-passout", "pass:bench"]).args([
        "-inkey",
        &format!("{at}/key.pem"),
        "-in",
        &format!("{at}/cert.pem"),
        "-out",
        &format!("{at}/identity.pfx"),
    ]))?;
    let pair = |name: &str, to: SocketAddr| -> Result<(u16, Vec<Process>)> {
        let (relay, entry) = (free_port()?, free_port()?);
        let (server, client) = (folder.join(format!("{name}-server.toml")), folder.join(format!("{name}-client.toml")));
        fs::write(
            &server,
            format!(
                "[server]\nbind_addr = \"127.0.0.1:{relay}\"\ndefault_token = \"bench\"\n[server.transport]\ntype = \"websocket\"\n\
                 [server.transport.websocket]\ntls = true\n[server.transport.tls]\npkcs12 = \"{at}/identity.pfx\"\n\
                 pkcs12_password = \"bench\"\n[server.services.bench]\nbind_addr = \"127.0.0.1:{entry}\"\n"
            ),
        )?;
        fs::write(
            &client,
            format!(
                "[client]\nremote_addr = \"127.0.0.1:{relay}\"\ndefault_token = \"bench\"\n[client.transport]\ntype = \"websocket\"\n\
                 [client.transport.websocket]\ntls = true\n[client.transport.tls]\ntrusted_root = \"{at}/cert.pem\"\n\
                 hostname = \"localhost\"\n[client.services.bench]\nlocal_addr = \"{to}\"\n"
            ),
        )?;
        let start = |role: &str, config: &PathBuf| {
            Process::start(&format!("{name}-{role}"), folder, Command::new("rathole").arg(format!("--{role}")).arg(config))
        };
        let mut processes = vec![start("server", &server)?];
        wait_for("rathole's server listens", local(relay))?;
        processes.push(start("client", &client)?);
        wait_for("rathole's client is there", local(entry))?;
        Ok((entry, processes))
    };
    let (middle, mut processes) = pair("device", target)?;
    let (entry, more) = pair("engineer", local(middle))?;
    processes.extend(more);
    Ok(vec![tunnel("rathole, websocket + TLS, two hops", entry, processes)?])
}

/// `ssh -L` to one server, and through a jump host to another.
fn ssh(folder: &Path, target: SocketAddr) -> Result<Vec<Tunnel>> {
    let at = folder.display();
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for name in ["host", "user"] {
        output(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &format!("{at}/{name}")]))?;
    }
    fs::copy(folder.join("user.pub"), folder.join("authorized_keys"))?;
    // Debian's sshd wants this folder even where it does not use it.
    let _ = fs::create_dir_all("/run/sshd");
    let sshd = on_path("sshd").unwrap_or_else(|| "sshd".into());
    let server = |name: &str| -> Result<(u16, Process)> {
        let port = free_port()?;
        let config = folder.join(format!("{name}.conf"));
        fs::write(
            &config,
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {at}/host\nPidFile none\nAuthorizedKeysFile {at}/authorized_keys\n\
                 StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            ),
        )?;
        // It starts itself anew for each connection and needs its absolute path for that.
        let process = Process::start(name, folder, Command::new(&sshd).args(["-D", "-e", "-f"]).arg(&config))?;
        wait_for("sshd listens", local(port))?;
        Ok((port, process))
    };
    let (port, one) = server("sshd")?;
    let (jump_port, jump) = server("sshd-jump")?;
    let (behind_port, behind) = server("sshd-behind")?;
    let config = folder.join("client");
    fs::write(
        &config,
        format!(
            "Host jump\n  Port {jump_port}\nHost behind\n  Port {behind_port}\n  ProxyJump jump\nHost one\n  Port {port}\nHost *\n\
             \x20 HostName 127.0.0.1\n  IdentityFile {at}/user\n  IdentitiesOnly yes\n  BatchMode yes\n  LogLevel ERROR\n\
             \x20 StrictHostKeyChecking no\n  UserKnownHostsFile {at}/known_hosts\n  ExitOnForwardFailure yes\n"
        ),
    )?;
    let client = |name: &str, host: &str| -> Result<(u16, Process)> {
        let entry = free_port()?;
        let process = Process::start(
            name,
            folder,
            Command::new("ssh").arg("-F").arg(&config).args(["-N", "-L", &format!("127.0.0.1:{entry}:{target}"), host]),
        )?;
        Ok((entry, process))
    };
    let (direct, direct_client) = client("ssh", "one")?;
    let (jumped, jumped_client) = client("ssh-jump", "behind")?;
    Ok(vec![
        tunnel("ssh -L, one hop", direct, vec![direct_client, one])?,
        tunnel("ssh -J, two hops", jumped, vec![jumped_client, jump, behind])?,
    ])
}

/// The device offers its port at the relay by a reverse tunnel; the engineer takes it.
fn chisel(folder: &Path, target: SocketAddr) -> Result<Vec<Tunnel>> {
    let at = folder.display();
    output(Command::new("openssl").args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]).args([
        "-keyout",
        &format!("{at}/key.pem"),
        "-out",
        &format!("{at}/cert.pem"),
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]))?;
    let (relay, middle, entry) = (free_port()?, free_port()?, free_port()?);
    let url = format!("https://127.0.0.1:{relay}");
    let start = |name: &str, arguments: &[&str]| Process::start(name, folder, Command::new("chisel").args(arguments));
    let (key, certificate) = (format!("{at}/key.pem"), format!("{at}/cert.pem"));
    let server = start(
        "relay",
        &["server", "--host", "127.0.0.1", "--port", &relay.to_string(), "--reverse", "--tls-key", &key, "--tls-cert", &certificate],
    )?;
    wait_for("chisel's relay listens", local(relay))?;
    let device = start("device", &["client", "--tls-skip-verify", &url, &format!("R:127.0.0.1:{middle}:{target}")])?;
    wait_for("chisel's device is there", local(middle))?;
    let engineer = start("engineer", &["client", "--tls-skip-verify", &url, &format!("127.0.0.1:{entry}:127.0.0.1:{middle}")])?;
    Ok(vec![tunnel("chisel, wss, two hops", entry, vec![engineer, device, server])?])
}
