//! `muster login` as a person runs it: the real program, a browser that is replaced by this test, the real provider.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{interval, timeout};

use crate::SOON;
use crate::browser::Page;
use crate::hub::Hub;
use crate::provider::Provider;

const ANN: &str = "s-ann|ann@new.example|yes";

/// `muster`, built beside this package's program: cargo builds only a package's own for its tests.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_muster-hub")).parent().unwrap().to_owned();
        let mut cargo = std::process::Command::new(option_env!("CARGO").unwrap_or("cargo"));
        // The Makefile's command, so that nothing is built twice with other features; and without what cargo tells a test of its package.
        cargo.args(["build", "--bins"]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            cargo.env_remove(name);
        }
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let built = cargo.env("CARGO_TARGET_DIR", folder.parent().unwrap()).stdin(Stdio::null()).status().unwrap();
        assert!(built.success(), "muster does not build");
        folder.join("muster")
    })
}

/// A person's computer.
struct Laptop {
    home: PathBuf,
    opened: PathBuf,
    browser: PathBuf,
}

impl Laptop {
    fn of(hub: &Hub) -> Self {
        let home = hub.dir.path().join("home");
        std::fs::create_dir_all(&home).unwrap();
        let (opened, browser) = (home.join("opened"), home.join("browser"));
        let script = format!("#!/bin/sh\nprintf %s \"$1\" > '{0}.part' && mv '{0}.part' '{0}'\n", opened.display());
        std::fs::write(&browser, script).unwrap();
        std::fs::set_permissions(&browser, PermissionsExt::from_mode(0o755)).unwrap();
        Self { home, opened, browser }
    }

