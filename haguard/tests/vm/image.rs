//! What a machine boots from: the first file system, the same for every machine, and a disk of its
//! own with its certificates, its configuration and, later, its state.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::kernel::Kernel;
use super::must;

/// Process 1.
const INIT: &str = include_str!("init.sh");
/// The guarded service.
const WITNESS: &str = include_str!("witness.sh");
/// The one program of the machine's own; a static one, so that it needs no libraries.
const BUSYBOX: &str = "/bin/busybox";
/// What every machine has. crc32c is what ext4 asks the kernel's crypto for.
const MODULES: [&str; 6] =
    ["virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "crc32c_generic", "ext4"];
/// The watchdogs. Those whose device a machine does not have stay without effect.
const WATCHDOGS: [&str; 3] = ["i6300esb", "ipmi_si", "ipmi_watchdog"];

/// Regular files in a file system, and the mode bits of a directory (stat(2)).
const FILE: u32 = 0o100_755;
const DIRECTORY: u32 = 0o040_755;

/// An archive in the kernel's format for its first file system ("newc", initramfs buffer format of
/// the kernel's documentation). Not compressed: that would only be taken back in emulation.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    number: usize,
    directories: BTreeSet<PathBuf>,
}

impl Archive {
    /// A file, with the directories that it is in.
    fn file(&mut self, path: &str, content: &[u8]) {
        let path = Path::new(path.trim_start_matches('/'));
        self.directory(path.parent().unwrap());
        self.entry(&path.display().to_string(), FILE, content);
    }

    fn directory(&mut self, path: &Path) {
        let parents: Vec<&Path> = path.ancestors().filter(|p| *p != Path::new("")).collect();
        for path in parents.into_iter().rev() {
            if self.directories.insert(path.to_owned()) {
                self.entry(&path.display().to_string(), DIRECTORY, &[]);
            }
        }
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.number += 1;
        // Number, mode, owner, group, links, time, size, four device numbers, name, checksum.
        let fields = [self.number, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0];
        let fields = fields.into_iter().chain([name.len() + 1, 0]);
        let head: String = fields.map(|field| format!("{field:08x}")).collect();
        self.bytes.extend_from_slice(format!("070701{head}{name}\0").as_bytes());
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// Writes the first file system, with a program and what it is linked to.
pub(crate) fn write_first(kernel: &Kernel, program: &Path, to: &Path) {
    let mut archive = Archive::default();
    let read =
        |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    for directory in ["dev", "proc", "sys", "run", "tmp", "disk"] {
        archive.directory(Path::new(directory));
    }
    archive.file("init", INIT.as_bytes());
    archive.file("bin/witness", WITNESS.as_bytes());
    archive.file("bin/busybox", &read(Path::new(BUSYBOX)));
    let stripped = to.with_extension("program");
    must(Command::new("strip").arg("-o").arg(&stripped).arg(program));
    archive.file("bin/haguard", &read(&stripped));
    for library in libraries(program) {
        archive.file(&library, &read(Path::new(&library)));
    }
    let mut order = String::new();
    for module in kernel.modules(&[&MODULES[..], &WATCHDOGS].concat()) {
        let name = module.file_name().unwrap().to_string_lossy().into_owned();
        archive.file(&format!("lib/modules/{name}"), &read(&module));
        order.push_str(&format!("{name}\n"));
    }
    archive.file("lib/modules/order", order.as_bytes());
    fs::write(to, archive.finish()).unwrap();
}

/// The files of `ldd`.
fn libraries(program: &Path) -> Vec<String> {
    let text = must(Command::new("ldd").arg(program));
    let paths =
        text.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    paths.map(str::to_owned).collect()
}

/// Makes a machine's disk with what is in a directory.
pub(crate) fn write_disk(content: &Path, to: &Path) {
    must(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(content).arg(to).arg("16M"));
}
