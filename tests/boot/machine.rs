//! The emulated machine: its disk, what is brought to it, its power switch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::{Lab, ok};
use crate::process::Process;
use crate::programs;
use crate::shell::Shell;

/// Time to boot, on a host that is busy; ten seconds on one that is not.
const BOOT: Duration = Duration::from_secs(150);
/// What the test brings: a program or a file of the repository, where it goes, and whether it is a program.
const UNITS: &str = "usr/lib/systemd/system";

/// The machine, switched on.
pub struct Machine {
    /// Root's shell inside it.
    pub shell: Shell,
    qemu: Process,
    console: PathBuf,
}

/// What a machine is made of, below the laboratory's folder. The disk is a copy of the image's, and keeps what is written to it.
pub struct Parts {
    disk: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    cargo: PathBuf,
}

impl Parts {
    /// A new disk, and a drive with our programs and units.
    pub fn new(lab: &Lab) -> Self {
        let folder = lab.folder();
        let image = image();
        let disk = folder.join("disk.img");
        ok(Command::new("cp").arg("--sparse=always").arg(image.join("disk.img")).arg(&disk));
        Self { disk, kernel: image.join("kernel"), initrd: image.join("initrd"), cargo: cargo(folder) }
    }
}

impl Machine {
    /// Switches it on and waits for its shell. What it wrote to its console is in the error.
    pub fn boot(lab: &Lab, parts: &Parts) -> Result<Self, String> {
        let (port, console) = (lab.folder().join("port.sock"), lab.folder().join("console.log"));
        let drive = |file: &Path, more: &str| format!("file={},if=virtio,format=raw,{more}", file.display());
        let mut qemu = lab.marked(&programs::system("qemu-system-x86_64"));
        qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2"]);
        qemu.args(["-display", "none", "-monitor", "none", "-no-reboot"]);
        qemu.args(["-netdev", "user,id=cable", "-device", "virtio-net-pci,netdev=cable,romfile="]);
        qemu.arg("-kernel").arg(&parts.kernel).arg("-initrd").arg(&parts.initrd);
        qemu.args(["-append", "root=/dev/vda rw console=ttyS0 systemd.show_status=1 panic=-1 quiet"]);
        qemu.args(["-drive", &drive(&parts.disk, "cache=unsafe"), "-drive", &drive(&parts.cargo, "readonly=on")]);
        qemu.args(["-serial", &format!("file:{}", console.display())]);
        qemu.args(["-serial", &format!("unix:{},server=on,wait=on", port.display())]);
        let qemu = Process::start("qemu", lab.folder(), qemu);
        let mut machine = Self { shell: Shell::plug(&port), qemu, console };
        match machine.shell.ready(BOOT) {
            Ok(()) => Ok(machine),
            Err(why) => Err(format!("{why}\n{}", machine.console())),
        }
    }

    /// The end of what the kernel and systemd said.
    pub fn console(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Pulls the plug: nothing inside gets a chance to write.
    pub fn cut_power(mut self) {
        self.qemu.kill();
    }
}

/// The image, made where it is not there yet.
fn image() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/boot/image");
    let target = programs::musterd().parent().and_then(Path::parent).expect("target/PROFILE/program").to_owned();
    let output = Command::new(&script).env("CARGO_TARGET_DIR", target).stderr(Stdio::inherit()).output().expect("the image's script runs");
    assert!(output.status.success(), "{} failed with {}", script.display(), output.status);
    PathBuf::from(String::from_utf8(output.stdout).expect("UTF-8").trim())
}

/// A drive with a tar archive of what a package would install.
fn cargo(folder: &Path) -> PathBuf {
    let stage = folder.join("cargo");
    let put = |from: &Path, to: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        let to = stage.join(to);
        fs::create_dir_all(to.parent().expect("below the stage")).expect("a folder of the stage");
        fs::copy(from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).expect("a mode");
    };
    let daemon = programs::musterd();
    for name in ["musterd", "musterd-session"] {
        // Without what a debugger reads they are a third as large, which an emulated machine feels.
        let small = folder.join(name);
        ok(Command::new(programs::system("strip")).arg("-o").arg(&small).arg(daemon.with_file_name(name)));
        put(&small, &format!("usr/bin/{name}"), 0o755);
    }
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for unit in ["musterd.service", "musterd-session.socket", "musterd-session@.service"] {
        put(&systemd.join(unit), &format!("{UNITS}/{unit}"), 0o644);
    }
    put(&systemd.join("musterd.sysusers.conf"), "usr/lib/sysusers.d/musterd.conf", 0o644);
    put(&systemd.join("musterd.tmpfiles.conf"), "usr/lib/tmpfiles.d/musterd.conf", 0o644);
    let archive = folder.join("cargo.tar");
    ok(Command::new("tar").args(["--owner=root:0", "--group=root:0", "-cf"]).arg(&archive).arg("-C").arg(&stage).arg("usr"));
    archive
}