    fn muster(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(words).env_clear().env("HOME", &self.home).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("BROWSER", &self.browser).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// `muster login` at a hub that is known by its fingerprint.
    fn login(&self, hub: &Hub, flags: &[&str]) -> Command {
        let (url, pin) = (hub.url(), hub.token.pin.to_string());
        let mut words = vec!["login", url.as_str(), "--fingerprint", pin.as_str()];
        words.extend(flags);
        self.muster(&words)
    }

    /// The address that the browser was told to open.
    async fn address(&self) -> String {
        let look = async {
            let mut ticks = interval(Duration::from_millis(20));
            loop {
                ticks.tick().await;
                if let Ok(text) = std::fs::read_to_string(&self.opened) {
                    std::fs::remove_file(&self.opened).unwrap();
                    return text;
                }
            }
        };
        timeout(SOON, look).await.expect("muster opens the browser")
    }
}

/// What a program said at its end.
struct Said {
    code: i32,
    out: String,
    err: String,
}

async fn end(child: Child) -> Said {
    let output = timeout(SOON, child.wait_with_output()).await.expect("it ends").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
}

/// The first word of what it says on standard error that begins so.
async fn told(lines: &mut Lines<BufReader<ChildStderr>>, begin: &str) -> String {
    let look = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(word) = line.split_whitespace().find(|word| word.starts_with(begin)) {
                return word.to_owned();
            }
        }
        panic!("it ended without {begin}");
    };
    timeout(SOON, look).await.expect("it says it in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_the_command_line_in() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let laptop = Laptop::of(&hub);
    let child = laptop.login(&hub, &["--sso"]).spawn().unwrap();
    let address = laptop.address().await;
    assert!(address.starts_with(&format!("{}/v1/login/oidc/start?redirect_uri=http%3A%2F%2F127.0.0.1%3A", hub.url())), "{address}");
    let mut browser = hub.browser();
    let page = browser.open(&address).await;
    let page = browser.log_in(page, ANN).await;
    let back = browser.press(&page, "yes").await;
    // Somebody else knocks at the loopback: nothing is told, and nothing ends.
    let loopback = back.url.split('?').next().unwrap().to_owned();
    for other in ["", "favicon.ico", "?code=x&state=y", "?error=access_denied"] {
        assert_eq!(browser.send("GET", &format!("{loopback}{other}"), None).await.status, 404);
    }
    browser.send("GET", &back.url, None).await.says("You are logged in: muster has what it needs.");
    let said = end(child).await;
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("as ann@new.example") && said.out.contains("belongs to no organization yet"), "{}", said.out);
    let said = end(laptop.muster(&["access-token", "list"]).spawn().unwrap()).await;
    assert!(said.out.contains("muster login on "), "{}{}", said.out, said.err);

    // A login that the hub refuses, and one that the person does.
    let child = laptop.login(&hub, &["--sso"]).spawn().unwrap();
    let address = laptop.address().await;
    let mut browser = hub.browser();
    let page = browser.open(&address).await;
    let page = browser.log_in(page, "s-x|eve@new.example|no").await;
    browser.send("GET", &page.url, None).await.says("You are not logged in: Acme SSO has not verified");
    let said = end(child).await;
    assert_eq!(said.code, 3, "{}", said.err);
    assert!(said.err.contains("Acme SSO has not verified that eve@new.example is yours"), "{}", said.err);

    // The provider remembers who that was: another browser.
    let mut browser = hub.browser();
    let mut child = laptop.login(&hub, &["--no-browser"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = told(&mut lines, "https://").await;
    let page = browser.open(&address).await;
    let page = browser.log_in(page, ANN).await;
    let back: Page = browser.press(&page, "no").await;
    browser.send("GET", &back.url, None).await.says("refused in the browser");
    assert_eq!(end(child).await.code, 3);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_a_browser_shows_a_code() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "[login]\npassword = false").await;
    let laptop = Laptop::of(&hub);
    let mut child = laptop.login(&hub, &["--device-code"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = told(&mut lines, "https://").await;
    let mut browser = hub.browser();
    let page = browser.open(&address).await;
    let link = page.body.split("href=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let page = browser.open(&format!("{}{link}", hub.url())).await;
    let page = browser.log_in(page, ANN).await;
    page.says("It calls itself <b>muster login on ");
    browser.press(&page, "yes").await.says("logged in");
    let said = end(child).await;
    assert!(said.code == 0 && said.out.contains("as ann@new.example"), "{}{}", said.code, said.out);

    // Without any browser, a code is shown unasked.
    let mut child = laptop.login(&hub, &["--sso"]).env_remove("BROWSER").spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(told(&mut lines, "https://").await.contains("/login/device?code="));
    child.kill().await.unwrap();

    // A password where none is taken; nobody to ask, and no way named.
    let mut child = laptop.login(&hub, &["--email", "ada@acme.example", "--password-stdin"]).spawn().unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    assert!(err.contains("has no password login") && err.contains("--sso"), "{err}");
    let said = end(laptop.login(&hub, &[]).spawn().unwrap()).await;
    assert_eq!(said.code, 2, "{}", said.err);
    assert!(said.err.contains("--device-code"), "{}", said.err);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_is_named() {
    let hub = Hub::start("http://127.0.0.1:1", "").await;
    let laptop = Laptop::of(&hub);
    let child = laptop.login(&hub, &["--sso"]).spawn().unwrap();
    let mut browser = hub.browser();
    let page = browser.open(&laptop.address().await).await;
    browser.send("GET", &page.url, None).await.says("You are not logged in: the provider Acme SSO at http://127.0.0.1:1 does not answer");
    let said = end(child).await;
    assert_eq!(said.code, 6, "{}", said.err);
    assert!(said.err.contains("does not answer"), "{}", said.err);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_checks_the_configuration_and_takes_a_link_back() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let operator = async |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster-hub"));
        command.env_clear().arg("--config").arg(hub.dir.path().join("data/hub.toml")).args(words);
        end(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).await
    };
    let said = operator(&["check-config"]).await;
    assert_eq!(said.code, 0, "{}", said.err);
    let told = format!("register at {} (Acme SSO) the redirect URI https://127.0.0.1:0/v1/login/oidc/callback", provider.issuer);
    assert!(said.out.contains(&told), "{}", said.out);

    hub.log_in("s-ada|ada@acme.example|yes").await;
    assert!(hub.refused("s-ada-anew|ada@acme.example|yes").await.contains("belongs to another person"));
    let said = operator(&["user", "unlink", "ada@acme.example"]).await;
    assert!(said.code == 0 && said.err.contains("Unlinked ada@acme.example from single sign-on"), "{}", said.err);
    hub.log_in("s-ada-anew|ada@acme.example|yes").await;
    assert!(operator(&["user", "unlink", "nobody@acme.example"]).await.err.contains("there is no account"));

    // A secret that others can read, and no way in at all.
    let secret = hub.dir.path().join("secret");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o640)).unwrap();
    let said = operator(&["check-config"]).await;
    assert!(said.code != 0 && said.err.contains("others can read") && said.err.contains("oidc.client_secret_file"), "{}", said.err);
    let path = hub.dir.path().join("data/hub.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.split("[oidc]").next().unwrap().to_owned() + "[login]\npassword = false\n").unwrap();
    let said = operator(&["check-config"]).await;
    assert!(said.code != 0 && said.err.contains("login.password") && said.err.contains("leaves no way to log in"), "{}", said.err);
    hub.stop().await;
}
